//! What an agent is told of the turns before: the input's own history where it has one, else the session's.

use serde_json::{Map, Value};

use super::{Config, Tasks};
use crate::domain::{HistoryMessage, TaskInput, TaskRecord};
use crate::store::{StoreError, Turn};

/// Bytes of a turn's documents that are read for every byte of text that the next one may be told: a document holds
/// the answer twice, escaped, beside what is not told.
const READ: usize = 8;

impl Tasks {
    /// The messages before a turn that is about to run, oldest first. Taken when it starts, so that a queued turn
    /// knows its predecessor's answer; within the configured turns and bytes, the latest ones.
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
        Ok(assemble(&turns, history_bytes))
    }
}

/// The messages of finished turns (oldest first), whole turns only, no more bytes of text than allowed. A turn that
/// brought a history of its own begins with that, and hides those before it.
fn assemble(turns: &[Turn], max_bytes: usize) -> Vec<HistoryMessage> {
    let mut parts = Vec::new();
    let mut bytes = 0;
    for turn in turns.iter().rev() {
        let (messages, is_whole) = messages(turn);
        bytes += messages.iter().map(weight).sum::<usize>();
        if bytes > max_bytes {
            break;
        }
        parts.push(messages);
        if is_whole {
            break;
        }
    }
    parts.into_iter().rev().flatten().collect()
}

/// What was said in a turn; true: and all that was said before.
fn messages(turn: &Turn) -> (Vec<HistoryMessage>, bool) {
    let mut messages = Vec::new();
    let mut is_whole = false;
    if let Ok(input) = TaskInput::parse(&turn.input) {
        let mut content = Value::from(input.text());
        if let TaskInput::Message(message) = input {
            is_whole = message.history.is_some();
            messages.extend(message.history.unwrap_or_default());
            if let Some(parts) = message.content.filter(|parts| !parts.is_empty()) {
                content = Value::Array(parts);
            }
        }
        if content != "" {
            messages.push(message("user", content));
        }
    }
    let completed: Value = serde_json::from_str(&turn.completed).unwrap_or_default();
    let said = completed.get("messages").and_then(Value::as_array).into_iter().flatten();
    let before = messages.len();
    messages.extend(
        said.filter(|said| said.get("role").and_then(Value::as_str) == Some("assistant"))
            .filter_map(|said| said.get("content").and_then(Value::as_str))
            .filter(|text| !text.is_empty())
            .map(|text| message("assistant", text.into())),
    );
    if messages.len() == before
        && let Some(text) = completed.get("text").and_then(Value::as_str)
        && !text.is_empty()
    {
        messages.push(message("assistant", text.into()));
    }
    (messages, is_whole)
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
    use super::*;
    use crate::domain::TaskId;

    fn turn(input: &str, completed: &str) -> Turn {
        Turn { task: TaskId::new(), input: input.into(), completed: completed.into() }
    }

    fn told(turns: &[Turn], max_bytes: usize) -> Vec<(String, String)> {
        let told = assemble(turns, max_bytes);
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
                r#"{"text":"ab","messages":[{"role":"assistant","content":"a"},{"role":"tool","content":"x"},
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

    #[test]
    fn tool_calls_count_as_well() {
        let calls = "x".repeat(500);
        let input = format!(
            r#"{{"kind":"message","text":"now","history":[{{"role":"assistant","content":null,"tool_calls":["{calls}"]}}]}}"#
        );
        let turns = [turn(&input, r#"{"text":"yes"}"#), turn(r#"{"kind":"message","text":"a"}"#, "{}")];
        assert_eq!(assemble(&turns, 1000).len(), 4);
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
