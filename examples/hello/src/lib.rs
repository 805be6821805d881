//! An adapter in twenty lines: the body of a POST goes to the agent, and its words come back as they are said.

use plugway_sdk::prelude::*;

struct Hello;

impl HttpAdapter for Hello {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        let task = Task::message(request.text()?).submit()?;
        let mut body = reply.stream(200, "text/plain; charset=utf-8");
        for event in task.events() {
            if let EventKind::ResponseChunk(chunk) = event?.kind {
                body.write(&chunk.text)?;
            }
        }
        Ok(())
    }
}

plugway_sdk::export!(Hello: http, routes = ["POST /hello"]);

#[cfg(test)]
mod tests {
    use super::*;
    use plugway_sdk::mock::{Mock, Script};

    #[test]
    fn the_agents_words_arrive_one_by_one() {
        let mock = Mock::new();
        mock.agent(|_| Script::reply(["Hello", " to", " you"]));
        let answer = mock.post("/hello").body("Hi").handle(&Hello);
        assert_eq!((answer.status, &*answer.text()), (200, "Hello to you"));
        assert_eq!(answer.pieces, ["Hello", " to", " you"]);
        assert!(!answer.cut_off);
    }

    #[test]
    fn a_full_queue_is_said_with_a_time_to_come_back() {
        let mock = Mock::new();
        mock.refuse_tasks(Some(SubmitError::Busy { retry_after: std::time::Duration::from_secs(3) }));
        let answer = mock.post("/hello").body("Hi").handle(&Hello);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("3")));
    }
}
