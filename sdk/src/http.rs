//! Outgoing HTTP, to the origins that the operator granted.
//!
//! `{secret:NAME}` in the URL's path or in a header's value is put in by the host on the way out: a plugin never holds a
//! secret. Redirects are not followed.

use crate::{
    error::Error as Answer,
    response::{Response, default_header, put_header},
    sys::{self, millis32, raw::http_client as wit},
};
use serde::Serialize;
use std::{fmt, time::Duration};

/// How much of an answer's body an error repeats, in characters.
const SHOWN: usize = 200;

/// A request to somebody else's server.
///
/// ```
/// # use plugway_sdk::{http, mock::Mock, Response};
/// # let mock = Mock::new();
/// # mock.secret("bot_token", "42:abc");
/// # mock.outgoing(|_| Ok(Response::json(200, &serde_json::json!({"ok": true}))));
/// let answer = http::post("https://api.telegram.org/bot{secret:bot_token}/getMe")
///     .json(&serde_json::json!({}))
///     .timeout(std::time::Duration::from_secs(10))
///     .send()?
///     .ok()?;
/// assert_eq!(answer.parse::<serde_json::Value>()?["ok"], true);
/// # Ok::<(), plugway_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until `send`"]
pub struct Call {
    raw: wit::Request,
    problem: Option<String>,
}

/// A request with any method.
pub fn call(method: &str, url: impl Into<String>) -> Call {
    let raw = wit::Request {
        method: method.to_owned(),
        url: url.into(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: 30_000,
    };
    Call { raw, problem: None }
}

/// A GET.
pub fn get(url: impl Into<String>) -> Call {
    call("GET", url)
}

/// A POST.
pub fn post(url: impl Into<String>) -> Call {
    call("POST", url)
}

impl Call {
    /// Adds a header. A `content-type` takes the place of the one before.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        put_header(&mut self.raw.headers, name, value.into());
        self
    }

    /// Sends these bytes.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.raw.body = body.into();
        self
    }

    /// Sends a value as JSON, under that `content-type` unless another is set.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.raw.body = body,
            Err(error) => self.problem = Some(error.to_string()),
        }
        default_header(&mut self.raw.headers, "content-type", "application/json");
        self
    }

    /// How long it may take in all. 30 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.raw.timeout_ms = millis32(timeout);
        self
    }

    /// Sends it, and waits for the whole answer. Any status is an answer, not an error: [`Response::ok`] makes it one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send(self) -> Result<Response, Error> {
        if let Some(problem) = self.problem {
            return Err(Error::Denied(problem));
        }
        sys::http_client::send(&self.raw).map(Response::from_raw).map_err(|error| match error {
            wit::Error::Denied(why) => Error::Denied(why),
            wit::Error::Timeout => Error::Timeout,
            wit::Error::Unreachable(why) => Error::Unreachable(why),
            wit::Error::Interrupted(why) => Error::Interrupted(why),
        })
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Origin, method, address or secret is not granted; nothing was sent.
    Denied(String),
    /// Time ran out; the server may have got it.
    Timeout,
    /// It never reached the server: safe to send again.
    Unreachable(String),
    /// The connection broke; the server may have got it.
    Interrupted(String),
    /// The server answered with a status that is no success; only [`Response::ok`] makes this of an answer.
    Status(Box<Response>),
}

impl Error {
    /// Whether the server may have got the request, so that sending it again may do it twice.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Timeout | Self::Interrupted(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) => write!(out, "denied: {why}"),
            Self::Timeout => out.write_str("timed out"),
            Self::Unreachable(why) => write!(out, "unreachable: {why}"),
            Self::Interrupted(why) => write!(out, "interrupted: {why}"),
            Self::Status(answer) => {
                write!(out, "the server answered with status {}", answer.status)?;
                let body = answer.text();
                let body: String = body.trim().chars().take(SHOWN).collect();
                if body.is_empty() { Ok(()) } else { write!(out, ": {body}") }
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(_) => Self::internal(error),
            Error::Status(answer) if !matches!(answer.status, 408 | 425 | 429 | 500..) => {
                Self::internal(Error::Status(answer))
            }
            Error::Status(answer) => {
                let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
                let retry_after = seconds.map(Duration::from_secs);
                let reason = Error::Status(answer).to_string();
                Self::Unavailable { reason, message: None, retry_after }
            }
            other => Self::unavailable(other),
        }
    }
}
