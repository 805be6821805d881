//! Reading what Redis answers. What is not as this store writes it is an error, never a panic.

use std::collections::HashMap;

use redis::Value;

/// An answer of another shape than expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misread(String);

pub(super) type Read<T> = Result<T, Misread>;

pub(super) fn misread(what: impl Into<String>) -> Misread {
    Misread(what.into())
}

/// The words of an answer, in order.
#[derive(Debug, Default)]
pub(super) struct Words(std::vec::IntoIter<Value>);

impl Words {
    pub(super) fn of(value: Value) -> Read<Self> {
        match value {
            Value::Array(values) | Value::Set(values) => Ok(Self(values.into_iter())),
            Value::Nil => Ok(Self::default()),
            other => Err(misread(format!("an array was expected, not {other:?}"))),
        }
    }

    pub(super) fn value(&mut self) -> Read<Value> {
        self.0.next().ok_or_else(|| misread("the answer is too short"))
    }

    pub(super) fn text(&mut self) -> Read<String> {
        let value = self.value()?;
        text(value)?.ok_or_else(|| misread("something is missing"))
    }

    pub(super) fn maybe_text(&mut self) -> Read<Option<String>> {
        self.value().and_then(text)
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self) -> Read<T> {
        number(&self.text()?)
    }

    pub(super) fn maybe_number<T: std::str::FromStr>(&mut self) -> Read<Option<T>> {
        self.maybe_text()?.map(|text| number(&text)).transpose()
    }

    pub(super) fn words(&mut self) -> Read<Self> {
        Self::of(self.value()?)
    }

    /// All that is left, as texts.
    pub(super) fn texts(self) -> Read<Vec<String>> {
        self.0.map(|value| text(value)?.ok_or_else(|| misread("something is missing"))).collect()
    }
}

impl Iterator for Words {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.0.next()
    }
}

/// A hash, as `HGETALL` gives it.
#[derive(Debug)]
pub(super) struct Fields(HashMap<String, String>);

impl Fields {
    /// None if there is no such hash.
    pub(super) fn of(value: Value) -> Read<Option<Self>> {
        let mut words = Words::of(value)?.texts()?.into_iter();
        let mut fields = HashMap::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            fields.insert(name, value);
        }
        Ok((!fields.is_empty()).then_some(Self(fields)))
    }

    pub(super) fn take(&mut self, name: &str) -> Read<String> {
        self.maybe(name).ok_or_else(|| misread(format!("`{name}` is missing")))
    }

    pub(super) fn maybe(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, name: &str) -> Read<T> {
        number(&self.take(name)?)
    }

    pub(super) fn maybe_number<T: std::str::FromStr>(&mut self, name: &str) -> Read<Option<T>> {
        self.maybe(name).map(|text| number(&text)).transpose()
    }
}

pub(super) fn text(value: Value) -> Read<Option<String>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => {
            String::from_utf8(bytes).map(Some).map_err(|_| misread("a text is no UTF-8"))
        }
        Value::SimpleString(text) => Ok(Some(text)),
        Value::Okay => Ok(Some("OK".to_owned())),
        Value::Int(number) => Ok(Some(number.to_string())),
        other => Err(misread(format!("a text was expected, not {other:?}"))),
    }
}

pub(super) fn bytes(value: Value) -> Read<Option<Vec<u8>>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        other => Err(misread(format!("bytes were expected, not {other:?}"))),
    }
}

pub(super) fn number<T: std::str::FromStr>(text: &str) -> Read<T> {
    text.parse().map_err(|_| misread(format!("{text:?} is no number of the expected kind")))
}
