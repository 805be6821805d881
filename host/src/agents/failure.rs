//! How asking a server fails: what is told, and whether another try makes sense.
//!
//! What a server said is kept whole until it is told: a secret that was cut in two would be found no more.

use std::error::Error as StdError;
use std::time::Duration;

use serde_json::Value;

use crate::domain::{AgentEvent, ErrorType};
use crate::egress::{Redactor, chain, retry_after};

/// Longest text of a server's error that is passed on, in characters.
const MAX_MESSAGE: usize = 1000;
/// How much is shown of what could not be read, in characters.
const MAX_BEGINNING: usize = 200;

/// A try that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What happened. It may be long, and hold secrets: see [`Failure::told`].
    error: String,
    /// What could not be read, to be shown from its beginning; empty where there is nothing to show.
    unread: String,
    /// What to do about it; empty where the error says it all.
    advice: String,
    /// For programs.
    pub(super) error_type: ErrorType,
    /// HTTP status, where there was one.
    pub(super) status: Option<u16>,
    /// Whether the same task could work another time.
    pub(super) recoverable: bool,
    /// How long the server asked to wait.
    pub(super) retry_after: Option<Duration>,
    /// Whether to try again, if nothing was told yet.
    pub(super) retry: bool,
}

impl Failure {
    fn new(error_type: ErrorType, error: String) -> Self {
        let (unread, advice) = (String::new(), String::new());
        Self {
            error,
            unread,
            advice,
            error_type,
            status: None,
            recoverable: true,
            retry_after: None,
            retry: true,
        }
    }

    /// The same, with what to do about it.
    pub(super) fn advised(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }

    /// The request did not get through, or its answer broke off.
    pub(super) fn transport(error: reqwest::Error) -> Self {
        let (connect, advice) = (error.is_connect(), other_scheme(&error));
        let text = chain(&error.without_url());
        let failure = if connect {
            Self::new(ErrorType::AgentUnreachable, format!("the agent can't be reached: {text}"))
        } else {
            Self::new(ErrorType::AgentError, format!("the connection to the agent broke: {text}"))
        };
        failure.advised(advice.unwrap_or_default())
    }

    /// The answer ended before its end.
    pub(super) fn cut() -> Self {
        Self::new(ErrorType::AgentError, "the agent's answer broke off in the middle".to_owned())
    }

    /// Nothing came for too long. Asking again would only add to the load that it is under.
    pub(super) fn silent(limit: Duration) -> Self {
        let limit = humantime::format_duration(limit);
        let error = format!("the agent did not begin to answer within {limit}");
        Self { retry: false, ..Self::new(ErrorType::AgentSilent, error) }
    }

    /// A frame that is none of what the answer is made of, as "chat completion".
    pub(super) fn malformed(expected: &str, error: &dyn std::fmt::Display, frame: &str) -> Self {
        let error = format!("the agent sent something that is no {expected}: {error}");
        let unread = frame.to_owned();
        Self { retry: false, unread, ..Self::new(ErrorType::AgentError, error) }
    }

    /// An answer of which nothing could be read.
    pub(super) fn unread(error: &str, answer: &str) -> Self {
        Self { unread: answer.to_owned(), ..Self::unacceptable(error.to_owned()) }
    }

    /// An answer that would be the same the next time.
    pub(super) fn unacceptable(error: String) -> Self {
        Self { retry: false, recoverable: false, ..Self::new(ErrorType::AgentError, error) }
    }

    /// An error within a stream that began well.
    pub(super) fn reported(error: &Value) -> Self {
        let status = ["code", "status", "status_code"]
            .iter()
            .find_map(|name| error.get(name).and_then(Value::as_u64))
            .and_then(|code| u16::try_from(code).ok())
            .filter(|code| (400..600).contains(code));
        let worth = status.is_none_or(is_worth_another_try);
        let error = format!("the agent reported an error: {}", message_of(error));
        Self { status, recoverable: worth, retry: worth, ..Self::new(ErrorType::AgentError, error) }
    }

    /// An answer with an error's status.
    pub(super) fn status(status: u16, retry_after_header: Option<&str>, now_ms: u64, body: &str) -> Self {
        let parsed: Option<Value> = serde_json::from_str(body).ok();
        let message = match &parsed {
            Some(value) => message_of(value.get("error").unwrap_or(value)),
            None => body.trim().to_owned(),
        };
        let error = match message.as_str() {
            "" => format!("the agent answered with status {status}"),
            message => format!("the agent answered with status {status}: {message}"),
        };
        let worth = is_worth_another_try(status);
        Self {
            status: Some(status),
            recoverable: worth,
            retry: worth,
            retry_after: retry_after_header.and_then(|value| retry_after(value, now_ms)),
            ..Self::new(ErrorType::AgentError, error)
        }
    }

