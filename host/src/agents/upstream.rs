//! A server that an agent asks over HTTP: where it is, what goes with every request, the connections to it, and the
//! pauses before it is asked again.
//!
//! Its secrets are in no error, event or log.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use bytesize::ByteSize;
use metrics::counter;
use reqwest::Response;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::info;
use url::Url;

use super::AgentsError;
use super::failure::Failure;
use crate::domain::{Clock, ErrorType, TaskId};
use crate::egress::{Redactor, Secret, SecretRef, Tls, USER_AGENT};

/// Largest body of an error that is read.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// The server, and the way to it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) agent: String,
    pub(super) redactor: Redactor,
    url: Url,
    /// The setting that says where it is.
    field: String,
    /// What stands behind that in `url`.
    path: String,
    headers: HeaderMap,
    tls: Tls,
    client: OnceCell<reqwest::Client>,
    clock: Clock,
    connections: Connections,
    retries: Retries,
}

/// How connections are made and kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connections {
    /// Time for a new one.
    pub(super) connect_timeout: Duration,
    /// How long one is kept without a request; none: as the HTTP library does.
    pub(super) idle_timeout: Option<Duration>,
    /// How many are kept without a request.
    pub(super) idle: usize,
}

/// When a try is made again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retries {
    pub(super) max_retries: u32,
    pub(super) retry_delay: Duration,
    pub(super) max_retry_delay: Duration,
}

/// Where a server is and what it is told with every request, put together from an agent's settings.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    agent: &'a str,
    field: &'a str,
    url: Url,
    path: String,
    headers: HeaderMap,
    secrets: Vec<(String, Secret)>,
}

