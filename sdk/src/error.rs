//! What can go wrong in a role, as the caller will see it: each case becomes one HTTP status and the body
//! `{"error":{"message","type","code","param"}}`, which is the host's own shape too.

use crate::{
    event::{Cancelled, Failed},
    mailbox::Reason,
    response::Response,
    sys::millis64,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, time::Duration};

/// Short for a result with the crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not answered as hoped.
///
/// Returned from [`HttpAdapter::handle`](crate::HttpAdapter::handle) before anything was sent, it becomes the answer;
/// after a body was started, it cuts the body off. What reaches the caller is the text of [`Display`](fmt::Display), except
/// for `Internal` and `Gap`; [`Error::reason`] is what reaches the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// 400. `param` names the field that is wrong, as `message.chat.id`.
    BadRequest {
        /// What is wrong, for people.
        message: String,
        /// Which field.
        param: Option<String>,
    },
    /// 401.
    Unauthorized(String),
    /// 403.
    Forbidden(String),
    /// 404.
    NotFound(String),
    /// 409.
    Conflict(String),
    /// 413.
    TooLarge(String),
    /// 429 with `Retry-After`: this caller asks too often.
    RateLimited {
        /// When to come back.
        retry_after: Duration,
    },
    /// 503 with `Retry-After`: the gateway has no room now.
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
    /// 503, with `Retry-After` where that is known: something that the plugin needs does not work now. See
    /// [`Error::unavailable`].
    Unavailable {
        /// What and why, for the log: it may name what is nobody else's business.
        reason: String,
        /// What the caller is told; "temporarily unavailable" if none.
        message: Option<String>,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// 500. The message goes to the log, not to the caller.
    Internal(String),
    /// Any other answer, with a `code` for programs.
    Other {
        /// HTTP status, 400 or above.
        status: u16,
        /// The class of error, as `invalid_request_error`.
        kind: &'static str,
        /// The very error, as `model_not_found`.
        code: Option<&'static str>,
        /// What is wrong, for people.
        message: String,
        /// Which field.
        param: Option<String>,
    },
    /// The host wants the exchange to end. Nobody is told: the peer is gone, or is cut off.
    Closed(Reason),
    /// The agent failed: 504 if it took too long, else 502. Its words go to the log; the caller gets `error_type` as `code`.
    Failed {
        /// What went wrong, for programs: `agent_unreachable`, `deadline`, `filter`, …
        error_type: String,
        /// What went wrong, in the agent's or the host's words.
        reason: String,
    },
    /// The task was cancelled: why. 409.
    Cancelled(String),
    /// A new run voids what was handed out of the answer already. 502.
    Restarted,
    /// Events were lost for good: the log no longer has them. 500.
    Gap {
        /// First and last position that is missing.
        first: u64,
        /// See `first`.
        last: u64,
    },
}

impl Error {
    /// A 400 that names the field.
    ///
    /// ```
    /// # use plugway_sdk::Error;
    /// let error = Error::field("callback_url", "is not an http or https URL");
    /// assert_eq!(error.to_string(), "callback_url: is not an http or https URL");
    /// assert_eq!(error.status(), 400);
    /// ```
    pub fn field(name: impl Into<String>, problem: impl fmt::Display) -> Self {
        let name = name.into();
        Self::BadRequest { message: format!("{name}: {problem}"), param: Some(name) }
    }

