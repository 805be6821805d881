//! Reading a request for a response.

use super::items;
use crate::{
    fields::Fields,
    question::{metadata, parameters, tool, tool_choice},
};
use plugway_sdk::Result;
use serde_json::{Map, Value, json};

const NO_LOGPROBS: &str = "agents don't tell probabilities";

/// What is asked for, and how it is to be told and kept.
#[derive(Debug)]
pub(super) struct ResponseRequest {
    pub(super) model: Option<String>,
    /// What was brought in.
    pub(super) input: Vec<Value>,
    pub(super) instructions: Option<String>,
    pub(super) previous: Option<String>,
    pub(super) conversation: Option<String>,
    pub(super) stream: bool,
    pub(super) store: bool,
    pub(super) background: bool,
    /// Only the last messages are told.
    pub(super) truncate: bool,
    pub(super) tools: Vec<Value>,
    pub(super) tool_choice: Option<Value>,
    pub(super) parameters: Map<String, Value>,
    pub(super) metadata: Map<String, Value>,
    /// The fields of the object that repeat the request.
    pub(super) asked: Map<String, Value>,
}

impl ResponseRequest {
    /// # Errors
    /// A 400 that names the field.
    pub(super) fn read(body: &Value) -> Result<Self> {
        let fields = Fields::of(body)?;
        let model = fields.text("model")?.filter(|model| !model.is_empty()).map(str::to_owned);
        if fields.count("top_logprobs")?.is_some_and(|most| most > 0) {
            return Err(fields.fault("top_logprobs", NO_LOGPROBS));
        }
        let include = fields.list("include")?.unwrap_or_default();
        if include.iter().any(|what| what == "message.output_text.logprobs") {
            return Err(fields.fault("include", NO_LOGPROBS));
        }
        fields.refuse("prompt", "prompts are not kept here: send instructions and input")?;

        let previous = fields.text("previous_response_id")?.filter(|id| !id.is_empty()).map(str::to_owned);
        let conversation = conversation(&fields)?;
        if previous.is_some() && conversation.is_some() {
            return Err(fields.fault("previous_response_id", "can't be used together with conversation"));
        }
        let store = fields.flag("store")?.unwrap_or(true);
        let background = fields.flag("background")?.unwrap_or_default();
        if background && !store {
            return Err(fields.fault("background", "needs store"));
        }
        if conversation.is_some() && !store {
            return Err(fields.fault("store", "must be true for a conversation"));
        }
        let truncation = fields.word("truncation", &["auto", "disabled"])?.unwrap_or("disabled");
        let instructions = fields.text("instructions")?.map(str::to_owned);
        let input = items::read(&fields, "input")?;
        if input.is_empty() && previous.is_none() && conversation.is_none() {
            return Err(fields.fault("input", "is missing"));
        }

        for name in ["service_tier", "prompt_cache_key"] {
            fields.text(name)?;
        }
        let metadata = metadata(&fields)?;
        let mut parameters = parameters(&fields)?;
        parameters.remove("max_tokens");
        parameters.remove("max_completion_tokens");
        if let Some(most) = fields.count("max_output_tokens")? {
            parameters.insert("max_completion_tokens".to_owned(), most.into());
        }
        fields.count("max_tool_calls")?;
        let reasoning = reasoning(&fields, &mut parameters)?;
        let text = text(&fields, &mut parameters)?;
        let mut tools = Vec::new();
        for one in fields.objects("tools")?.unwrap_or_default() {
            if one.required_text("type")? != "function" {
                return Err(
                    one.fault("type", "must be function: an agent has its own tools for everything else")
                );
            }
            tools.push(tool(&one)?);
        }
        let tool_choice = tool_choice(&fields, &tools, true)?;

        let or = |name: &str, default: Value| fields.value(name).cloned().unwrap_or(default);
        let asked = json!({
            "background": background,
            "instructions": instructions,
            "max_output_tokens": or("max_output_tokens", Value::Null),
            "max_tool_calls": or("max_tool_calls", Value::Null),
            "parallel_tool_calls": or("parallel_tool_calls", true.into()),
            "previous_response_id": previous,
            "prompt_cache_key": or("prompt_cache_key", Value::Null),
            "reasoning": reasoning,
            "safety_identifier": or("safety_identifier", Value::Null),
            "service_tier": "default",
            "store": store,
            "temperature": or("temperature", json!(1.0)),
            "text": text,
            "tool_choice": or("tool_choice", "auto".into()),
            "tools": or("tools", json!([])),
            "top_logprobs": 0,
            "top_p": or("top_p", json!(1.0)),
            "truncation": truncation,
            "user": or("user", Value::Null),
            "metadata": metadata,
            "conversation": conversation.as_ref().map(|id| json!({"id": id})),
        });
        let asked = asked.as_object().cloned().unwrap_or_default();
        Ok(Self {
            model,
            input,
            instructions,
            previous,
            conversation,
            stream: fields.flag("stream")?.unwrap_or_default(),
            store,
            background,
            truncate: truncation == "auto",
            tools,
            tool_choice,
            parameters,
            metadata,
            asked,
        })
    }
}

/// By name, or as an object with its id.
fn conversation(fields: &Fields<'_>) -> Result<Option<String>> {
    let id = match fields.value("conversation") {
        None => return Ok(None),
        Some(Value::Object(_)) => match fields.object("conversation")? {
            Some(object) => object.required_text("id")?,
            None => return Ok(None),
        },
        Some(_) => fields.required_text("conversation")?,
    };
    if id.is_empty() || id.len() > 200 || id.contains('/') || id.contains(char::is_control) {
        return Err(fields
            .fault("conversation", "must have 1 to 200 bytes, none of them a slash or a control character"));
    }
    Ok(Some(id.to_owned()))
}

fn reasoning(fields: &Fields<'_>, parameters: &mut Map<String, Value>) -> Result<Value> {
    let Some(reasoning) = fields.object("reasoning")? else {
        return Ok(json!({"effort": null, "summary": null}));
    };
    let (effort, summary) = (reasoning.text("effort")?, reasoning.text("summary")?);
    if let Some(effort) = effort {
        parameters.insert("reasoning_effort".to_owned(), effort.into());
    }
    Ok(json!({"effort": effort, "summary": summary}))
}

fn text(fields: &Fields<'_>, parameters: &mut Map<String, Value>) -> Result<Value> {
    let mut shown = json!({"format": {"type": "text"}});
    let Some(text) = fields.object("text")? else { return Ok(shown) };
    if let Some(verbosity) = text.text("verbosity")? {
        parameters.insert("verbosity".to_owned(), verbosity.into());
        shown["verbosity"] = verbosity.into();
    }
    if let Some(format) = text.object("format")? {
        format.required_text("type")?;
        let passed = match format.word("type", &["text", "json_object", "json_schema"])? {
            Some("json_schema") => {
                format.required_text("name")?;
                format.object("schema")?.ok_or_else(|| format.fault("schema", "is missing"))?;
                let mut schema = Value::Object(format.map().clone());
                if let Some(schema) = schema.as_object_mut() {
                    schema.remove("type");
                }
                json!({"type": "json_schema", "json_schema": schema})
            }
            _ => Value::Object(format.map().clone()),
        };
        parameters.insert("response_format".to_owned(), passed);
        shown["format"] = Value::Object(format.map().clone());
    }
    Ok(shown)
}
