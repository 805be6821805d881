//! A response as it grows: the agent's events become items, and what a stream tells of them.
//!
//! The same events make the same items, under the same ids and in the same numbers of a stream, however often they are
//! read: whoever comes back to a stream goes on where it was.

use super::object::{Base, Outcome};
use crate::usage::Usage;
use plugway_sdk::{Error, Event, EventKind, Executor, ToolCompleted, ToolStarted};
use serde_json::{Value, json};
use std::time::SystemTime;

/// Where a stream's events go: number, name, and the whole event as JSON.
pub(super) type Tell<'a> = dyn FnMut(u64, &str, &str) -> Result<(), Error> + 'a;

/// What has come of a response so far.
#[derive(Debug)]
pub(super) struct Growth<'a> {
    base: &'a Base,
    items: Vec<Value>,
    /// The message or the thought that is going on: the last item.
    open: Option<Open>,
    /// Calls of the agent that have no result yet, by their items' place.
    calls: Vec<(String, usize)>,
    /// All text of its messages.
    all: String,
    next: u64,
    /// The last event's number is at least this, for whoever was told so many before.
    last_from: u64,
    said: bool,
    untold: bool,
}

#[derive(Debug)]
struct Open {
    kind: OpenKind,
    text: String,
    /// What the events of its deltas begin with.
    head: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenKind {
    Message,
    Reasoning,
}

impl OpenKind {
    /// Name of the events that tell a piece of it.
    fn delta(self) -> &'static str {
        match self {
            Self::Message => "response.output_text.delta",
            Self::Reasoning => "response.reasoning_summary_text.delta",
        }
    }
}

impl<'a> Growth<'a> {
    fn new(base: &'a Base) -> Self {
        Self {
            base,
            items: Vec::new(),
            open: None,
            calls: Vec::new(),
            all: String::new(),
            next: 0,
            last_from: 0,
            said: false,
            untold: false,
        }
    }

    /// One that has not begun, for a stream from behind a number.
    pub(super) fn behind(base: &'a Base, after: Option<u64>) -> Self {
        Self { last_from: after.map_or(0, |after| after.saturating_add(1)), ..Self::new(base) }
    }

    /// One that has not begun, and that nobody follows.
    pub(super) fn untold(base: &'a Base) -> Self {
        Self { untold: true, ..Self::new(base) }
    }

    /// Whether the agent has said anything.
    pub(super) fn has_said(&self) -> bool {
        self.said
    }

    /// A run begins, which voids all that was said before. Each has numbers of its own, so that whoever comes back with a
    /// number of an earlier one is told all of it.
    pub(super) fn restart(&mut self, attempt: u32) {
        let first = u64::from(attempt.saturating_sub(1)) << 20;
        *self = Self { next: self.next.max(first), untold: self.untold, ..Self::new(self.base) };
    }

    /// The number of the next event of a stream.
    pub(super) fn next_number(&self) -> u64 {
        self.next
    }

    /// Tells nothing but what came of it.
    pub(super) fn last(&mut self, outcome: &Outcome, tell: &mut Tell<'_>) -> Result<(), Error> {
        self.end(outcome.clone(), tell).map(|_| ())
    }

    fn tell(&mut self, tell: &mut Tell<'_>, name: &str, mut event: Value) -> Result<(), Error> {
        if self.untold {
            return Ok(());
        }
        event["type"] = name.into();
        event["sequence_number"] = self.next.into();
        self.next += 1;
        tell(self.next - 1, name, &event.to_string())
    }

    /// Tells a piece of what is said: most events are one, so that it is put together from what stays the same.
    fn tell_delta(&mut self, tell: &mut Tell<'_>, text: &str) -> Result<(), Error> {
        let Some(open) = self.open.as_ref().filter(|_| !self.untold) else { return Ok(()) };
        let (head, delta, number) = (&open.head, serde_json::to_string(text)?, self.next);
        self.next += 1;
        tell(number, open.kind.delta(), &format!("{head},\"delta\":{delta},\"sequence_number\":{number}}}"))
    }

    /// Says that it is there.
    pub(super) fn begin(&mut self, tell: &mut Tell<'_>) -> Result<(), Error> {
        let response = self.base.shown(&Outcome::under_way());
        self.tell(tell, "response.created", json!({"response": response}))?;
        self.tell(tell, "response.in_progress", json!({"response": response}))
    }

