//! The `http` agent: a runtime that is sent a frame by `POST {url}/agent/message/stream`, and streams its answer as
//! server-sent events. It keeps the conversation itself, by the session's name.
//!
//! A request is repeated only where the runtime did nothing with it. Dropping the turn drops its connection. The internal
//! key is in no error, event or log.

mod chunk;
mod config;
mod endings;
mod request;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::{stream, try_stream};
use bytes::Bytes;
use bytesize::ByteSize;
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
use chunk::{Answer, Frame, Told};
pub use config::HttpConfig;
use endings::Endings;

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
    end_timeout: Duration,
    max_frame: usize,
    max_answer: usize,
    endings: Endings,
}

impl Http {
    /// Checks the settings and looks up the secrets. Connects to nothing.
    pub(super) fn new(agent: &str, config: &HttpConfig, tls: Tls) -> Result<Self, AgentsError> {
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
        let size = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Ok(Self {
            runtime: Arc::new(Runtime {
                upstream: draft.build("text/event-stream", tls, connections, retries),
                request_timeout: config.request_timeout,
                end_timeout: config.end_timeout,
                max_frame: size(config.max_frame),
                max_answer: size(config.max_answer),
                endings: Endings::new(config.idle_connections, config.end_timeout),
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
            let mut answer = Answer::new(runtime.max_answer);
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
                if answer.has_failed() {
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
    fn exchange<'a>(
        &'a self,
        task: TaskId,
        body: Bytes,
        answer: &'a mut Answer,
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
                let chunk = match self.next(&mut frames, answer.has_failed()).await? {
                    Frame::Nothing => continue,
                    Frame::End => break,
                    Frame::Chunk(chunk) => chunk,
                };
                let is_done = chunk.is_done();
                if is_done {
                    self.endings.wait_for(frames.response.take());
                }
                let told = if is_done && !is_last && !answer.has_failed() {
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
                if is_done {
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
    fn explained(&self, failure: Failure) -> Failure {
        let retry =
            failure.error_type == ErrorType::AgentUnreachable || matches!(failure.status, Some(429 | 503));
        let error = match failure.status {
            Some(401 | 403) => {
                let agent = &self.upstream.agent;
                format!("{}; set agents.{agent}.internal_api_key to the runtime's key", failure.error)
            }
            _ => failure.error,
        };
        Failure { error, retry, ..failure }
    }

    /// The next frame of a stream. Once an error was told, there need not be another one.
    async fn next(&self, frames: &mut Frames, has_failed: bool) -> Result<Frame, Failure> {
        let next = frames.next();
        let event =
            if has_failed { timeout(self.end_timeout, next).await.unwrap_or(Ok(None))? } else { next.await? };
        let Some(event) = event else { return Ok(Frame::End) };
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
    fn end(&self, task: TaskId, (mut event, frame): Told) -> AgentSignal {
        if let AgentEvent::Failed { error, status, .. } = &mut event {
            *error = self.upstream.redactor.text(error).into_owned();
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
                Err(error) => return Err(Failure::malformed(chunk::CHUNK, &error)),
            }
            let Some(response) = &mut self.response else { return Ok(None) };
            match response.chunk().await.map_err(Failure::transport)? {
                Some(piece) => self.reader.push(&piece),
                None => self.response = None,
            }
        }
    }
}
