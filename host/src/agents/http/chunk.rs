//! What a runtime's chunks are as canonical events. Each chunk becomes one event, or two of which one has its frame, so
//! that the frames of a turn's events are the chunks, whole and in order.

use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::failure::Failure;
use super::frame::{Chunk, Fields};
use super::object::Object;
use crate::domain::{AgentEvent, ErrorType, RawFrame};
use crate::egress::Redactor;

/// Kind of events that are made of chunks whose type is no kind's name, or missing.
const NAMELESS: &str = "agent_chunk";
/// Kind of an error that did not end the turn.
const REPORTED: &str = "agent_error";
/// Longest type that is a kind's name, in bytes.
const MAX_KIND: usize = 64;
/// Kinds that begin or end a run, or that chunks of other types are: a chunk of such a type gets `agent_` before it.
const RESERVED: [&str; 6] = ["started", "completed", "failed", "cancelled", "response_chunk", "tool_started"];

/// An event, with the frame that it goes with where it has one.
pub(super) type Told = (AgentEvent, Option<RawFrame>);

/// A runtime's answer as far as it has come.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    redactor: &'a Redactor,
    /// All that was said.
    text: String,
    /// Where the message begins in it that is being said.
    message: usize,
    /// That message came in tokens so far.
    by_token: bool,
    /// Pieces of it that were no tokens.
    pieces: usize,
    /// Tool calls, in the form of chat completions.
    calls: Vec<Value>,
    usage: Value,
    finish_reason: Option<String>,
    /// An error that nothing has followed yet.
    error: Option<Reported>,
    /// Tries beyond the first that were made.
    pub(super) retries: u32,
    size: usize,
    max_size: usize,
}

/// An error that the runtime reported.
#[derive(Debug)]
struct Reported {
    failure: Failure,
    at: Instant,
    /// Its chunk, until it is told.
    held: Option<RawFrame>,
}

impl<'a> Answer<'a> {
    /// An answer whose frames have at most so many bytes. Its errors are told without these secrets.
    pub(super) fn new(max_size: usize, redactor: &'a Redactor) -> Self {
        Self {
            redactor,
            text: String::new(),
            message: 0,
            by_token: false,
            pieces: 0,
            calls: Vec::new(),
            usage: Value::Null,
            finish_reason: None,
            error: None,
            retries: 0,
            size: 0,
            max_size,
        }
    }

    /// Since when an error is the last that came: nothing but the stream's end need follow.
    pub(super) fn failed_at(&self) -> Option<Instant> {
        self.error.as_ref().map(|reported| reported.at)
    }

    /// Whether that error is still to be told.
    pub(super) fn holds_error(&self) -> bool {
        self.error.as_ref().is_some_and(|reported| reported.held.is_some())
    }

    /// Tells of an error that no end has followed.
    pub(super) fn tell_error(&mut self) -> Option<Told> {
        let reported = self.error.as_mut()?;
        let raw = reported.held.take()?;
        let data = Map::from_iter([
            ("error".to_owned(), reported.failure.told(self.redactor).into()),
            ("error_type".to_owned(), ErrorType::AgentError.as_str().into()),
        ]);
        Some((AgentEvent::Other { kind: REPORTED.into(), data }, Some(raw)))
    }

