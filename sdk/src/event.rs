//! What an agent reported about a task, typed. Payloads are read leniently: what is missing or null is empty, and an
//! event whose data does not fit its kind is handed on as `Unknown` rather than lost. A terminal event stays terminal, with
//! what fits of it. A field that is a `Value` is null where it can't be read as one (nested deeper than 127, a number beyond
//! 1e308) or holds more than [`MAX_VALUES`]: each costs an instance far more memory than it has bytes.

use crate::{
    ids::{Cursor, SessionId, TaskId},
    json,
    sys::raw,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// Values that a field may hold to be read as a [`Value`], its own included. All of it is in [`Event::data`] anyhow.
pub const MAX_VALUES: usize = 50_000;

/// One event of a task.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// Task that it belongs to.
    pub task: TaskId,
    /// The task's session.
    pub session: SessionId,
    /// Run of the task, from 1. A [`EventKind::Started`] with a higher one voids what the runs before it said.
    pub attempt: u32,
    /// Position in the run's log, from 1, without gaps.
    pub seq: u64,
    /// Place to resume from.
    pub cursor: Cursor,
    /// When the host numbered it.
    pub at: SystemTime,
    /// What happened.
    pub kind: EventKind,
    /// Canonical name of the kind, as `response_chunk`.
    pub name: String,
    /// The whole payload as the JSON object that it came as, with what [`Event::kind`] has no field for (as `raw`).
    pub data: String,
    /// Where the agent's own frame is in `data`, if that was seen when the kind was read.
    raw: Option<Range<usize>>,
}

impl Event {
    /// The whole payload as a type of one's own; none if it does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.data).ok()
    }

    /// The agent's own frame, byte for byte: a JSON object, for adapters that pass it on. None where the agent has no frames,
    /// or a filter has put another event in the place of its own.
    ///
    /// ```
    /// # use plugway_sdk::{mock::{Mock, Script}, prelude::*};
    /// # let mock = Mock::new();
    /// # mock.agent(|_| Script::new().event("response_chunk", serde_json::json!({"text": "Hi", "raw": {"token": "Hi"}})));
    /// let event = Task::message("Hi").submit()?.events().next().unwrap()?;
    /// assert_eq!(event.raw(), Some(r#"{"token":"Hi"}"#));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn raw(&self) -> Option<&str> {
        // Only where the data is what it was.
        let seen = self.raw.clone().and_then(|range| {
            let (before, frame) = (self.data.get(..range.start)?, self.data.get(range)?);
            (before.ends_with("\"raw\":") && frame.starts_with('{') && frame.ends_with('}')).then_some(frame)
        });
        seen.or_else(|| json::member(&self.data, "raw").filter(|frame| frame.starts_with('{')))
    }

    /// Whether the task is over: exactly one event of a task is terminal.
    pub fn is_terminal(&self) -> bool {
        self.kind.is_terminal()
    }

    pub(crate) fn from_raw(raw: raw::types::Event) -> Self {
        let plain = if raw.kind == "response_chunk" { plain_text(&raw.data) } else { None };
        let (kind, frame) = match plain {
            Some((text, frame)) => (EventKind::ResponseChunk(ResponseChunk { text }), frame),
            None => (EventKind::read(&raw.kind, &raw.data), None),
        };
        Self {
            kind,
            raw: frame,
            task: raw.task.into(),
            session: raw.session.into(),
            attempt: raw.attempt,
            seq: raw.seq,
            cursor: raw.cursor.into(),
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(raw.at_ms),
            name: raw.kind,
            data: raw.data,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// A run of the task begins. One with an attempt above 1 voids all events before it.
    Started(Started),
    /// The agent thinks aloud.
    Thinking(Thinking),
    /// A tool is called.
    ToolStarted(ToolStarted),
    /// A tool has answered.
    ToolCompleted(ToolCompleted),
    /// How far the work is.
    Progress(Progress),
    /// A piece of the answer.
    ResponseChunk(ResponseChunk),
    /// A person has to decide about a call.
    ApprovalRequested(Approval),
    /// A person has decided.
    ApprovalResolved(Approval),
    /// Terminal: the answer.
    Completed(Completed),
    /// Terminal: no answer.
    Failed(Failed),
    /// Terminal: somebody asked to stop.
    Cancelled(Cancelled),
    /// Any other kind, and any whose data does not fit; its data is in [`Event::data`].
    Unknown {
        /// Name of the kind.
        kind: String,
        /// The payload, a JSON object.
        data: String,
    },
}

/// Payload of `started`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Started {
    /// Agent that runs it.
    pub agent: String,
    /// The run, from 1.
    pub attempt: u32,
}

