//! An adapter in twenty lines: the body of a POST goes to the agent, and its words come back as they are said.

use plugway_sdk::prelude::*;

struct Hello;

impl HttpAdapter for Hello {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        let task = Task::message(request.text()?).submit()?;
        reply.pieces(task.events().text())
    }
}

plugway_sdk::export!(Hello: http, routes = ["POST /hello"]);

#[cfg(test)]
mod tests {
    use super::*;
    use plugway_sdk::mock::{Mock, Script};
    use std::time::Duration;

    const MINUTE: Duration = Duration::from_secs(60);

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
    fn an_agent_that_fails_is_no_empty_answer() {
        let mock = Mock::new();
        mock.agent(|_| Script::new().started().failed("out of coffee", "agent_error"));
        let answer = mock.post("/hello").body("Hi").handle(&Hello);
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("agent_error") && !answer.text().contains("coffee"));
        assert!(answer.error.as_deref().is_some_and(|log| log.contains("out of coffee")));
    }

    #[test]
    fn half_of_an_answer_is_cut_off() {
        let mock = Mock::new();
        mock.agent(|_| Script::new().started().chunks(["Hel"]).failed("out of coffee", "agent_error"));
        let answer = mock.post("/hello").body("Hi").handle(&Hello);
        assert_eq!((&*answer.text(), answer.cut_off), ("Hel", true));

        mock.agent(|_| {
            Script::new().started().chunks(["Good morn"]).wait(MINUTE).restart().completed("Good evening")
        });
        let answer = mock.post("/hello").body("Hi").handle(&Hello);
        assert_eq!((&*answer.text(), answer.cut_off), ("Good morn", true));
    }

    #[test]
    fn an_answer_that_comes_all_at_once_is_sent() {
        let mock = Mock::new();
        mock.agent(|_| Script::new().started().restart().completed("Good evening"));
        let answer = mock.post("/hello").body("Hi").handle(&Hello);
        assert_eq!((&*answer.text(), answer.cut_off), ("Good evening", false));
    }

    #[test]
    fn a_full_queue_is_said_with_a_time_to_come_back() {
        let mock = Mock::new();
        mock.refuse_tasks(Some(SubmitError::Busy { retry_after: Duration::from_secs(3) }));
        let answer = mock.post("/hello").body("Hi").handle(&Hello);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("3")));
    }
}