    /// A 400 about the request as a whole.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::BadRequest { message: message.into(), param: None }
    }

    /// A 500 whose message goes to the log only.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::Internal(message.to_string())
    }

    /// A 503 whose reason goes to the log only; [`Error::with_message`] tells the caller more.
    ///
    /// ```
    /// # use plugway_sdk::Error;
    /// let error = Error::unavailable("db-7.internal: connection refused");
    /// assert_eq!(error.to_string(), "temporarily unavailable");
    /// let error = error.with_message("the archive is closed on Sundays");
    /// assert_eq!(error.to_string(), "the archive is closed on Sundays");
    /// assert_eq!(error.reason(), "db-7.internal: connection refused");
    /// ```
    pub fn unavailable(reason: impl fmt::Display) -> Self {
        Self::Unavailable { reason: reason.to_string(), message: None, retry_after: None }
    }

    /// Tells the caller this, where it would be told that something is unavailable.
    #[must_use]
    pub fn with_message(mut self, text: impl Into<String>) -> Self {
        if let Self::Unavailable { message, .. } = &mut self {
            *message = Some(text.into());
        }
        self
    }

    /// What the log says of it: everything.
    pub fn reason(&self) -> String {
        match self {
            Self::Unavailable { reason, .. } => reason.clone(),
            Self::Failed { error_type, reason } => format!("the agent failed ({error_type}): {reason}"),
            Self::Cancelled(reason) => format!("the task was cancelled: {reason}"),
            other => other.to_string(),
        }
    }

    /// The status that it becomes.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadRequest { .. } => 400,
            Self::Unauthorized(_) => 401,
            Self::Forbidden(_) => 403,
            Self::NotFound(_) => 404,
            Self::Conflict(_) | Self::Cancelled(_) => 409,
            Self::TooLarge(_) => 413,
            Self::RateLimited { .. } => 429,
            Self::Busy { .. } | Self::Unavailable { .. } | Self::Closed(_) => 503,
            Self::Failed { error_type, .. } if matches!(&**error_type, "deadline" | "agent_silent") => 504,
            Self::Failed { .. } | Self::Restarted => 502,
            Self::Internal(_) | Self::Gap { .. } => 500,
            Self::Other { status, .. } => *status,
        }
    }

    /// The class of error, as the body's `type` says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } | Self::Conflict(_) | Self::TooLarge(_) => "invalid_request_error",
            Self::Unauthorized(_) => "authentication_error",
            Self::Forbidden(_) => "permission_error",
            Self::NotFound(_) => "not_found_error",
            Self::RateLimited { .. } => "rate_limit_error",
            Self::Busy { .. } | Self::Unavailable { .. } | Self::Closed(_) => "unavailable_error",
            Self::Failed { .. } | Self::Cancelled(_) | Self::Restarted => "agent_error",
            Self::Internal(_) | Self::Gap { .. } => "server_error",
            Self::Other { kind, .. } => kind,
        }
    }

    /// The whole answer that it becomes.
    ///
    /// ```
    /// # use plugway_sdk::Error;
    /// let answer = Error::Busy { retry_after: std::time::Duration::from_millis(1500) }.response();
    /// assert_eq!(answer.status, 503);
    /// assert_eq!(answer.header("retry-after"), Some("2"));
    /// assert_eq!(
    ///     answer.text(),
    ///     r#"{"error":{"message":"too busy, try again later","type":"unavailable_error","code":null,"param":null}}"#,
    /// );
    /// ```
    pub fn response(&self) -> Response {
        let (code, param) = match self {
            Self::Other { code, param, .. } => (*code, param.as_deref()),
            Self::BadRequest { param, .. } => (None, param.as_deref()),
            Self::Failed { error_type, .. } => (Some(error_type.as_str()), None),
            _ => (None, None),
        };
        let message = match self {
            Self::Internal(_) | Self::Gap { .. } => "internal error".to_owned(),
            other => other.to_string(),
        };
        let shape = Shape { error: Details { message: &message, r#type: self.kind(), code, param } };
        let response = Response::json(self.status(), &shape);
        match self {
            Self::RateLimited { retry_after }
            | Self::Busy { retry_after }
            | Self::Unavailable { retry_after: Some(retry_after), .. } => {
                response.with_header("retry-after", millis64(*retry_after).div_ceil(1000).max(1).to_string())
            }
            _ => response,
        }
    }
}

#[derive(Serialize)]
struct Shape<'a> {
    error: Details<'a>,
}

#[derive(Serialize)]
struct Details<'a> {
    message: &'a str,
    r#type: &'a str,
    code: Option<&'a str>,
    param: Option<&'a str>,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest { message, .. } | Self::Other { message, .. } => out.write_str(message),
            Self::Unauthorized(message)
            | Self::Forbidden(message)
            | Self::NotFound(message)
            | Self::Conflict(message)
            | Self::TooLarge(message)
            | Self::Internal(message) => out.write_str(message),
            Self::Unavailable { message, .. } => {
                out.write_str(message.as_deref().unwrap_or("temporarily unavailable"))
            }
            Self::RateLimited { .. } => out.write_str("too many requests, try again later"),
            Self::Busy { .. } => out.write_str("too busy, try again later"),
            Self::Failed { .. } => out.write_str("the agent could not answer"),
            Self::Cancelled(_) => out.write_str("the task was cancelled"),
            Self::Restarted => out.write_str("the agent began anew"),
            Self::Closed(reason) => write!(out, "exchange closed: {reason}"),
            Self::Gap { first, last } => write!(out, "events {first} to {last} are lost"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::Failed { error_type: failed.error_type, reason: failed.error }
    }
}

impl From<Cancelled> for Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::Cancelled(cancelled.reason)
    }
}

/// A value of one's own that can't be written as JSON.
impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(error)
    }
}

/// Reads JSON; the error is a sentence that starts with the field, and the field.
pub(crate) fn from_json<T: DeserializeOwned>(
    bytes: &[u8],
) -> std::result::Result<T, (String, Option<String>)> {
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if !inner.is_data() {
            return (format!("invalid JSON: {inner}"), None);
        }
        let text = inner.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
        let field = field_of(&path, text);
        (field.as_ref().map_or_else(|| text.to_owned(), |field| format!("{field}: {text}")), field)
    })?;
    source.end().map_err(|error| (format!("invalid JSON: {error}"), None))?;
    Ok(value)
}

/// serde reports a missing field at its parent; the caller wants the field itself.
fn field_of(path: &str, message: &str) -> Option<String> {
    let parent = if path == "." { "" } else { path };
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    match (parent, missing) {
        ("", None) => None,
        ("", Some(field)) => Some(field.to_owned()),
        (parent, None) => Some(parent.to_owned()),
        (parent, Some(field)) => Some(format!("{parent}.{field}")),
    }
}
