//! The `openai` agent: any server that speaks the OpenAI chat-completions API, streamed.
//!
//! Nothing that was told is ever taken back: a try is repeated only while none of its answer was passed on. The API key
//! is in no error, event or log.

mod answer;
mod config;
mod conversation;
mod request;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use reqwest::Response;
use reqwest::header;
use tokio::time::Instant;
use tracing::warn;

use super::failure::Failure;
use super::sse::SseReader;
use super::upstream::{Connections, Draft, Retries, Upstream, media_type, read_whole};
use super::{Agent, AgentSignal, AgentStream, AgentsError, Turn};
use crate::domain::{AgentEvent, ErrorType};
use crate::egress::Tls;
use answer::Answer;
pub use config::OpenAiConfig;
use request::Template;

/// What the frames of a stream are.
const COMPLETION: &str = "chat completion";

/// The agent.
#[derive(Debug)]
pub(super) struct OpenAi {
    template: Template,
    server: Arc<Server>,
}

/// The server, and how long its answers may take and be.
#[derive(Debug)]
struct Server {
    upstream: Upstream,
    first_token_timeout: Duration,
    end_timeout: Duration,
    max_frame: usize,
    max_answer: usize,
}

impl OpenAi {
    /// Checks the settings and looks up the secrets. Connects to nothing.
    pub(super) fn new(agent: &str, config: &OpenAiConfig, tls: Tls) -> Result<Self, AgentsError> {
        let mut draft = Draft::new(agent, "base_url", &config.base_url, &["chat", "completions"])?;
        for name in ["model", "messages", "stream", "stream_options"] {
            if config.parameters.contains_key(name) {
                let reason = "is not a parameter: the gateway sets it";
                return Err(draft.setting(&format!("parameters.{name}"), reason));
            }
        }
        draft.headers(&config.headers)?;
        draft.secret("api_key", header::AUTHORIZATION, "Bearer ", config.api_key.as_ref())?;
        let connections =
            Connections { connect_timeout: config.connect_timeout, idle_timeout: None, idle: usize::MAX };
        let retries = Retries {
            max_retries: config.max_retries,
            retry_delay: config.retry_delay,
            max_retry_delay: config.max_retry_delay,
        };
        let max_frame = draft.size("max_frame", config.max_frame)?;
        let max_answer = draft.size("max_answer", config.max_answer)?;
        Ok(Self {
            template: Template {
                model: config.model.clone(),
                instructions: config.instructions.clone(),
                parameters: config.parameters.clone(),
                include_usage: config.include_usage,
            },
            server: Arc::new(Server {
                upstream: draft.build("text/event-stream, application/json", tls, connections, retries),
                first_token_timeout: config.first_token_timeout,
                end_timeout: config.end_timeout,
                max_frame,
                max_answer,
            }),
        })
    }
}

impl Agent for OpenAi {
    fn run(&self, turn: Turn) -> AgentStream {
        let body = match request::body(&self.template, &turn) {
            Ok(body) => Bytes::from(body.to_string()),
            Err(why) => {
                let failed = AgentEvent::failed(ErrorType::InvalidInput, why);
                return Box::pin(futures::stream::iter([AgentSignal::Event(failed)]));
            }
        };
        let (server, task) = (Arc::clone(&self.server), turn.task);
        Box::pin(stream! {
            let upstream = &server.upstream;
            let mut delays = upstream.delays();
            let mut retries = 0;
            loop {
                let mut told = false;
                let mut failure = Failure::cut();
                let mut tries = std::pin::pin!(server.attempt(body.clone()));
                while let Some(step) = tries.next().await {
                    match step {
                        Ok(None) => yield AgentSignal::Alive,
                        Ok(Some(event)) => {
                            told = true;
                            let last = event.kind().is_terminal();
                            yield AgentSignal::Event(event);
                            if last {
                                return;
                            }
                        }
                        Err(error) => {
                            failure = error;
                            break;
                        }
                    }
                }
                let wait = if told { None } else { upstream.wait(task, &failure, delays.next()) };
                let Some(wait) = wait else {
                    let error = failure.told(&upstream.redactor);
                    warn!(agent = upstream.agent, %task, status = failure.status, error, "the agent failed");
                    yield AgentSignal::Event(failure.event(&upstream.redactor, retries));
                    return;
                };
                retries += 1;
                tokio::time::sleep(wait).await;
            }
        })
    }
}

