//! The feed's dialect: what a task's events are called on the stream of its session.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::event::{Type, one_line};
use super::ring::frame;
use crate::domain::{Event, Kind, rfc3339};
use crate::hub::Frame;

/// Longest name of an event of an agent's own.
const NAME: usize = 64;
/// Names that mean something else here.
const RESERVED: [&str; 4] = ["session_start", "heartbeat", "gap", "message"];

/// A task's event as the feed shows it; none for kinds that it does not show.
pub(super) fn shown(event: &Event, id: &dyn std::fmt::Display) -> Option<(Option<Type>, Frame)> {
    let (kind, data) = match &event.kind {
        Kind::Thinking | Kind::ToolStarted | Kind::ToolCompleted | Kind::Failed | Kind::Cancelled => {
            told(event)?
        }
        Kind::Other(name) => {
            if let Some(kind) = Type::named(name) {
                let data = one_line(&event.data);
                return Some((Some(kind), frame(id, kind.as_str(), &data)));
            }
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            let fits = !name.is_empty() && name.len() <= NAME && name.bytes().all(plain);
            let shown = fits && !RESERVED.contains(&&**name);
            return shown.then(|| (None, frame(id, name, &one_line(&event.data))));
        }
        Kind::Started | Kind::Progress | Kind::ResponseChunk | Kind::Completed => return None,
    };
    Some((Some(kind), frame(id, kind.as_str(), &data)))
}

/// A canonical event in the specification's words.
fn told(event: &Event) -> Option<(Type, String)> {
    #[derive(Serialize)]
    struct Reasoning<'a> {
        signal_id: String,
        step: u64,
        content: &'a str,
        timestamp: String,
    }
    #[derive(Serialize)]
    struct ToolCall<'a> {
        signal_id: String,
        tool_name: &'a str,
        parameters: &'a RawValue,
        timestamp: String,
    }
    #[derive(Serialize)]
    struct ToolResult<'a> {
        signal_id: String,
        tool_name: &'a str,
        result: &'a RawValue,
        latency_ms: u64,
        timestamp: String,
    }
    let (signal_id, timestamp) = (event.task.request_id(), rfc3339(event.at_ms));
    let line = one_line(&event.data);
    let data: Value = serde_json::from_str(&line).ok()?;
    let text = |name: &str| data[name].as_str().unwrap_or_default();
    // Values are passed on as they were told, with all their digits.
    let raw: std::collections::HashMap<&str, &RawValue> = serde_json::from_str(&line).ok()?;
    let (empty, null) = (serde_json::value::to_raw_value(&json!({})).ok()?, RawValue::NULL);
    let value = |name: &str| raw.get(name).copied().filter(|value| value.get() != "null");
    let (kind, text) = match &event.kind {
        Kind::Thinking => {
            let step = data["step"].as_u64().unwrap_or(event.position.seq);
            let reasoning = Reasoning { signal_id, step, content: text("thought"), timestamp };
            (Type::Reasoning, serde_json::to_string(&reasoning))
        }
        Kind::ToolStarted => {
            let parameters = value("parameters").unwrap_or(&empty);
            let call = ToolCall { signal_id, tool_name: text("tool_name"), parameters, timestamp };
            (Type::ToolCall, serde_json::to_string(&call))
        }
        Kind::ToolCompleted => {
            let latency_ms = data["duration_ms"].as_u64().unwrap_or_default();
            let result = value("result").unwrap_or(null);
            let result =
                ToolResult { signal_id, tool_name: text("tool_name"), result, latency_ms, timestamp };
            (Type::ToolResult, serde_json::to_string(&result))
        }
        Kind::Cancelled => (Type::Error, error(&signal_id, "cancelled", text("reason"), &timestamp)),
        _ => (Type::Error, error(&signal_id, text("error_type"), text("error"), &timestamp)),
    };
    Some((kind, text.ok()?))
}

fn error(signal_id: &str, code: &str, message: &str, timestamp: &str) -> serde_json::Result<String> {
    let message = if message.is_empty() { code } else { message };
    Ok(json!({ "signal_id": signal_id, "error_code": code, "message": message, "timestamp": timestamp })
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Position, SessionId};

    fn shown(kind: Kind, data: &str) -> Option<String> {
        let event = Event {
            task: "task_0198c0de000070008000000000000000".parse().unwrap(),
            session: SessionId::new("", "s").unwrap(),
            position: Position { attempt: 1, seq: 7 },
            kind,
            at_ms: 1_738_413_296_000,
            data: data.into(),
        };
        let (_, frame) = super::shown(&event, &"1-0")?;
        Some(String::from_utf8(frame.payload().to_vec()).unwrap())
    }

    #[test]
    fn a_tasks_events_are_told_in_the_specifications_words() {
        let all = [
            (Kind::Thinking, r#"{"thought":"a\nb"}"#),
            (Kind::Thinking, r#"{"thought":"c","step":3}"#),
            (
                Kind::ToolStarted,
                r#"{"call_id":"c","tool_name":"t","parameters":{"n":12345678901234567890123},"arguments":"{}"}"#,
            ),
            (Kind::ToolStarted, r#"{"call_id":"c","tool_name":"t","parameters":null}"#),
            (
                Kind::ToolCompleted,
                "{\"call_id\":\"c\",\"tool_name\":\"t\",\n\"result\":[1,\r\n2],\"duration_ms\":45}",
            ),
            (Kind::Failed, r#"{"error":"no luck","error_type":"agent_error"}"#),
            (Kind::Cancelled, r#"{"reason":"stop"}"#),
            (Kind::Cancelled, r#"{"reason":""}"#),
            (Kind::Other("signal".into()), "{\"signal_id\":\"abc\",\n\"action\":\"BUY\"}"),
            (Kind::Other("workflow_step".into()), r#"{"step":2}"#),
        ];
        let text: String = all.into_iter().map(|(kind, data)| shown(kind, data).unwrap()).collect();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_the_feed_does_not_show_is_not_shown() {
        for kind in [Kind::Started, Kind::Progress, Kind::ResponseChunk, Kind::Completed] {
            assert_eq!(shown(kind, r#"{"text":"t"}"#), None);
        }
        for name in ["", "heartbeat", "session_start", "gap", "a b", "a\nb", "a:b", &"x".repeat(65)] {
            assert_eq!(shown(Kind::Other(name.into()), "{}"), None, "{name:?}");
        }
    }
}
