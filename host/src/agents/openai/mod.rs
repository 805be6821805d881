//! The `openai` agent: any server that speaks the OpenAI chat-completions API, streamed.
//!
//! Nothing that was told is ever taken back: a try is repeated only while none of its answer was passed on. The API key
//! is in no error, event or log.

mod answer;
mod config;
mod conversation;
mod failure;
mod request;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use bytesize::ByteSize;
use futures::{Stream, StreamExt as _};
use reqwest::Response;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

use super::sse::SseReader;
use super::{Agent, AgentSignal, AgentStream, AgentsError, Turn};
use crate::domain::{AgentEvent, Clock, ErrorType};
use crate::egress::{Redactor, SecretRef, Tls, USER_AGENT};
use answer::Answer;
pub use config::OpenAiConfig;
use failure::Failure;
use request::Template;

/// Largest body of an error that is read.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// The agent.
#[derive(Debug)]
pub(super) struct OpenAi {
    template: Template,
    server: Arc<Server>,
}

/// The server and the way to it.
#[derive(Debug)]
struct Server {
    agent: String,
    url: Url,
    headers: HeaderMap,
    redactor: Redactor,
    tls: Tls,
    client: OnceCell<reqwest::Client>,
    clock: Clock,
    connect_timeout: Duration,
    first_token_timeout: Duration,
    end_timeout: Duration,
    max_retries: u32,
    retry_delay: Duration,
    max_retry_delay: Duration,
    max_frame: usize,
    max_answer: usize,
}

