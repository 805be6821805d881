//! What a runtime's chunks are as canonical events. Each chunk becomes one event, or two of which one has its frame, so
//! that the frames of a turn's events are the chunks, whole and in order.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::failure::Failure;
use super::super::sse::SseEvent;
use crate::domain::{AgentEvent, ErrorType, RawFrame};

/// Kind of events that are made of chunks whose type is no kind's name, or missing.
const NAMELESS: &str = "agent_chunk";
/// Kind of an error that did not end the turn.
const ERROR: &str = "agent_error";
/// Longest type that is a kind's name, in bytes.
const MAX_KIND: usize = 64;
/// Kinds that begin or end a run, or that chunks of other types are: a chunk of such a type gets `agent_` before it.
const RESERVED: [&str; 6] = ["started", "completed", "failed", "cancelled", "response_chunk", "tool_started"];
/// Type of the chunk that ends an answer.
const DONE: &str = "done";
/// What frames are.
pub(super) const CHUNK: &str = "chunk";

/// An event, with the frame that it goes with where it has one.
pub(super) type Told = (AgentEvent, Option<RawFrame>);

/// One event of the stream.
#[derive(Debug)]
pub(super) enum Frame {
    /// Keeps the connection open, and says nothing.
    Nothing,
    /// The end, in words that are no chunk: `[DONE]`, or an event `done`.
    End,
    /// A chunk.
    Chunk(Box<Chunk>),
}

/// A chunk, with its own text.
#[derive(Debug)]
pub(super) struct Chunk {
    kind: String,
    fields: Fields,
    raw: RawFrame,
}

/// Fields by the specification's names. Whatever type they have: a runtime may write null for all that it does not use.
#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    token: Value,
    #[serde(default)]
    is_final: Value,
    #[serde(default)]
    call_id: Value,
    #[serde(default)]
    tool_name: Value,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
    #[serde(default)]
    requires_approval: Value,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    usage: Value,
}

impl Frame {
    /// Reads one event of the stream.
    ///
    /// # Errors
    /// It is no JSON object.
    pub(super) fn read(event: &SseEvent) -> Result<Self, Failure> {
        let data = event.data.trim();
        let named = event.name.trim();
        if data == "[DONE]" {
            return Ok(Self::End);
        }
        let chunk = match (named, data) {
            ("done", "") => return Ok(Self::End),
            ("" | "message", "") => return Ok(Self::Nothing),
            // Words under a name of their own, as `event: error`.
            (name, words) if !matches!(name, "" | "message" | "done") && !words.starts_with('{') => {
                Chunk::read("", &json!({"type": name, "content": words}).to_string())
            }
            _ => Chunk::read(named, data),
        };
        match chunk {
            // `event: done` ends the answer; what it says beside that is no chunk unless it names its type.
            Ok(chunk) if named == "done" && chunk.fields.kind.is_null() => Ok(Self::End),
            Err(_) if named == "done" => Ok(Self::End),
            chunk => Ok(Self::Chunk(Box::new(chunk?))),
        }
    }
}

impl Chunk {
    /// Whether it ends the answer.
    pub(super) fn is_done(&self) -> bool {
        self.kind == DONE
    }

    /// Whether it reports an error.
    pub(super) fn is_error(&self) -> bool {
        self.kind == "error"
    }

    fn read(named: &str, data: &str) -> Result<Self, Failure> {
        let malformed = |error: &dyn std::fmt::Display| Failure::malformed(CHUNK, error);
        let fields: Fields = serde_json::from_str(data).map_err(|error| malformed(&error))?;
        let typed = fields.kind.as_str().filter(|kind| !kind.is_empty());
        let kind = typed.or(Some(named).filter(|named| *named != "message")).unwrap_or_default().to_owned();
        let raw = if fields.kind.is_null() && !kind.is_empty() {
            // What the stream said beside the object goes into it, or it would be lost.
            with_type(&kind, data)
        } else {
            RawFrame::new(data)
        };
        let raw = raw.ok_or_else(|| malformed(&"it is no JSON object"))?;
        Ok(Self { kind, fields, raw })
    }
}

