//! Reads the events of a runtime's stream: which of them are chunks, and what those say by the specification's names.
//!
//! What the gateway does not understand of a chunk, it does not look at: it goes along in the chunk's own text.

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::sse::SseEvent;
use super::object::{self, Object};
use crate::domain::RawFrame;

/// What frames are.
pub(super) const CHUNK: &str = "chunk";
/// Type of the chunk that ends an answer.
pub(super) const DONE: &str = "done";
/// Type of the chunk that reports an error.
pub(super) const ERROR: &str = "error";

/// The specification's fields beside the type, and `usage`.
const FIELDS: [&str; 10] = [
    "content",
    "token",
    "is_final",
    "call_id",
    "tool_name",
    "arguments",
    "requires_approval",
    "error",
    "metadata",
    "usage",
];

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
    /// Its type; empty where it has none that is a text.
    pub(super) kind: String,
    pub(super) fields: Fields,
    pub(super) raw: RawFrame,
    /// Its event was called `done`, whatever its type.
    is_last: bool,
    /// It has neither a type nor any of the specification's fields.
    is_mute: bool,
}

/// Fields by the specification's names. A runtime may write null for all that it does not use.
#[derive(Debug)]
pub(super) struct Fields {
    /// Empty where there is none, like the other texts.
    pub(super) token: String,
    /// That of its parts, where it has such.
    pub(super) content: String,
    pub(super) is_final: bool,
    pub(super) call_id: String,
    pub(super) tool_name: String,
    /// The object's text, or what a text has written in it.
    pub(super) arguments: Option<String>,
    pub(super) requires_approval: bool,
    /// What it says as an error.
    pub(super) error: Option<Value>,
    /// An object, its own or of its metadata.
    pub(super) usage: Option<Value>,
    pub(super) finish_reason: Option<String>,
}

impl Fields {
    fn read(object: &Object<'_>) -> Self {
        let text = |name: &str| object.get(name).and_then(object::words).unwrap_or_default();
        // A number is a name, too.
        let name =
            |name: &str| object.get(name).map(|value| object::string(value).unwrap_or_else(|| value.into()));
        let metadata = object.get("metadata").and_then(|metadata| Object::read(metadata).ok());
        let beside = |name: &str| metadata.as_ref().and_then(|metadata| metadata.get(name));
        let mut usage =
            [beside("usage"), object.get("usage")].into_iter().flatten().filter_map(object::value);
        let said = ["error", "content", "detail", "message"].into_iter().filter_map(|name| object.get(name));
        Self {
            token: text("token"),
            content: text("content"),
            is_final: object.get("is_final") == Some("true"),
            call_id: name("call_id").unwrap_or_default(),
            tool_name: name("tool_name").unwrap_or_default(),
            arguments: name("arguments"),
            requires_approval: object.get("requires_approval") == Some("true"),
            error: said.filter(|value| says_something(value)).map(any).next(),
            usage: usage.find(Value::is_object),
            finish_reason: beside("finish_reason").and_then(object::string),
        }
    }
}

/// A value, or its text where there is no such value.
fn any(value: &str) -> Value {
    object::string(value).map(Value::from).or_else(|| object::value(value)).unwrap_or_else(|| value.into())
}

fn says_something(value: &str) -> bool {
    !matches!(value, "\"\"" | "false" | "{}" | "[]")
}

impl Frame {
    /// Reads one event of the stream.
    ///
    /// # Errors
    /// It is no JSON object.
    pub(super) fn read(event: &SseEvent) -> Result<Self, Failure> {
        let (named, data) = (event.name.trim(), event.data.trim());
        let is_object = data.starts_with('{');
        let chunk = match (named, data) {
            (_, "[DONE]") => return Ok(Self::End),
            ("done", _) if !is_object => return Ok(Self::End),
            ("" | "message", "") => return Ok(Self::Nothing),
            // Words under a name of their own, as `event: error`.
            (name, words) if !matches!(name, "" | "message") && !is_object => {
                Chunk::read("", &json!({"type": name, "content": words}).to_string())
            }
            _ => Chunk::read(named, data),
        };
        match chunk {
            Err(_) if named == DONE => Ok(Self::End),
            // It says how the stream ended, as `{"status": "completed"}`, and nothing that a chunk says.
            Ok(chunk) if named == DONE && chunk.is_mute => Ok(Self::End),
            chunk => Ok(Self::Chunk(Box::new(chunk?))),
        }
    }
}

impl Chunk {
    /// Whether nothing of the answer follows it.
    pub(super) fn is_last(&self) -> bool {
        self.is_last || self.is_done()
    }

    /// Whether it says itself that the answer ends.
    pub(super) fn is_done(&self) -> bool {
        self.kind == DONE
    }

    /// Whether it reports an error.
    pub(super) fn is_error(&self) -> bool {
        self.kind == ERROR
    }

