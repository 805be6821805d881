//! What an IDE sends: a frame becomes a turn of the session, which carries the frame as it was written for a runtime that
//! understands it, and its meaning for every other agent. What is wrong with a frame is said by its field.

use crate::config::Config;
use plugway_sdk::{SessionId, Task, bounds};
use serde_json::{Map, Value, json};
use std::fmt::Display;

/// Types of frames of the protocol.
pub(crate) const KNOWN: [&str; 5] =
    ["user_message", "tool_result", "switch_agent", "hitl_decision", "cancel"];
/// Characters of an unknown type that are said back.
const SHOWN: usize = 100;

/// What a frame asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A turn, with everything but its session and agent.
    Turn(Task),
    /// An end to all turns that have none.
    Cancel,
}

/// Reads a frame of a session.
///
/// # Errors
/// The sentence to be sent back.
pub(crate) fn read(text: &str, session: &SessionId, config: &Config) -> Result<Asked, String> {
    let text = text.trim();
    let mut fields = object(text, config).map_err(invalid)?;
    let kind = fields.required_text("type").map_err(invalid)?;
    if !KNOWN.contains(&kind.as_str()) && !config.forward_types.contains(&kind) {
        return Err(format!("Unknown message type: {}", kind.chars().take(SHOWN).collect::<String>()));
    }
    let key = fields.key(session).map_err(invalid)?;
    let Some(turn) = turn(&kind, &mut fields).map_err(invalid)? else { return Ok(Asked::Cancel) };
    let turn = turn.forward_text(text);
    Ok(Asked::Turn(match key {
        Some(key) => turn.idempotency_key(key),
        None => turn,
    }))
}

/// The sentence about a frame that is none of the protocol's.
pub(crate) fn invalid(problem: impl Display) -> String {
    format!("Invalid JSON message: {problem}")
}

/// The turn that a frame is; none if it cancels.
fn turn(kind: &str, fields: &mut Fields) -> Result<Option<Task>, String> {
    Ok(Some(match kind {
        "user_message" => {
            let turn = Task::message(fields.required_text("content")?);
            // An agent without forwarding hears who speaks in the metadata alone.
            match fields.word("role", &["user", "assistant", "system", "tool"])? {
                Some(role) if role != "user" => turn.metadata("role", role),
                _ => turn,
            }
        }
        "tool_result" => {
            let call = fields.required_text("call_id")?;
            let result = match fields.text("error")? {
                Some(error) => json!({"call_id": call, "error": error}),
                None => json!({"call_id": call, "result": fields.take("result")}),
            };
            Task::tool_results(&[result])
        }
        "switch_agent" => {
            let turn = Task::control(kind)
                .input("agent_type", &fields.required_text("agent_type")?)
                .input("content", &fields.required_text("content")?);
            match fields.text("reason")? {
                Some(reason) => turn.input("reason", &reason),
                None => turn,
            }
        }
        "hitl_decision" => {
            let call = fields.required_text("call_id")?;
            let decision = fields.word("decision", &["approve", "edit", "reject"])?;
            let mut turn = Task::decision(&call, &decision.ok_or("decision: is missing")?);
            if let Some(arguments) = fields.object("modified_arguments")? {
                turn = turn.input("modified_arguments", &arguments);
            }
            match fields.text("feedback")? {
                Some(feedback) => turn.input("feedback", &feedback),
                None => turn,
            }
        }
        "cancel" => return Ok(None),
        further => Task::control(further),
    }))
}

/// Takes a text apart that may be as large and as deep as the operator allows.
fn object(text: &str, config: &Config) -> Result<Fields, String> {
    let most = config.max_frame_bytes;
    if text.len() > most {
        return Err(format!("the frame has {} bytes, {most} are allowed", text.len()));
    }
    measure(text, config)?;
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(Fields(fields)),
        Ok(_) => Err("the frame must be a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks how many values a text holds, and how deep, before it is read.
fn measure(text: &str, config: &Config) -> Result<(), String> {
    let (mut values, mut depth, mut deepest) = (0, 0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => _ = bytes.next(),
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                values += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' | b':' => values += 1,
            _ => {}
        }
    }
    if values > config.max_values {
        return Err(format!("the frame holds more than {} values", config.max_values));
    }
    if deepest > config.max_nesting {
        return Err(format!("the frame is nested deeper than {}", config.max_nesting));
    }
    Ok(())
}

/// A frame's fields. Null stands for "not there".
struct Fields(Map<String, Value>);

impl Fields {
    fn take(&mut self, name: &str) -> Value {
        self.0.remove(name).unwrap_or_default()
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(format!("{name}: must be a string")),
        }
    }

    fn required_text(&mut self, name: &str) -> Result<String, String> {
        self.text(name)?.ok_or_else(|| format!("{name}: is missing"))
    }

    fn word(&mut self, name: &str, words: &[&str]) -> Result<Option<String>, String> {
        match self.text(name)? {
            Some(word) if !words.contains(&word.as_str()) => {
                Err(format!("{name}: must be one of {}", words.join(", ")))
            }
            word => Ok(word),
        }
    }

    fn object(&mut self, name: &str) -> Result<Option<Value>, String> {
        match self.take(name) {
            Value::Null => Ok(None),
            object @ Value::Object(_) => Ok(Some(object)),
            _ => Err(format!("{name}: must be an object")),
        }
    }

    /// The turn's idempotency key: the IDE's own, which holds within its session.
    fn key(&mut self, session: &SessionId) -> Result<Option<String>, String> {
        let Some(key) = self.text("idempotency_key")? else { return Ok(None) };
        // With its length, so that no other session's name and key are the same text.
        let prefix = format!("{}\n{session}\n", session.as_str().len());
        let most = bounds::TASK_KEY.saturating_sub(prefix.len());
        if key.is_empty() || key.len() > most {
            return Err(format!("idempotency_key: must have 1 to {most} bytes in this session"));
        }
        Ok(Some(prefix + &key))
    }
}
