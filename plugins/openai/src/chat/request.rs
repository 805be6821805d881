//! Reading a request for a chat completion.

use crate::{
    fields::Fields,
    question::{Question, metadata, parameters, tool, tool_choice},
};
use plugway_sdk::Result;
use serde_json::{Value, json};

/// What is asked for, and how it is to be told.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    pub(crate) question: Question,
    pub(crate) stream: bool,
    /// A last chunk of a stream tells the tokens.
    pub(crate) include_usage: bool,
    /// The work goes on though the caller goes.
    pub(crate) store: bool,
}

const ONE_CHOICE: &str = "agents give one answer: only 1 is possible";
const NO_LOGPROBS: &str = "agents don't tell probabilities";
const NO_AUDIO: &str = "agents neither hear nor speak";
const OLD: &str = "is no longer supported: use tools and tool_choice";

impl ChatRequest {
    /// # Errors
    /// A 400 that names the field.
    pub(crate) fn read(body: &Value) -> Result<Self> {
        let fields = Fields::of(body)?;
        let model = fields.text("model")?.filter(|model| !model.is_empty()).map(str::to_owned);
        if fields.count("n")?.is_some_and(|n| n != 1) {
            return Err(fields.fault("n", ONE_CHOICE));
        }
        fields.refuse("logprobs", NO_LOGPROBS)?;
        if fields.count("top_logprobs")?.is_some_and(|most| most > 0) {
            return Err(fields.fault("top_logprobs", NO_LOGPROBS));
        }
        fields.refuse("audio", NO_AUDIO)?;
        if fields.list("modalities")?.is_some_and(|list| list.iter().any(|modality| modality != "text")) {
            return Err(fields.fault("modalities", NO_AUDIO));
        }
        fields.refuse("functions", OLD)?;
        if fields.value("function_call").is_some_and(|choice| choice != "auto" && choice != "none") {
            return Err(fields.fault("function_call", OLD));
        }

        let stream = fields.flag("stream")?.unwrap_or_default();
        let options = fields.object("stream_options")?;
        if options.is_some() && !stream {
            return Err(fields.fault("stream_options", "is only for streams"));
        }
        let include_usage = match options {
            Some(options) => options.flag("include_usage")?.unwrap_or_default(),
            None => false,
        };

        let mut question = Question {
            metadata: metadata(&fields)?,
            parameters: parameters(&fields)?,
            ..Question::default()
        };
        if let Some(stop) = stop(&fields)? {
            question.parameters.insert("stop".to_owned(), stop);
        }
        if let Some(format) = response_format(&fields)? {
            question.parameters.insert("response_format".to_owned(), format);
        }
        for one in fields.objects("tools")?.unwrap_or_default() {
            if one.required_text("type")? != "function" {
                return Err(one.fault("type", "must be function"));
            }
            let function = one.object("function")?.ok_or_else(|| one.fault("function", "is missing"))?;
            question.tools.push(tool(&function)?);
        }
        question.tool_choice = tool_choice(&fields, &question.tools, false)?;
        messages(&fields, &mut question)?;
        Ok(Self { model, question, stream, include_usage, store: fields.flag("store")?.unwrap_or_default() })
    }
}

/// At most four texts.
fn stop(fields: &Fields<'_>) -> Result<Option<Value>> {
    match fields.value("stop") {
        None => Ok(None),
        Some(text @ Value::String(_)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) if list.len() <= 4 && list.iter().all(Value::is_string) => {
            Ok(Some(Value::Array(list.clone())))
        }
        Some(_) => Err(fields.fault("stop", "must be a string or an array of at most 4")),
    }
}

fn response_format(fields: &Fields<'_>) -> Result<Option<Value>> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    format.required_text("type")?;
    if format.word("type", &["text", "json_object", "json_schema"])? == Some("json_schema") {
        let schema =
            format.object("json_schema")?.ok_or_else(|| format.fault("json_schema", "is missing"))?;
        schema.required_text("name")?;
        schema.object("schema")?;
    }
    Ok(Some(Value::Object(format.map().clone())))
}

