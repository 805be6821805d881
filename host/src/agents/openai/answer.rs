//! Gathers a streamed answer: text and thoughts are told as they come, tool calls once they are whole.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{COMPLETION, Failure};
use crate::domain::AgentEvent;

/// Calls that one answer may hold.
const MAX_CALLS: usize = 128;

/// One frame of a stream, or a whole answer (`message` in the place of `delta`).
#[derive(Deserialize)]
struct Frame {
    #[serde(default, deserialize_with = "nullable")]
    choices: Vec<Choice>,
    usage: Option<Value>,
    error: Option<Value>,
    object: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(alias = "message")]
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<Value>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<Value>,
    #[serde(default, deserialize_with = "nullable")]
    tool_calls: Vec<CallDelta>,
}

#[derive(Deserialize)]
struct CallDelta {
    index: Option<u32>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    /// A text; some servers send the object itself.
    arguments: Option<Value>,
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug)]
struct Call {
    index: Option<u32>,
    id: String,
    name: String,
    arguments: String,
}

/// What was gathered so far.
#[derive(Debug)]
pub(super) struct Answer {
    text: String,
    calls: Vec<Call>,
    usage: Value,
    finish_reason: Option<String>,
    /// Anything of the answer has come.
    begun: bool,
    size: usize,
    max_size: usize,
}

impl Answer {
    /// Gathers an answer of at most `max_size` bytes of text, thoughts and arguments together.
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            text: String::new(),
            calls: Vec::new(),
            usage: Value::Null,
            finish_reason: None,
            begun: false,
            size: 0,
            max_size,
        }
    }

    /// Whether the first token has come.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the server said how it ended: only figures may follow.
    pub(super) fn is_finished(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// Takes the next frame, and tells what is to be told at once.
    ///
    /// # Errors
    /// The frame is an error, can't be read, or makes the answer too large.
    pub(super) fn frame(&mut self, data: &str) -> Result<Vec<AgentEvent>, Failure> {
        let frame: Frame =
            serde_json::from_str(data).map_err(|error| Failure::malformed(COMPLETION, &error, data))?;
        if let Some(error) = &frame.error {
            return Err(Failure::reported(error));
        }
        if frame.object.as_deref() == Some("error") {
            return Err(Failure::reported(&serde_json::from_str(data).unwrap_or_default()));
        }
        if let Some(usage) = frame.usage.filter(Value::is_object) {
            self.usage = usage;
        }
        let mut events = Vec::new();
        for choice in frame.choices.into_iter().filter(|choice| choice.index == 0) {
            if let Some(delta) = choice.delta {
                self.delta(delta, &mut events)?;
            }
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finish_reason = Some(reason);
            }
        }
        Ok(events)
    }

    fn delta(&mut self, delta: Delta, events: &mut Vec<AgentEvent>) -> Result<(), Failure> {
        let thought =
            delta.reasoning_content.or_else(|| delta.reasoning.and_then(text_of)).unwrap_or_default();
        if !thought.is_empty() {
            self.grow(thought.len())?;
            events.push(AgentEvent::Thinking { thought, step: None });
        }
        for text in [delta.content.and_then(text_of), delta.refusal].into_iter().flatten() {
            if !text.is_empty() {
                self.grow(text.len())?;
                self.text.push_str(&text);
                events.push(AgentEvent::ResponseChunk { text });
            }
        }
        delta.tool_calls.into_iter().try_for_each(|call| self.call(call))
    }

    fn call(&mut self, delta: CallDelta) -> Result<(), Failure> {
        let id = delta.id.unwrap_or_default();
        let function = delta.function.unwrap_or(FunctionDelta { name: None, arguments: None });
        let arguments = match function.arguments {
            Some(Value::String(text)) => text,
            Some(Value::Null) | None => String::new(),
            Some(value) => value.to_string(),
        };
        let name = function.name.unwrap_or_default();
        self.grow(id.len() + name.len() + arguments.len())?;
        // The index says which call goes on. Servers that send whole calls leave it out, or give all of them the same.
        let same = |call: &&mut Call| match delta.index {
            Some(_) => call.index == delta.index && (id.is_empty() || call.id.is_empty() || call.id == id),
            None => id.is_empty() || call.id == id,
        };
        let count = self.calls.len();
        match self.calls.iter_mut().rev().find(same) {
            Some(call) => {
                if call.id.is_empty() {
                    call.id = id;
                }
                if call.name.is_empty() {
                    call.name = name;
                }
                call.arguments.push_str(&arguments);
            }
            None if count == MAX_CALLS => {
                return Err(Failure::unacceptable(format!(
                    "the agent called more than {MAX_CALLS} tools at once"
                )));
            }
            None => self.calls.push(Call { index: delta.index, id, name, arguments }),
        }
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        self.begun = true;
        self.size += bytes;
        if self.size > self.max_size {
            let why = format!("the agent's answer is larger than {} bytes", self.max_size);
            return Err(Failure::unacceptable(why));
        }
        Ok(())
    }

    /// The end of the answer: its tool calls, for the client to carry out, and the terminal event.
    pub(super) fn end(self) -> Vec<AgentEvent> {
        let mut events = Vec::with_capacity(self.calls.len() + 1);
        let mut message = json!({"role": "assistant", "content": self.text});
        let mut listed = Vec::with_capacity(self.calls.len());
        for call in self.calls {
            let call_id =
                if call.id.is_empty() { format!("call_{}", Uuid::now_v7().simple()) } else { call.id };
            let arguments = if call.arguments.trim().is_empty() { "{}".to_owned() } else { call.arguments };
            listed.push(json!({
                "id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}
            }));
            events.push(AgentEvent::ToolStarted {
                call_id,
                tool_name: call.name,
                parameters: serde_json::from_str(&arguments).unwrap_or_default(),
                arguments,
                executor: "client",
                requires_approval: false,
            });
        }
        let mut finish_reason = self.finish_reason.unwrap_or_else(|| "stop".to_owned());
        if !listed.is_empty() {
            if self.text.is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = listed.into();
            finish_reason = "tool_calls".to_owned();
        }
        events.push(AgentEvent::Completed {
            text: self.text,
            messages: json!([message]),
            usage: self.usage,
            finish_reason,
        });
        events
    }
}