    /// For people: without the secrets, and no longer than it needs to be.
    pub(super) fn told(&self, redactor: &Redactor) -> String {
        let shown = |text: &str, max: usize| cut_to(&redactor.text(text.trim()), max);
        let mut told = shown(&self.error, MAX_MESSAGE);
        for (before, text, max) in
            [("; it begins with: ", &self.unread, MAX_BEGINNING), ("; ", &self.advice, MAX_MESSAGE)]
        {
            if !text.is_empty() {
                told.push_str(before);
                told.push_str(&shown(text, max));
            }
        }
        told
    }

    /// The terminal event.
    pub(super) fn event(self, redactor: &Redactor, retry_count: u32) -> AgentEvent {
        AgentEvent::Failed {
            error: self.told(redactor),
            error_type: self.error_type,
            status: self.status,
            recoverable: self.recoverable,
            retry_count,
        }
    }
}

/// Statuses that may be different the next time: timeouts, too many requests, the server's own faults.
fn is_worth_another_try(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..=529)
}

/// What an error document says: the usual members, in the order of their use; else the document.
fn message_of(error: &Value) -> String {
    if let Some(text) = error.as_str() {
        return text.to_owned();
    }
    let known = ["message", "error", "detail"].iter().find_map(|name| match error.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Object(inner)) => inner.get("message").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    });
    known.unwrap_or_else(|| error.to_string())
}

/// Whether a request failed as it does where one side speaks TLS and the other does not.
fn other_scheme(error: &reqwest::Error) -> Option<&'static str> {
    let is_https = error.url().filter(|_| error.is_request())?.scheme() == "https";
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        let tls = error.downcast_ref::<rustls::Error>();
        if is_https && matches!(tls, Some(rustls::Error::InvalidMessage(_))) {
            return Some("it does not speak TLS: if that is so, its URL begins with http://");
        }
        // A server that expects TLS answers with an alert, or closes the connection.
        let http = error.downcast_ref::<hyper::Error>();
        if !is_https && http.is_some_and(|error| error.is_parse()) {
            return Some("this is no HTTP: if it speaks TLS, its URL begins with https://");
        }
        if !is_https && http.is_some_and(hyper::Error::is_incomplete_message) {
            return Some(
                "it closed the connection without an answer: if it speaks TLS, its URL begins with https://",
            );
        }
        // What an I/O error is made of is no source of it.
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = within.map_or_else(|| error.source(), |within| Some(within));
    }
    None
}

fn cut_to(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::egress::Secret;

    #[test]
    fn errors_are_told_in_the_servers_words() {
        let nothing = Redactor::new([]);
        let told = |body: &str| Failure::status(400, None, 0, body).told(&nothing);
        for body in [
            r#"{"error":{"message":"no such model","type":"x"}}"#,
            r#"{"error":"no such model"}"#,
            r#"{"message":"no such model"}"#,
            r#"{"detail":"no such model"}"#,
            "no such model\n",
        ] {
            assert_eq!(told(body), "the agent answered with status 400: no such model", "{body}");
        }
        assert_eq!(told(""), "the agent answered with status 400");
        assert!(told(&"x".repeat(5000)).chars().count() <= MAX_MESSAGE + 1);
    }

    #[test]
    fn no_part_of_a_secret_is_told_wherever_the_text_is_cut() {
        let key = "a-secret-that-nobody-may-see";
        let redactor = Redactor::new([("key", &Secret::new(key).unwrap())]);
        for before in 150..MAX_MESSAGE {
            let said = format!("{}{key}", "p".repeat(before));
            for failure in [
                Failure::status(500, None, 0, &said),
                Failure::status(500, None, 0, &json!({"detail": said}).to_string()),
                Failure::reported(&json!(said)),
                Failure::malformed("chunk", &said, &said),
                Failure::unread("no", &said),
                Failure::cut().advised(said.as_str()),
            ] {
                let told = failure.told(&redactor);
                assert!(!told.contains("a-s"), "{told}");
            }
        }
        let failure = Failure::malformed("chunk", &"it is not", &format!("  {key}\n")).advised("so do this");
        assert_eq!(
            failure.told(&redactor),
            "the agent sent something that is no chunk: it is not; it begins with: [secret:key]; so do this"
        );
    }

    #[test]
    fn some_failures_are_worth_another_try() {
        let worth = |status| {
            let failure = Failure::status(status, Some("7"), 0, "");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
            (failure.recoverable, failure.retry)
        };
        for status in [408, 429, 500, 502, 503, 504, 529] {
            assert_eq!(worth(status), (true, true), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 422, 501] {
            assert_eq!(worth(status), (false, false), "{status}");
        }
        assert!(!Failure::reported(&json!({"code": 400, "message": "no"})).recoverable);
        assert!(Failure::reported(&json!({"code": "overloaded", "message": "no"})).recoverable);
    }
}