impl OpenAi {
    /// Checks the settings and looks up the secrets. Connects to nothing.
    pub(super) fn new(agent: &str, config: &OpenAiConfig, tls: Tls) -> Result<Self, AgentsError> {
        let setting = |field: String, reason: &str| AgentsError::Setting {
            agent: agent.to_owned(),
            field,
            reason: reason.to_owned(),
        };
        let mut url = config.base_url.clone();
        if !matches!(url.scheme(), "http" | "https") {
            return Err(setting("base_url".to_owned(), "must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let reason = "must hold no user name or password: put them into `headers`";
            return Err(setting("base_url".to_owned(), reason));
        }
        match url.path_segments_mut() {
            Ok(mut path) => path.pop_if_empty().extend(["chat", "completions"]),
            Err(()) => return Err(setting("base_url".to_owned(), "must be a URL with a path")),
        };
        for name in ["model", "messages", "stream", "stream_options"] {
            if config.parameters.contains_key(name) {
                return Err(setting(format!("parameters.{name}"), "is not a parameter: the gateway sets it"));
            }
        }
        let resolve = |secret: &SecretRef| {
            secret.resolve().map_err(|source| AgentsError::Secret { agent: agent.to_owned(), source })
        };
        let mut secrets = Vec::new();
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let field = || format!("headers.{name}");
            let key = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| setting(field(), "is not a header's name"))?;
            let Some(secret) = resolve(value)? else { continue };
            headers.insert(
                key,
                sensitive(secret.expose()).ok_or_else(|| setting(field(), "is not a header's value"))?,
            );
            // A value that is written out in the configuration is often no secret (`X-Title: Plugway`).
            if !matches!(value, SecretRef::Literal(_)) {
                secrets.push((name.clone(), secret));
            }
        }
        if let Some(key) = config.api_key.as_ref().map(resolve).transpose()?.flatten() {
            let value = sensitive(&format!("Bearer {}", key.expose()));
            let unusable = || setting("api_key".to_owned(), "holds characters that no header can carry");
            headers.insert(header::AUTHORIZATION, value.ok_or_else(unusable)?);
            secrets.push(("api_key".to_owned(), key));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        let size = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Ok(Self {
            template: Template {
                model: config.model.clone(),
                instructions: config.instructions.clone(),
                parameters: config.parameters.clone(),
                include_usage: config.include_usage,
            },
            server: Arc::new(Server {
                agent: agent.to_owned(),
                url,
                headers,
                redactor: Redactor::new(secrets.iter().map(|(name, secret)| (name.as_str(), secret))),
                tls,
                client: OnceCell::new(),
                clock: Clock::System,
                connect_timeout: config.connect_timeout,
                first_token_timeout: config.first_token_timeout,
                end_timeout: config.end_timeout,
                max_retries: config.max_retries,
                retry_delay: config.retry_delay,
                max_retry_delay: config.max_retry_delay,
                max_frame: size(config.max_frame),
                max_answer: size(config.max_answer),
            }),
        })
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
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
            let mut delays = server.delays();
            let mut retries = 0;
            loop {
                let mut told = false;
                let mut failure = Failure::cut();
                let mut tries = std::pin::pin!(server.attempt(body.clone()));
                while let Some(step) = tries.next().await {
                    match step {
                        Ok(AgentSignal::Alive) => yield AgentSignal::Alive,
                        Ok(AgentSignal::Event(event)) => {
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
                failure.error = server.redactor.text(&failure.error).into_owned();
                let wait = if told { None } else { server.wait(&failure, delays.next()) };
                let Some(wait) = wait else {
                    warn!(agent = server.agent, %task, status = failure.status, error = failure.error, "the agent failed");
                    yield AgentSignal::Event(failure.event(retries));
                    return;
                };
                retries += 1;
                info!(agent = server.agent, %task, ?wait, retries, error = failure.error, "the agent is asked again");
                tokio::time::sleep(wait).await;
            }
        })
    }
}

impl Server {
    fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(self.retry_delay)
            .with_max_delay(self.max_retry_delay)
            .with_max_times(usize::try_from(self.max_retries).unwrap_or(usize::MAX))
            .build()
    }

    /// How long to wait before another try; none if there is to be none.
    fn wait(&self, failure: &Failure, delay: Option<Duration>) -> Option<Duration> {
        let asked = failure.retry_after.unwrap_or_default();
        let delay = delay.filter(|_| failure.retry && asked <= self.max_retry_delay)?;
        Some(delay.min(self.max_retry_delay).max(asked))
    }

    async fn client(&self) -> Result<&reqwest::Client, Failure> {
        let build = || async {
            // No proxy from the environment: a local model must not be looked for behind one. No redirect: the key
            // goes where it was configured to go.
            reqwest::Client::builder()
                .tls_backend_preconfigured(self.tls.config().await)
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .http1_only()
                .connect_timeout(self.connect_timeout)
                .user_agent(USER_AGENT)
                .build()
        };
        self.client.get_or_try_init(build).await.map_err(Failure::transport)
    }

    /// One try: events as they come, at last the terminal one; or an error, after which nothing follows. A frame that
    /// tells nothing (a piece of a tool call) is a sign of life; a comment is none, since proxies send those for models
    /// that hang.
    fn attempt(&self, body: Bytes) -> impl Stream<Item = Result<AgentSignal, Failure>> {
        stream! {
            let deadline = Instant::now() + self.first_token_timeout;
            let mut response = match self.request(body, deadline).await {
                Ok(response) => response,
                Err(failure) => {
                    yield Err(failure);
                    return;
                }
            };
            let mut answer = Answer::new(self.max_answer);
            if is_json(&response) {
                let whole = self.read_whole(&mut response, deadline).await;
                match whole.and_then(|whole| answer.frame(&whole)) {
                    Ok(_) if !answer.has_begun() && !answer.is_finished() => {
                        yield Err(Failure::malformed(&"it holds no answer"));
                    }
                    Ok(events) => {
                        for event in events.into_iter().chain(answer.end()) {
                            yield Ok(AgentSignal::Event(event));
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
                            yield Err(Failure::malformed(&error));
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
                            Ok(events) if events.is_empty() => yield Ok(AgentSignal::Alive),
                            Ok(events) => {
                                for event in events {
                                    yield Ok(AgentSignal::Event(event));
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
                yield Ok(AgentSignal::Event(event));
            }
        }
    }

    /// Sends the request; an answer whose status is an error is a failure.
    async fn request(&self, body: Bytes, deadline: Instant) -> Result<Response, Failure> {
        let client = self.client().await?;
        let request = client.post(self.url.clone()).headers(self.headers.clone()).body(body).send();
        let mut response = tokio::time::timeout_at(deadline, request)
            .await
            .map_err(|_| Failure::silent(self.first_token_timeout))?
            .map_err(Failure::transport)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.map(str::to_owned);
        let mut text = BytesMut::new();
        // An error is told even if its text does not come to an end.
        while let Ok(Ok(Some(piece))) = tokio::time::timeout_at(deadline, response.chunk()).await {
            text.extend_from_slice(&piece);
            if text.len() > MAX_ERROR_BODY {
                break;
            }
        }
        let text = String::from_utf8_lossy(&text);
        Err(Failure::status(status.as_u16(), wait.as_deref(), self.clock.now_ms(), &text))
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

    /// The answer of a server that does not stream.
    async fn read_whole(&self, response: &mut Response, deadline: Instant) -> Result<String, Failure> {
        let max = self.max_answer.saturating_add(self.max_frame);
        let mut whole = BytesMut::new();
        loop {
            let piece = tokio::time::timeout_at(deadline, response.chunk())
                .await
                .map_err(|_| Failure::silent(self.first_token_timeout))?
                .map_err(Failure::transport)?;
            let Some(piece) = piece else { break };
            whole.extend_from_slice(&piece);
            if whole.len() > max {
                return Err(Failure::unacceptable(format!("the agent's answer is larger than {max} bytes")));
            }
        }
        String::from_utf8(whole.into()).map_err(|_| Failure::malformed(&"it is not UTF-8"))
    }
}

fn is_json(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("application/json"))
}
