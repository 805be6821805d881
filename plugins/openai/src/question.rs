//! What is asked of an agent, whichever endpoint it came by: messages in the form of chat completions, and what goes with
//! them.

use crate::{fields::Fields, models::Model};
use plugway_sdk::{Error, Request, Result, SubmitError, Submitted, Task};
use serde_json::{Map, Value, json};

/// Bounds of metadata, as the API has them.
const METADATA: (usize, usize, usize) = (16, 64, 512);
/// Most bytes of a session's name that a caller gives.
const SESSION: usize = 256;
/// How often work under one key is begun anew.
const AGAIN: u32 = 20;
/// Header by which Open WebUI names the chat.
const CHAT_ID: &str = "x-openwebui-chat-id";

/// A turn that is about to become a task.
#[derive(Debug, Default)]
pub(crate) struct Question {
    /// Layered on the agent's own, in order.
    pub(crate) instructions: Vec<String>,
    /// All messages, the last one included.
    pub(crate) messages: Vec<Value>,
    /// Tools of the client, in the form of chat completions.
    pub(crate) tools: Vec<Value>,
    pub(crate) tool_choice: Option<Value>,
    /// Sampling and the like, by the names of chat completions.
    pub(crate) parameters: Map<String, Value>,
    pub(crate) metadata: Map<String, Value>,
}

impl Question {
    /// The task of a turn that is told its history here.
    pub(crate) fn task(mut self, model: &Model) -> Task {
        let mut task = Task::of_kind("message");
        if self.messages.last().is_some_and(|message| message["role"] == "user")
            && let Some(last) = self.messages.pop()
        {
            task = said(task, &last);
        }
        task = task.history(&self.messages);
        self.beside(task, model)
    }

    /// The task of a turn of one message, whose history its session tells.
    pub(crate) fn turn(self, model: &Model) -> Task {
        let task = Task::of_kind("message");
        let task = match self.messages.last() {
            Some(message) => said(task, message),
            None => task,
        };
        self.beside(task, model)
    }

    /// What goes with the messages.
    fn beside(self, task: Task, model: &Model) -> Task {
        let Self { instructions, tools, tool_choice, mut parameters, metadata, .. } = self;
        let mut task = task.agent(&model.agent);
        if !instructions.is_empty() {
            task = task.instructions(&instructions.join("\n\n"));
        }
        if tools.is_empty() {
            // Some model servers refuse it where there is nothing to call.
            parameters.remove("parallel_tool_calls");
        } else {
            task = task.input("tools", &tools);
            if let Some(choice) = tool_choice {
                task = task.input("tool_choice", &choice);
            }
        }
        if !parameters.is_empty() {
            task = task.input("parameters", &parameters);
        }
        if !metadata.is_empty() {
            task = task.input("metadata", &metadata);
        }
        task
    }
}

fn said(task: Task, message: &Value) -> Task {
    match &message["content"] {
        parts @ Value::Array(_) => task.input("content", parts),
        text => task.input("text", text),
    }
}

/// Reads metadata.
///
/// # Errors
/// A 400 that names what is over a bound or no text.
pub(crate) fn metadata(fields: &Fields<'_>) -> Result<Map<String, Value>> {
    let Some(metadata) = fields.object("metadata")? else { return Ok(Map::new()) };
    let (entries, key, value) = METADATA;
    if metadata.map().len() > entries {
        return Err(fields.fault("metadata", format_args!("has more than {entries} entries")));
    }
    for (name, content) in metadata.map() {
        if name.len() > key {
            return Err(fields.fault("metadata", format_args!("a key has more than {key} bytes")));
        }
        match content.as_str() {
            None => return Err(metadata.fault(name, "must be a string")),
            Some(text) if text.chars().count() > value => {
                return Err(metadata.fault(name, format_args!("has more than {value} characters")));
            }
            Some(_) => {}
        }
    }
    Ok(metadata.map().clone())
}

/// The session that a caller names, by metadata or as Open WebUI does; its turns run in order.
///
/// # Errors
/// A 400: the name is too long.
pub(crate) fn session(request: &Request, metadata: &Map<String, Value>) -> Result<Option<String>> {
    let named = metadata.get("session").and_then(Value::as_str).map(|name| ("metadata.session", name));
    let found = named.or_else(|| request.header(CHAT_ID).map(|name| (CHAT_ID, name)));
    match found.filter(|(_, name)| !name.is_empty()) {
        Some((field, name)) if name.len() > SESSION => {
            Err(Error::field(field, format_args!("has more than {SESSION} bytes")))
        }
        found => Ok(found.map(|(_, name)| format!("chat/{name}"))),
    }
}

/// The key under which a repeated request is the same one, for whoever showed this key.
///
/// # Errors
/// A 400: it is empty or too long.
pub(crate) fn idempotency_key(request: &Request, endpoint: &str) -> Result<Option<String>> {
    let Some(key) = request.header("idempotency-key") else { return Ok(None) };
    if key.is_empty() || key.len() > 255 {
        return Err(Error::field("Idempotency-Key", "must have 1 to 255 bytes"));
    }
    let caller = request.caller.as_deref().unwrap_or_default();
    Ok(Some(format!("{endpoint}/{caller}/{key}")))
}