impl Server {
    /// One try: events as they come, at last the terminal one; or an error, after which nothing follows. A frame that
    /// tells nothing (a piece of a tool call) is a sign of life, told as no event; a comment is none, since proxies send
    /// those for models that hang.
    fn attempt(&self, body: Bytes) -> impl Stream<Item = Result<Option<AgentEvent>, Failure>> {
        stream! {
            let deadline = Instant::now() + self.first_token_timeout;
            let mut response = match self.upstream.post(body, deadline, self.first_token_timeout).await {
                Ok(response) => response,
                Err(failure) => {
                    yield Err(failure);
                    return;
                }
            };
            let mut answer = Answer::new(self.max_answer);
            if media_type(&response) == "application/json" {
                let max = self.max_answer.saturating_add(self.max_frame);
                let whole = match read_whole(&mut response, max, deadline, self.first_token_timeout).await {
                    Ok(whole) => whole,
                    Err(failure) => {
                        yield Err(failure);
                        return;
                    }
                };
                match answer.frame(&whole) {
                    Ok(_) if !answer.has_begun() && !answer.is_finished() => {
                        yield Err(Failure::malformed(COMPLETION, &"it holds no answer", &whole));
                    }
                    Ok(events) => {
                        for event in events.into_iter().chain(answer.end()) {
                            yield Ok(Some(event));
                        }
                    }
                    Err(failure) => yield Err(failure),
                }
                return;
            }
            let mut reader = SseReader::new(self.max_frame);
            let mut open = true;
            'answer: while open {
                match self.piece(&mut response, &answer, deadline).await {
                    Ok(Some(piece)) => reader.push(&piece),
                    Ok(None) => open = false,
                    // After its end was told, nothing that happens to the connection changes the answer.
                    Err(_) if answer.is_finished() => break,
                    Err(failure) => {
                        yield Err(failure);
                        return;
                    }
                }
                loop {
                    let event = match if open { reader.next() } else { reader.finish() } {
                        Ok(Some(event)) => event,
                        Ok(None) => break,
                        Err(error) => {
                            yield Err(Failure::malformed(COMPLETION, &error, ""));
                            return;
                        }
                    };
                    match event.data.trim() {
                        "[DONE]" if answer.is_finished() || answer.has_begun() => break 'answer,
                        "[DONE]" => {
                            yield Err(Failure::cut());
                            return;
                        }
                        "" => {}
                        data => match answer.frame(data) {
                            Ok(events) if events.is_empty() => yield Ok(None),
                            Ok(events) => {
                                for event in events {
                                    yield Ok(Some(event));
                                }
                            }
                            Err(failure) => {
                                yield Err(failure);
                                return;
                            }
                        },
                    }
                }
                if !open && !answer.is_finished() {
                    yield Err(Failure::cut());
                    return;
                }
            }
            for event in answer.end() {
                yield Ok(Some(event));
            }
        }
    }

    /// The next piece of the stream; none at its end. How long it may take depends on where the answer is: silence in
    /// the middle is for the worker to judge.
    async fn piece(
        &self,
        response: &mut Response,
        answer: &Answer,
        deadline: Instant,
    ) -> Result<Option<Bytes>, Failure> {
        let next = response.chunk();
        let piece = if answer.is_finished() {
            tokio::time::timeout(self.end_timeout, next).await.map_err(|_| Failure::cut())?
        } else if answer.has_begun() {
            next.await
        } else {
            let silent = |_| Failure::silent(self.first_token_timeout);
            tokio::time::timeout_at(deadline, next).await.map_err(silent)?
        };
        piece.map_err(Failure::transport)
    }
}
