//! What a runtime is sent for a turn: one request for each frame. A frame that the adapter wants forwarded goes as it is;
//! other turns are put into frames of the same shapes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::super::{Turn, attachment};
use crate::domain::{HistoryMessage, Message, TaskInput};

/// What a document may hold beside its kind.
#[derive(Deserialize)]
struct Beside<'a> {
    /// A frame to be sent as it is.
    #[serde(borrow)]
    forward: Option<&'a RawValue>,
    /// The session's name for the runtime, where it is not the session's own.
    session_id: Option<Value>,
}

/// The body of a request.
#[derive(Serialize)]
struct Body<'a, M> {
    session_id: &'a str,
    message: M,
}

/// Bodies of the requests that a turn takes, in order; at least one.
///
/// # Errors
/// A sentence: there is nothing in the input that a runtime could be told.
pub(super) fn bodies(turn: &Turn) -> Result<Vec<Bytes>, String> {
    let unreadable = |error: serde_json::Error| format!("the input can't be read: {error}");
    let beside: Beside<'_> = serde_json::from_str(&turn.document).map_err(unreadable)?;
    let session = beside.session_id.as_ref().and_then(Value::as_str).filter(|name| !name.is_empty());
    let session_id = session.unwrap_or_else(|| turn.session.name());
    if let Some(message) = beside.forward {
        return Ok(vec![body(&Body { session_id, message }).map_err(unreadable)?]);
    }
    let frames = frames(&turn.input)?;
    frames.iter().map(|message| body(&Body { session_id, message }).map_err(unreadable)).collect()
}

fn body<M: Serialize>(body: &Body<'_, M>) -> serde_json::Result<Bytes> {
    serde_json::to_vec(body).map(Bytes::from)
}

fn frames(input: &TaskInput) -> Result<Vec<Value>, String> {
    Ok(match input {
        TaskInput::Message(message) => return said(message),
        TaskInput::ToolResult { results } => results
            .iter()
            .map(|result| match &result.error {
                Some(error) => json!({"type": "tool_result", "call_id": result.call_id, "error": error}),
                None => json!({"type": "tool_result", "call_id": result.call_id, "result": result.result}),
            })
            .collect(),
        TaskInput::Command { query, symbol: Some(symbol) } => {
            vec![user_message(&format!("{query}\n\nSymbol: {symbol}"))]
        }
        TaskInput::Command { query, symbol: None } => vec![user_message(query)],
        TaskInput::Control { name, parameters } => {
            let mut frame = Map::from_iter([("type".to_owned(), name.clone().into())]);
            let own = |name: &String| !matches!(name.as_str(), "type" | "forward" | "session_id");
            let parameters = parameters.iter().filter(|(name, _)| own(name));
            frame.extend(parameters.map(|(name, value)| (name.clone(), value.clone())));
            vec![Value::Object(frame)]
        }
        TaskInput::Decision { call_id, decision, modified_arguments, feedback } => {
            let mut frame = json!({"type": "hitl_decision", "call_id": call_id, "decision": decision});
            if let Some(arguments) = modified_arguments {
                frame["modified_arguments"] = arguments.clone();
            }
            if let Some(feedback) = feedback {
                frame["feedback"] = feedback.clone().into();
            }
            vec![frame]
        }
    })
}

fn user_message(text: &str) -> Value {
    json!({"type": "user_message", "role": "user", "content": text})
}

/// What a message says, or what the history says last where it has no words of its own: the runtime keeps the turns
/// before, by the session.
fn said(message: &Message) -> Result<Vec<Value>, String> {
    let mut lines = match &message.content {
        Some(parts) if !parts.is_empty() => parts.iter().map(part).collect(),
        _ => message.text.clone().into_iter().collect::<Vec<_>>(),
    };
    lines.extend(message.attachments.iter().flatten().map(attachment::line));
    let text = lines.join("\n");
    if !text.is_empty() {
        return Ok(vec![user_message(&text)]);
    }
    let history = message.history.as_deref().unwrap_or_default();
    let answered = history.iter().rev().take_while(|message| message.role == "tool").count();
    let results = &history[history.len() - answered..];
    if !results.is_empty() {
        return Ok(results.iter().map(tool_result).collect());
    }
    let last = history.last().filter(|last| last.role == "user").map(|last| words(&last.content));
    match last.filter(|text| !text.is_empty()) {
        Some(text) => Ok(vec![user_message(&text)]),
        None => Err("this agent takes messages with words in them, and there are none".to_owned()),
    }
}

fn tool_result(message: &HistoryMessage) -> Value {
    let call = message.rest.get("tool_call_id").cloned().unwrap_or_default();
    json!({"type": "tool_result", "call_id": call, "result": words(&message.content)})
}

