//! What an agent is told of the turns before: the input's own history where it has one, else the session's.
//!
//! It is what was said, in the order in which it was said: tool calls and their results too. A result whose call was
//! said too long ago may stand in it alone.

use std::collections::HashSet;

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{Config, Tasks};
use crate::domain::{HistoryMessage, TaskInput, TaskRecord, ToolResult, read_data};
use crate::store::{StoreError, Turn};

/// Bytes of a turn's documents that are read for every byte of text that the next one may be told: a document holds
/// the answer twice, escaped, beside what is not told.
const READ: usize = 8;

impl Tasks {
    /// The messages before a turn that is about to run, oldest first. Taken when it starts, so that a queued turn
    /// knows its predecessor's answer; within the configured turns and bytes, the latest ones. Back to the calls that
    /// the turn answers it reaches whatever they weigh: without them its results would be of nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn history(
        &self,
        task: &TaskRecord,
        input: &TaskInput,
    ) -> Result<Vec<HistoryMessage>, StoreError> {
        if let TaskInput::Message(message) = input
            && let Some(history) = &message.history
        {
            return Ok(history.clone());
        }
        let Config { history_turns, history_bytes, .. } = self.inner.config;
        let read = history_bytes.saturating_mul(READ);
        let turns = self.inner.store.turns_before(task.id, history_turns, read).await?;
        let answered = if let TaskInput::ToolResult { results } = input { results.as_slice() } else { &[] };
        Ok(assemble(&turns, history_bytes, answered))
    }
}

/// The messages of finished turns (oldest first), whole turns only, no more bytes of text than allowed, unless a call
/// that is being answered lies further back. A turn that brought a history of its own begins with that, and hides those
/// before it.
fn assemble(turns: &[Turn], max_bytes: usize, answered: &[ToolResult]) -> Vec<HistoryMessage> {
    let mut wanted: HashSet<String> = answered.iter().map(|result| result.call_id.clone()).collect();
    let mut parts = Vec::new();
    let (mut bytes, mut told) = (0, 0);
    for turn in turns.iter().rev() {
        let (messages, is_whole) = messages(turn);
        bytes += messages.iter().map(weight).sum::<usize>();
        let has_wanted = messages.iter().flat_map(call_ids).filter(|id| wanted.remove(*id)).count() > 0;
        parts.push(messages);
        if bytes <= max_bytes || has_wanted {
            told = parts.len();
        }
        if is_whole || (bytes > max_bytes && wanted.is_empty()) {
            break;
        }
    }
    parts.truncate(told);
    parts.into_iter().rev().flatten().collect()
}

/// Ids of the calls that a message makes.
fn call_ids(message: &HistoryMessage) -> impl Iterator<Item = &str> {
    let calls = message.rest.get("tool_calls").and_then(Value::as_array);
    calls.into_iter().flatten().filter_map(|call| call.get("id").and_then(Value::as_str))
}

/// What was said in a turn; true: and all that was said before.
fn messages(turn: &Turn) -> (Vec<HistoryMessage>, bool) {
    let mut messages = Vec::new();
    let mut is_whole = false;
    if let Ok(input) = TaskInput::parse(&turn.input) {
        let mut content = Value::from(input.text());
        match input {
            TaskInput::Message(message) => {
                is_whole = message.history.is_some();
                messages.extend(message.history.unwrap_or_default());
                if let Some(parts) = message.content.filter(|parts| !parts.is_empty()) {
                    content = Value::Array(parts);
                }
            }
            TaskInput::ToolResult { results } => messages.extend(results.iter().map(HistoryMessage::from)),
            TaskInput::Command { .. } | TaskInput::Control { .. } | TaskInput::Decision { .. } => {}
        }
        if content != "" {
            messages.push(message("user", content));
        }
    }
    let completed = read_data(&turn.completed);
    let said = completed.get("messages").and_then(Value::as_array).into_iter().flatten();
    let before = messages.len();
    messages.extend(said.filter_map(|said| HistoryMessage::deserialize(said).ok()).filter(is_kept));
    if messages.len() == before
        && let Some(text) = completed.get("text").and_then(Value::as_str)
        && !text.is_empty()
    {
        messages.push(message("assistant", text.into()));
    }
    (messages, is_whole)
}

/// Whether a message of an agent's answer is kept: what the assistant said or called, and what its tools gave.
fn is_kept(said: &HistoryMessage) -> bool {
    match said.role.as_str() {
        "assistant" => !is_empty(&said.content) || call_ids(said).next().is_some(),
        "tool" => true,
        _ => false,
    }
}

fn is_empty(content: &Value) -> bool {
    content.is_null() || content == "" || content.as_array().is_some_and(Vec::is_empty)
}

fn message(role: &str, content: Value) -> HistoryMessage {
    HistoryMessage { role: role.into(), content, rest: Map::new() }
}

