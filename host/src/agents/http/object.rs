//! A JSON object member by member, each value by its text. JSON has lone surrogates, numbers of any size and any depth, as
//! JavaScript and Python write them; what Rust can't hold of that is lost alone, and takes nothing with it.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_json::value::RawValue;

/// Members in their order, with the text of each value.
#[derive(Debug)]
pub(super) struct Object<'a>(Vec<(Text, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads an object's members, and nothing within them.
    ///
    /// # Errors
    /// The text is no JSON object.
    pub(super) fn read(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The value of that name as it was written, the last one where there are several; none where it is null.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.written(name).filter(|value| *value != "null")
    }

    /// The same, null or not.
    pub(super) fn written(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(known, _)| known.0 == name).map(|(_, value)| value.get())
    }

    /// Names, and values that can be read. Of a value that can't, its object's text is all there is.
    pub(super) fn readable(self) -> impl Iterator<Item = (String, Value)> {
        self.0.into_iter().filter_map(|(name, value)| Some((name.0, self::value(value.get())?)))
    }
}

/// A value, if Rust has such a one.
pub(super) fn value(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// A string's text; none of any other value. Half a surrogate pair becomes U+FFFD.
pub(super) fn string(value: &str) -> Option<String> {
    serde_json::from_str::<Text>(value).ok().map(|text| text.0)
}

/// What a value says: a string, an object's `text`, or all that the items of a list say.
pub(super) fn words(value: &str) -> Option<String> {
    let part = |part: &str| string(part).or_else(|| Object::read(part).ok()?.get("text").and_then(string));
    part(value).or_else(|| {
        let parts: Vec<&RawValue> = serde_json::from_str(value).ok()?;
        Some(parts.into_iter().filter_map(|item| part(item.get())).collect())
    })
}

/// The text with null for each `NaN` and `Infinity`, which Python writes and JSON does not have; none if it holds none.
pub(super) fn without_nan(text: &str) -> Option<String> {
    let (mut out, mut rest, mut in_string) = (String::with_capacity(text.len()), text, false);
    let mut found = false;
    while let Some(next) = rest.chars().next() {
        let literal = ["NaN", "Infinity", "-Infinity"].into_iter().find(|literal| rest.starts_with(literal));
        let taken = match (in_string, literal, next) {
            (false, Some(literal), _) => {
                found = true;
                out.push_str("null");
                rest = &rest[literal.len()..];
                continue;
            }
            // With what it escapes.
            (true, _, '\\') => next.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8),
            (_, _, '"') => {
                in_string = !in_string;
                1
            }
            _ => next.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    found.then_some(out)
}

/// A string, whatever its escapes say.
#[derive(Debug)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    /// All that is no UTF-8 are surrogates, each of three bytes that are invalid one by one.
    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Text, E> {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            if chunk.invalid().first() == Some(&0xed) {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Ok(Text(text))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_not_be_held_is_lost_alone() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(
            r#"{{"a":1,"half":"\ud83d","big":1e999,"deep":{deep},"a":2,"b\ud83d":"\ude00","nil":null,"c":["\u00fc"]}}"#
        );
        let object = Object::read(&text).unwrap();
        assert_eq!((object.get("a"), object.get("big")), (Some("2"), Some("1e999")));
        assert_eq!((object.get("nil"), object.written("nil"), object.get("d")), (None, Some("null"), None));
        assert_eq!(object.get("b\u{fffd}").and_then(string).as_deref(), Some("\u{fffd}"));
        let read: Vec<_> = object.readable().collect();
        let expected = [("a", json!(1)), ("a", json!(2)), ("nil", Value::Null), ("c", json!(["ü"]))];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value)));
        for text in ["", "{", "[]", "7", "{\"a\":}", "{\"a\":NaN}", "{} {}", "{\"a\":\"\\ud8\"}"] {
            assert!(Object::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn halves_of_a_pair_are_one_character_each() {
        let text = r#""a\ud83d\ud83d\ude00b\ude00\n\ud83d\u00e9ü\ud83d""#;
        assert_eq!(string(text).unwrap(), "a\u{fffd}\u{1f600}b\u{fffd}\n\u{fffd}éü\u{fffd}");
        for other in ["7", "null", "[\"a\"]", "{}", "", "\"a\"b"] {
            assert_eq!(string(other), None, "{other}");
        }
    }

    #[test]
    fn words_of_parts_are_put_together() {
        let parts = r#"[{"type":"text","text":"a "},"b\ud83d",{"type":"image_url"},7,null,{"text":"c"}]"#;
        assert_eq!(words(parts).unwrap(), "a b\u{fffd}c");
        assert_eq!(words(r#"{"type":"text","text":"a"}"#).unwrap(), "a");
        assert_eq!(words("\"a\"").unwrap(), "a");
        assert_eq!((words("[]").unwrap(), words("{}"), words("7")), (String::new(), None, None));
    }

    #[test]
    fn numbers_that_are_none_become_null() {
        let text = r#"{"a": NaN, "b":[-Infinity,Infinity],"NaN":"say \"NaN\" \\", "c":-1}"#;
        let expected = r#"{"a": null, "b":[null,null],"NaN":"say \"NaN\" \\", "c":-1}"#;
        assert_eq!(without_nan(text).unwrap(), expected);
        assert_eq!(without_nan(r#"{"a":"NaN\"#), None);
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in "[\\\\\"NaInfity\\-{}:,ü\\[\\] 1e]{0,40}") {
            let _ = (Object::read(&text).map(|object| object.readable().count()), string(&text), words(&text));
            let _ = without_nan(&text);
        }

        #[test]
        fn any_string_is_itself(text in any::<String>()) {
            prop_assert_eq!(string(&Value::from(text.as_str()).to_string()), Some(text));
        }
    }
}
