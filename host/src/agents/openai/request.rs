//! The chat-completions request of one turn: instructions, history, what was said now, and what goes with it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::{Turn, attachment};
use super::conversation;
use crate::domain::{HistoryMessage, Message, TaskInput, ToolResult};

/// Sampling parameters that a caller may set. What else an input names (`model`, `n`, `stream`, …) is the operator's or
/// the gateway's to decide.
const CALLER_PARAMETERS: [&str; 21] = [
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "modalities",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "safety_identifier",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

/// What the operator sets for every request of an agent.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) model: String,
    pub(super) instructions: Option<String>,
    pub(super) parameters: Map<String, Value>,
    pub(super) include_usage: bool,
}

/// What may stand beside any kind of input, in the document as it was submitted.
#[derive(Default, Deserialize)]
struct Beside {
    instructions: Option<String>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parameters: Option<Map<String, Value>>,
}

/// Puts the request's body together.
///
/// # Errors
/// A sentence: the input is of a kind that a model can do nothing with, or answers a call that the model can't be told.
pub(super) fn body(template: &Template, turn: &Turn) -> Result<Value, String> {
    let history: Vec<Value> = turn.history.iter().cloned().map(into_value).collect();
    let (now, beside): (Vec<Value>, Beside) = match &turn.input {
        TaskInput::Message(message) => {
            let beside = Beside {
                instructions: message.instructions.clone(),
                tools: message.tools.clone(),
                tool_choice: message.tool_choice.clone(),
                parameters: message.parameters.clone(),
            };
            (user_message(message).into_iter().collect(), beside)
        }
        TaskInput::ToolResult { results } => {
            // The model may want to call again, so its tools have to be told again: adapters put them beside the results.
            let beside: Beside = serde_json::from_str(&turn.document).unwrap_or_default();
            check_calls(results, &history)?;
            (results.iter().map(HistoryMessage::from).map(into_value).collect(), beside)
        }
        TaskInput::Command { query, symbol } => {
            let text = match symbol {
                Some(symbol) => format!("{query}\n\nSymbol: {symbol}"),
                None => query.clone(),
            };
            (vec![json!({"role": "user", "content": text})], Beside::default())
        }
        TaskInput::Control { .. } => return Err(refusal("control")),
        TaskInput::Decision { .. } => return Err(refusal("decision")),
    };
    let mut messages = Vec::new();
    let instructions = [template.instructions.as_deref(), beside.instructions.as_deref()];
    let instructions: Vec<_> = instructions.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    if !instructions.is_empty() {
        // One message, since many local models' templates allow one only.
        messages.push(json!({"role": "system", "content": instructions.join("\n\n")}));
    }
    messages.extend(conversation::in_order(history.into_iter().chain(now).collect()));
    if messages.is_empty() {
        return Err("there is nothing to answer".to_owned());
    }

    let mut body = template.parameters.clone();
    for (name, value) in beside.parameters.into_iter().flatten() {
        if CALLER_PARAMETERS.contains(&name.as_str()) && !value.is_null() {
            body.insert(name, value);
        }
    }
    body.insert("model".to_owned(), template.model.clone().into());
    body.insert("messages".to_owned(), messages.into());
    body.insert("stream".to_owned(), true.into());
    if template.include_usage {
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    if let Some(tools) = beside.tools.filter(|tools| !tools.is_empty()) {
        body.insert("tools".to_owned(), tools.into());
        if let Some(choice) = beside.tool_choice {
            body.insert("tool_choice".to_owned(), choice);
        }
    }
    Ok(Value::Object(body))
}

fn refusal(kind: &str) -> String {
    format!("this agent takes messages, commands and tool results, and can do nothing with a `{kind}`")
}

/// Each result must answer a call in the history: without it, nobody knows what the result is of.
fn check_calls(results: &[ToolResult], history: &[Value]) -> Result<(), String> {
    let made = conversation::call_ids(history);
    match results.iter().position(|result| !made.contains(result.call_id.as_str())) {
        Some(at) => {
            let id = &results[at].call_id;
            Err(format!("`results[{at}].call_id`: no call `{id}` is in the turns that the model is told of"))
        }
        None => Ok(()),
    }
}

fn into_value(message: HistoryMessage) -> Value {
    let mut object = message.rest;
    object.insert("role".to_owned(), message.role.into());
    object.insert("content".to_owned(), message.content);
    Value::Object(object)
}

/// None where the input is a history and nothing else.
fn user_message(message: &Message) -> Option<Value> {
    let attachments = message.attachments.as_deref().unwrap_or_default();
    let mut parts = match (&message.content, &message.text) {
        (Some(parts), _) if !parts.is_empty() => parts.clone(),
        (_, Some(text)) if attachments.is_empty() => return Some(json!({"role": "user", "content": text})),
        (_, Some(text)) => vec![json!({"type": "text", "text": text})],
        (_, None) => Vec::new(),
    };
    parts.extend(attachments.iter().map(attachment::part));
    let texts: Option<Vec<&str>> =
        parts.iter().map(|part| (part["type"] == "text").then(|| part["text"].as_str()).flatten()).collect();
    match texts {
        _ if parts.is_empty() => None,
        // Servers for text-only models know no parts.
        Some(texts) => Some(json!({"role": "user", "content": texts.join("\n")})),
        None => Some(json!({"role": "user", "content": parts})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{SessionId, TaskId};

    fn body_of(document: Value, history: Value) -> Result<Value, String> {
        let document = document.to_string();
        let template = Template {
            model: "m".to_owned(),
            instructions: Some("Be brief.".to_owned()),
            parameters: serde_json::from_value(json!({"temperature": 0.2, "top_p": 0.9})).unwrap(),
            include_usage: true,
        };
        let turn = Turn {
            task: TaskId::new(),
            session: SessionId::fresh(""),
            attempt: 1,
            input: TaskInput::parse(&document).unwrap(),
            document: document.into(),
            history: serde_json::from_value(history).unwrap(),
        };
        let body = body(&template, &turn)?;
        let messages = body["messages"].as_array().unwrap();
        assert_eq!(conversation::tests::refusal(messages), None, "of {messages:?}");
        Ok(body)
    }

    #[test]
    fn instructions_history_and_message_come_in_this_order() {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let history = json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c"}]},
            {"role": "tool", "tool_call_id": "c", "content": "r"}
        ]);
        let document = json!({
            "kind": "message", "text": "b", "instructions": "Speak Latin.", "tools": tools, "tool_choice": "auto",
            "parameters": {"temperature": 1.5, "model": "other", "n": 7, "stream": false, "seed": null}
        });
        let body = body_of(document, history.clone()).unwrap();
        assert_eq!(
            body,
            json!({
                "model": "m", "stream": true, "stream_options": {"include_usage": true},
                "temperature": 1.5, "top_p": 0.9, "tools": tools, "tool_choice": "auto",
                "messages": [
                    {"role": "system", "content": "Be brief.\n\nSpeak Latin."},
                    history[0], history[1], history[2],
                    {"role": "user", "content": "b"}
                ]
            })
        );
    }

    #[test]
    fn attachments_are_shown_or_told() {
        let document = json!({
            "kind": "message", "text": "look",
            "attachments": [
                {"type": "photo", "url": "https://files.example/a.png"},
                {"type": "document", "file_id": "secret-ish", "file_name": "plan.pdf", "mime_type": "application/pdf", "file_size": 12}
            ]
        });
        assert_eq!(
            body_of(document, json!([])).unwrap()["messages"][1]["content"],
            json!([
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "https://files.example/a.png"}},
                {"type": "text", "text": "[attachment: plan.pdf, document, application/pdf, 12 bytes]"}
            ])
        );
        let told = json!({"kind": "message", "text": "look", "attachments": [{"name": "a.txt"}]});
        let body = body_of(told, json!([])).unwrap();
        assert_eq!(body["messages"][1]["content"], "look\n[attachment: a.txt]");
    }

    #[test]
    fn parts_are_passed_on() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]);
        let body = body_of(json!({"kind": "message", "text": "a", "content": parts}), json!([])).unwrap();
        assert_eq!(body["messages"][1]["content"], parts);
    }

    #[test]
    fn tool_results_answer_the_calls_and_tools_are_told_again() {
        let document = json!({
            "kind": "tool_result", "tools": [{"type": "function"}],
            "results": [{"call_id": "a", "result": {"t": 20}}, {"call_id": "b", "error": "offline"}]
        });
        let history = json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "a"}, {"id": "b"}]}
        ]);
        let body = body_of(document, history.clone()).unwrap();
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": "Be brief."},
                history[0], history[1],
                {"role": "tool", "tool_call_id": "a", "content": "{\"t\":20}"},
                {"role": "tool", "tool_call_id": "b", "content": "error: offline"}
            ])
        );
        assert_eq!(body["tools"], json!([{"type": "function"}]));
    }

    #[test]
    fn a_call_that_the_user_went_on_without_answering_holds_up_nothing() {
        let history = json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "a"}]}
        ]);
        let body = body_of(json!({"kind": "message", "text": "never mind"}), history.clone()).unwrap();
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": "Be brief."},
                history[0], history[1],
                {"role": "tool", "tool_call_id": "a", "content": "no result so far"},
                {"role": "user", "content": "never mind"}
            ])
        );
    }

    #[test]
    fn a_history_that_ends_with_results_needs_nothing_more() {
        let history = json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "a"}]},
            {"role": "tool", "tool_call_id": "a", "content": "sunny"}
        ]);
        let body = body_of(json!({"kind": "message", "history": history}), history.clone()).unwrap();
        assert_eq!(body["messages"].as_array().unwrap()[1..], history.as_array().unwrap()[..]);
    }

    #[test]
    fn a_result_of_an_unknown_call_is_refused_by_name() {
        let document = json!({
            "kind": "tool_result", "results": [{"call_id": "a", "result": 1}, {"call_id": "x", "result": 2}]
        });
        let history = json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "a"}]}]);
        let error = body_of(document, history).unwrap_err();
        assert!(error.starts_with("`results[1].call_id`: ") && error.contains("`x`"), "{error}");
    }

    #[test]
    fn what_a_model_can_do_nothing_with_is_refused() {
        assert!(body_of(json!({"kind": "control", "name": "switch_agent"}), json!([])).is_err());
        let command = body_of(json!({"kind": "command", "query": "q", "symbol": "BTC"}), json!([])).unwrap();
        assert_eq!(command["messages"][1]["content"], "q\n\nSymbol: BTC");
    }
}