/// Reads the messages. Those of the system that stand at the beginning are instructions.
fn messages(fields: &Fields<'_>, question: &mut Question) -> Result<()> {
    let messages = fields.objects("messages")?.ok_or_else(|| fields.fault("messages", "is missing"))?;
    let mut open: Vec<String> = Vec::new();
    for message in &messages {
        let role = message.required_text("role")?;
        if let Some(call) = open.first()
            && role != "tool"
        {
            let problem = format!("the call {call:?} has no answer before this message");
            return Err(message.fault("role", problem));
        }
        match role {
            "system" | "developer" => {
                let text = text(message)?;
                if question.messages.is_empty() {
                    question.instructions.extend((!text.is_empty()).then_some(text));
                } else {
                    question.messages.push(json!({"role": "system", "content": text}));
                }
            }
            "user" => {
                let mut said = json!({"role": "user", "content": content(message)?});
                if let Some(name) = message.text("name")? {
                    said["name"] = name.into();
                }
                question.messages.push(said);
            }
            "assistant" => {
                let said = assistant(message, &mut open)?;
                question.messages.push(said);
            }
            "tool" => {
                let call = message.required_text("tool_call_id")?;
                let Some(at) = open.iter().position(|open| open == call) else {
                    return Err(message.fault("tool_call_id", "answers no call of the message before it"));
                };
                open.remove(at);
                let content = if message.value("content").is_some() { text(message)? } else { String::new() };
                question.messages.push(json!({"role": "tool", "tool_call_id": call, "content": content}));
            }
            "function" => return Err(message.fault("role", OLD)),
            _ => {
                return Err(message.fault("role", "must be one of developer, system, user, assistant, tool"));
            }
        }
    }
    if let Some(call) = open.first() {
        return Err(fields.fault("messages", format_args!("the call {call:?} has no answer")));
    }
    if question.messages.is_empty() {
        // Nothing but instructions is a question too.
        let text = std::mem::take(&mut question.instructions).join("\n\n");
        if text.is_empty() {
            return Err(fields.fault("messages", "there is nothing to answer"));
        }
        question.messages.push(json!({"role": "user", "content": text}));
    }
    Ok(())
}

fn assistant(message: &Fields<'_>, open: &mut Vec<String>) -> Result<Value> {
    message.refuse("function_call", OLD)?;
    message.refuse("audio", NO_AUDIO)?;
    let mut calls = Vec::new();
    for call in message.objects("tool_calls")?.unwrap_or_default() {
        call.word("type", &["function"])?;
        let function = call.object("function")?.ok_or_else(|| call.fault("function", "is missing"))?;
        let (id, name) = (call.required_text("id")?, function.required_text("name")?);
        let arguments = function.required_text("arguments")?;
        open.push(id.to_owned());
        calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
    }
    let said = match (message.value("content"), message.text("refusal")?) {
        (Some(_), _) => Some(text(message)?),
        (None, Some(refusal)) => Some(refusal.to_owned()),
        (None, None) if calls.is_empty() => Some(String::new()),
        (None, None) => None,
    };
    let mut said = json!({"role": "assistant", "content": said});
    if !calls.is_empty() {
        said["tool_calls"] = calls.into();
    }
    Ok(said)
}

/// A part in its full form: some clients give a picture's address alone.
fn whole_part(part: &Value) -> Value {
    match &part["image_url"] {
        Value::String(url) => json!({"type": "image_url", "image_url": {"url": url}}),
        _ => part.clone(),
    }
}

/// A content of nothing but text.
fn text(message: &Fields<'_>) -> Result<String> {
    match message.value("content") {
        None => Err(message.fault("content", "is missing")),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(_)) => {
            let mut all = Vec::new();
            for part in message.objects("content")?.unwrap_or_default() {
                match part.required_text("type")? {
                    "text" => all.push(part.required_text("text")?),
                    "refusal" => all.push(part.required_text("refusal")?),
                    _ => return Err(part.fault("type", "must be text here")),
                }
            }
            Ok(all.join("\n"))
        }
        Some(_) => Err(message.fault("content", "must be a string or an array of parts")),
    }
}

/// What a user says: text, or parts that the agent gets as they are.
fn content(message: &Fields<'_>) -> Result<Value> {
    match message.value("content") {
        Some(Value::Array(parts)) => {
            if parts.is_empty() {
                return Err(message.fault("content", "has no parts"));
            }
            for part in message.objects("content")?.unwrap_or_default() {
                match part.required_text("type")? {
                    "text" => _ = part.required_text("text")?,
                    "image_url" if matches!(part.value("image_url"), Some(Value::String(_))) => {}
                    "image_url" => {
                        let image =
                            part.object("image_url")?.ok_or_else(|| part.fault("image_url", "is missing"))?;
                        image.required_text("url")?;
                        image.text("detail")?;
                    }
                    "file" => {
                        let file = part.object("file")?.ok_or_else(|| part.fault("file", "is missing"))?;
                        if ["file_id", "file_data"].iter().all(|name| file.value(name).is_none()) {
                            return Err(file.fault("file_id", "is missing, and so is file_data"));
                        }
                    }
                    "input_audio" => return Err(part.fault("type", NO_AUDIO)),
                    _ => return Err(part.fault("type", "must be one of text, image_url, file")),
                }
            }
            Ok(parts.iter().map(whole_part).collect())
        }
        _ => text(message).map(Value::from),
    }
}
