//! The response object: what was asked, which stands from the beginning, and what came of it.

use crate::usage::Usage;
use plugway_sdk::{TaskId, host};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::SystemTime;

/// What stands from the beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Base {
    /// What ids are made of: the task's own id.
    key: String,
    agent: String,
    created_at: u64,
    /// The fields of the object that repeat the request.
    asked: Map<String, Value>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) status: String,
    pub(crate) output: Vec<Value>,
    error: Value,
    incomplete_details: Value,
    usage: Value,
    completed_at: Option<u64>,
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    host::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The part of a response's id that is the task's.
pub(crate) fn key_of(id: &str) -> Option<&str> {
    id.strip_prefix("resp_").filter(|key| is_key(key))
}

/// Whether a text may be such a part.
pub(crate) fn is_key(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Base {
    pub(crate) fn new(task: &TaskId, agent: &str, asked: Map<String, Value>) -> Self {
        let key = task.as_str().trim_start_matches("task_").to_owned();
        Self { key, agent: agent.to_owned(), created_at: now(), asked }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn agent(&self) -> &str {
        &self.agent
    }

    pub(crate) fn task(&self) -> TaskId {
        format!("task_{}", self.key).into()
    }

    pub(crate) fn asked(&self, name: &str) -> &Value {
        self.asked.get(name).unwrap_or(&Value::Null)
    }

    /// The whole object.
    pub(crate) fn shown(&self, outcome: &Outcome) -> Value {
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| _ = object.insert(name.to_owned(), value);
        put("id", format!("resp_{}", self.key).into());
        put("object", "response".into());
        put("created_at", self.created_at.into());
        put("status", outcome.status.as_str().into());
        put("completed_at", outcome.completed_at.into());
        put("error", outcome.error.clone());
        put("incomplete_details", outcome.incomplete_details.clone());
        put("output", outcome.output.clone().into());
        put("usage", outcome.usage.clone());
        object.extend(self.asked.clone());
        Value::Object(object)
    }
}

impl Outcome {
    fn of(status: &str, output: Vec<Value>) -> Self {
        Self {
            status: status.to_owned(),
            output,
            error: Value::Null,
            incomplete_details: Value::Null,
            usage: Value::Null,
            completed_at: None,
        }
    }

    /// Nothing yet.
    pub(crate) fn under_way() -> Self {
        Self::of("in_progress", Vec::new())
    }

    /// Its turn has not come.
    pub(crate) fn queued() -> Self {
        Self::of("queued", Vec::new())
    }

    /// An answer at a time, cut short for a reason if there is one.
    pub(crate) fn ended(output: Vec<Value>, usage: Usage, reason: Option<&str>, at: u64) -> Self {
        let status = if reason.is_some() { "incomplete" } else { "completed" };
        Self {
            incomplete_details: reason.map_or(Value::Null, |reason| json!({"reason": reason})),
            usage: usage.response(),
            completed_at: reason.is_none().then_some(at),
            ..Self::of(status, output)
        }
    }

    pub(crate) fn failed(output: Vec<Value>, code: &str, message: &str) -> Self {
        Self { error: json!({"code": code, "message": message}), ..Self::of("failed", output) }
    }

    pub(crate) fn cancelled(output: Vec<Value>) -> Self {
        Self::of("cancelled", output)
    }

    /// Whether nothing more comes.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.status.as_str(), "queued" | "in_progress")
    }
}