/// A content's text: itself, or that of its parts.
fn text_of(content: Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Redactor;

    fn gather(frames: &[Value]) -> (Vec<AgentEvent>, Vec<AgentEvent>) {
        let mut answer = Answer::new(1000);
        let mut told = Vec::new();
        for frame in frames {
            told.extend(answer.frame(&frame.to_string()).unwrap());
        }
        (told, answer.end())
    }

    fn delta(delta: Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    }

    fn calls(end: &[AgentEvent]) -> Vec<(String, String, Value)> {
        let call = |event: &AgentEvent| match event {
            AgentEvent::ToolStarted { call_id, arguments, parameters, .. } => {
                Some((call_id.clone(), arguments.clone(), parameters.clone()))
            }
            _ => None,
        };
        end.iter().filter_map(call).collect()
    }

    #[test]
    fn text_thoughts_and_figures_are_gathered() {
        let (told, end) = gather(&[
            delta(json!({"role": "assistant", "content": ""})),
            delta(json!({"reasoning_content": "hm"})),
            delta(json!({"reasoning": "hm hm"})),
            delta(json!({"content": "Sal"})),
            delta(json!({"content": [{"type": "text", "text": "ve"}]})),
            json!({"choices": [{"index": 1, "delta": {"content": "other choice"}}]}),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}),
            json!({"choices": [], "usage": {"total_tokens": 7}}),
        ]);
        let kinds: Vec<_> = told.iter().map(|event| event.kind().to_string()).collect();
        assert_eq!(kinds, ["thinking", "thinking", "response_chunk", "response_chunk"]);
        let [AgentEvent::Completed { text, messages, usage, finish_reason }] = &end[..] else {
            panic!("{end:?}")
        };
        assert_eq!((text.as_str(), finish_reason.as_str()), ("Salve", "length"));
        assert_eq!(messages, &json!([{"role": "assistant", "content": "Salve"}]));
        assert_eq!(usage, &json!({"total_tokens": 7}));
    }

    #[test]
    fn calls_are_gathered_by_index() {
        let (told, end) = gather(&[
            delta(
                json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]}),
            ),
            delta(
                json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{\"y\""}}]}),
            ),
            delta(
                json!({"tool_calls": [{"index": 0, "id": "", "function": {"name": "", "arguments": "{\"x\":1}"}}]}),
            ),
            delta(json!({"tool_calls": [{"index": 1, "function": {"arguments": ":"}}]})),
            json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
        ]);
        assert!(told.is_empty());
        let expected = [
            ("a".to_owned(), "{\"x\":1}".to_owned(), json!({"x": 1})),
            ("b".to_owned(), "{\"y\":".to_owned(), Value::Null),
        ];
        assert_eq!(calls(&end), expected);
        let Some(AgentEvent::Completed { messages, finish_reason, .. }) = end.last() else {
            panic!("{end:?}")
        };
        assert_eq!(finish_reason, "tool_calls");
        assert_eq!(messages[0]["content"], Value::Null);
        assert_eq!(messages[0]["tool_calls"][1]["function"]["name"], "g");
    }

    #[test]
    fn whole_calls_without_or_with_the_same_index_are_told_apart() {
        for index in [Value::Null, json!(0)] {
            let (_, end) = gather(&[
                delta(
                    json!({"tool_calls": [{"index": index, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]}),
                ),
                delta(json!({"tool_calls": [{"index": index, "id": "b", "function": {"name": "g"}}]})),
                json!({"choices": [{"delta": {"tool_calls": null}, "finish_reason": "stop"}]}),
            ]);
            let found = calls(&end);
            assert_eq!(found[0], ("a".to_owned(), "{\"x\":1}".to_owned(), json!({"x": 1})));
            assert_eq!(found[1], ("b".to_owned(), "{}".to_owned(), json!({})));
            assert!(
                matches!(end.last(), Some(AgentEvent::Completed { finish_reason, .. }) if finish_reason == "tool_calls")
            );
        }
    }

    #[test]
    fn an_answer_has_a_bound() {
        let mut answer = Answer::new(10);
        let frame = |text: &str| delta(json!({"content": text})).to_string();
        assert!(answer.frame(&frame("12345")).is_ok());
        assert!(
            answer
                .frame(&frame("1234567"))
                .unwrap_err()
                .told(&Redactor::new([]))
                .contains("larger than 10 bytes")
        );
    }
}
