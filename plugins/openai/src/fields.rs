//! Reading a JSON document whose every fault is named: `messages[2].content[0].text: must be a string`.
//!
//! Null stands for "not there", as the API has it.

use crate::config::Config;
use plugway_sdk::{Error, Request, Result};
use serde_json::{Map, Value};

/// Values that a document may hold: each costs an instance far more memory than it has bytes.
const VALUES: usize = 50_000;
/// Deepest nesting of a document: what contains it, and what reads it again, must not come to the parser's own bound.
const DEPTH: usize = 64;

/// Reads the document of a request.
///
/// # Errors
/// A 413: it is too large; a 400: it is no JSON, holds too many values or is nested too deep.
pub(crate) fn document(request: &Request, config: &Config) -> Result<Value> {
    let most = config.max_body_bytes;
    if request.body.len() as u64 > most {
        return Err(Error::TooLarge(format!("the body is larger than {most} bytes")));
    }
    if let Some(coding) = request.header("content-encoding").filter(|coding| *coding != "identity") {
        return Err(Error::Other {
            status: 415,
            kind: "invalid_request_error",
            code: Some("unsupported_content_encoding"),
            message: format!("the body is encoded as {coding:?}: send it as it is"),
            param: Some("content-encoding".to_owned()),
        });
    }
    let shape = Shape::of(&request.body);
    if shape.values > VALUES {
        return Err(Error::field("body", format_args!("holds more than {VALUES} values")));
    }
    if shape.deepest > DEPTH {
        return Err(Error::field("body", format_args!("is nested deeper than {DEPTH}")));
    }
    request.json()
}

/// About how many bytes a JSON text takes once it is read: its values cost far more than they have bytes.
pub(crate) fn weight(json: &[u8]) -> u64 {
    let Shape { values, objects, .. } = Shape::of(json);
    (json.len() + 64 * values + 640 * objects) as u64
}

/// What a JSON text is made of.
struct Shape {
    values: usize,
    objects: usize,
    deepest: usize,
}

impl Shape {
    fn of(json: &[u8]) -> Self {
        let (mut values, mut objects, mut depth, mut deepest) = (0, 0, 0_usize, 0);
        let mut bytes = json.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => {
                    while let Some(byte) = bytes.next() {
                        match byte {
                            b'"' => break,
                            b'\\' => _ = bytes.next(),
                            _ => {}
                        }
                    }
                }
                b'{' | b'[' => {
                    values += 1;
                    objects += usize::from(*byte == b'{');
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' | b':' => values += 1,
                _ => {}
            }
        }
        Self { values, objects, deepest }
    }
}

/// An object at a path.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// The document itself.
    pub(crate) fn of(document: &'a Value) -> Result<Self> {
        match document {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            _ => Err(Error::bad_request("the body must be a JSON object")),
        }
    }

    /// The object as it came.
    pub(crate) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// Where a field of it is.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A 400 that names a field of it.
    pub(crate) fn fault(&self, name: &str, problem: impl std::fmt::Display) -> Error {
        Error::field(self.path(name), problem)
    }

    /// Any value that is there.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn as_type<T>(
        &self,
        name: &str,
        kind: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.fault(name, format_args!("must be {kind}")))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.as_type(name, "a string", Value::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.as_type(name, "true or false", Value::as_bool)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>> {
        self.as_type(name, "a number", Value::as_f64)
    }

    /// A number from 0 on.
    pub(crate) fn count(&self, name: &str) -> Result<Option<u64>> {
        self.as_type(name, "a whole number that is not negative", Value::as_u64)
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a [Value]>> {
        self.as_type(name, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let map = self.as_type(name, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields { map, path: self.path(name) }))
    }

    /// The objects of an array.
    pub(crate) fn objects(&self, name: &str) -> Result<Option<Vec<Fields<'a>>>> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        let object = |(at, value): (usize, &'a Value)| {
            let path = format!("{}[{at}]", self.path(name));
            match value {
                Value::Object(map) => Ok(Fields { map, path }),
                _ => Err(Error::field(path, "must be an object")),
            }
        };
        list.iter().enumerate().map(object).collect::<Result<_>>().map(Some)
    }

    /// A text that has to be there.
    pub(crate) fn required_text(&self, name: &str) -> Result<&'a str> {
        self.text(name)?.ok_or_else(|| self.fault(name, "is missing"))
    }

    /// One of these words.
    pub(crate) fn word(&self, name: &str, words: &[&str]) -> Result<Option<&'a str>> {
        match self.text(name)? {
            Some(word) if !words.contains(&word) => {
                Err(self.fault(name, format_args!("must be one of {}", words.join(", "))))
            }
            word => Ok(word),
        }
    }

    /// Refuses a field that asks for more than nothing.
    pub(crate) fn refuse(&self, name: &str, why: &str) -> Result<()> {
        match self.value(name) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(Value::Array(list)) if list.is_empty() => Ok(()),
            Some(_) => Err(self.fault(name, why)),
        }
    }
}
