//! What becomes of a task that did not end well, in the API's words.

use plugway_sdk::{Cancelled, Error, Failed, Reply, Result};
use serde_json::{Value, json};
use std::time::Duration;

/// What a caller should wait whom the agent's own server has turned away.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// Why there is no answer, and whether asking again may help.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) error: Error,
    again: bool,
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self { error, again: true }
    }
}

impl From<Failed> for Ended {
    fn from(failed: Failed) -> Self {
        let error = error(&failed);
        Self { again: failed.recoverable || error.status() == 429, error }
    }
}

impl From<Cancelled> for Ended {
    fn from(cancelled: Cancelled) -> Self {
        Self { error: cancelled.into(), again: false }
    }
}

impl Ended {
    /// Answers with it. The SDKs ask again by themselves, which would do the same work again in vain; a header of theirs
    /// says so.
    pub(crate) fn answer(self, reply: Reply) -> Result<()> {
        if self.again {
            return Err(self.error);
        }
        plugway_sdk::warn!("no answer: {}", self.error.reason());
        reply.header("x-should-retry", "false").send(self.error.response())
    }
}

/// The answer to a request whose task failed. What the agent's server said of the request is the caller's to know; its
/// refusals of the gateway are not.
pub(crate) fn error(failed: &Failed) -> Error {
    match (failed.error_type.as_str(), failed.status) {
        ("invalid_input", _) | (_, Some(400 | 413 | 422)) => Error::Other {
            status: 400,
            kind: "invalid_request_error",
            code: Some("invalid_input"),
            message: failed.error.clone(),
            param: None,
        },
        (_, Some(429)) => Error::RateLimited { retry_after: TURNED_AWAY },
        _ => Error::from(failed.clone()),
    }
}

/// The error as it stands in a stream.
pub(crate) fn body(error: &Error) -> Value {
    serde_json::from_slice(&error.response().body).unwrap_or_else(|_| {
        json!({"error": {"message": "internal error", "type": "server_error", "code": null, "param": null}})
    })
}

/// There is no such thing: what it would be, its name, and the field that the name came in.
pub(crate) fn not_found(code: &'static str, what: &str, name: &str, field: &str) -> Error {
    let shown: String = name.chars().take(100).collect();
    Error::Other {
        status: 404,
        kind: "invalid_request_error",
        code: Some(code),
        message: format!("there is no {what} {shown:?}"),
        param: Some(field.to_owned()),
    }
}