    /// Takes in an event; what it came to once it has ended.
    pub(super) fn take(&mut self, event: Event, tell: &mut Tell<'_>) -> Result<Option<Outcome>, Error> {
        let at = event.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        match event.kind {
            EventKind::ResponseChunk(chunk) if !chunk.text.is_empty() => {
                self.say(OpenKind::Message, &chunk.text, tell)?;
            }
            EventKind::Thinking(thinking) if !thinking.thought.is_empty() => {
                self.say(OpenKind::Reasoning, &thinking.thought, tell)?;
            }
            EventKind::ToolStarted(call) => self.call(&call, tell)?,
            EventKind::ToolCompleted(result) => self.result(&result, tell)?,
            EventKind::Completed(done) => {
                let rest = done.text.strip_prefix(self.all.as_str()).unwrap_or_default();
                if !rest.is_empty() {
                    self.say(OpenKind::Message, rest, tell)?;
                }
                self.close(tell)?;
                self.calls_end(tell)?;
                let usage = Usage::read(&done.usage);
                let reason = match done.finish_reason.as_str() {
                    "length" => Some("max_output_tokens"),
                    "content_filter" => Some("content_filter"),
                    _ => None,
                };
                let items = std::mem::take(&mut self.items);
                return self.end(Outcome::ended(items, usage, reason, at), tell);
            }
            EventKind::Failed(failed) => {
                let error = crate::failure::error(&failed);
                let code = match error.status() {
                    429 => "rate_limit_exceeded",
                    400 => "invalid_prompt",
                    _ => "server_error",
                };
                let items = self.cut_off();
                return self.end(Outcome::failed(items, code, &error.to_string()), tell);
            }
            EventKind::Cancelled(_) => {
                let items = self.cut_off();
                return self.end(Outcome::cancelled(items), tell);
            }
            _ => {}
        }
        Ok(None)
    }

    fn end(&mut self, outcome: Outcome, tell: &mut Tell<'_>) -> Result<Option<Outcome>, Error> {
        self.next = self.next.max(self.last_from);
        let name = match outcome.status.as_str() {
            "completed" => "response.completed",
            "failed" => "response.failed",
            _ => "response.incomplete",
        };
        let response = self.base.shown(&outcome);
        self.tell(tell, name, json!({"response": response}))?;
        Ok(Some(outcome))
    }

    fn add(&mut self, item: Value, tell: &mut Tell<'_>) -> Result<usize, Error> {
        let at = self.items.len();
        self.said = true;
        self.items.push(item);
        let item = self.items[at].clone();
        self.tell(tell, "response.output_item.added", json!({"output_index": at, "item": item}))?;
        Ok(at)
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{}{:04x}", self.base.key(), self.items.len())
    }

