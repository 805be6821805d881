//! The Bot API: one call, and what its answer means. Whether to try again is not decided here.

use crate::config::Config;
use plugway_sdk::http;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// A bot on a server.
#[derive(Debug)]
pub(crate) struct Bot {
    base: String,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// 429: come back after this time.
    Flood(Duration),
    /// It was not done: the server was not reached, or says that it failed.
    NotDone(String),
    /// Nobody knows: the connection broke, or time ran out.
    Unknown(String),
    /// It was done, says the status, but what came of it can't be read.
    Unread(String),
    /// Not under this configuration: origin, secret or token.
    Denied(String),
    /// Not like this, says the Bot API itself.
    Refused(Refusal, String),
}

/// What Telegram has against a call, as far as something follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such topic.
    Thread,
    /// The message already says that.
    NotModified,
    /// There is no such message to edit or delete, or no more.
    NoMessage,
    /// The group has become a supergroup, with another id.
    Moved(i64),
    /// Blocked, left, never there, or a topic that is closed.
    NoChat,
    /// Anything else: the formatting, if there is some.
    Other,
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    error_code: u16,
    #[serde(default)]
    description: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    retry_after: Option<u64>,
    migrate_to_chat_id: Option<i64>,
}

impl Bot {
    pub(crate) fn new(config: &Config) -> Self {
        Self { base: format!("{}/bot{{secret:bot_token}}", config.api_base.trim_end_matches('/')) }
    }

    /// Calls a method.
    pub(crate) fn call(&self, method: &str, body: &Value, timeout: Duration) -> Result<Value, Problem> {
        let call = http::post(format!("{}/{method}", self.base)).json(body).timeout(timeout);
        let response = call.send().map_err(|error| match error {
            http::Error::Denied(why) => Problem::Denied(why),
            http::Error::Unreachable(why) => Problem::NotDone(why),
            other => Problem::Unknown(other.to_string()),
        })?;
        // What is not the Bot API's own JSON comes from something in between, and says nothing of the call.
        let answer = serde_json::from_slice::<Answer>(&response.body).ok();
        let code = answer.as_ref().map_or(0, |answer| answer.error_code);
        let status = if response.is_success() && code >= 400 { code } else { response.status };
        let why = describe(status, answer.as_ref());
        match (status, answer) {
            (200..=299, Some(answer)) if answer.ok => Ok(answer.result),
            (200..=299, None) => Err(Problem::Unread(format!("the answer with status {why} can't be read"))),
            (429, answer) => {
                let told = answer.and_then(|answer| answer.parameters.retry_after);
                let header = || response.header("retry-after").and_then(|seconds| seconds.parse().ok());
                Err(Problem::Flood(Duration::from_secs(told.or_else(header).unwrap_or(1).max(1))))
            }
            (401 | 404, Some(answer)) if !answer.ok => Err(Problem::Denied(why)),
            (400..=499, Some(answer)) if !answer.ok => Err(Problem::Refused(refusal(status, &answer), why)),
            _ => Err(Problem::NotDone(why)),
        }
    }
}

fn describe(status: u16, answer: Option<&Answer>) -> String {
    match answer.map(|answer| answer.description.as_str()) {
        Some(description) if !description.is_empty() => format!("{status} {description}"),
        _ => status.to_string(),
    }
}

/// Telegram tells its reasons in English sentences only.
fn refusal(status: u16, answer: &Answer) -> Refusal {
    if let Some(chat) = answer.parameters.migrate_to_chat_id {
        return Refusal::Moved(chat);
    }
    let description = answer.description.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| description.contains(words));
    if says(&["message is not modified"]) {
        Refusal::NotModified
    } else if says(&["thread not found", "topic_deleted"]) {
        Refusal::Thread
    } else if says(&[
        "message to edit not found",
        "message can't be edited",
        "message to delete not found",
        "message_id_invalid",
    ]) {
        Refusal::NoMessage
    } else if status == 403
        || says(&[
            "chat not found",
            "user is deactivated",
            "bot was kicked",
            "peer_id_invalid",
            "have no rights to send",
            "not enough rights to send",
            "topic_closed",
            "topic closed",
        ])
    {
        Refusal::NoChat
    } else {
        Refusal::Other
    }
}
