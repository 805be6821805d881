//! What agents report, and the numbered event that becomes of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Cursor, SessionId, TaskId};

/// An event's place in its task: the run, and the number within the run, both from 1. Places of a later run are
/// greater than all of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Run of the task.
    pub attempt: u32,
    /// Number within the run.
    pub seq: u64,
}

impl Position {
    /// Before every event.
    pub const START: Self = Self { attempt: 0, seq: 0 };
}

/// Canonical name of what an event tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A run began; voids what runs before it said.
    Started,
    /// The agent shows what it thinks.
    Thinking,
    /// A tool call begins.
    ToolStarted,
    /// A tool call ended.
    ToolCompleted,
    /// How far the work is.
    Progress,
    /// A piece of the answer.
    ResponseChunk,
    /// The task ended well.
    Completed,
    /// The task ended badly.
    Failed,
    /// The task was stopped.
    Cancelled,
    /// Whatever else an agent reports, passed on by its own name.
    Other(Arc<str>),
}

impl Kind {
    /// The canonical name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Started => "started",
            Self::Thinking => "thinking",
            Self::ToolStarted => "tool_started",
            Self::ToolCompleted => "tool_completed",
            Self::Progress => "progress",
            Self::ResponseChunk => "response_chunk",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Other(name) => name,
        }
    }

    /// Whether it ends its task.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl From<&str> for Kind {
    fn from(name: &str) -> Self {
        match name {
            "started" => Self::Started,
            "thinking" => Self::Thinking,
            "tool_started" => Self::ToolStarted,
            "tool_completed" => Self::ToolCompleted,
            "progress" => Self::Progress,
            "response_chunk" => Self::ResponseChunk,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One numbered event of a task. Its number was given by the worker that runs the task, before anyone saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Task that it belongs to.
    pub task: TaskId,
    /// The task's session.
    pub session: SessionId,
    /// Its place in the task.
    pub position: Position,
    /// What it tells.
    pub kind: Kind,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// JSON object whose fields depend on the kind.
    pub data: Box<str>,
}

impl Event {
    /// The place to resume from after this event.
    pub fn cursor(&self) -> Cursor {
        Cursor { task: self.task, position: self.position }
    }

    /// Bytes that it is counted with where memory is bounded.
    pub fn weight(&self) -> usize {
        self.data.len() + std::mem::size_of::<Self>()
    }
}

/// Why a task failed, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// The agent can't do anything with the input.
    InvalidInput,
    /// No agent of that name is configured (any more).
    UnknownAgent,
    /// The agent answered with an error.
    AgentError,
    /// The agent could not be reached.
    AgentUnreachable,
    /// The agent said nothing for the silence timeout.
    AgentSilent,
    /// The task's time was up.
    Deadline,
    /// The worker that ran it died, as often as `max_attempts` allows; or the gateway stopped, and it is not run again.
    Abandoned,
    /// A filter refused or broke.
    Filter,
    /// The gateway's own fault.
    Internal,
}

impl ErrorType {
    /// Name on the wire, also a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::UnknownAgent => "unknown_agent",
            Self::AgentError => "agent_error",
            Self::AgentUnreachable => "agent_unreachable",
            Self::AgentSilent => "agent_silent",
            Self::Deadline => "deadline",
            Self::Abandoned => "abandoned",
            Self::Filter => "filter",
            Self::Internal => "internal",
        }
    }
}

/// What an agent reports while it works, before it has a number. Field names are those of the canonical event data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AgentEvent {
    /// A thought.
    Thinking {
        /// Text of the thought.
        thought: String,
        /// Number of the step, where the agent counts them.
        #[serde(skip_serializing_if = "Option::is_none")]
        step: Option<u32>,
    },
    /// A tool call begins.
    ToolStarted {
        /// Joins it with its completion.
        call_id: String,
        /// The tool.
        tool_name: String,
        /// Parsed arguments; null where they are no JSON.
        parameters: Value,
        /// The arguments as the agent wrote them.
        arguments: String,
        /// `agent` or `client`: who carries it out.
        executor: &'static str,
        /// Whether a person has to agree first.
        #[serde(skip_serializing_if = "is_false")]
        requires_approval: bool,
    },
    /// A tool call ended.
    ToolCompleted {
        /// Joins it with its start.
        call_id: String,
        /// The tool.
        tool_name: String,
        /// What the tool gave back.
        result: Value,
        /// Whether it worked.
        success: bool,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// How far the work is.
    Progress {
        /// From 0 to 1.
        progress: f64,
        /// What is being done.
        message: String,
        /// Number of the step, from 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        current_step: Option<u32>,
        /// How many steps there are.
        #[serde(skip_serializing_if = "Option::is_none")]
        total_steps: Option<u32>,
    },
    /// A piece of the answer.
    ResponseChunk {
        /// Its text, white space kept.
        text: String,
    },
    /// The agent is done.
    Completed {
        /// The whole answer.
        text: String,
        /// The answer as messages, as `[{"role":"assistant","content":…}]`.
        messages: Value,
        /// Token counts, as the agent reported them; null where it did not.
        usage: Value,
        /// As `stop`, `length`, `tool_calls`.
        finish_reason: String,
    },
    /// The agent gave up.
    Failed {
        /// For people.
        error: String,
        /// For programs.
        error_type: ErrorType,
        /// HTTP status of the agent's answer, where there was one.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// Whether the same task could work another time.
        recoverable: bool,
        /// Tries beyond the first that were made.
        retry_count: u32,
    },
    /// Anything else, by its own name.
    #[serde(serialize_with = "other_data")]
    Other {
        /// Its kind.
        kind: Arc<str>,
        /// Its data.
        data: Map<String, Value>,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_false(value: &bool) -> bool {
    !value
}

fn other_data<S: serde::Serializer>(
    _kind: &Arc<str>,
    data: &Map<String, Value>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    data.serialize(serializer)
}

impl AgentEvent {
    /// A failure that another try would not mend.
    pub fn failed(error_type: ErrorType, error: impl Into<Cow<'static, str>>) -> Self {
        Self::Failed {
            error: error.into().into_owned(),
            error_type,
            status: None,
            recoverable: false,
            retry_count: 0,
        }
    }

    /// Canonical kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Thinking { .. } => Kind::Thinking,
            Self::ToolStarted { .. } => Kind::ToolStarted,
            Self::ToolCompleted { .. } => Kind::ToolCompleted,
            Self::Progress { .. } => Kind::Progress,
            Self::ResponseChunk { .. } => Kind::ResponseChunk,
            Self::Completed { .. } => Kind::Completed,
            Self::Failed { .. } => Kind::Failed,
            Self::Other { kind, .. } => Kind::from(&**kind),
        }
    }

    /// The event's data as a JSON object.
    pub fn data(&self) -> Box<str> {
        match serde_json::to_string(self) {
            Ok(text) => text.into_boxed_str(),
            // Only a map with keys that are no strings could fail, and none of these fields holds one.
            Err(_) => "{}".into(),
        }
    }

    /// The event's data with the agent's own frame in it, as `raw`.
    pub fn data_with(&self, frame: &RawFrame) -> Box<str> {
        let mut text = String::from(self.data());
        text.pop();
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str("\"raw\":");
        text.push_str(&frame.0);
        text.push('}');
        text.into_boxed_str()
    }
}