    fn say(&mut self, kind: OpenKind, text: &str, tell: &mut Tell<'_>) -> Result<(), Error> {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close(tell)?;
            let (item, place, name, part) = match kind {
                OpenKind::Message => (
                    json!({
                        "id": self.id("msg"), "type": "message", "status": "in_progress", "role": "assistant",
                        "content": [],
                    }),
                    "content_index",
                    "response.content_part.added",
                    text_part(""),
                ),
                OpenKind::Reasoning => (
                    json!({"id": self.id("rs"), "type": "reasoning", "status": "in_progress", "summary": []}),
                    "summary_index",
                    "response.reasoning_summary_part.added",
                    json!({"type": "summary_text", "text": ""}),
                ),
            };
            let id = item["id"].clone();
            let at = self.add(item, tell)?;
            let mut head = json!({"type": kind.delta(), "item_id": id, "output_index": at, place: 0});
            if kind == OpenKind::Message {
                head["logprobs"] = json!([]);
            }
            let mut head = head.to_string();
            head.pop();
            let event = json!({"item_id": id, "output_index": at, place: 0, "part": part});
            self.tell(tell, name, event)?;
            self.open = Some(Open { kind, text: String::new(), head });
        }
        if let Some(open) = &mut self.open {
            open.text.push_str(text);
        }
        if kind == OpenKind::Message {
            self.all.push_str(text);
        }
        self.tell_delta(tell, text)
    }

    /// Ends the message or the thought that is going on.
    fn close(&mut self, tell: &mut Tell<'_>) -> Result<(), Error> {
        let Some(Open { kind, text, .. }) = self.open.take() else { return Ok(()) };
        // Calls may have come behind it.
        let Some(at) = self.items.iter().rposition(|item| item["status"] == "in_progress" && is(item, kind))
        else {
            return Ok(());
        };
        let id = self.items[at]["id"].clone();
        match kind {
            OpenKind::Message => {
                let part = text_part(&text);
                let place = json!({"item_id": id, "output_index": at, "content_index": 0});
                self.tell(
                    tell,
                    "response.output_text.done",
                    with(&place, [("text", text.into()), ("logprobs", json!([]))]),
                )?;
                self.tell(tell, "response.content_part.done", with(&place, [("part", part.clone())]))?;
                self.items[at]["content"] = json!([part]);
            }
            OpenKind::Reasoning => {
                let part = json!({"type": "summary_text", "text": text});
                let place = json!({"item_id": id, "output_index": at, "summary_index": 0});
                self.tell(
                    tell,
                    "response.reasoning_summary_text.done",
                    with(&place, [("text", text.into())]),
                )?;
                self.tell(
                    tell,
                    "response.reasoning_summary_part.done",
                    with(&place, [("part", part.clone())]),
                )?;
                self.items[at]["summary"] = json!([part]);
            }
        }
        self.done(at, tell)
    }

    fn done(&mut self, at: usize, tell: &mut Tell<'_>) -> Result<(), Error> {
        self.done_as("completed", at, tell)
    }

    fn done_as(&mut self, status: &str, at: usize, tell: &mut Tell<'_>) -> Result<(), Error> {
        self.items[at]["status"] = status.into();
        let item = self.items[at].clone();
        self.tell(tell, "response.output_item.done", json!({"output_index": at, "item": item}))
    }

    /// A call for the client to carry out is a `function_call`; one that the agent carries out itself is an `mcp_call`,
    /// so that no client takes it for its own.
    fn call(&mut self, call: &ToolStarted, tell: &mut Tell<'_>) -> Result<(), Error> {
        self.close(tell)?;
        let client = call.executor == Executor::Client;
        let (item, events) = if client {
            let item = json!({
                "id": self.id("fc"), "type": "function_call", "status": "in_progress", "call_id": call.call_id,
                "name": call.tool_name, "arguments": "",
            });
            (item, "response.function_call_arguments")
        } else {
            let item = json!({
                "id": self.id("mcp"), "type": "mcp_call", "status": "in_progress", "server_label": self.base.agent(),
                "name": call.tool_name, "arguments": "", "output": null, "error": null,
            });
            (item, "response.mcp_call_arguments")
        };
        let id = item["id"].clone();
        let at = self.add(item, tell)?;
        let place = json!({"item_id": id, "output_index": at});
        if !client {
            self.tell(tell, "response.mcp_call.in_progress", place.clone())?;
        }
        let arguments = Value::from(call.arguments.as_str());
        self.tell(tell, &format!("{events}.delta"), with(&place, [("delta", arguments.clone())]))?;
        let mut done = with(&place, [("arguments", arguments.clone())]);
        if client {
            done["name"] = call.tool_name.as_str().into();
        }
        self.tell(tell, &format!("{events}.done"), done)?;
        self.items[at]["arguments"] = arguments;
        if client {
            return self.done(at, tell);
        }
        self.calls.push((call.call_id.clone(), at));
        Ok(())
    }

    fn result(&mut self, result: &ToolCompleted, tell: &mut Tell<'_>) -> Result<(), Error> {
        let Some(found) = self.calls.iter().position(|(call, _)| *call == result.call_id) else {
            return Ok(());
        };
        let (_, at) = self.calls.remove(found);
        let text = match &result.result {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        if result.success {
            self.items[at]["output"] = text.into();
        } else {
            self.items[at]["error"] = json!({"type": "mcp_tool_execution_error", "content": text});
        }
        let name = if result.success { "response.mcp_call.completed" } else { "response.mcp_call.failed" };
        let place = json!({"item_id": self.items[at]["id"], "output_index": at});
        self.tell(tell, name, place)?;
        self.done_as(if result.success { "completed" } else { "failed" }, at, tell)
    }

    /// Calls of the agent that it never told the result of.
    fn calls_end(&mut self, tell: &mut Tell<'_>) -> Result<(), Error> {
        for (_, at) in std::mem::take(&mut self.calls) {
            self.done_as("incomplete", at, tell)?;
        }
        Ok(())
    }

    /// The items of a response that did not come to its end.
    fn cut_off(&mut self) -> Vec<Value> {
        if let Some(open) = self.open.take()
            && let Some(item) = self.items.iter_mut().rfind(|item| is(item, open.kind))
        {
            match open.kind {
                OpenKind::Message => item["content"] = json!([text_part(&open.text)]),
                OpenKind::Reasoning => {
                    item["summary"] = json!([{"type": "summary_text", "text": open.text}]);
                }
            }
        }
        for item in &mut self.items {
            if item["status"] == "in_progress" {
                item["status"] = "incomplete".into();
            }
        }
        std::mem::take(&mut self.items)
    }
}

fn is(item: &Value, kind: OpenKind) -> bool {
    item["type"]
        == match kind {
            OpenKind::Message => "message",
            OpenKind::Reasoning => "reasoning",
        }
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn with<const N: usize>(event: &Value, fields: [(&str, Value); N]) -> Value {
    let mut event = event.clone();
    for (name, value) in fields {
        event[name] = value;
    }
    event
}
