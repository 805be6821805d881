//! A model server that says what it is told to: chat completions, streamed as OpenAI streams them, each chunk a write of
//! its own. It is what gateways are put before, and without one the least that a stream can cost.
//!
//! The last user message is the order: `/words 100 20ms` is a hundred chunks with a pause of 20 ms between two, and
//! `/words 100` has no pauses. Every chunk carries a [`Mark`] with its number and the time of its making.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use plugway_figures::mark::Mark;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};

use crate::clock;

/// Serves until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on http://{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        let mut number = 0;
        loop {
            let (stream, _) = listener.accept().await?;
            number += 1;
            tokio::spawn(connection(stream, number));
        }
    })
}

async fn connection(stream: TcpStream, number: u32) {
    // A refusal costs latency only.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, number));
    // Who has what was asked for closes the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Content = Either<Full<Bytes>, Answer>;

async fn answer(request: Request<Incoming>, connection: u32) -> Result<Response<Content>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = match Order::read(&path, &body) {
        Ok(order) => {
            let mut response = Response::new(Either::Right(Answer::new(order, connection)));
            response.headers_mut().insert(CONTENT_TYPE, "text/event-stream".parse().expect("a value"));
            response
        }
        Err(error) => {
            let message = serde_json::json!({"error": {"message": format!("{error:#}")}}).to_string();
            let mut response = Response::new(Either::Left(Full::new(message.into())));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, "no-cache".parse().expect("a value"));
    Ok(response)
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
struct Order {
    chunks: u32,
    pause: Duration,
    usage: bool,
}

impl Order {
    fn read(path: &str, body: &[u8]) -> anyhow::Result<Self> {
        if path != "/v1/chat/completions" {
            bail!("only /v1/chat/completions is served");
        }
        let body: Value = serde_json::from_slice(body)?;
        if body["stream"] != Value::Bool(true) {
            bail!("only streams are served");
        }
        let messages = body["messages"].as_array().context("no messages")?;
        let last =
            messages.iter().rev().find(|message| message["role"] == "user").context("no user message")?;
        // A text, or parts of content with a text each.
        let text = last["content"].as_str().or_else(|| last.pointer("/content/0/text")?.as_str());
        let mut words = text.context("no text")?.split_whitespace();
        let (Some("/words"), Some(chunks)) = (words.next(), words.next()) else {
            bail!("the last user message is no order as /words 100 20ms");
        };
        let pause = words.next().unwrap_or("0ms").strip_suffix("ms").context("a pause is in ms")?;
        Ok(Self {
            chunks: chunks.parse()?,
            pause: Duration::from_millis(pause.parse()?),
            usage: body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
        })
    }
}

/// The chunk that is next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Role,
    Content(u32),
    Finish,
    Usage,
    Done,
    End,
}

/// The stream of an answer.
#[derive(Debug)]
struct Answer {
    order: Order,
    next: Step,
    /// The last chunk is still to be written out.
    is_unwritten: bool,
    /// Streams that begin at once do not go on in step: the first pause is a part of one.
    first_pause: Duration,
    pause: Pin<Box<Sleep>>,
}

impl Answer {
    fn new(order: Order, connection: u32) -> Self {
        // Multiples of the golden ratio are spread evenly, however many there are.
        let part = (f64::from(connection) * 0.618_033_988_75).fract();
        let first_pause = order.pause.mul_f64(part);
        let pause = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { order, next: Step::Role, is_unwritten: false, first_pause, pause }
    }

    fn content(&mut self, number: u32) -> String {
        if !self.order.pause.is_zero() {
            let next = if number == 0 {
                Instant::now() + self.first_pause
            } else {
                self.pause.deadline() + self.order.pause
            };
            self.pause.as_mut().reset(next);
        }
        let mark = Mark { number, made: clock::now() }.text(0);
        self.chunk(&format!(r#"{{"content":"{mark}"}}"#), "null")
    }

    fn chunk(&self, delta: &str, finish_reason: &str) -> String {
        let choice =
            format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish_reason}}}"#);
        self.document(&choice, if self.order.usage { r#","usage":null"# } else { "" })
    }

    fn document(&self, choices: &str, rest: &str) -> String {
        format!(
            "data: {{\"id\":\"chatcmpl-0123456789abcdefghijklmnopqrs\",\"object\":\"chat.completion.chunk\",\
             \"created\":1770000000,\"model\":\"model\",\"service_tier\":\"default\",\
             \"system_fingerprint\":\"fp_0123456789\",\"choices\":[{choices}]{rest}}}\n\n"
        )
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::take(&mut self.is_unwritten) {
            // The connection is written to when there is nothing more at once.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if matches!(self.next, Step::Content(number) if number > 0)
            && !self.order.pause.is_zero()
            && self.pause.as_mut().poll(context).is_pending()
        {
            return Poll::Pending;
        }
        let (text, next) = match self.next {
            Step::Role => (self.chunk(r#"{"role":"assistant","content":"","refusal":null}"#, "null"), {
                if self.order.chunks == 0 { Step::Finish } else { Step::Content(0) }
            }),
            Step::Content(number) => {
                let next = number + 1;
                let next = if next == self.order.chunks { Step::Finish } else { Step::Content(next) };
                (self.content(number), next)
            }
            Step::Finish => {
                let next = if self.order.usage { Step::Usage } else { Step::Done };
                (self.chunk("{}", r#""stop""#), next)
            }
            Step::Usage => {
                let chunks = self.order.chunks;
                let total = chunks + 1;
                let usage = format!(
                    ",\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{chunks},\"total_tokens\":{total}}}"
                );
                (self.document("", &usage), Step::Done)
            }
            Step::Done => ("data: [DONE]\n\n".to_owned(), Step::End),
            Step::End => return Poll::Ready(None),
        };
        self.next = next;
        self.is_unwritten = true;
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> anyhow::Result<Order> {
        let body = serde_json::json!({
            "stream": true,
            "messages": [{"role": "user", "content": "no"}, {"role": "user", "content": text}],
        });
        Order::read("/v1/chat/completions", body.to_string().as_bytes())
    }

    #[test]
    fn the_last_user_message_is_the_order() {
        let paced = Order { chunks: 100, pause: Duration::from_millis(20), usage: false };
        assert_eq!(order("/words 100 20ms").unwrap(), paced);
        assert_eq!(order("/words 100").unwrap(), Order { pause: Duration::ZERO, ..paced });
        assert!(order("/words").is_err());
        assert!(order("/words 100 20s").is_err());
        assert!(order("hello").is_err());
    }
}
