//! What an agent is asked to do: the task input document, read strictly enough that a wrong field is named.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A task input that is not acceptable: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", .field.as_ref().map(|field| format!("`{field}`: ")).unwrap_or_default())]
pub struct InvalidInput {
    /// Path of the field, as `history[2].role`; none where the document as a whole is wrong.
    pub field: Option<String>,
    /// What is wrong with it.
    pub reason: String,
}

/// One turn's input. Unknown fields are kept out of the way of older gateways: they are ignored here and passed on by
/// backends that forward the document. Beside any kind may stand `forward`, a frame (an object) that `http` agents are
/// sent in the place of what the kind says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskInput {
    /// Somebody says something.
    Message(Message),
    /// Results of tool calls that the client carried out.
    ToolResult {
        /// One per call.
        results: Vec<ToolResult>,
    },
    /// Steers the agent, as `switch_agent`.
    Control {
        /// What to do.
        name: String,
        /// Its parameters.
        #[serde(flatten)]
        parameters: serde_json::Map<String, Value>,
    },
    /// A person's decision on a call that needs approval.
    Decision {
        /// The call.
        call_id: String,
        /// `approve`, `edit` or `reject`.
        decision: Decision,
        /// The arguments to use instead, with `edit`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        modified_arguments: Option<Value>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        feedback: Option<String>,
    },
    /// A command to a pipeline.
    Command {
        /// What is asked.
        query: String,
        /// The symbol that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        symbol: Option<String>,
    },
}

/// A message, with all that goes with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Plain text; where `content` is given too, its text form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Content parts, as the OpenAI API has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Vec<Value>>,
    /// Earlier turns. Given, it replaces the session's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<HistoryMessage>>,
    /// System text, layered on the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// References to files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Value>>,
    /// Tools of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// Which tool to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// Sampling parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<serde_json::Map<String, Value>>,
    /// The adapter's notes; agents may look at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, Value>>,
}

/// One message of a history: a role, and whatever the chat-completions API allows beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryMessage {
    /// `system`, `user`, `assistant`, `tool`, …
    pub role: String,
    /// Text, parts, or null beside tool calls.
    #[serde(default)]
    pub content: Value,
    /// `tool_calls`, `tool_call_id`, `name`, …
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// What one tool call of the client came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// The call.
    pub call_id: String,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// As the chat-completions API has it.
impl From<&ToolResult> for HistoryMessage {
    fn from(result: &ToolResult) -> Self {
        let content = match (&result.error, &result.result) {
            (Some(error), _) => format!("error: {error}"),
            (None, Some(Value::String(text))) => text.clone(),
            (None, Some(value)) => value.to_string(),
            (None, None) => String::new(),
        };
        let rest = [("tool_call_id".to_owned(), result.call_id.clone().into())];
        Self { role: "tool".to_owned(), content: content.into(), rest: rest.into_iter().collect() }
    }
}

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Carry it out as it is.
    Approve,
    /// Carry it out with other arguments.
    Edit,
    /// Don't.
    Reject,
}

impl TaskInput {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// It is no JSON, a field is missing or of the wrong type, or a message has nothing in it: names the field.
    pub fn parse(document: &str) -> Result<Self, InvalidInput> {
        let value: Value = serde_json::from_str(document)
            .map_err(|error| InvalidInput { field: None, reason: format!("not JSON: {error}") })?;
        let invalid = |field: &str, reason: &str| InvalidInput {
            field: (!field.is_empty()).then(|| field.to_owned()),
            reason: reason.to_owned(),
        };
        let Value::Object(object) = &value else { return Err(invalid("", "must be a JSON object")) };
        match object.get("kind") {
            None => return Err(invalid("kind", "is missing")),
            Some(Value::String(_)) => {}
            Some(_) => return Err(invalid("kind", "must be a string")),
        }
        if object.get("forward").is_some_and(|frame| !frame.is_object() && !frame.is_null()) {
            return Err(invalid("forward", "must be a JSON object"));
        }
        // Without its tag a variant reports the path of what is wrong; serde's tagged enums can't.
        let read = |error: serde_path_to_error::Error<serde_json::Error>| {
            let path = error.path().to_string();
            let field = (path != "." && !path.is_empty()).then_some(path);
            InvalidInput { field, reason: error.into_inner().to_string() }
        };
        let input = if object.get("kind").and_then(Value::as_str) == Some("message") {
            Self::Message(serde_path_to_error::deserialize(value).map_err(read)?)
        } else {
            serde_path_to_error::deserialize(value).map_err(read)?
        };
        match &input {
            Self::Message(message) if message.is_empty() => {
                Err(invalid("text", "a message needs `text`, `content` or `attachments`"))
            }
            Self::ToolResult { results } if results.is_empty() => {
                Err(invalid("results", "must name at least one result"))
            }
            _ => Ok(input),
        }
    }

    /// The words in it, for agents that take nothing else: a message's text, or its text parts joined.
    pub fn text(&self) -> String {
        match self {
            Self::Message(message) => message.plain_text(),
            Self::Command { query, .. } => query.clone(),
            Self::ToolResult { .. } | Self::Control { .. } | Self::Decision { .. } => String::new(),
        }
    }
}

impl Message {
    fn is_empty(&self) -> bool {
        self.text.is_none()
            && self.content.as_ref().is_none_or(Vec::is_empty)
            && self.attachments.as_ref().is_none_or(Vec::is_empty)
            && self.history.as_ref().is_none_or(Vec::is_empty)
    }

    /// The message's text, or its text parts joined by line feeds.
    pub fn plain_text(&self) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        let parts = self.content.iter().flatten().filter_map(|part| part.get("text").and_then(Value::as_str));
        parts.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_that_is_wrong_is_named() {
        let field = |document: &str| TaskInput::parse(document).unwrap_err().field;
        assert_eq!(field("[]"), None);
        assert_eq!(field("{}").as_deref(), Some("kind"));
        assert_eq!(field(r#"{"kind":7}"#).as_deref(), Some("kind"));
        assert_eq!(field(r#"{"kind":"message"}"#).as_deref(), Some("text"));
        assert_eq!(field(r#"{"kind":"message","text":1}"#).as_deref(), Some("text"));
        assert_eq!(
            field(r#"{"kind":"message","text":"a","history":[{"role":1}]}"#).as_deref(),
            Some("history[0].role")
        );
        assert_eq!(field(r#"{"kind":"tool_result","results":[]}"#).as_deref(), Some("results"));
        assert_eq!(field(r#"{"kind":"message","text":"a","forward":[]}"#).as_deref(), Some("forward"));
        assert!(TaskInput::parse(r#"{"kind":"dance"}"#).unwrap_err().reason.contains("dance"));
    }

    #[test]
    fn text_parts_are_joined_where_there_is_no_text() {
        let input = TaskInput::parse(
            r#"{"kind":"message","content":[{"type":"text","text":"a"},{"type":"image_url"},{"type":"text","text":"b"}]}"#,
        );
        assert_eq!(input.unwrap().text(), "a\nb");
    }
}