/// Payload of `thinking`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Thinking {
    /// What it thinks.
    pub thought: String,
    /// Which step, as the agent names it.
    pub step: Option<Value>,
}

/// Who runs a tool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Executor {
    /// The agent itself: a result follows on its own.
    #[default]
    Agent,
    /// The client: its result comes as the next turn.
    Client,
}

/// Payload of `tool_started`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolStarted {
    /// Names the call.
    pub call_id: String,
    /// Names the tool.
    pub tool_name: String,
    /// The arguments as a value.
    pub parameters: Value,
    /// The arguments as the model wrote them.
    pub arguments: String,
    /// Who runs it.
    pub executor: Executor,
    /// Whether a person has to agree first.
    pub requires_approval: bool,
}

/// Payload of `tool_completed`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolCompleted {
    /// Names the call.
    pub call_id: String,
    /// Names the tool.
    pub tool_name: String,
    /// What the tool answered.
    pub result: Value,
    /// Whether it worked.
    pub success: bool,
    /// How long it took.
    pub duration_ms: Option<f64>,
}

/// Payload of `progress`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// From 0 to 1.
    pub progress: f64,
    /// What is being done.
    pub message: String,
    /// Number or name of the step.
    pub current_step: Option<Value>,
    /// How many steps there are.
    pub total_steps: Option<Value>,
}

/// Payload of `response_chunk`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ResponseChunk {
    /// The piece.
    pub text: String,
}

/// Payload of `approval_requested` and `approval_resolved`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Approval {
    /// The call in question.
    pub call_id: String,
}

/// Payload of `completed`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Completed {
    /// The whole answer.
    pub text: String,
    /// The turn's messages, as the agent gave them.
    pub messages: Vec<Value>,
    /// Tokens used, as the agent gave them.
    pub usage: Value,
    /// Why it ended, as `stop` or `tool_calls`.
    pub finish_reason: String,
}

/// Payload of `failed`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Failed {
    /// What went wrong, for people.
    pub error: String,
    /// What went wrong, for programs: `agent_unreachable`, `deadline`, `filter`, …
    pub error_type: String,
    /// HTTP status of the agent's answer, if that was the trouble.
    pub status: Option<u16>,
    /// Whether the same turn may work later.
    pub recoverable: bool,
    /// How many times it was tried again.
    pub retry_count: u32,
}

/// Payload of `cancelled`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Cancelled {
    /// Who or what stopped it.
    pub reason: String,
}

impl EventKind {
    /// Reads an event's data.
    ///
    /// ```
    /// # use plugway_sdk::EventKind;
    /// let EventKind::ResponseChunk(chunk) = EventKind::parse("response_chunk", r#"{"text":"Hi"}"#) else { panic!() };
    /// assert_eq!(chunk.text, "Hi");
    /// ```
    pub fn parse(kind: &str, data: &str) -> Self {
        match plain_text(data).filter(|_| kind == "response_chunk") {
            Some((text, _)) => Self::ResponseChunk(ResponseChunk { text }),
            None => Self::read(kind, data),
        }
    }