    fn read(named: &str, data: &str) -> Result<Self, Failure> {
        Self::parse(named, data).or_else(|error| {
            let mended = object::without_nan(data).and_then(|mended| Self::parse(named, &mended).ok());
            mended.ok_or_else(|| Failure::malformed(CHUNK, &why(data, &error), data))
        })
    }

    fn parse(named: &str, data: &str) -> serde_json::Result<Self> {
        let object = Object::read(data)?;
        let fields = Fields::read(&object);
        let written = object.written("type");
        let typed = written.and_then(object::string).filter(|kind| !kind.is_empty());
        let is_typed = !matches!(written, None | Some("null" | "\"\""));
        let kind = match (typed, named) {
            (Some(kind), _) => kind,
            (None, _) if !is_typed && is_error(named, &object) => ERROR.to_owned(),
            (None, "message") => String::new(),
            (None, named) => named.to_owned(),
        };
        let text = if is_typed || kind.is_empty() {
            data.to_owned()
        } else {
            // What the stream said beside the object goes into it, or it would be lost.
            with_type(&kind, data, written)
        };
        let raw = RawFrame::new(&text).ok_or_else(|| serde::de::Error::custom("it is no object"))?;
        let is_mute = !is_typed && FIELDS.iter().all(|name| object.get(name).is_none());
        Ok(Self { kind, fields, raw, is_last: named == DONE, is_mute })
    }
}

/// Whether an object without a type is what frameworks answer with where something went wrong.
fn is_error(named: &str, object: &Object<'_>) -> bool {
    let says = |name: &str| object.get(name).is_some_and(says_something);
    match named {
        "" | "message" => says("error") || (says("detail") && !says("token") && !says("content")),
        DONE => says("error"),
        _ => false,
    }
}

/// What is wrong with an object.
fn why(data: &str, error: &serde_json::Error) -> String {
    if !data.starts_with('{') {
        "a chunk is a JSON object, as {\"type\":\"done\"}".to_owned()
    } else if error.is_eof() {
        "its JSON ends too early".to_owned()
    } else {
        format!("its JSON can't be read: {error}")
    }
}