impl<'a> Draft<'a> {
    /// Checks the setting `field`, and puts a path behind it.
    pub(super) fn new(
        agent: &'a str,
        field: &'a str,
        base: &Url,
        path: &[&str],
    ) -> Result<Self, AgentsError> {
        let (headers, secrets) = (HeaderMap::new(), Vec::new());
        let below = format!("/{}", path.join("/"));
        let draft = Self { agent, field, url: base.clone(), path: below, headers, secrets };
        if !matches!(base.scheme(), "http" | "https") {
            return Err(draft.setting(field, "must begin with http:// or https://"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            let reason = "must hold no user name or password: put them into `headers`";
            return Err(draft.setting(field, reason));
        }
        let mut url = base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(draft.setting(field, "must be a URL with a path")),
        };
        Ok(Self { url, ..draft })
    }

    /// An error of a setting.
    pub(super) fn setting(&self, field: &str, reason: &str) -> AgentsError {
        AgentsError::Setting {
            agent: self.agent.to_owned(),
            field: field.to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// A bound in bytes, which lets something through.
    pub(super) fn size(&self, field: &str, size: ByteSize) -> Result<usize, AgentsError> {
        match usize::try_from(size.as_u64()).unwrap_or(usize::MAX) {
            0 => Err(self.setting(field, "must be at least 1B")),
            size => Ok(size),
        }
    }

    fn resolve(&self, secret: &SecretRef) -> Result<Option<Secret>, AgentsError> {
        secret.resolve().map_err(|source| AgentsError::Secret { agent: self.agent.to_owned(), source })
    }

    /// Headers that the operator wants sent.
    pub(super) fn headers(&mut self, headers: &BTreeMap<String, SecretRef>) -> Result<(), AgentsError> {
        for (name, value) in headers {
            let field = format!("headers.{name}");
            let key = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| self.setting(&field, "is not a header's name"))?;
            let Some(secret) = self.resolve(value)? else { continue };
            let header = sensitive(secret.expose());
            let header = header.ok_or_else(|| self.setting(&field, "is not a header's value"))?;
            self.headers.insert(key, header);
            // A value that is written out in the configuration is often no secret (`X-Title: Plugway`).
            if !matches!(value, SecretRef::Literal(_)) {
                self.secrets.push((name.clone(), secret));
            }
        }
        Ok(())
    }

    /// A header that holds the secret of the setting `field`, behind `before`.
    pub(super) fn secret(
        &mut self,
        field: &str,
        header: HeaderName,
        before: &str,
        secret: Option<&SecretRef>,
    ) -> Result<(), AgentsError> {
        let Some(secret) = secret.map(|secret| self.resolve(secret)).transpose()?.flatten() else {
            return Ok(());
        };
        let value = sensitive(&format!("{before}{}", secret.expose()));
        let unusable = || self.setting(field, "holds characters that no header can carry");
        let value = value.ok_or_else(unusable)?;
        self.headers.insert(header, value);
        self.secrets.push((field.to_owned(), secret));
        Ok(())
    }

    /// The server. Connects to nothing.
    pub(super) fn build(
        mut self,
        accept: &'static str,
        tls: Tls,
        connections: Connections,
        retries: Retries,
    ) -> Upstream {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        // What is compressed is held back until there is enough of it, and is not read here.
        self.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Upstream {
            agent: self.agent.to_owned(),
            redactor: Redactor::new(self.secrets.iter().map(|(name, secret)| (name.as_str(), secret))),
            url: self.url,
            field: self.field.to_owned(),
            path: self.path,
            headers: self.headers,
            tls,
            client: OnceCell::new(),
            clock: Clock::System,
            connections,
            retries,
        }
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Upstream {
    /// The pauses before the further tries of one request, as many as there may be.
    pub(super) fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(self.retries.retry_delay)
            .with_max_delay(self.retries.max_retry_delay)
            .with_max_times(usize::try_from(self.retries.max_retries).unwrap_or(usize::MAX))
            .build()
    }

    /// How long to wait before another try; none if there is to be none. Tells the operator that there will be one.
    pub(super) fn wait(&self, task: TaskId, failure: &Failure, delay: Option<Duration>) -> Option<Duration> {
        let longest = self.retries.max_retry_delay;
        let asked = failure.retry_after.unwrap_or_default();
        let delay = delay.filter(|_| failure.retry && asked <= longest)?;
        let wait = delay.min(longest).max(asked);
        // What a server said is for the filters first.
        let is_ours = failure.error_type == ErrorType::AgentUnreachable && failure.status.is_none();
        let error = if is_ours { failure.told(&self.redactor) } else { String::new() };
        let error_type = failure.error_type.as_str();
        info!(agent = self.agent, %task, ?wait, status = failure.status, error_type, error, "the agent is asked again");
        counter!("plugway_agent_retries_total", "agent" => self.agent.clone()).increment(1);
        Some(wait)
    }

    async fn client(&self) -> Result<&reqwest::Client, Failure> {
        let build = || async {
            // No proxy from the environment: a local server must not be looked for behind one. No redirect: the key
            // goes where it was configured to go.
            let client = reqwest::Client::builder()
                .tls_backend_preconfigured(self.tls.config().await)
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .http1_only()
                .connect_timeout(self.connections.connect_timeout)
                .pool_max_idle_per_host(self.connections.idle)
                .user_agent(USER_AGENT);
            match self.connections.idle_timeout {
                Some(timeout) => client.pool_idle_timeout(timeout).build(),
                None => client.build(),
            }
        };
        self.client.get_or_try_init(build).await.map_err(Failure::transport)
    }

    /// Sends the request; an answer whose status is an error is a failure. `limit` is what is told where the deadline
    /// passes before the answer's head.
    pub(super) async fn post(
        &self,
        body: Bytes,
        deadline: Instant,
        limit: Duration,
    ) -> Result<Response, Failure> {
        let client = self.client().await?;
        let request = client.post(self.url.clone()).headers(self.headers.clone()).body(body).send();
        let mut response = tokio::time::timeout_at(deadline, request)
            .await
            .map_err(|_| Failure::silent(limit))?
            .map_err(Failure::transport)?;
        let status = response.status();
        let named = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let encoding = named(header::CONTENT_ENCODING).map(str::trim).unwrap_or_default();
        let is_encoded = !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity");
        if status.is_success() && is_encoded {
            let error = format!("the agent's answer is compressed: its content-encoding is {encoding}");
            let advice =
                "it must not be: the gateway reads only what it asks for, `accept-encoding: identity`";
            return Err(Failure::unacceptable(error).advised(advice));
        }
        if status.is_success() {
            return Ok(response);
        }
        let location = named(header::LOCATION).filter(|_| status.is_redirection());
        let advice = location.map(|location| self.elsewhere(location)).unwrap_or_default();
        let wait = named(header::RETRY_AFTER).map(str::to_owned);
        let mut text = BytesMut::new();
        // An error is told even if its text does not come to an end.
        while let Ok(Ok(Some(piece))) = tokio::time::timeout_at(deadline, response.chunk()).await {
            text.extend_from_slice(&piece);
            if text.len() > MAX_ERROR_BODY {
                break;
            }
        }
        let text = if is_encoded { "".into() } else { String::from_utf8_lossy(&text) };
        let failure = Failure::status(status.as_u16(), wait.as_deref(), self.clock.now_ms(), &text);
        Err(failure.advised(advice))
    }

    /// What to do where the server says that it is somewhere else: the key goes only where the operator wants it to go.
    fn elsewhere(&self, location: &str) -> String {
        let Self { agent, field, path, .. } = self;
        let target = self.url.join(location).ok();
        let base = target.and_then(|mut target| {
            let base = target.path().strip_suffix(path.as_str())?.to_owned();
            target.set_path(&base);
            Some(target)
        });
        let todo = match base {
            Some(base) => format!("set agents.{agent}.{field} to {base}"),
            None => format!("set agents.{agent}.{field} to where it is, or answer at {}", self.url.path()),
        };
        format!("{todo}: it refers to {location}, and no redirect is followed")
    }
}

/// The text of an answer that is not streamed, of at most `max` bytes.
pub(super) async fn read_whole(
    response: &mut Response,
    max: usize,
    deadline: Instant,
    limit: Duration,
) -> Result<String, Failure> {
    let mut whole = BytesMut::new();
    loop {
        let piece = tokio::time::timeout_at(deadline, response.chunk())
            .await
            .map_err(|_| Failure::silent(limit))?
            .map_err(Failure::transport)?;
        let Some(piece) = piece else { break };
        whole.extend_from_slice(&piece);
        if whole.len() > max {
            return Err(Failure::unacceptable(format!("the agent's answer is larger than {max} bytes")));
        }
    }
    String::from_utf8(whole.into())
        .map_err(|_| Failure::unacceptable("the agent's answer is not UTF-8".into()))
}

/// The answer's media type, in lower case and without parameters; empty if it names none.
pub(super) fn media_type(response: &Response) -> String {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