    /// Takes a chunk, and tells what it means. If the last event is terminal, the answer has ended.
    ///
    /// # Errors
    /// The answer is too large.
    pub(super) fn take(&mut self, chunk: Chunk) -> Result<Vec<Told>, Failure> {
        let is_done = chunk.is_done();
        let Chunk { kind, fields, raw, .. } = chunk;
        self.size += raw.as_str().len();
        if self.size > self.max_size {
            let why = format!("the agent's answer is larger than {} bytes", self.max_size);
            return Err(Failure::unacceptable(why));
        }
        if is_done {
            return Ok(self.done(fields, raw));
        }
        let mut told = Vec::with_capacity(2);
        told.extend(self.tell_error());
        self.error = None;
        self.remark(&fields);
        match kind.as_str() {
            "assistant_message" => {
                let text = self.said(fields);
                told.push((AgentEvent::ResponseChunk { text }, Some(raw)));
            }
            "tool_call" => told.push((self.call(fields), Some(raw))),
            "error" => {
                let said = fields.error.unwrap_or_else(|| "it does not say which".into());
                let (failure, at) = (Failure::reported(&said), Instant::now());
                self.error = Some(Reported { failure, at, held: Some(raw) });
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
        (self.message, self.by_token, self.pieces) = (self.text.len(), false, 0);
    }

    /// The end, by the end of the stream.
    pub(super) fn end(mut self) -> Told {
        match self.error.take() {
            Some(reported) => (reported.failure.event(self.redactor, self.retries), reported.held),
            None => (self.completed(), None),
        }
    }

    /// The failure that ends the answer: an error that the runtime reported explains whatever happened behind it.
    pub(super) fn failed(mut self, failure: Failure) -> Told {
        match self.error.take() {
            Some(reported) => (reported.failure.event(self.redactor, self.retries), reported.held),
            None => (failure.event(self.redactor, self.retries), None),
        }
    }

    fn done(&mut self, fields: Fields, raw: RawFrame) -> Vec<Told> {
        self.remark(&fields);
        let mut told = Vec::from_iter(self.tell_error());
        if let Some(reported) = self.error.take() {
            told.push((reported.failure.event(self.redactor, self.retries), Some(raw)));
        } else if self.text.is_empty() && !fields.content.is_empty() {
            // An answer that is said with its end alone.
            self.text.clone_from(&fields.content);
            told.push((AgentEvent::ResponseChunk { text: fields.content }, Some(raw)));
            told.push((self.completed(), None));
        } else {
            told.push((self.completed(), Some(raw)));
        }
        told
    }

    /// Notes what may stand in any chunk.
    fn remark(&mut self, fields: &Fields) {
        if let Some(usage) = &fields.usage {
            self.usage = usage.clone();
        }
        if let Some(reason) = &fields.finish_reason {
            self.finish_reason = Some(reason.clone());
        }
    }

    /// The text that a message chunk adds. `token` is a piece; `content` is one too, or the whole message once more
    /// at the end of one that came in tokens, or in several other pieces.
    fn said(&mut self, fields: Fields) -> String {
        let Fields { token, content, is_final, .. } = fields;
        let said = &self.text[self.message..];
        let piece = if !token.is_empty() {
            self.by_token = true;
            token
        } else if self.by_token && is_final {
            match content.strip_prefix(said) {
                Some(rest) => rest.to_owned(),
                None if content.trim() == said.trim() => String::new(),
                None => content,
            }
        } else if is_final && self.pieces > 1 && content == said {
            String::new()
        } else {
            self.pieces += usize::from(!content.is_empty());
            content
        };
        self.text.push_str(&piece);
        if is_final {
            self.next_message();
        }
        piece
    }

    fn call(&mut self, fields: Fields) -> AgentEvent {
        let Fields { call_id, tool_name, arguments, requires_approval, .. } = fields;
        let call_id = Some(call_id).filter(|id| !id.is_empty());
        let call_id = call_id.unwrap_or_else(|| format!("call_{}", Uuid::now_v7().simple()));
        let arguments = arguments.unwrap_or_else(|| "{}".to_owned());
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
            requires_approval,
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

/// A chunk of any other type, by its own name where that is one. What can't be read of it, its frame says alone.
fn other(kind: &str, raw: &RawFrame) -> AgentEvent {
    let mut data: Map<String, Value> =
        Object::read(raw.as_str()).map(|object| object.readable().collect()).unwrap_or_default();
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
    use super::super::super::sse::SseEvent;
    use super::super::frame::Frame;
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
        let redactor = Redactor::new([]);
        let mut answer = Answer::new(10_000, &redactor);
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
            let mut told = Answer::new(10_000, &Redactor::new([])).take(*chunk).unwrap();
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
        // In several pieces of content, then whole; one piece said twice is two.
        let pieces = |last: &str| {
            let piece = |text: &str, is_final: bool| message(null.clone(), json!(text), is_final);
            [piece("a", false), piece("b", false), piece(last, true), piece("ab", true)]
        };
        assert_eq!(text(&pieces("ab")), "abab", "the whole once, and the next message");
        assert_eq!(text(&pieces("abc")), "ababcab");
        // In parts.
        let parts = json!([{"type": "text", "text": "a"}, "b", {"type": "image_url", "image_url": {}}]);
        assert_eq!(text(&[message(null.clone(), parts.clone(), true)]), "ab");
        assert_eq!(text(&[json!({"type": "done", "content": parts})]), "ab");
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
    fn an_error_that_nothing_follows_is_told_before_the_end() {
        let redactor = Redactor::new([]);
        let mut answer = Answer::new(10_000, &redactor);
        let error = json!({"type": "error", "error": "no model"});
        assert!(answer.take(chunk(&error)).unwrap().is_empty() && answer.holds_error());
        let (event, raw) = answer.tell_error().unwrap();
        assert_eq!(
            (event.kind().as_str(), raw.unwrap().as_str()),
            ("agent_error", error.to_string().as_str())
        );
        assert!(!answer.holds_error() && answer.tell_error().is_none() && answer.failed_at().is_some());
        let (event, raw) = answer.end();
        let data: Value = serde_json::from_str(&event.data()).unwrap();
        assert_eq!((data["error"].as_str(), raw), (Some("the agent reported an error: no model"), None));
        // What follows it after all is told alone.
        let mut answer = Answer::new(10_000, &redactor);
        answer.take(chunk(&error)).unwrap();
        answer.tell_error().unwrap();
        let told = answer.take(chunk(&json!({"type": "assistant_message", "token": "a"}))).unwrap();
        assert_eq!((told.len(), answer.failed_at()), (1, None));
        assert_eq!(answer.end().0.kind().as_str(), "completed");
    }

    #[test]
    fn what_can_be_read_of_a_chunk_is_its_data() {
        let odd = format!(r#""half":"a\ud83d","big":1e999,"deep":{}{}"#, "[".repeat(200), "]".repeat(200));
        let data = format!(r#"{{"type":"plan","x":{{"a":[1,null]}},{odd},"n":"ü"}}"#);
        let Ok(Frame::Chunk(chunk)) = Frame::read(&event("", &data)) else { panic!("{data}") };
        let redactor = Redactor::new([]);
        let mut told = Answer::new(10_000, &redactor).take(*chunk).unwrap();
        let (event, raw) = told.remove(0);
        assert_eq!((event.kind().as_str(), raw.unwrap().as_str()), ("plan", data.as_str()));
        let read: Value = serde_json::from_str(&event.data()).unwrap();
        assert_eq!(read, json!({"x": {"a": [1, null]}, "n": "ü"}));
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
    fn an_answer_has_a_bound() {
        let redactor = Redactor::new([]);
        let mut answer = Answer::new(100, &redactor);
        let piece = json!({"type": "assistant_message", "token": "x".repeat(30)});
        assert!(answer.take(chunk(&piece)).is_ok());
        assert!(answer.take(chunk(&piece)).unwrap_err().told(&redactor).contains("larger than 100 bytes"));
    }
}