/// An object's text with its type in front.
fn with_type(kind: &str, object: &str) -> Option<RawFrame> {
    let rest = object.strip_prefix('{')?.trim_start();
    let comma = if rest.starts_with('}') { "" } else { "," };
    RawFrame::new(&format!("{{\"type\":{}{comma}{rest}", Value::from(kind)))
}

/// A runtime's answer as far as it has come.
#[derive(Debug)]
pub(super) struct Answer {
    /// All that was said.
    text: String,
    /// Where the message begins in it that is being said.
    message: usize,
    /// That message came in tokens so far.
    by_token: bool,
    /// Tool calls, in the form of chat completions.
    calls: Vec<Value>,
    usage: Value,
    finish_reason: Option<String>,
    /// An error that nothing has followed yet.
    error: Option<(Failure, RawFrame)>,
    /// Tries beyond the first that were made.
    pub(super) retries: u32,
    size: usize,
    max_size: usize,
}

impl Answer {
    /// An answer whose frames have at most so many bytes.
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            text: String::new(),
            message: 0,
            by_token: false,
            calls: Vec::new(),
            usage: Value::Null,
            finish_reason: None,
            error: None,
            retries: 0,
            size: 0,
            max_size,
        }
    }

    /// Whether an error was the last that was told: nothing but the stream's end need follow.
    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Takes a chunk, and tells what it means. If the last event is terminal, the answer has ended.
    ///
    /// # Errors
    /// The answer is too large.
    pub(super) fn take(&mut self, chunk: Chunk) -> Result<Vec<Told>, Failure> {
        let Chunk { kind, fields, raw } = chunk;
        self.size += raw.as_str().len();
        if self.size > self.max_size {
            let why = format!("the agent's answer is larger than {} bytes", self.max_size);
            return Err(Failure::unacceptable(why));
        }
        if kind == DONE {
            return Ok(self.done(&fields, raw));
        }
        let mut told = Vec::with_capacity(2);
        told.extend(self.error.take().map(|(failure, raw)| error_event(failure.error, raw)));
        self.remark(&fields);
        match kind.as_str() {
            "assistant_message" => {
                let text = self.said(&fields);
                told.push((AgentEvent::ResponseChunk { text }, Some(raw)));
            }
            "tool_call" => told.push((self.call(fields), Some(raw))),
            "error" => {
                let said = [&fields.error, &fields.content].into_iter().find(|said| !said.is_null());
                let failure = Failure::reported(said.unwrap_or(&Value::from("it does not say which")));
                self.error = Some((failure, raw));
            }
            _ => told.push((other(&kind, &raw), Some(raw))),
        }
        Ok(told)
    }

    /// A chunk that ends what one request of several was answered with: an event like others.
    pub(super) fn pause(&mut self, done: Chunk) -> Told {
        self.remark(&done.fields);
        (other(&done.kind, &done.raw), Some(done.raw))
    }

    /// What is said next is no part of the message before.
    pub(super) fn next_message(&mut self) {
        (self.message, self.by_token) = (self.text.len(), false);
    }

    /// The end, by the end of the stream.
    pub(super) fn end(mut self) -> Told {
        match self.error.take() {
            Some((failure, raw)) => (failure.event(self.retries), Some(raw)),
            None => (self.completed(), None),
        }
    }

    /// The failure that ends the answer: an error that the runtime reported explains whatever happened behind it.
    pub(super) fn failed(mut self, failure: Failure) -> Told {
        match self.error.take() {
            Some((reported, raw)) => (reported.event(self.retries), Some(raw)),
            None => (failure.event(self.retries), None),
        }
    }

    fn done(&mut self, fields: &Fields, raw: RawFrame) -> Vec<Told> {
        self.remark(fields);
        if let Some((failure, error)) = self.error.take() {
            let told = error_event(failure.error.clone(), error);
            return vec![told, (failure.event(self.retries), Some(raw))];
        }
        // An answer that is said with its end alone.
        let whole = fields.content.as_str().filter(|content| self.text.is_empty() && !content.is_empty());
        match whole {
            Some(text) => {
                text.clone_into(&mut self.text);
                let chunk = AgentEvent::ResponseChunk { text: text.to_owned() };
                vec![(chunk, Some(raw)), (self.completed(), None)]
            }
            None => vec![(self.completed(), Some(raw))],
        }
    }

    /// Notes what may stand in any chunk.
    fn remark(&mut self, fields: &Fields) {
        for usage in [&fields.usage, &fields.metadata["usage"]] {
            if usage.is_object() {
                self.usage = usage.clone();
            }
        }
        if let Some(reason) = fields.metadata["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
    }

    /// The text that a message chunk adds. `token` is a piece; `content` is one too, or the whole message once more
    /// at the end of one that came in tokens.
    fn said(&mut self, fields: &Fields) -> String {
        let is_final = fields.is_final == true;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (token, content) = (text(&fields.token), text(&fields.content));
        let piece = if !token.is_empty() {
            self.by_token = true;
            token
        } else if self.by_token && is_final {
            let said = &self.text[self.message..];
            match content.strip_prefix(said) {
                Some(rest) => rest.to_owned(),
                None if content.trim() == said.trim() => String::new(),
                None => content,
            }
        } else {
            content
        };
        self.text.push_str(&piece);
        if is_final {
            self.next_message();
        }
        piece
    }

    fn call(&mut self, fields: Fields) -> AgentEvent {
        let text = |value: Value| match value {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let call_id = Some(text(fields.call_id)).filter(|id| !id.is_empty());
        let call_id = call_id.unwrap_or_else(|| format!("call_{}", Uuid::now_v7().simple()));
        let tool_name = text(fields.tool_name);
        let arguments = fields.arguments.as_ref().map_or("{}", |arguments| arguments.get());
        // The object, or a text with the object in it.
        let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| arguments.to_owned());
        let parameters = serde_json::from_str(&arguments).unwrap_or_default();
        self.calls.push(json!({
            "id": call_id, "type": "function", "function": {"name": tool_name, "arguments": arguments},
        }));
        AgentEvent::ToolStarted {
            call_id,
            tool_name,
            parameters,
            arguments,
            executor: "client",
            requires_approval: fields.requires_approval == true,
        }
    }

    fn completed(&mut self) -> AgentEvent {
        let text = std::mem::take(&mut self.text);
        let mut message = json!({"role": "assistant", "content": text});
        let calls = std::mem::take(&mut self.calls);
        let ended = if calls.is_empty() { "stop" } else { "tool_calls" };
        let finish_reason = self.finish_reason.take().filter(|_| calls.is_empty());
        if !calls.is_empty() {
            if text.is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = calls.into();
        }
        AgentEvent::Completed {
            text,
            messages: json!([message]),
            usage: self.usage.take(),
            finish_reason: finish_reason.unwrap_or_else(|| ended.to_owned()),
        }
    }
}