/// An event's data as a value. Where an agent's own frame in it can't be one (a number beyond 1e308, half a surrogate pair,
/// nesting beyond 127), what can't be read is left out, and the rest is there.
pub fn read_data(data: &str) -> Value {
    serde_json::from_str(data).unwrap_or_else(|_| {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(data).unwrap_or_default();
        let read = |(name, text): (String, &RawValue)| Some((name, serde_json::from_str(text.get()).ok()?));
        Value::Object(members.into_iter().filter_map(read).collect())
    })
}

/// A frame as an agent sent it, for adapters that pass it on: a JSON object on one line, else as it was written, with
/// its order, its numbers and its nulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame(Box<str>);

impl RawFrame {
    /// None: the text is no JSON object.
    pub fn new(text: &str) -> Option<Self> {
        let text = serde_json::from_str::<&RawValue>(text).ok()?.get();
        // Within JSON, a line's end stands between tokens only; in an event of a stream it would end the field.
        let line =
            if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], " ") } else { text.to_owned() };
        line.starts_with('{').then(|| Self(line.into_boxed_str()))
    }

    /// The object's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_can_not_be_read_costs_nothing_but_itself() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for odd in [r#""\ud83d""#, "1e999", &deep] {
            let data = format!(r#"{{"text":"a","n":[1],"raw":{{"x":{odd}}}}}"#);
            assert_eq!(read_data(&data), serde_json::json!({"text": "a", "n": [1]}), "{odd}");
        }
        let whole = r#"{"text":"a","raw":{"x":1}}"#;
        assert_eq!(read_data(whole).to_string(), r#"{"raw":{"x":1},"text":"a"}"#);
        assert_eq!(read_data("{"), serde_json::json!({}));
    }

    #[test]
    fn data_is_the_object_that_the_wire_shapes_name() {
        let chunk = AgentEvent::ResponseChunk { text: "a \"b\"".into() };
        assert_eq!(&*chunk.data(), r#"{"text":"a \"b\""}"#);
        let other = AgentEvent::Other {
            kind: "workflow_step".into(),
            data: serde_json::from_str(r#"{"step":2}"#).unwrap(),
        };
        assert_eq!((other.kind().as_str(), &*other.data()), ("workflow_step", r#"{"step":2}"#));
        let failed = AgentEvent::failed(ErrorType::AgentSilent, "nothing heard for 60s");
        assert_eq!(
            &*failed.data(),
            r#"{"error":"nothing heard for 60s","error_type":"agent_silent","recoverable":false,"retry_count":0}"#
        );
    }

    #[test]
    fn an_agents_own_frame_goes_with_its_event_as_it_is() {
        let frame = RawFrame::new(" {\"token\": \"a\",\r\n \"n\": 1.50, \"x\": null}\n").unwrap();
        assert_eq!(frame.as_str(), "{\"token\": \"a\",   \"n\": 1.50, \"x\": null}");
        let chunk = AgentEvent::ResponseChunk { text: "a".into() };
        let expected = "{\"text\":\"a\",\"raw\":{\"token\": \"a\",   \"n\": 1.50, \"x\": null}}";
        assert_eq!(&*chunk.data_with(&frame), expected);
        let other = AgentEvent::Other { kind: "x".into(), data: Map::new() };
        assert_eq!(&*other.data_with(&RawFrame::new("{}").unwrap()), r#"{"raw":{}}"#);
        for text in ["", "[1]", "7", "{", "{}{}"] {
            assert_eq!(RawFrame::new(text), None, "{text}");
        }
    }

    #[test]
    fn a_later_run_is_after_everything_of_an_earlier_one() {
        assert!(Position { attempt: 2, seq: 1 } > Position { attempt: 1, seq: 900 });
        assert!(Position::START < Position { attempt: 1, seq: 1 });
    }
}