/// A content's text: itself, or that of its parts.
fn words(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(part).collect::<Vec<_>>().join("\n"),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A content part as a line of text.
fn part(part: &Value) -> String {
    if let Some(text) = part["text"].as_str() {
        return text.to_owned();
    }
    match part["image_url"]["url"].as_str() {
        Some(url) => attachment::line(&json!({"type": "image", "url": url})),
        None => attachment::line(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{SessionId, TaskId};

    fn sent(document: &str) -> Result<Vec<Value>, String> {
        let turn = Turn {
            task: TaskId::new(),
            session: SessionId::new("telegram", "telegram:7").unwrap(),
            attempt: 1,
            input: TaskInput::parse(document).unwrap(),
            document: document.into(),
            history: Vec::new(),
        };
        let bodies = bodies(&turn)?;
        Ok(bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect())
    }

    /// The frames alone, all of the same session.
    fn messages(document: &Value) -> Vec<Value> {
        let bodies = sent(&document.to_string()).unwrap();
        let frames = bodies.into_iter().map(|mut body| {
            assert_eq!(body["session_id"], "telegram:7");
            assert_eq!(body.as_object().unwrap().len(), 2);
            body["message"].take()
        });
        frames.collect()
    }

    #[test]
    fn what_is_to_be_forwarded_goes_as_it_was_written() {
        let frame =
            r#"{"type": "user_message", "content": "a",  "n": 1.50, "big": 123456789012345678901234567890}"#;
        let document = format!(r#"{{"kind":"message","text":"a","session_id":"s/é","forward":{frame}}}"#);
        let turn = Turn {
            task: TaskId::new(),
            session: SessionId::new("ide", "other").unwrap(),
            attempt: 1,
            input: TaskInput::parse(&document).unwrap(),
            document: document.into(),
            history: Vec::new(),
        };
        let bodies = bodies(&turn).unwrap();
        assert_eq!(bodies, [Bytes::from(format!(r#"{{"session_id":"s/é","message":{frame}}}"#))]);
    }

    #[test]
    fn words_of_any_input_become_a_user_message() {
        let user = |text: &str| vec![json!({"type": "user_message", "role": "user", "content": text})];
        assert_eq!(messages(&json!({"kind": "message", "text": "hi", "forward": null})), user("hi"));
        let parts = json!([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "https://x/a.png"}}]);
        let said = json!({
            "kind": "message", "text": "other form", "content": parts,
            "attachments": [{"name": "a.txt", "size": 3}], "history": [{"role": "user", "content": "before"}]
        });
        let told = "see\n[attachment: unnamed, image, https://x/a.png]\n[attachment: a.txt, 3 bytes]";
        assert_eq!(messages(&said), user(told));
        let command = json!({"kind": "command", "query": "buy?", "symbol": "BTC"});
        assert_eq!(messages(&command), user("buy?\n\nSymbol: BTC"));
        assert_eq!(messages(&json!({"kind": "command", "query": "buy?"})), user("buy?"));
        let history = json!([{"role": "assistant", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]);
        assert_eq!(messages(&json!({"kind": "message", "history": history})), user("b"));
    }

    #[test]
    fn each_tool_result_is_a_frame() {
        let document = json!({
            "kind": "tool_result", "results": [{"call_id": "a", "result": {"t": 20}}, {"call_id": "b", "error": "offline"}, {"call_id": "c"}]
        });
        let expected = [
            json!({"type": "tool_result", "call_id": "a", "result": {"t": 20}}),
            json!({"type": "tool_result", "call_id": "b", "error": "offline"}),
            json!({"type": "tool_result", "call_id": "c", "result": null}),
        ];
        assert_eq!(messages(&document), expected);
        let history = json!([
            {"role": "tool", "tool_call_id": "old", "content": "x"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "a"}, {"id": "b"}]},
            {"role": "tool", "tool_call_id": "a", "content": "20"},
            {"role": "tool", "tool_call_id": "b", "content": "none"}
        ]);
        let expected = [
            json!({"type": "tool_result", "call_id": "a", "result": "20"}),
            json!({"type": "tool_result", "call_id": "b", "result": "none"}),
        ];
        assert_eq!(messages(&json!({"kind": "message", "history": history})), expected);
    }

    #[test]
    fn controls_and_decisions_are_frames_of_their_own() {
        let document = json!({"kind": "control", "name": "switch_agent", "agent_type": "coder", "content": "c", "reason": "r"});
        let expected = json!({"type": "switch_agent", "agent_type": "coder", "content": "c", "reason": "r"});
        assert_eq!(messages(&document), [expected]);
        let document = json!({
            "kind": "decision", "call_id": "c", "decision": "edit", "modified_arguments": {"x": 1}, "feedback": "so"
        });
        let expected = json!({
            "type": "hitl_decision", "call_id": "c", "decision": "edit", "modified_arguments": {"x": 1}, "feedback": "so"
        });
        assert_eq!(messages(&document), [expected]);
        let document = json!({"kind": "decision", "call_id": "c", "decision": "reject"});
        assert_eq!(
            messages(&document),
            [json!({"type": "hitl_decision", "call_id": "c", "decision": "reject"})]
        );
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for document in [
            r#"{"kind":"message","text":""}"#,
            r#"{"kind":"message","history":[{"role":"assistant","content":"a"}]}"#,
        ] {
            assert!(sent(document).unwrap_err().contains("words"), "{document}");
        }
    }
}
