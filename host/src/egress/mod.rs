//! The one outgoing HTTP client for plugins and callbacks. It reaches only what was granted, connects only to addresses
//! that it vetted itself, follows no redirect, uses no proxy, and is the only place where a secret meets the wire.
//!
//! Where it runs: requests run on the runtime that [`Egress::new`] was given, whichever runtime their caller lives on,
//! since a kept connection is driven by the runtime that opened it. A guest that hogs the plugins' runtime thus slows
//! neither callbacks nor other plugins. Dropping the future of [`Egress::send`] abandons the request.

mod address;
mod connect;
mod grant;
mod placeholder;
mod redact;
mod request;
mod retry_after;
mod secret;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytesize::ByteSize;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::connect::capture_connection;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;
use url::Url;

pub use grant::{Grant, InvalidOrigin, Origin};
pub use redact::Redactor;
pub use retry_after::retry_after;
pub use secret::{Secret, SecretError, SecretRef};
pub use tls::Tls;

use address::DeniedAddress;
use connect::{Lookup, Pool};

/// How the gateway names itself to servers.
pub const USER_AGENT: &str = concat!("plugway/", env!("CARGO_PKG_VERSION"));

/// What is read of a body that nobody needs, so that its connection can be kept; beyond it the connection is closed.
const DISCARD_SIZE: ByteSize = ByteSize::kib(64);
/// Time for that.
const DISCARD_TIME: Duration = Duration::from_millis(500);

/// Bounds of outgoing requests (`[egress]`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time for a connection, from the name's resolution to the end of the TLS handshake. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest time that a caller may give a request. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub max_timeout: Duration,
    /// How long an idle connection is kept. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Idle connections kept per origin. Default 32.
    pub idle_connections: usize,
    /// Names looked up at once. Default 32.
    pub lookups: usize,
    /// Largest body of a request. Default 32 MiB.
    pub request_body: ByteSize,
    /// Largest body of an answer. Default 10 MiB.
    pub response_body: ByteSize,
    /// Largest head of an answer, at least 8 KiB. Default 64 KiB.
    pub response_headers: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            max_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(30),
            idle_connections: 32,
            lookups: 32,
            request_body: ByteSize::mib(32),
            response_body: ByteSize::mib(10),
            response_headers: ByteSize::kib(64),
        }
    }
}

/// A request, as its caller wants it.
#[derive(Clone, Debug)]
pub struct EgressRequest {
    /// `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS`.
    pub method: String,
    /// Absolute; `{secret:NAME}` may stand in its path.
    pub url: String,
    /// Names and values; `{secret:NAME}` may stand in the values.
    pub headers: Vec<(String, String)>,
    /// Sent as it is: text that happens to look like a placeholder is nobody's secret.
    pub body: Bytes,
    /// Time for all of it, to the last byte of the answer.
    pub timeout: Duration,
}

/// An answer, with the secrets taken out that were put into its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressResponse {
    /// Any status, redirects included.
    pub status: u16,
    /// Names in lower case, values that are UTF-8, without those that concern the connection.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
}

impl EgressResponse {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn redact(&mut self, redactor: &Redactor) {
        for (_, value) in &mut self.headers {
            if let std::borrow::Cow::Owned(clean) = redactor.text(value) {
                *value = clean;
            }
        }
        self.body = redactor.bytes(std::mem::take(&mut self.body));
    }
}

/// Why there is no answer. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Not granted, or not acceptable; says which line to add to `plugway.toml` where one would help. Nothing was sent.
    #[error("{0}")]
    Denied(String),
    /// The time was up after a connection was there: the server may have got the request.
    #[error("the server did not answer in time")]
    Timeout,
    /// No connection came about, for whatever reason: the server got nothing of the request.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke, or the answer was not acceptable: the server may have got the request.
    #[error("{0}")]
    Interrupted(String),
}

impl EgressError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Timeout => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Interrupted(_) => "interrupted",
        }
    }
}

/// The outgoing client. Cheap to clone.
#[derive(Clone)]
pub struct Egress(Arc<Shared>);

