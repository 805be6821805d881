//! The `http` agent: a runtime that is sent a frame by `POST {url}/agent/message/stream`, and streams its answer as
//! server-sent events. It keeps the conversation itself, by the session's name.
//!
//! A request is repeated only where the runtime did nothing with it. Dropping the turn drops its connection. The internal
//! key is in no log and no error, the runtime's own included; what the runtime says otherwise goes on as it is.

mod chunk;
mod config;
mod endings;
mod frame;
mod object;
mod request;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::{stream, try_stream};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use reqwest::Response;
use reqwest::header::HeaderName;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};

use super::failure::Failure;
use super::sse::{SseEvent, SseReader};
use super::upstream::{Connections, Draft, Retries, Upstream, media_type, read_whole};
use super::{Agent, AgentSignal, AgentStream, AgentsError, Turn};
use crate::domain::{AgentEvent, ErrorType, TaskId};
use crate::egress::Tls;
use chunk::{Answer, Told};
pub use config::HttpConfig;
use endings::Endings;
use frame::{CHUNK, Frame};

/// What is said of an answer that holds text and no event.
const NO_EVENTS: &str = "no `data:` line in the agent's answer, which has to be server-sent events (`data: {…}` and an empty line)";
/// Carries the internal key.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-internal-auth");

/// The agent.
#[derive(Debug)]
pub(super) struct Http {
    runtime: Arc<Runtime>,
}

/// The runtime, and how long its answers may take and be.
#[derive(Debug)]
struct Runtime {
    upstream: Upstream,
    request_timeout: Duration,
    /// How long a reported error is held back, and how long after it the stream may go on.
    error_timeout: Duration,
    end_timeout: Duration,
    max_frame: usize,
    max_answer: usize,
    endings: Endings,
}

impl Http {
    /// Checks the settings and looks up the secrets. Connects to nothing. `silence` is what ends a turn without a signal:
    /// an error that was reported is told before that.
    pub(super) fn new(
        agent: &str,
        config: &HttpConfig,
        silence: Duration,
        tls: Tls,
    ) -> Result<Self, AgentsError> {
        let mut draft = Draft::new(agent, "url", &config.url, &["agent", "message", "stream"])?;
        if config.request_timeout.is_zero() {
            return Err(draft.setting("request_timeout", "must be longer than nothing"));
        }
        draft.headers(&config.headers)?;
        draft.secret("internal_api_key", KEY_HEADER, "", config.internal_api_key.as_ref())?;
        let connections = Connections {
            connect_timeout: config.connect_timeout,
            idle_timeout: Some(config.idle_timeout),
            idle: config.idle_connections,
        };
        let retries = Retries {
            max_retries: config.max_retries,
            retry_delay: config.retry_delay,
            max_retry_delay: config.max_retry_delay,
        };
        let max_frame = draft.size("max_frame", config.max_frame)?;
        let max_answer = draft.size("max_answer", config.max_answer)?;
        Ok(Self {
            runtime: Arc::new(Runtime {
                upstream: draft.build("text/event-stream", tls, connections, retries),
                request_timeout: config.request_timeout,
                error_timeout: config.error_timeout.min(silence / 2),
                end_timeout: config.end_timeout.min(silence / 2),
                max_frame,
                max_answer,
                endings: Endings::new(config.ending_streams, config.end_timeout),
            }),
        })
    }
}

impl Agent for Http {
    fn run(&self, turn: Turn) -> AgentStream {
        let bodies = match request::bodies(&turn) {
            Ok(bodies) => bodies,
            Err(why) => {
                let failed = AgentEvent::failed(ErrorType::InvalidInput, why);
                return Box::pin(futures::stream::iter([AgentSignal::Event(failed)]));
            }
        };
        let (runtime, task) = (Arc::clone(&self.runtime), turn.task);
        Box::pin(stream! {
            let mut answer = Answer::new(runtime.max_answer, &runtime.upstream.redactor);
            let last = bodies.len() - 1;
            for (number, body) in bodies.into_iter().enumerate() {
                let mut failure = None;
                {
                    let mut steps = pin!(runtime.exchange(task, body, &mut answer, number == last));
                    while let Some(step) = steps.next().await {
                        match step {
                            Ok(None) => yield AgentSignal::Alive,
                            Ok(Some(told)) if told.0.kind().is_terminal() => {
                                yield runtime.end(task, told);
                                return;
                            }
                            Ok(Some(told)) => yield signal(told),
                            Err(error) => {
                                failure = Some(error);
                                break;
                            }
                        }
                    }
                }
                if let Some(failure) = failure {
                    yield runtime.end(task, answer.failed(failure));
                    return;
                }
                if answer.failed_at().is_some() {
                    break;
                }
            }
            yield runtime.end(task, answer.end());
        })
    }
}

