//! Events as pipelines publish them: which type a payload is of, and what of it clients get.
//!
//! What clients get is the publisher's own text, never written anew: numbers keep their digits, members their order.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Types of events that the feed shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A trading signal.
    Signal,
    /// A step of the agent's reasoning.
    Reasoning,
    /// A tool call begins.
    ToolCall,
    /// A tool call ended.
    ToolResult,
    /// Something went wrong.
    Error,
}

impl Type {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Signal, Self::Reasoning, Self::ToolCall, Self::ToolResult, Self::Error];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Reasoning => "reasoning",
            Self::ToolCall => "tool_call",
            Self::ToolResult => "tool_result",
            Self::Error => "error",
        }
    }

    /// The type of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What pipelines tell those who asked them, and the feed does not show: no fault, and no event either.
const NOT_SHOWN: [&str; 4] = ["response_chunk", "completed", "progress", "heartbeat"];

/// An event that somebody published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    /// Its type.
    pub(super) kind: Type,
    /// Who says that it is from, if anybody does.
    pub(super) agent: Option<Box<str>>,
    /// A JSON object, as it was published.
    pub(super) data: Box<str>,
}

impl Published {
    /// Tells events apart, in this process.
    pub(super) fn digest(&self) -> u64 {
        digest(self.kind, self.agent.as_deref(), &self.data)
    }

    /// Bytes that it is counted with.
    pub(super) fn weight(&self) -> usize {
        self.data.len() + self.agent.as_ref().map_or(0, |agent| agent.len()) + std::mem::size_of::<Self>()
    }
}

/// Tells events apart, in this process.
pub(super) fn digest(kind: Type, agent: Option<&str>, data: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind as u8, agent, data).hash(&mut hasher);
    hasher.finish()
}

/// A payload that is no event.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{bytes} bytes, {most} are allowed (feed.payload)")]
    TooLarge { bytes: usize, most: usize },
    #[error("no JSON object")]
    NoObject,
    #[error("no JSON object with a readable `type`: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no `type` or `event_type`, and the channel does not tell")]
    NoType,
    #[error("unknown type {0:?}")]
    Unknown(String),
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    agent_name: Option<Value>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    latency_ms: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Inside {
    agent_name: Option<Value>,
}

/// Reads what came over a channel; none: it is nothing that the feed shows. An object with a type and an object `data` is
/// an envelope of that, any other object is the event itself.
pub(super) fn read(channel: &str, payload: &[u8], most: usize) -> Result<Option<Published>, Unusable> {
    if payload.len() > most {
        return Err(Unusable::TooLarge { bytes: payload.len(), most });
    }
    // Checked by hand: serde would take an array for a structure too.
    if payload.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Unusable::NoObject);
    }
    let read: Payload<'_> = serde_json::from_slice(payload)?;
    let text = std::str::from_utf8(payload).map_err(|_| Unusable::NoObject)?.trim();
    let name = read.kind.as_deref().or(read.event_type.as_deref());
    let kind = match name {
        Some(name) => match Type::named(name) {
            Some(kind) => kind,
            None if NOT_SHOWN.contains(&name) => return Ok(None),
            None => return Err(Unusable::Unknown(name.chars().take(80).collect())),
        },
        None => {
            let is_result = read.result.is_some() || read.latency_ms.is_some();
            told_by(channel, is_result).ok_or(Unusable::NoType)?
        }
    };
    let envelope = read.data.map(RawValue::get).filter(|data| name.is_some() && data.starts_with('{'));
    let inside = envelope.and_then(|data| serde_json::from_str::<Inside>(data).ok()?.agent_name);
    let agent = inside.or(read.agent_name).and_then(|agent| agent.as_str().map(Into::into));
    Ok(Some(Published { kind, agent, data: one_line(envelope.unwrap_or(text)).into() }))
}

/// The type of what a channel carries, by the name that the specification gave it.
fn told_by(channel: &str, is_result: bool) -> Option<Type> {
    match channel.rsplit(':').next()? {
        "signals" => Some(Type::Signal),
        "reasoning" => Some(Type::Reasoning),
        "tool-events" if is_result => Some(Type::ToolResult),
        "tool-events" => Some(Type::ToolCall),
        _ => None,
    }
}