/// Submits a turn. Under a key whose work came to nothing for a reason that may have passed, it is begun anew: whoever gives
/// a key means to ask again.
///
/// # Errors
/// What the host says, of the field that most of the input came in.
pub(crate) fn submit(task: Task, key: Option<String>, field: &str) -> Result<Submitted> {
    let Some(key) = key else { return task.submit().map_err(|error| refused(error, field)) };
    let mut again = 0;
    loop {
        let key = if again == 0 { key.clone() } else { format!("{key}/{again}") };
        let submitted = task.clone().idempotency_key(key).submit().map_err(|error| refused(error, field))?;
        if !submitted.duplicate || again == AGAIN || !may_come_to_more(&submitted)? {
            return Ok(submitted);
        }
        again += 1;
    }
}

fn may_come_to_more(task: &Submitted) -> Result<bool> {
    let task = task.describe()?.unwrap_or_default();
    Ok(task["state"] == "failed" && task["result"]["recoverable"] == true)
}

/// What the host says of a task that it does not take. What is wrong with the input is wrong with the field that most of it
/// came in.
fn refused(error: SubmitError, field: &str) -> Error {
    match error {
        SubmitError::Invalid(why) => Error::field(field, why),
        other => other.into(),
    }
}

/// A kind of parameter.
enum Is {
    Between(f64, f64),
    Count,
    Whole,
    Flag,
    Text,
    Object,
}

/// Parameters that go to the agent as they are.
const PASSED: [(&str, Is); 18] = [
    ("temperature", Is::Between(0.0, 2.0)),
    ("top_p", Is::Between(0.0, 1.0)),
    ("min_p", Is::Between(0.0, 1.0)),
    ("frequency_penalty", Is::Between(-2.0, 2.0)),
    ("presence_penalty", Is::Between(-2.0, 2.0)),
    ("repetition_penalty", Is::Between(0.0, 10.0)),
    ("max_tokens", Is::Count),
    ("max_completion_tokens", Is::Count),
    ("seed", Is::Whole),
    ("top_k", Is::Whole),
    ("parallel_tool_calls", Is::Flag),
    ("reasoning_effort", Is::Text),
    ("verbosity", Is::Text),
    ("safety_identifier", Is::Text),
    ("user", Is::Text),
    ("logit_bias", Is::Object),
    ("prediction", Is::Object),
    ("web_search_options", Is::Object),
];

/// Takes the parameters that both endpoints know by the same names.
///
/// # Errors
/// A 400 that names one of another type, or out of its range.
pub(crate) fn parameters(fields: &Fields<'_>) -> Result<Map<String, Value>> {
    let mut passed = Map::new();
    for (name, kind) in &PASSED {
        let Some(value) = fields.value(name) else { continue };
        if (*name, value.as_i64()) == ("max_tokens", Some(-1)) {
            // Some clients' way to say that there is no bound.
            continue;
        }
        match kind {
            Is::Between(least, most) => {
                let number = fields.number(name)?;
                if number.is_some_and(|number| !(*least..=*most).contains(&number)) {
                    return Err(fields.fault(name, format_args!("must be from {least} to {most}")));
                }
            }
            Is::Count => {
                if fields.count(name)? == Some(0) {
                    return Err(fields.fault(name, "must be at least 1"));
                }
            }
            Is::Whole if !value.is_i64() && !value.is_u64() => {
                return Err(fields.fault(name, "must be a whole number"));
            }
            Is::Whole => {}
            Is::Flag => _ = fields.flag(name)?,
            Is::Text => _ = fields.text(name)?,
            Is::Object => _ = fields.object(name)?,
        }
        passed.insert((*name).to_owned(), value.clone());
    }
    Ok(passed)
}

/// A tool's function as it stands in both endpoints, at its own level in one and below `function` in the other.
///
/// # Errors
/// A 400 that names what is wrong.
pub(crate) fn tool(function: &Fields<'_>) -> Result<Value> {
    let name = function.required_text("name")?;
    let is_name = |name: &str| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    if !is_name(name) {
        return Err(function.fault("name", "must have 1 to 64 letters, digits, dashes and underscores"));
    }
    function.text("description")?;
    function.object("parameters")?;
    function.flag("strict")?;
    let kept = ["name", "description", "parameters", "strict"];
    let kept = kept.into_iter().filter_map(|field| Some((field.to_owned(), function.value(field)?.clone())));
    Ok(json!({"type": "function", "function": kept.collect::<Map<_, _>>()}))
}

/// Checks a choice of a tool, and puts it in the form of chat completions: its name stands below `function` there, and
/// `at_top` in the other.
///
/// # Errors
/// A 400 that names what is wrong.
pub(crate) fn tool_choice(fields: &Fields<'_>, tools: &[Value], at_top: bool) -> Result<Option<Value>> {
    let choice = match fields.value("tool_choice") {
        None => return Ok(None),
        Some(Value::String(_)) => {
            let word = fields.word("tool_choice", &["none", "auto", "required"])?;
            word.map(Value::from)
        }
        Some(_) => {
            let choice = fields.object("tool_choice")?;
            let Some(choice) = choice else { return Ok(None) };
            if choice.required_text("type")? != "function" {
                return Err(
                    choice.fault("type", "must be function: agents choose among their own tools themselves")
                );
            }
            let holder = if at_top { Some(choice.clone()) } else { choice.object("function")? };
            let holder = holder.ok_or_else(|| choice.fault("function", "is missing"))?;
            let name = holder.required_text("name")?;
            if tools.iter().all(|tool| tool["function"]["name"] != name) {
                return Err(holder.fault("name", "is none of the tools"));
            }
            Some(json!({"type": "function", "function": {"name": name}}))
        }
    };
    if tools.is_empty() && choice.as_ref().is_some_and(|choice| choice != "none" && choice != "auto") {
        return Err(fields.fault("tool_choice", "needs tools to choose from"));
    }
    Ok(choice)
}