impl Runtime {
    /// One request and what it is answered with; a step without an event is a sign of life. Before the last request an
    /// answer's end is none of the turn's.
    fn exchange<'a, 'b: 'a>(
        &'a self,
        task: TaskId,
        body: Bytes,
        answer: &'a mut Answer<'b>,
        is_last: bool,
    ) -> impl Stream<Item = Result<Option<Told>, Failure>> + 'a {
        try_stream! {
            let mut delays = self.upstream.delays();
            let mut frames = loop {
                let failure = match self.begin(body.clone()).await {
                    Ok(frames) => break frames,
                    Err(failure) => failure,
                };
                let wait = self.upstream.wait(task, &failure, delays.next());
                let wait = wait.ok_or(failure)?;
                answer.retries += 1;
                // It is being tried, though it does not say anything.
                yield None;
                tokio::time::sleep(wait).await;
            };
            loop {
                let chunk = match self.next_but(&mut frames, answer).await? {
                    Some(Frame::Chunk(chunk)) => chunk,
                    Some(Frame::Nothing) => continue,
                    Some(Frame::End) => break,
                    None => {
                        yield answer.tell_error();
                        continue;
                    }
                };
                let is_last_chunk = chunk.is_last();
                if is_last_chunk {
                    self.endings.wait_for(frames.response.take());
                }
                let told = if chunk.is_done() && !is_last && answer.failed_at().is_none() {
                    vec![answer.pause(*chunk)]
                } else {
                    answer.take(*chunk)?
                };
                if told.is_empty() {
                    yield None;
                }
                for told in told {
                    yield Some(told);
                }
                if is_last_chunk {
                    break;
                }
            }
            self.endings.wait_for(frames.response.take());
            answer.next_message();
        }
    }

    /// Sends a request. Whatever is not a stream of frames is a failure.
    async fn begin(&self, body: Bytes) -> Result<Frames, Failure> {
        let (limit, deadline) = (self.request_timeout, Instant::now() + self.request_timeout);
        let asked = self.upstream.post(body, deadline, limit).await;
        let mut response = asked.map_err(|failure| self.explained(failure))?;
        let reader = SseReader::new(self.max_frame);
        let mut frames = Frames { is_streamed: false, response: None, reader, whole: None };
        match media_type(&response).as_str() {
            "" | "text/event-stream" | "text/plain" => {
                frames.is_streamed = true;
                frames.response = Some(response);
            }
            "application/json" => {
                let data = read_whole(&mut response, self.max_frame, deadline, limit).await?;
                frames.whole = Some(SseEvent { name: String::new(), data });
            }
            other => {
                let why = format!("the agent answered with {other:?} in the place of text/event-stream");
                return Err(Failure::unacceptable(why));
            }
        }
        Ok(frames)
    }

    /// A runtime may have begun with what it then failed at: it is asked again only where it did nothing.
    fn explained(&self, mut failure: Failure) -> Failure {
        failure.retry =
            failure.error_type == ErrorType::AgentUnreachable || matches!(failure.status, Some(429 | 503));
        match failure.status {
            Some(401 | 403) => {
                let agent = &self.upstream.agent;
                failure.advised(format!("set agents.{agent}.internal_api_key to the runtime's key"))
            }
            _ => failure,
        }
    }

    /// The next frame of a stream, for which an error that was reported does not wait for long: none if it is to be told.
    async fn next_but(&self, frames: &mut Frames, answer: &Answer<'_>) -> Result<Option<Frame>, Failure> {
        let next = self.next(frames);
        let Some(failed_at) = answer.failed_at() else { return next.await.map(Some) };
        let is_held = answer.holds_error() && self.error_timeout < self.end_timeout;
        let limit = if is_held { self.error_timeout } else { self.end_timeout };
        match timeout(limit.saturating_sub(failed_at.elapsed()), next).await {
            Ok(next) => next.map(Some),
            Err(_) if is_held => Ok(None),
            Err(_) => Ok(Some(Frame::End)),
        }
    }

    /// The next frame of a stream. Cancel safe.
    async fn next(&self, frames: &mut Frames) -> Result<Frame, Failure> {
        let Some(event) = frames.next().await? else { return Ok(Frame::End) };
        match Frame::read(&event) {
            Ok(Frame::Chunk(chunk)) if chunk.is_error() => {
                let data = self.upstream.redactor.text(&event.data).into_owned();
                Frame::read(&SseEvent { data, ..event })
            }
            // The stream ended within it.
            Err(_) if frames.is_streamed && frames.response.is_none() => Err(Failure::cut()),
            frame => frame,
        }
    }

    /// The last signal of a turn.
    fn end(&self, task: TaskId, (event, frame): Told) -> AgentSignal {
        if let AgentEvent::Failed { error, status, .. } = &event {
            let agent = &self.upstream.agent;
            if matches!(status, Some(401 | 403)) {
                error!(agent, %task, status, error, "the agent refused the gateway's key");
            } else {
                warn!(agent, %task, status, error, "the agent failed");
            }
        }
        signal((event, frame))
    }
}

fn signal((event, frame): Told) -> AgentSignal {
    match frame {
        Some(frame) => AgentSignal::Framed(event, frame),
        None => AgentSignal::Event(event),
    }
}

/// An answer that is being read.
#[derive(Debug)]
struct Frames {
    is_streamed: bool,
    /// None once it has ended.
    response: Option<Response>,
    reader: SseReader,
    /// The one frame of an answer that is not streamed.
    whole: Option<SseEvent>,
}

impl Frames {
    /// The next event of the stream; none at its end.
    async fn next(&mut self) -> Result<Option<SseEvent>, Failure> {
        if let Some(whole) = self.whole.take() {
            return Ok(Some(whole));
        }
        loop {
            let found = if self.response.is_some() { self.reader.next() } else { self.reader.finish() };
            match found {
                Ok(None) => {}
                Ok(event) => return Ok(event),
                Err(error) => return Err(Failure::malformed(CHUNK, &error, "")),
            }
            let Some(response) = &mut self.response else {
                let foreign = self.reader.foreign().map(|text| Failure::unread(NO_EVENTS, text));
                return foreign.map_or(Ok(None), Err);
            };
            match response.chunk().await.map_err(Failure::transport)? {
                Some(piece) => self.reader.push(&piece),
                None => self.response = None,
            }
        }
    }
}
