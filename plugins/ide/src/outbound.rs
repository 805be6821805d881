//! What one event is as frames. An agent's own frame goes out as it was written, without the fields that are null; events
//! of other agents become frames of the protocol. The table is in `docs/ide.md`.

use plugway_sdk::{Event, EventKind, Executor, Failed, json};
use serde::Serialize;
use serde_json::{Map, Value};

/// Kinds that are not what an agent has named itself, though their data may not fit.
const CANONICAL: [&str; 11] = [
    "started",
    "thinking",
    "tool_started",
    "tool_completed",
    "progress",
    "response_chunk",
    "approval_requested",
    "approval_resolved",
    "completed",
    "failed",
    "cancelled",
];
/// Before kinds of an agent's own that would be one of the gateway's.
const AGENTS_OWN: &str = "agent_";

/// A frame of the protocol. What is none is left out.
#[derive(Debug, Default, Serialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_final: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requires_approval: Option<bool>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
}

impl Frame<'_> {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("names are strings")
    }
}

/// A frame that says what is wrong.
pub(crate) fn error(content: &str) -> String {
    Frame { kind: "error", content: Some(content), ..Frame::default() }.text()
}

/// An agent's own frame without the fields that are null. What stands within a field stays: a null among the arguments of a
/// call is the agent's word. With cursors, a field of that name is left out too.
pub(crate) fn verbatim(frame: &str, cursors: bool) -> String {
    let goes = |member: &json::Member<'_>| member.value != "null" && !(cursors && member.name == "cursor");
    let suspect = frame.contains("null") || (cursors && frame.contains("\"cursor\""));
    if !suspect || json::members(frame).all(|member| goes(&member)) {
        return frame.to_owned();
    }
    let kept: Vec<&str> = json::members(frame).filter(goes).map(|member| member.text).collect();
    format!("{{{}}}", kept.join(","))
}

/// The frame with a cursor behind its fields.
pub(crate) fn with_cursor(mut frame: String, cursor: &str) -> String {
    frame.truncate(frame.trim_end().len() - 1);
    let comma = if frame.trim_end().ends_with('{') { "" } else { "," };
    frame + comma + "\"cursor\":\"" + cursor + "\"}"
}

/// The frames of an event that has none of the agent's own, at most two.
pub(crate) fn frames(event: &Event) -> Vec<String> {
    match &event.kind {
        EventKind::ResponseChunk(chunk) if !chunk.text.is_empty() => {
            let token = Some(chunk.text.as_str());
            vec![message(Frame { token, is_final: Some(false), ..Frame::default() })]
        }
        EventKind::ToolStarted(call) if call.executor == Executor::Client => {
            let text;
            let arguments = if call.parameters.is_null() {
                text = Value::from(call.arguments.as_str());
                &text
            } else {
                &call.parameters
            };
            vec![tool_call(&call.call_id, &call.tool_name, arguments, call.requires_approval)]
        }
        EventKind::ApprovalRequested(approval) => {
            let asked: Asked = event.json().unwrap_or_default();
            vec![tool_call(&approval.call_id, &asked.tool_name, &asked.parameters, true)]
        }
        EventKind::Completed(completed) => {
            let ended = done([
                ("finish_reason", Value::from(completed.finish_reason.as_str())),
                ("usage", completed.usage.clone()),
            ]);
            whole(event).into_iter().chain([ended]).collect()
        }
        EventKind::Failed(failed) => vec![error(&failure(failed))],
        EventKind::Cancelled(cancelled) => {
            vec![done([
                ("finish_reason", "cancelled".into()),
                ("reason", Value::from(cancelled.reason.as_str())),
            ])]
        }
        EventKind::Unknown { kind, data } if !CANONICAL.contains(&kind.as_str()) => vec![named(kind, data)],
        // A runtime's own chunk of that type, which a filter has changed: no agent of another kind has these fields.
        EventKind::Thinking(_) | EventKind::Progress(_) | EventKind::ToolCompleted(_)
            if ["token", "content"].iter().any(|field| json::member(&event.data, field).is_some()) =>
        {
            vec![named(&event.name, &event.data)]
        }
        _ => Vec::new(),
    }
}

/// The message that closes an answer; none of an answer without a text.
pub(crate) fn whole(event: &Event) -> Option<String> {
    let EventKind::Completed(completed) = &event.kind else { return None };
    let content = Some(completed.text.as_str()).filter(|text| !text.is_empty());
    content.map(|_| message(Frame { content, is_final: Some(true), ..Frame::default() }))
}

/// An event of a kind that an agent has named itself: its data, with that name as type.
fn named(kind: &str, data: &str) -> String {
    let own = kind.strip_prefix(AGENTS_OWN).filter(|own| *own == "error" || CANONICAL.contains(own));
    let mut frame = format!("{{\"type\":{}", Value::from(own.unwrap_or(kind)));
    let said = |member: &json::Member<'_>| member.value != "null" && !matches!(member.name, "type" | "raw");
    for member in json::members(data).filter(said) {
        frame.push(',');
        frame.push_str(member.text);
    }
    frame.push('}');
    frame
}

/// What a request for approval may say of the call.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Asked {
    tool_name: String,
    parameters: Value,
}

fn message(frame: Frame<'_>) -> String {
    Frame { kind: "assistant_message", ..frame }.text()
}

fn tool_call(call: &str, tool: &str, arguments: &Value, requires_approval: bool) -> String {
    let named = |name| Some(name).filter(|name: &&str| !name.is_empty());
    Frame {
        kind: "tool_call",
        call_id: named(call),
        tool_name: named(tool),
        arguments: Some(arguments).filter(|arguments| !arguments.is_null()),
        requires_approval: Some(requires_approval),
        ..Frame::default()
    }
    .text()
}

fn done<const N: usize>(metadata: [(&str, Value); N]) -> String {
    let said = metadata.into_iter().filter(|(_, value)| !value.is_null() && value != "");
    let metadata = said.map(|(name, value)| (name.to_owned(), value)).collect();
    Frame { kind: "done", is_final: Some(true), metadata, ..Frame::default() }.text()
}

/// The protocol has one sentence for an agent that answers with a status, and one for everything else.
fn failure(failed: &Failed) -> String {
    match failed.status {
        Some(status) => format!("Agent error: {status}"),
        None => format!("Streaming error: {}", failed.error),
    }
}
