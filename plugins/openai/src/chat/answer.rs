//! A chat completion as it grows: whole at its end, or chunk by chunk.

use crate::usage::Usage;
use plugway_sdk::{EventKind, Executor, TaskId, ToolStarted, host};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::SystemTime;

/// What was said so far.
#[derive(Debug)]
pub(super) struct Answer {
    id: String,
    created: u64,
    model: String,
    text: String,
    reasoning: String,
    calls: Vec<ToolStarted>,
    usage: Usage,
    finish_reason: &'static str,
    include_usage: bool,
    /// What every chunk begins with.
    head: String,
}

#[derive(Serialize)]
struct Head<'a> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
}

impl Answer {
    /// One that has not begun.
    pub(super) fn new(task: &TaskId, model: String) -> Self {
        let id = format!("chatcmpl-{}", task.as_str().trim_start_matches("task_"));
        let created = host::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self {
            id,
            created,
            model,
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            usage: Usage::default(),
            finish_reason: "stop",
            include_usage: false,
            head: String::new(),
        }
    }

    /// Chunks are going to be asked for.
    pub(super) fn include_usage(&mut self, include_usage: bool) {
        self.include_usage = include_usage;
        let head =
            Head { id: &self.id, object: "chat.completion.chunk", created: self.created, model: &self.model };
        let mut head = serde_json::to_string(&head).unwrap_or_default();
        head.pop();
        self.head = format!("data: {head},\"system_fingerprint\":null");
    }

    /// A new run voids all that was said.
    pub(super) fn restart(&mut self) {
        self.text.clear();
        self.reasoning.clear();
        self.calls.clear();
    }

    /// Whether anything was said.
    pub(super) fn has_said(&self) -> bool {
        !(self.text.is_empty() && self.reasoning.is_empty() && self.calls.is_empty())
    }

    /// Takes in what the agent tells.
    pub(super) fn take(&mut self, event: EventKind) {
        match event {
            EventKind::ResponseChunk(chunk) => self.text.push_str(&chunk.text),
            EventKind::Thinking(thinking) => self.reasoning.push_str(&thinking.thought),
            EventKind::ToolStarted(call) if call.executor == Executor::Client => self.calls.push(call),
            EventKind::Completed(done) => {
                if !done.text.is_empty() {
                    self.text = done.text;
                }
                self.usage = Usage::read(&done.usage);
                self.finish_reason = match done.finish_reason.as_str() {
                    _ if !self.calls.is_empty() => "tool_calls",
                    "length" => "length",
                    "content_filter" => "content_filter",
                    _ => "stop",
                };
            }
            _ => {}
        }
    }

    /// The whole answer.
    pub(super) fn whole(&self) -> Value {
        let content = if self.text.is_empty() && !self.calls.is_empty() { None } else { Some(&self.text) };
        let mut message =
            json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.as_str().into();
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.iter().map(|call| shown(call, None)).collect();
        }
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": message,
                "logprobs": null,
                "finish_reason": self.finish_reason,
            }],
            "usage": self.usage.chat(),
            "system_fingerprint": null,
        })
    }

    fn chunk(&self, delta: &str, finish_reason: &str) -> String {
        let usage = if self.include_usage { ",\"usage\":null" } else { "" };
        format!(
            "{},\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish_reason}}}]{usage}}}\n\n",
            self.head
        )
    }

    /// Says who speaks.
    pub(super) fn first_chunk(&self) -> String {
        self.chunk(r#"{"role":"assistant","content":"","refusal":null}"#, "null")
    }

    /// Takes in what the agent tells; none: nothing of it is for the caller.
    pub(super) fn chunks(&mut self, event: EventKind) -> Option<String> {
        let text = |name: &str, text: &str| {
            let text = serde_json::to_string(text).unwrap_or_default();
            (text != "\"\"").then(|| format!("{{\"{name}\":{text}}}"))
        };
        let delta = match &event {
            EventKind::ResponseChunk(chunk) => text("content", &chunk.text),
            EventKind::Thinking(thinking) => text("reasoning_content", &thinking.thought),
            EventKind::ToolStarted(call) if call.executor == Executor::Client => {
                let call = shown(call, Some(self.calls.len()));
                Some(json!({"tool_calls": [call]}).to_string())
            }
            EventKind::Completed(done) => {
                let rest = done.text.strip_prefix(self.text.as_str()).unwrap_or_default();
                text("content", rest)
            }
            _ => None,
        };
        self.take(event);
        delta.map(|delta| self.chunk(&delta, "null"))
    }

    /// Says why it ends, and what it took.
    pub(super) fn last_chunks(&self) -> String {
        let mut chunks = self.chunk("{}", &format!("\"{}\"", self.finish_reason));
        if self.include_usage {
            chunks += &format!("{},\"choices\":[],\"usage\":{}}}\n\n", self.head, self.usage.chat());
        }
        chunks + "data: [DONE]\n\n"
    }
}

/// A call, as the caller is told of it. In a stream its index says which one it is.
fn shown(call: &ToolStarted, index: Option<usize>) -> Value {
    let function = json!({"name": call.tool_name, "arguments": call.arguments});
    let mut shown = json!({"id": call.call_id, "type": "function", "function": function});
    if let Some(index) = index {
        shown["index"] = index.into();
    }
    shown
}
