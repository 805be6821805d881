//! Items of a response, as they come in and as agents are told of them.

use crate::fields::Fields;
use plugway_sdk::{Error, Result, host};
use serde_json::{Value, json};
use std::collections::HashSet;

const NO_AUDIO: &str = "agents neither hear nor speak";
/// Longest id that an item may bring.
const ID: usize = 128;
const NOT_TAKEN: &str =
    "must be one of message, function_call, function_call_output, reasoning, mcp_call, item_reference";

/// What was brought in, each under an id.
///
/// # Errors
/// A 400 that names what is wrong.
pub(crate) fn read(fields: &Fields<'_>, name: &str) -> Result<Vec<Value>> {
    match fields.value(name) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Err(fields.fault(name, "is empty")),
        Some(Value::String(text)) => {
            let part = json!({"type": "input_text", "text": text});
            Ok(vec![named(
                json!({"type": "message", "role": "user", "status": "completed", "content": [part]}),
            )])
        }
        Some(Value::Array(_)) => {
            let items = fields.objects(name)?.unwrap_or_default();
            items.iter().map(|item| item_of(item).map(named)).collect()
        }
        Some(_) => Err(fields.fault(name, "must be a string or an array of items")),
    }
}

/// Gives an item an id of its own, unless it brought one.
fn named(mut item: Value) -> Value {
    if item["id"].as_str().is_none_or(str::is_empty) {
        let prefix = match item["type"].as_str() {
            Some("function_call") => "fc",
            Some("function_call_output") => "fco",
            Some("reasoning") => "rs",
            Some("mcp_call") => "mcp",
            _ => "msg",
        };
        item["id"] = format!("{prefix}_{}", random_id()).into();
    }
    item
}

/// Random digits for an id.
pub(crate) fn random_id() -> String {
    host::random(16).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn item_of(item: &Fields<'_>) -> Result<Value> {
    let kind = match item.text("type")? {
        Some(kind) => kind,
        // Easy messages need not say what they are; a reference neither.
        None if item.value("role").is_some() => "message",
        None if item.value("id").is_some() => "item_reference",
        None => return Err(item.fault("type", "is missing")),
    };
    let kept = |names: &[&str]| {
        let mut kept = json!({"type": kind, "status": "completed"});
        for name in names {
            if let Some(value) = item.value(name) {
                kept[*name] = value.clone();
            }
        }
        kept
    };
    if item.text("id")?.is_some_and(|id| id.len() > ID) {
        return Err(item.fault("id", format_args!("has more than {ID} bytes")));
    }
    match kind {
        "message" => {
            let role = item.required_text("role")?;
            if !["user", "assistant", "system", "developer"].contains(&role) {
                return Err(item.fault("role", "must be one of user, assistant, system, developer"));
            }
            let mut message = kept(&["id", "role"]);
            message["content"] = content(item, role)?;
            Ok(message)
        }
        "function_call" => {
            for name in ["call_id", "name", "arguments"] {
                item.required_text(name)?;
            }
            Ok(kept(&["id", "call_id", "name", "arguments"]))
        }
        "function_call_output" => {
            item.required_text("call_id")?;
            match item.value("output") {
                None => return Err(item.fault("output", "is missing")),
                Some(Value::String(_)) => {}
                Some(Value::Array(_)) => {
                    for part in item.objects("output")?.unwrap_or_default() {
                        part_of(&part)?;
                    }
                }
                Some(_) => return Err(item.fault("output", "must be a string or an array of parts")),
            }
            Ok(kept(&["id", "call_id", "output"]))
        }
        // What models thought, and what agents did themselves, comes back from clients that repeat a whole output.
        "reasoning" => Ok(kept(&["id", "summary", "content", "encrypted_content"])),
        "mcp_call" => Ok(kept(&["id", "server_label", "name", "arguments", "output", "error"])),
        "item_reference" => {
            item.required_text("id")?;
            Ok(kept(&["id"]))
        }
        // Calls of tools that other servers host, in a history that was made there: they are of no use to an agent here.
        _ if kind.ends_with("_call") || kind.ends_with("_call_output") => Ok(kept(&["id"])),
        _ => Err(item.fault("type", NOT_TAKEN)),
    }
}

/// A message's parts, whatever form they came in.
fn content(item: &Fields<'_>, role: &str) -> Result<Value> {
    let kind = if role == "assistant" { "output_text" } else { "input_text" };
    match item.value("content") {
        None => Err(item.fault("content", "is missing")),
        Some(Value::String(text)) => {
            let mut part = json!({"type": kind, "text": text});
            if role == "assistant" {
                part["annotations"] = json!([]);
            }
            Ok(json!([part]))
        }
        Some(Value::Array(parts)) => {
            if parts.is_empty() && role != "assistant" {
                return Err(item.fault("content", "has no parts"));
            }
            for part in item.objects("content")?.unwrap_or_default() {
                part_of(&part)?;
            }
            Ok(Value::Array(parts.clone()))
        }
        Some(_) => Err(item.fault("content", "must be a string or an array of parts")),
    }
}

fn part_of(part: &Fields<'_>) -> Result<()> {
    match part.required_text("type")? {
        "input_text" | "output_text" | "text" => part.required_text("text").map(|_| ()),
        "refusal" => part.required_text("refusal").map(|_| ()),
        "input_image" => {
            part.text("detail")?;
            match (part.text("image_url")?, part.text("file_id")?) {
                (None, None) => Err(part.fault("image_url", "is missing, and so is file_id")),
                _ => Ok(()),
            }
        }
        "input_file" => {
            let known = ["file_id", "file_data", "file_url"];
            for name in known {
                part.text(name)?;
            }
            if known.iter().all(|name| part.value(name).is_none()) {
                return Err(part.fault("file_id", "is missing, and so are file_data and file_url"));
            }
            Ok(())
        }
        "input_audio" => Err(part.fault("type", NO_AUDIO)),
        _ => {
            Err(part
                .fault("type", "must be one of input_text, output_text, refusal, input_image, input_file"))
        }
    }
}

/// The items as messages of chat completions, in order: what agents understand.
pub(crate) fn messages(items: &[Value]) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    for item in items {
        match item["type"].as_str() {
            Some("message") => {
                let role = match item["role"].as_str() {
                    Some("developer" | "system") => "system",
                    Some("assistant") => "assistant",
                    _ => "user",
                };
                messages.push(json!({"role": role, "content": told(&item["content"])}));
            }
            Some("function_call") => {
                let call = json!({
                    "id": item["call_id"], "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]},
                });
                // Calls belong to what the assistant said just before.
                match messages.last_mut().filter(|last| last["role"] == "assistant") {
                    Some(last) => match last["tool_calls"].as_array_mut() {
                        Some(calls) => calls.push(call),
                        None => last["tool_calls"] = json!([call]),
                    },
                    None => {
                        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}))
                    }
                }
            }
            Some("function_call_output") => {
                let content = match &item["output"] {
                    Value::String(text) => text.clone(),
                    parts => match told(parts) {
                        Value::String(text) => text,
                        parts => parts.to_string(),
                    },
                };
                messages.push(json!({"role": "tool", "tool_call_id": item["call_id"], "content": content}));
            }
            // What an agent thought and did itself is its own business.
            _ => {}
        }
    }
    messages
}