struct Shared {
    config: Config,
    runtime: Handle,
    tls: Tls,
    lookup: Lookup,
    /// One pool for each set of allowed networks, so that a kept connection is never used under a stricter grant.
    pools: Mutex<HashMap<Vec<IpNet>, Pool>>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Egress {
    /// A client whose connections live on the given runtime.
    pub fn new(config: Config, tls: Tls, runtime: Handle) -> Self {
        let lookup = connect::system_lookup(config.lookups);
        Self::with_lookup(config, tls, runtime, lookup)
    }

    fn with_lookup(config: Config, tls: Tls, runtime: Handle, lookup: Lookup) -> Self {
        Self(Arc::new(Shared { config, runtime, tls, lookup, pools: Mutex::default() }))
    }

    /// Sends a request and reads the whole answer. Works on any tokio runtime.
    ///
    /// A request is never sent twice: what a server may have seen any part of is not repeated.
    ///
    /// # Errors
    /// [`EgressError`]; tells whether the server can have got anything.
    pub async fn send(&self, grant: &Grant, request: EgressRequest) -> Result<EgressResponse, EgressError> {
        let answer = self.exchange(grant, request, Want::Whole).await;
        count(grant, &answer);
        answer
    }

    /// Sends a request whose answer is in its status and headers: the body is thrown away, and it does not matter how it
    /// ends. Otherwise as [`Egress::send`].
    ///
    /// # Errors
    /// As [`Egress::send`].
    pub async fn send_for_head(
        &self,
        grant: &Grant,
        request: EgressRequest,
    ) -> Result<EgressResponse, EgressError> {
        let answer = self.exchange(grant, request, Want::Head).await;
        count(grant, &answer);
        answer
    }

    async fn exchange(
        &self,
        grant: &Grant,
        request: EgressRequest,
        want: Want,
    ) -> Result<EgressResponse, EgressError> {
        let shared = &self.0;
        let timeout = request.timeout.min(shared.config.max_timeout);
        let origin = Url::parse(&request.url).map(|url| Origin::of(&url).to_string()).unwrap_or_default();
        let (request, used) = request::prepare(grant, request, shared.config.request_body)
            .map_err(|sentence| EgressError::Denied(grant.redactor().text(&sentence).into_owned()))?;
        let (this, networks) = (self.clone(), grant.networks().to_vec());
        let task = shared.runtime.spawn(async move {
            let pool = this.pool(networks).await;
            perform(&pool, request, timeout, want, this.0.config.response_body).await
        });
        let answer = match AbortOnDropHandle::new(task).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Interrupted("the gateway is stopping".to_owned())),
        };
        let redactor = grant.redactor();
        match answer {
            Ok(mut response) => {
                // Others the server does not know, so whatever looks like one is the answer's own.
                for redactor in used.iter().filter_map(|name| grant.redactor_of(name)) {
                    response.redact(redactor);
                }
                Ok(response)
            }
            Err(Failure::Denied(denied)) => {
                Err(EgressError::Denied(request::denied_sentence(&origin, &denied, grant.table())))
            }
            Err(Failure::Timeout) => Err(EgressError::Timeout),
            Err(Failure::Unreachable(why)) => Err(EgressError::Unreachable(
                redactor.text(&format!("{origin} can't be reached: {why}")).into(),
            )),
            Err(Failure::Interrupted(why)) => {
                Err(EgressError::Interrupted(redactor.text(&format!("{origin}: {why}")).into()))
            }
        }
    }

    async fn pool(&self, networks: Vec<IpNet>) -> Pool {
        let shared = &self.0;
        let known = || shared.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = known().get(&networks) {
            return pool.clone();
        }
        let tls = shared.tls.config().await;
        let allowed = Arc::from(networks.as_slice());
        let new = || connect::pool(&shared.config, tls, Arc::clone(&shared.lookup), allowed);
        known().entry(networks).or_insert_with(new).clone()
    }
}

/// Checks a URL that somebody wants called back, as far as its text tells; what its name resolves to is vetted whenever
/// a connection is made.
///
/// # Errors
/// A sentence that says what is wrong with it, without repeating it.
pub fn check_callback_url(grant: &Grant, url: &str) -> Result<Url, String> {
    request::vetted_url(url, grant.networks()).map_err(|problem| problem.sentence(url, grant.table()))
}

/// Logs and counts what became of a request.
fn count(grant: &Grant, answer: &Result<EgressResponse, EgressError>) {
    let outcome = match answer {
        Ok(response) => match response.status {
            0..300 => "success",
            300..400 => "redirect",
            400..500 => "client_error",
            _ => "server_error",
        },
        Err(error) => {
            debug!(plugin = grant.name(), %error, "an outgoing request failed");
            error.outcome()
        }
    };
    let plugin = grant.name().to_owned();
    metrics::counter!("plugway_egress_requests_total", "plugin" => plugin, "outcome" => outcome).increment(1);
}

/// What of an answer its caller needs.
#[derive(Clone, Copy)]
enum Want {
    Whole,
    Head,
}

/// What went wrong, before anything confidential was taken out.
enum Failure {
    Denied(DeniedAddress),
    Timeout,
    Unreachable(String),
    Interrupted(String),
}

async fn perform(
    pool: &Pool,
    mut request: http::Request<Full<Bytes>>,
    timeout: Duration,
    want: Want,
    max_body: ByteSize,
) -> Result<EgressResponse, Failure> {
    // Set by the client before it hands the request to a connection.
    let connection = capture_connection(&mut request);
    let deadline = Instant::now() + timeout;
    let response = match tokio::time::timeout_at(deadline, pool.request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(classify(&error)),
        Err(_) if connection.connection_metadata().is_some() => return Err(Failure::Timeout),
        Err(_) => {
            let limit = humantime::format_duration(timeout);
            return Err(Failure::Unreachable(format!("no connection within {limit}")));
        }
    };
    let (head, body) = response.into_parts();
    let body = match want {
        Want::Whole => {
            tokio::time::timeout_at(deadline, read(body, max_body)).await.map_err(|_| Failure::Timeout)??
        }
        Want::Head => {
            // Read to its end, if that is near, so that the connection can be kept.
            let _ = tokio::time::timeout(DISCARD_TIME, read(body, DISCARD_SIZE)).await;
            Bytes::new()
        }
    };
    let headers = head
        .headers
        .iter()
        .filter(|(name, _)| !request::HOP_BY_HOP.contains(name))
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
        })
        .collect();
    Ok(EgressResponse { status: head.status.as_u16(), headers, body })
}

async fn read(mut body: hyper::body::Incoming, max: ByteSize) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failure::Interrupted(format!("the answer broke off: {}", chain(&error))))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = u64::try_from(whole.len() + data.len()).unwrap_or(u64::MAX);
        if size > max.as_u64() {
            return Err(Failure::Interrupted(format!("the answer's body is larger than {max}")));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn classify(error: &hyper_util::client::legacy::Error) -> Failure {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(denied) = cause.downcast_ref::<DeniedAddress>() {
            return Failure::Denied(*denied);
        }
        source = cause.source();
    }
    // The outermost error only names its kind.
    let why = error.source().map_or_else(|| error.to_string(), chain);
    if error.is_connect() { Failure::Unreachable(why) } else { Failure::Interrupted(why) }
}

/// An error with its causes, without those that repeat what the one before them said.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