/// About the bytes of text in a message, its tool calls and the like among them.
fn weight(message: &HistoryMessage) -> usize {
    let HistoryMessage { role, content, rest } = message;
    let bytes = |value: &Value| match value {
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    };
    let rest: usize = rest.iter().map(|(name, value)| name.len() + bytes(value)).sum();
    role.len() + bytes(content) + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::TaskId;

    fn turn(input: &str, completed: &str) -> Turn {
        Turn { task: TaskId::new(), input: input.into(), completed: completed.into() }
    }

    fn told(turns: &[Turn], max_bytes: usize) -> Vec<(String, String)> {
        let told = assemble(turns, max_bytes, &[]);
        told.into_iter().map(|m| (m.role, m.content.as_str().unwrap().to_owned())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(role, text)| ((*role).into(), (*text).into())).collect()
    }

    #[test]
    fn a_turn_is_the_users_text_and_the_assistants_messages() {
        let turns = [
            turn(
                r#"{"kind":"message","text":"hi"}"#,
                r#"{"text":"ab","messages":[{"role":"assistant","content":"a"},{"role":"user","content":"x"},
                   {"role":"assistant","content":null},{"role":"assistant","content":"b"}]}"#,
            ),
            turn(r#"{"kind":"command","query":"buy"}"#, r#"{"text":"bought","messages":null}"#),
        ];
        let expected = [
            ("user", "hi"),
            ("assistant", "a"),
            ("assistant", "b"),
            ("user", "buy"),
            ("assistant", "bought"),
        ];
        assert_eq!(told(&turns, 1000), pairs(&expected));
    }

    #[test]
    fn a_turn_with_a_history_of_its_own_hides_those_before_it() {
        let turns = [
            turn(r#"{"kind":"message","text":"forgotten"}"#, r#"{"text":"too"}"#),
            turn(
                r#"{"kind":"message","text":"now","history":[{"role":"system","content":"be kind"}]}"#,
                r#"{"text":"yes"}"#,
            ),
        ];
        let expected = [("system", "be kind"), ("user", "now"), ("assistant", "yes")];
        assert_eq!(told(&turns, 1000), pairs(&expected));
    }

    /// A turn in which the assistant calls these tools.
    fn calling(input: &str, ids: &[&str]) -> Turn {
        let call =
            |id: &&str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let calls: Vec<Value> = ids.iter().map(call).collect();
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        turn(input, &json!({"text": "", "messages": [message]}).to_string())
    }

    fn result(id: &str) -> ToolResult {
        ToolResult { call_id: id.to_owned(), result: Some("sunny".into()), error: None }
    }

    #[test]
    fn calls_and_their_results_are_kept() {
        let turns = [
            calling(r#"{"kind":"message","text":"weather?"}"#, &["a", "b"]),
            calling(
                r#"{"kind":"tool_result","results":[{"call_id":"a","result":{"t":20}},{"call_id":"b","error":"no"}]}"#,
                &["c"],
            ),
        ];
        let call =
            |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        assert_eq!(
            json!(assemble(&turns, 1000, &[])),
            json!([
                {"role": "user", "content": "weather?"},
                {"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]},
                {"role": "tool", "content": "{\"t\":20}", "tool_call_id": "a"},
                {"role": "tool", "content": "error: no", "tool_call_id": "b"},
                {"role": "assistant", "content": null, "tool_calls": [call("c")]},
            ])
        );
    }

    #[test]
    fn tools_that_the_agent_used_itself_are_kept() {
        let said = r#"{"text":"fine","messages":[
            {"role":"assistant","content":null,"tool_calls":[{"id":"a"}]},{"role":"tool","tool_call_id":"a","content":"1"},
            {"role":"assistant","content":"fine"}]}"#;
        let told = assemble(&[turn(r#"{"kind":"message","text":"hi"}"#, said)], 1000, &[]);
        let roles: Vec<_> = told.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
    }

    #[test]
    fn calls_that_are_being_answered_are_told_whatever_they_weigh() {
        let long = json!({"kind": "message", "text": "x".repeat(5000)}).to_string();
        let turns = [
            turn(&long, r#"{"text":"too long ago"}"#),
            calling(&long, &["a", "b"]),
            calling(r#"{"kind":"tool_result","results":[{"call_id":"a","result":1}]}"#, &["c"]),
        ];
        let roles = |answered: &[ToolResult]| -> Vec<String> {
            assemble(&turns, 1000, answered).into_iter().map(|message| message.role).collect()
        };
        assert_eq!(roles(&[result("b"), result("c")]), ["user", "assistant", "tool", "assistant"]);
        assert_eq!(roles(&[result("c")]), ["tool", "assistant"]);
        assert_eq!(roles(&[result("nobody's")]), ["tool", "assistant"]);
    }

    #[test]
    fn tool_calls_count_as_well() {
        let calls = "x".repeat(500);
        let input = format!(
            r#"{{"kind":"message","text":"now","history":[{{"role":"assistant","content":null,"tool_calls":["{calls}"]}}]}}"#
        );
        let turns = [turn(&input, r#"{"text":"yes"}"#), turn(r#"{"kind":"message","text":"a"}"#, "{}")];
        assert_eq!(assemble(&turns, 1000, &[]).len(), 4);
        assert_eq!(told(&turns, 500), pairs(&[("user", "a")]));
    }

    #[test]
    fn the_latest_turns_are_kept_whole_within_the_bytes() {
        let turns: Vec<_> = (0..10)
            .map(|n| turn(&format!(r#"{{"kind":"message","text":"question {n}"}}"#), r#"{"text":"answer"}"#))
            .collect();
        let told = told(&turns, 2 * (10 + 4 + 6 + 9));
        assert_eq!(told.len(), 4);
        assert_eq!(told[0], ("user".into(), "question 8".into()));
    }
}