/// Parts in the form of chat completions; text alone where there is nothing else.
fn told(content: &Value) -> Value {
    let Some(parts) = content.as_array() else { return content.clone() };
    let text_of = |part: &Value| part["text"].as_str().or(part["refusal"].as_str()).map(str::to_owned);
    if let Some(texts) = parts.iter().map(text_of).collect::<Option<Vec<_>>>() {
        return texts.join("\n").into();
    }
    parts
        .iter()
        .map(|part| match part["type"].as_str() {
            Some("input_image") => {
                let mut image = json!({});
                let known = [("image_url", "url"), ("file_id", "file_id"), ("detail", "detail")];
                for (from, to) in known {
                    if let Some(value) = part.get(from).filter(|value| !value.is_null()) {
                        image[to] = value.clone();
                    }
                }
                json!({"type": "image_url", "image_url": image})
            }
            Some("input_file") => {
                let mut file = part.clone();
                if let Some(file) = file.as_object_mut() {
                    file.remove("type");
                }
                json!({"type": "file", "file": file})
            }
            _ => json!({"type": "text", "text": text_of(part).unwrap_or_default()}),
        })
        .collect()
}

/// A call that is answered and was never made: its place among the items, and its id.
pub(crate) fn unknown_call(before: &[Value], items: &[Value]) -> Option<(usize, String)> {
    let call = |item: &Value| item["call_id"].as_str().unwrap_or_default().to_owned();
    let calls = before.iter().chain(items).filter(|item| item["type"] == "function_call");
    let made: HashSet<String> = calls.map(call).collect();
    let is_unknown = |item: &Value| item["type"] == "function_call_output" && !made.contains(&call(item));
    let at = items.iter().position(is_unknown)?;
    Some((at, items[at]["call_id"].as_str().unwrap_or_default().to_owned()))
}

/// Puts the items that references mean in their place.
///
/// # Errors
/// A 400: a reference to what is not there; `find` fails, which looks among all that is kept.
pub(crate) fn resolve(
    items: Vec<Value>,
    before: &[Value],
    find: impl Fn(&str) -> Result<Option<Value>>,
) -> Result<Vec<Value>> {
    let known: HashSet<&str> = before.iter().filter_map(|item| item["id"].as_str()).collect();
    let found = |(at, item): (usize, Value)| {
        if item["type"] != "item_reference" {
            return Ok(Some(item));
        }
        let id = item["id"].as_str().unwrap_or_default();
        if known.contains(id) {
            // The agent is told of it anyway, where it stands.
            return Ok(None);
        }
        match find(id)? {
            Some(item) => Ok(Some(item)),
            None => Err(Error::field(format!("input[{at}].id"), "names no item that is kept")),
        }
    };
    items.into_iter().enumerate().map(found).filter_map(Result::transpose).collect()
}