/// In JSON a line break is only ever white space between tokens; on an event stream it would end the field.
pub(super) fn one_line(json: &str) -> Cow<'_, str> {
    if json.contains(['\n', '\r']) { json.replace(['\n', '\r'], " ").into() } else { json.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(channel: &str, payload: &str) -> Result<Option<Published>, Unusable> {
        super::read(channel, payload.as_bytes(), 1_000)
    }

    fn event(channel: &str, payload: &str) -> (&'static str, Option<String>, String) {
        let event = read(channel, payload).unwrap().unwrap();
        (event.kind.as_str(), event.agent.map(Into::into), event.data.into())
    }

    #[test]
    fn a_type_is_what_the_payload_says_or_else_what_the_channel_tells() {
        let kind = |channel: &str, payload: &str| event(channel, payload).0;
        assert_eq!(kind("channel:signals", r#"{"symbol":"ETH/USD"}"#), "signal");
        assert_eq!(kind("channel:reasoning", r#"{"step":1}"#), "reasoning");
        assert_eq!(kind("channel:tool-events", r#"{"tool_name":"t","parameters":{}}"#), "tool_call");
        assert_eq!(kind("channel:tool-events", r#"{"tool_name":"t","result":[]}"#), "tool_result");
        assert_eq!(kind("channel:tool-events", r#"{"tool_name":"t","latency_ms":4}"#), "tool_result");
        assert_eq!(kind("channel:tool-events", r#"{"type":"tool_call","result":[]}"#), "tool_call");
        assert_eq!(kind("channel:signals", r#"{"type":"error","message":"m"}"#), "error");
        assert_eq!(kind("agent_events", r#"{"event_type":"tool_result"}"#), "tool_result");
        assert!(matches!(read("agent_events", "{}"), Err(Unusable::NoType)));
    }

    #[test]
    fn clients_get_the_text_that_was_published() {
        let flat = r#"{"event_type":"signal","n":12345678901234567890123,"agent_name":"alpha"}"#;
        assert_eq!(event("agent_events", flat), ("signal", Some("alpha".into()), flat.into()));
        let envelope = r#"{"type":"signal","agent_name":"outer","data":{ "n":1.50,"agent_name":"inner"}}"#;
        let (_, agent, data) = event("x", envelope);
        assert_eq!((agent.as_deref(), &*data), (Some("inner"), r#"{ "n":1.50,"agent_name":"inner"}"#));
        let (_, agent, data) = event("x", r#"{"type":"signal","agent_name":"outer","data":{}}"#);
        assert_eq!((agent.as_deref(), &*data), (Some("outer"), "{}"));
        let lines = event("channel:signals", "\n{\r\n \"a\": \"one\\ntwo\"\n}\n").2;
        assert_eq!(lines, "{   \"a\": \"one\\ntwo\" }");
    }

    #[test]
    fn an_object_named_data_without_a_type_is_the_events_own() {
        let payload = r#"{"data":{"a":1},"b":2}"#;
        assert_eq!(event("channel:signals", payload).2, payload);
        let payload = r#"{"type":"signal","data":[1]}"#;
        assert_eq!(event("channel:signals", payload).2, payload);
    }

    #[test]
    fn what_the_feed_does_not_show_is_no_fault_and_rubbish_is_one() {
        for name in NOT_SHOWN {
            assert!(read("agent_events", &format!(r#"{{"type":"{name}"}}"#)).unwrap().is_none());
        }
        for payload in ["", " ", "null", "[]", "[\"signal\"]", "7", "{", "{}}", "\"signal\"", "{\"type\":7}"]
        {
            assert!(read("channel:signals", payload).is_err(), "{payload:?}");
        }
        assert!(super::read("channel:signals", b"{\"a\":\"\xff\"}", 100).is_err());
        assert!(matches!(read("channel:signals", r#"{"type":"dance"}"#), Err(Unusable::Unknown(_))));
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_000));
        assert!(matches!(read("channel:signals", &large), Err(Unusable::TooLarge { .. })));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(400), "]".repeat(400));
        // Whether or not it is taken, it does not break anything.
        let _ = read("channel:signals", &deep);
    }
}