/// An object's text with its type: in front, or in the place of one that says nothing, which is a part of that text.
fn with_type(kind: &str, object: &str, written: Option<&str>) -> String {
    let kind = Value::from(kind);
    if let Some(written) = written {
        let at = written.as_ptr().addr() - object.as_ptr().addr();
        return format!("{}{kind}{}", &object[..at], &object[at + written.len()..]);
    }
    let rest = object.strip_prefix('{').unwrap_or(object).trim_start();
    let comma = if rest.starts_with('}') { "" } else { "," };
    format!("{{\"type\":{kind}{comma}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Redactor;

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.to_owned(), data: data.to_owned() }
    }

    fn chunk(data: &str) -> Chunk {
        match Frame::read(&event("", data)) {
            Ok(Frame::Chunk(chunk)) => *chunk,
            other => panic!("{data}: {other:?}"),
        }
    }

    #[test]
    fn the_ends_of_a_stream_are_told_from_chunks() {
        let read = |name: &str, data: &str| match Frame::read(&event(name, data)) {
            Ok(Frame::Nothing) => "nothing".to_owned(),
            Ok(Frame::End) => "end".to_owned(),
            Ok(Frame::Chunk(chunk)) if chunk.is_last() => {
                format!("last {} {}", chunk.kind, chunk.raw.as_str())
            }
            Ok(Frame::Chunk(chunk)) => format!("{} {}", chunk.kind, chunk.raw.as_str()),
            Err(failure) => failure.told(&Redactor::new([])),
        };
        assert_eq!(read("", "[DONE]"), "end");
        assert_eq!(read("message", " [DONE] "), "end");
        assert_eq!(read("done", ""), "end");
        assert_eq!(read("done", "[DONE]"), "end");
        assert_eq!(read("done", "finished"), "end");
        assert_eq!(read("done", "{\"status\""), "end");
        let (typed, message) =
            (r#"{"type":"done","is_final":true}"#, r#"{"type":"assistant_message","content":"a"}"#);
        assert_eq!(read("done", typed), format!("last done {typed}"));
        assert_eq!(read("", typed), format!("last done {typed}"));
        assert_eq!(read("done", message), format!("last assistant_message {message}"));
        assert_eq!(read("done", r#"{"usage": {}}"#), r#"last done {"type":"done","usage": {}}"#);
        assert_eq!(read("done", r#"{"error":"a"}"#), r#"last error {"type":"error","error":"a"}"#);
        assert_eq!(read("done", r#"{"status": "completed"}"#), "end");
        assert_eq!(read("done", r#"{"content":null}"#), "end");
        assert_eq!(read("done", "{}"), "end");
        assert_eq!(read("message", ""), "nothing");
        assert_eq!(read("message", r#"{"type": "x"}"#), r#"x {"type": "x"}"#);
        assert_eq!(read("message", r#"{"x": 1}"#), r#" {"x": 1}"#);
        assert_eq!(read("session_info", r#"{ "x": 1}"#), r#"session_info {"type":"session_info","x": 1}"#);
        assert_eq!(read("ping", "{}"), r#"ping {"type":"ping"}"#);
        assert_eq!(read("error", "no \"x\""), r#"error {"content":"no \"x\"","type":"error"}"#);
        assert_eq!(read("ping", ""), r#"ping {"content":"","type":"ping"}"#);
        assert_eq!(read("ping", r#"{"x": 1, "type": null}"#), r#"ping {"x": 1, "type": "ping"}"#);
        assert_eq!(read("ping", r#"{"type": 7}"#), r#"ping {"type": 7}"#);
        assert!(read("ping", "{").starts_with("the agent sent something that is no chunk"));
        for broken in ["{", "[1]", "\"a\"", "7", "{\"type\":\"a\"} x"] {
            assert!(read("", broken).starts_with("the agent sent something that is no chunk"), "{broken}");
        }
    }

    #[test]
    fn an_error_needs_no_type() {
        for (data, raw) in [
            (r#"{"error":"boom"}"#, r#"{"type":"error","error":"boom"}"#),
            (
                r#"{"type": null, "error": {"message": "boom"}}"#,
                r#"{"type": "error", "error": {"message": "boom"}}"#,
            ),
            (r#"{"detail":[{"msg":"x"}]}"#, r#"{"type":"error","detail":[{"msg":"x"}]}"#),
        ] {
            let chunk = chunk(data);
            assert_eq!((chunk.kind.as_str(), chunk.raw.as_str()), ("error", raw));
            assert!(chunk.fields.error.is_some());
        }
        for data in [
            r#"{"error":null,"detail":null}"#,
            r#"{"error":false,"content":"a"}"#,
            r#"{"detail":"a","token":"b"}"#,
            r#"{"error":"a","type":7}"#,
        ] {
            assert_eq!(chunk(data).kind, "", "{data}");
        }
        assert_eq!(chunk(r#"{"error":"a","type":"progress"}"#).kind, "progress");
        let said = |data: &str| chunk(data).fields.error.unwrap();
        assert_eq!(said(r#"{"type":"error","error":"","content":"words"}"#), "words");
        assert_eq!(said(r#"{"type":"error","error":"a\ud83d"}"#), "a\u{fffd}");
        assert_eq!(said(r#"{"type":"error","error":[1e999]}"#), "[1e999]");
    }

    #[test]
    fn a_field_that_is_not_read_is_not_looked_at() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for odd in [r#""\ud83d""#, "1e999", r#"{"a":"\ude00"}"#, &deep] {
            for (kind, fields) in [
                ("assistant_message", r#""token":"a","#),
                ("tool_call", r#""call_id":7,"tool_name":"f","arguments":{"x":1},"#),
                ("error", r#""error":"no","#),
                ("done", r#""usage":{"total_tokens":1},"#),
            ] {
                let whole = |odd: &str| {
                    format!(
                        r#"{{"type":"{kind}",{fields}"odd":{odd},"metadata":{{"odd":{odd},"finish_reason":"x"}}}}"#
                    )
                };
                let (with, without) = (chunk(&whole(odd)), chunk(&whole("0")));
                assert_eq!((with.kind.as_str(), with.raw.as_str()), (kind, whole(odd).as_str()));
                assert_eq!(format!("{:?}", with.fields), format!("{:?}", without.fields));
            }
        }
        let chunk = chunk(
            r#"{"type":"a","type":"assistant_message","token":"a","token":"b\ud83d","metadata":{"x":NaN}}"#,
        );
        assert_eq!((chunk.kind.as_str(), chunk.fields.token.as_str()), ("assistant_message", "b\u{fffd}"));
        assert!(chunk.raw.as_str().ends_with(r#""metadata":{"x":null}}"#), "{:?}", chunk.raw);
    }

    #[test]
    fn what_is_refused_is_shown_with_what_to_do() {
        let told = |data: &str| Frame::read(&event("", data)).unwrap_err().told(&Redactor::new([]));
        let before = "the agent sent something that is no chunk: ";
        assert_eq!(
            told("Thinking…"),
            format!("{before}a chunk is a JSON object, as {{\"type\":\"done\"}}; it begins with: Thinking…")
        );
        let quoted = told("{'type': 'done'}");
        assert!(quoted.starts_with(&format!("{before}its JSON can't be read: ")), "{quoted}");
        assert!(quoted.ends_with("; it begins with: {'type': 'done'}"), "{quoted}");
        let short = told(&format!("{{\"type\":\"{}", "x".repeat(5000)));
        assert!(
            short.starts_with(&format!("{before}its JSON ends too early; ")) && short.len() < 400,
            "{short}"
        );
    }
}