fn error_event(error: String, raw: RawFrame) -> Told {
    let data = Map::from_iter([
        ("error".to_owned(), error.into()),
        ("error_type".to_owned(), ErrorType::AgentError.as_str().into()),
    ]);
    (AgentEvent::Other { kind: ERROR.into(), data }, Some(raw))
}

/// A chunk of any other type, by its own name where that is one.
fn other(kind: &str, raw: &RawFrame) -> AgentEvent {
    let mut data: Map<String, Value> = serde_json::from_str(raw.as_str()).unwrap_or_default();
    data.retain(|name, value| !value.is_null() && !matches!(name.as_str(), "type" | "raw"));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let kind = if kind.is_empty() || kind.len() > MAX_KIND || !kind.bytes().all(is_name) {
        NAMELESS.into()
    } else if RESERVED.contains(&kind) {
        format!("agent_{kind}").into()
    } else {
        kind.into()
    };
    AgentEvent::Other { kind, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.to_owned(), data: data.to_owned() }
    }

    fn chunk(data: &Value) -> Chunk {
        match Frame::read(&event("", &data.to_string())).unwrap() {
            Frame::Chunk(chunk) => *chunk,
            other => panic!("{other:?}"),
        }
    }

    /// Kind, data without the frame, and frame of what an answer of these chunks tells; its end by the stream's.
    fn told(chunks: &[Value]) -> Vec<(String, Value, Value)> {
        let mut answer = Answer::new(10_000);
        let mut told = Vec::new();
        for data in chunks {
            told.extend(answer.take(chunk(data)).unwrap());
        }
        if !told.last().is_some_and(|(event, _)| event.kind().is_terminal()) {
            told.push(answer.end());
        }
        let read = |(event, raw): (AgentEvent, Option<RawFrame>)| {
            let data = match &raw {
                Some(raw) => event.data_with(raw),
                None => event.data(),
            };
            let mut data: Value = serde_json::from_str(&data).unwrap();
            let raw = data.as_object_mut().unwrap().remove("raw").unwrap_or_default();
            (event.kind().to_string(), data, raw)
        };
        told.into_iter().map(read).collect()
    }

    /// Kinds and frames.
    fn frames(chunks: &[Value]) -> Vec<(String, Value)> {
        told(chunks).into_iter().map(|(kind, _, raw)| (kind, raw)).collect()
    }

    #[test]
    fn the_specifications_chunks_are_canonical_events() {
        let chunks = [
            json!({"type": "assistant_message", "content": null, "token": "Let ", "is_final": false}),
            json!({"type": "assistant_message", "token": "me see", "metadata": {"usage": {"total_tokens": 3}}}),
            json!({"type": "assistant_message", "content": "Let me see.", "is_final": true}),
            json!({"type": "agent_switched", "content": "to coder", "metadata": {"from": "ask", "to": "coder"}, "error": null}),
            json!({"type": "tool_call", "call_id": "c1", "tool_name": "read_file", "arguments": {"path": "a", "n": 1.0}, "requires_approval": true}),
            json!({"type": "tool_call", "call_id": "c2", "tool_name": "list", "arguments": "{\"n\":1}", "requires_approval": false}),
            json!({"type": "done", "is_final": true}),
        ];
        let told = told(&chunks);
        let raws: Vec<_> = told.iter().map(|(_, _, raw)| raw.clone()).collect();
        assert_eq!(raws, chunks);
        let events: Vec<_> = told.into_iter().map(|(kind, data, _)| (kind, data)).collect();
        let expected = [
            ("response_chunk", json!({"text": "Let "})),
            ("response_chunk", json!({"text": "me see"})),
            ("response_chunk", json!({"text": "."})),
            ("agent_switched", json!({"content": "to coder", "metadata": {"from": "ask", "to": "coder"}})),
            (
                "tool_started",
                json!({
                    "call_id": "c1", "tool_name": "read_file", "parameters": {"n": 1.0, "path": "a"},
                    "arguments": "{\"n\":1.0,\"path\":\"a\"}", "executor": "client", "requires_approval": true
                }),
            ),
            (
                "tool_started",
                json!({
                    "call_id": "c2", "tool_name": "list", "parameters": {"n": 1}, "arguments": "{\"n\":1}",
                    "executor": "client"
                }),
            ),
            (
                "completed",
                json!({
                    "text": "Let me see.", "usage": {"total_tokens": 3}, "finish_reason": "tool_calls",
                    "messages": [{"role": "assistant", "content": "Let me see.", "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": "{\"n\":1.0,\"path\":\"a\"}"}},
                        {"id": "c2", "type": "function", "function": {"name": "list", "arguments": "{\"n\":1}"}}
                    ]}]
                }),
            ),
        ];
        assert_eq!(events, expected.map(|(kind, data)| (kind.to_owned(), data)));
    }

    #[test]
    fn arguments_are_told_as_they_were_written() {
        let arguments = |written: &str| {
            let data = format!(r#"{{"type":"tool_call","tool_name":"f","arguments":{written}}}"#);
            let Ok(Frame::Chunk(chunk)) = Frame::read(&event("", &data)) else { panic!("{data}") };
            let mut told = Answer::new(10_000).take(*chunk).unwrap();
            match told.remove(0).0 {
                AgentEvent::ToolStarted { call_id, arguments, parameters, .. }
                    if call_id.starts_with("call_") =>
                {
                    (arguments, parameters)
                }
                other => panic!("{other:?}"),
            }
        };
        let long = r#"{"b": 123456789012345678901234567890, "a": 1.50}"#;
        assert_eq!(arguments(long).0, long);
        assert_eq!(arguments(r#""{\"x\": 1}""#), (r#"{"x": 1}"#.to_owned(), json!({"x": 1})));
        assert_eq!(arguments(r#""{\"x\"""#), (r#"{"x""#.to_owned(), Value::Null));
        assert_eq!(arguments("null"), ("{}".to_owned(), json!({})));
    }

    #[test]
    fn a_text_is_told_once_however_the_runtime_writes_it() {
        let text = |chunks: &[Value]| {
            let told = told(chunks);
            let pieces = told.iter().filter(|(kind, ..)| kind == "response_chunk");
            let pieces: String = pieces.map(|(_, data, _)| data["text"].as_str().unwrap()).collect();
            assert_eq!(told.last().unwrap().1["text"], pieces);
            pieces
        };
        let message = |token: Value, content: Value, is_final: bool| json!({"type": "assistant_message", "token": token, "content": content, "is_final": is_final});
        let null = Value::Null;
        // All of it at once, in both fields.
        assert_eq!(text(&[message(json!("ab"), json!("ab"), true)]), "ab");
        // In pieces of content alone, two of which agree.
        let piece = message(null.clone(), json!("ha"), false);
        assert_eq!(text(&[piece.clone(), message(null.clone(), json!("ha"), true)]), "haha");
        // In tokens, then whole, with other white space.
        let tokens = [message(json!("a"), null.clone(), false), message(json!("b\n"), json!(""), false)];
        let whole =
            |content: &str| [tokens.to_vec(), vec![message(json!(""), json!(content), true)]].concat();
        assert_eq!(text(&whole("ab\n")), "ab\n");
        assert_eq!(text(&whole("ab")), "ab\n");
        assert_eq!(text(&whole("ab\nc")), "ab\nc");
        // What is no repetition is not lost.
        assert_eq!(text(&whole("other")), "ab\nother");
        // The next message begins anew.
        assert_eq!(text(&[whole("ab\n"), vec![message(null.clone(), json!("ab"), true)]].concat()), "ab\nab");
        // With the end alone.
        assert_eq!(text(&[json!({"type": "done", "content": "all"})]), "all");
        assert_eq!(frames(&[json!({"type": "done", "content": "all"})]).len(), 2);
        assert_eq!(text(&[tokens[0].clone(), json!({"type": "done", "content": "a"})]), "a");
    }

    #[test]
    fn an_error_ends_the_turn_unless_the_runtime_goes_on() {
        let error = json!({"type": "error", "error": "no model", "is_final": true});
        let done = json!({"type": "done"});
        let more = json!({"type": "assistant_message", "token": "still here"});
        let pairs = |list: &[(&str, &Value)]| -> Vec<(String, Value)> {
            list.iter().map(|(kind, raw)| ((*kind).to_owned(), (*raw).clone())).collect()
        };
        assert_eq!(frames(std::slice::from_ref(&error)), pairs(&[("failed", &error)]));
        assert_eq!(
            frames(&[error.clone(), done.clone()]),
            pairs(&[("agent_error", &error), ("failed", &done)])
        );
        assert_eq!(
            frames(&[error.clone(), more.clone(), done.clone()]),
            pairs(&[("agent_error", &error), ("response_chunk", &more), ("completed", &done)])
        );
        assert_eq!(
            frames(&[error.clone(), error.clone()]),
            pairs(&[("agent_error", &error), ("failed", &error)])
        );
        let failed = &told(&[error.clone(), done])[1].1;
        assert_eq!(failed["error"], "the agent reported an error: no model");
        assert_eq!(failed["error_type"], "agent_error");
        let told = told(&[json!({"type": "error", "content": "in content"})]);
        assert_eq!(told[0].1["error"], "the agent reported an error: in content");
    }

    #[test]
    fn chunks_of_other_types_keep_their_name_where_it_is_one() {
        let kind = |kind: Value| {
            let chunk = json!({"type": kind, "x": 1, "y": null, "raw": 7});
            let told = told(std::slice::from_ref(&chunk));
            assert_eq!((told.len(), &told[0].1, &told[0].2), (2, &json!({"x": 1}), &chunk));
            told[0].0.clone()
        };
        assert_eq!(kind(json!("session_info")), "session_info");
        assert_eq!(kind(json!("switch_agent")), "switch_agent");
        assert_eq!(kind(json!("completed")), "agent_completed");
        assert_eq!(kind(json!("started")), "agent_started");
        for nameless in [json!("a\nb"), json!(""), json!(7), json!("x".repeat(65))] {
            assert_eq!(kind(nameless), "agent_chunk");
        }
    }

    #[test]
    fn the_ends_of_a_stream_are_told_from_chunks() {
        let read = |name: &str, data: &str| match Frame::read(&event(name, data)) {
            Ok(Frame::Nothing) => "nothing".to_owned(),
            Ok(Frame::End) => "end".to_owned(),
            Ok(Frame::Chunk(chunk)) => format!("{} {}", chunk.kind, chunk.raw.as_str()),
            Err(failure) => failure.error,
        };
        assert_eq!(read("", "[DONE]"), "end");
        assert_eq!(read("message", " [DONE] "), "end");
        assert_eq!(read("done", ""), "end");
        assert_eq!(read("done", "[DONE]"), "end");
        assert_eq!(read("done", "finished"), "end");
        assert_eq!(read("done", r#"{"status": "completed"}"#), "end");
        assert_eq!(
            read("done", r#"{"type":"done","is_final":true}"#),
            r#"done {"type":"done","is_final":true}"#
        );
        assert_eq!(read("message", ""), "nothing");
        assert_eq!(read("message", r#"{"type": "x"}"#), r#"x {"type": "x"}"#);
        assert_eq!(read("message", r#"{"x": 1}"#), r#" {"x": 1}"#);
        assert_eq!(read("session_info", r#"{ "x": 1}"#), r#"session_info {"type":"session_info","x": 1}"#);
        assert_eq!(read("ping", "{}"), r#"ping {"type":"ping"}"#);
        assert_eq!(read("error", "no \"x\""), r#"error {"content":"no \"x\"","type":"error"}"#);
        assert_eq!(read("ping", ""), r#"ping {"content":"","type":"ping"}"#);
        assert!(read("ping", "{").starts_with("the agent sent something that is no chunk"));
        for broken in ["{", "[1]", "\"a\"", "7", "{\"type\":\"a\"} x"] {
            assert!(read("", broken).starts_with("the agent sent something that is no chunk"), "{broken}");
        }
    }

    #[test]
    fn an_answer_has_a_bound() {
        let mut answer = Answer::new(100);
        let piece = json!({"type": "assistant_message", "token": "x".repeat(30)});
        assert!(answer.take(chunk(&piece)).is_ok());
        assert!(answer.take(chunk(&piece)).unwrap_err().error.contains("larger than 100 bytes"));
    }
}