    fn read(kind: &str, data: &str) -> Self {
        let unknown = || Self::Unknown { kind: kind.to_owned(), data: data.to_owned() };
        let mut fields = Fields { data, fit: json::is_object(data) };
        let event = match kind {
            "response_chunk" => Self::ResponseChunk(ResponseChunk { text: fields.text("text") }),
            "started" => Self::Started(Started {
                agent: fields.text("agent"),
                attempt: fields.number("attempt").map_or(1, |attempt| attempt as u32),
            }),
            "thinking" => {
                Self::Thinking(Thinking { thought: fields.text("thought"), step: fields.optional("step") })
            }
            "tool_started" => Self::ToolStarted(ToolStarted {
                call_id: fields.text("call_id"),
                tool_name: fields.text("tool_name"),
                parameters: fields.value("parameters"),
                arguments: fields.text("arguments"),
                executor: if fields.text("executor") == "client" {
                    Executor::Client
                } else {
                    Executor::Agent
                },
                requires_approval: fields.truth("requires_approval"),
            }),
            "tool_completed" => Self::ToolCompleted(ToolCompleted {
                call_id: fields.text("call_id"),
                tool_name: fields.text("tool_name"),
                result: fields.value("result"),
                success: fields.truth("success"),
                duration_ms: fields.number("duration_ms"),
            }),
            "progress" => Self::Progress(Progress {
                progress: fields.number("progress").unwrap_or_default(),
                message: fields.text("message"),
                current_step: fields.optional("current_step"),
                total_steps: fields.optional("total_steps"),
            }),
            "approval_requested" => Self::ApprovalRequested(Approval { call_id: fields.text("call_id") }),
            "approval_resolved" => Self::ApprovalResolved(Approval { call_id: fields.text("call_id") }),
            "completed" => Self::Completed(Completed {
                text: fields.text("text"),
                messages: fields.list("messages"),
                usage: fields.value("usage"),
                finish_reason: fields.text("finish_reason"),
            }),
            "failed" => Self::Failed(Failed {
                error: fields.text("error"),
                error_type: fields.text("error_type"),
                status: fields.number("status").map(|status| status as u16),
                recoverable: fields.truth("recoverable"),
                retry_count: fields.number("retry_count").map_or(0, |count| count as u32),
            }),
            "cancelled" => Self::Cancelled(Cancelled { reason: fields.text("reason") }),
            _ => return unknown(),
        };
        if fields.fit || event.is_terminal() { event } else { unknown() }
    }

    /// Whether it ends its task.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Failed(_) | Self::Cancelled(_))
    }
}

/// The text of `{"text":"…"}`, where nothing but the agent's own frame stands behind it and no character is written as a
/// number: most chunks, and the hot path. And where that frame is.
fn plain_text(data: &str) -> Option<(String, Option<Range<usize>>)> {
    let quoted = data.strip_prefix(r#"{"text":""#)?;
    let (mut rest, behind) = quoted.split_at_checked(json::string_end(quoted)?)?;
    let mut raw = None;
    if behind != r#""}"# {
        let frame = behind.strip_prefix(r#"","raw":"#)?;
        let end = json::value_end(frame).filter(|_| frame.starts_with('{'))?;
        (frame[end..] == *"}").then_some(())?;
        let begin = data.len() - frame.len();
        raw = Some(begin..begin + end);
    }
    let mut text = String::with_capacity(rest.len());
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\')) {
        let (plain, escape) = rest.split_at_checked(at)?;
        text.push_str(plain);
        let mut escape = escape.chars();
        if escape.next() == Some('"') {
            return None;
        }
        text.push(match escape.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            char @ ('"' | '\\' | '/') => char,
            _ => return None,
        });
        rest = escape.as_str();
    }
    text.push_str(rest);
    Some((text, raw))
}

/// A payload's fields, read one by one, and those that nobody asks for not at all: an agent's own frame may be large, or
/// hold what can't be read. By hand, since derived readers for every kind would make up a fifth of a small plugin's size.
struct Fields<'a> {
    data: &'a str,
    /// It is an object, and no field had another type than its place.
    fit: bool,
}

impl<'a> Fields<'a> {
    /// A field as it was written; null is none.
    fn member(&self, name: &str) -> Option<&'a str> {
        json::member(self.data, name).filter(|value| *value != "null")
    }

    fn value(&self, name: &str) -> Value {
        self.optional(name).unwrap_or_default()
    }

    fn optional(&self, name: &str) -> Option<Value> {
        self.member(name)
            .filter(|text| json::values(text) <= MAX_VALUES)
            .and_then(|text| serde_json::from_str(text).ok())
    }

    fn text(&mut self, name: &str) -> String {
        let Some(text) = self.member(name) else { return String::new() };
        json::text(text).unwrap_or_else(|| {
            self.fit = false;
            String::new()
        })
    }

    fn list(&mut self, name: &str) -> Vec<Value> {
        match self.value(name) {
            Value::Array(list) => list,
            other => {
                self.fit &= other.is_null();
                Vec::new()
            }
        }
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.optional(name)?;
        self.fit &= value.is_number();
        value.as_f64()
    }

    fn truth(&mut self, name: &str) -> bool {
        let value = self.value(name);
        self.fit &= value.is_boolean() || value.is_null();
        value.as_bool().unwrap_or_default()
    }
}
