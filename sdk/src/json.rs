//! JSON objects taken apart as text: for what is to be passed on as it was written, with the order of its members, its
//! numbers and its white space, which reading it into values and writing it again would not keep.

use serde::de::{Deserialize, Deserializer, Visitor};
use std::fmt;

/// The members of an object's text, in order. The text has to be JSON, as all data of the host's is; of what is none, the
/// members before the fault are found.
///
/// ```
/// use plugway_sdk::json;
///
/// let frame = r#"{"type": "done", "n": 1.50, "token": null}"#;
/// let kept: Vec<&str> = json::members(frame).filter(|member| member.value != "null").map(|member| member.text).collect();
/// assert_eq!(kept, [r#""type": "done""#, r#""n": 1.50"#]);
/// assert_eq!(json::member(frame, "n"), Some("1.50"));
/// ```
pub fn members(object: &str) -> Members<'_> {
    Members { rest: object.trim_start().strip_prefix('{').unwrap_or_default() }
}

/// The value of the member of that name, as it was written; of several the last, as readers do.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    members(object).filter(|member| is(member.name, name)).last().map(|member| member.value)
}

/// Whether a name, without its quotes but with its escapes, is this one.
pub(crate) fn is(written: &str, name: &str) -> bool {
    written == name
        || (written.contains('\\') && text(&format!("\"{written}\"")).is_some_and(|text| text == name))
}

/// A string's value; halves of surrogate pairs, which JavaScript's `slice` leaves, become U+FFFD. None: it is no string.
pub(crate) fn text(quoted: &str) -> Option<String> {
    if !quoted.starts_with('"') {
        return None;
    }
    if let Ok(text) = serde_json::from_str(quoted) {
        return Some(text);
    }
    let Bytes(mut bytes) = serde_json::from_str(quoted).ok()?;
    // As bytes, a half is read as if it were a character: see `serde_json::Deserializer::deserialize_bytes`.
    for at in 0..bytes.len().saturating_sub(1) {
        if bytes[at] == 0xED && bytes[at + 1] >= 0xA0 {
            bytes[at..at + 3].copy_from_slice("\u{FFFD}".as_bytes());
        }
    }
    String::from_utf8(bytes).ok()
}

/// A string's bytes.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = Bytes;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Read)
    }
}

/// How many values a JSON text holds; a member's name counts with its value.
pub(crate) fn values(text: &str) -> usize {
    let (mut values, mut at) = (1, 0);
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'"' => match text.get(at + 1..).and_then(string_end) {
                Some(end) => at += end + 1,
                None => break,
            },
            b',' | b'[' | b'{' => values += 1,
            _ => {}
        }
        at += 1;
    }
    values
}

/// See [`members`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    rest: &'a str,
}

/// One member of an object, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member<'a> {
    /// Between its quotes; escapes are as they were.
    pub name: &'a str,
    /// Without white space around it.
    pub value: &'a str,
    /// All of it: name, colon and value.
    pub text: &'a str,
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let text = std::mem::take(&mut self.rest).trim_start();
        let quoted = text.strip_prefix('"')?;
        let name = &quoted[..string_end(quoted)?];
        let after_name = text[name.len() + 2..].trim_start().strip_prefix(':')?.trim_start();
        let begin = text.len() - after_name.len();
        let end = begin + value_end(after_name)?;
        let rest = text[end..].trim_start();
        self.rest = rest.strip_prefix(',').unwrap_or_default();
        Some(Member { name, value: &text[begin..end], text: &text[..end] })
    }
}

/// Whether the text is one object, as far as brackets and quotes tell.
pub(crate) fn is_object(text: &str) -> bool {
    let text = text.trim_ascii();
    text.starts_with('{') && value_end(text) == Some(text.len())
}

/// Where a string's closing quote is, in the text behind its opening one.
pub(crate) fn string_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Where the value ends that the text begins with.
pub(crate) fn value_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.first()? {
        b'"' => Some(string_end(&text[1..])? + 2),
        b'{' | b'[' => {
            let (mut at, mut depth) = (0, 0_usize);
            loop {
                match bytes.get(at)? {
                    b'"' => at += string_end(text.get(at + 1..)?)? + 1,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
            let end = bytes.iter().position(ends).unwrap_or(bytes.len());
            (end > 0).then_some(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_as_they_were_written() {
        let text =
            " {\n \"a\" : \"x,\\\"}\\\\\" , \"b\":{\"c\":[1,{\"d\":\"]}\"}]},\"\":-1.50e3 ,\"ä\\n\": null}\n";
        let found: Vec<_> = members(text).map(|member| (member.name, member.value)).collect();
        let expected =
            [("a", r#""x,\"}\\""#), ("b", r#"{"c":[1,{"d":"]}"}]}"#), ("", "-1.50e3"), ("ä\\n", "null")];
        assert_eq!(found, expected);
        assert_eq!(members(text).next().map(|member| member.text), Some("\"a\" : \"x,\\\"}\\\\\""));
        assert_eq!(members("{}").count(), 0);
        assert_eq!(member(text, "c"), None);
        assert_eq!(member(r#"{"a":1,"\u0061":2,"b":3}"#, "a"), Some("2"));
    }

    #[test]
    fn values_are_counted_and_strings_are_not_looked_into() {
        assert_eq!(values("7"), 1);
        assert_eq!(values(r#"["a,[{\"", {"b": 1, "c": [2, 3]}]"#), 7);
        assert_eq!(values("[".repeat(9).as_str()), 10);
        assert_eq!(values("\"a"), 1);
    }

    #[test]
    fn halves_of_surrogate_pairs_are_replaced() {
        assert_eq!(text(r#""a\ud83d""#).as_deref(), Some("a\u{FFFD}"));
        assert_eq!(text(r#""\udc00\ud83d\ude00ä\ud83dx""#).as_deref(), Some("\u{FFFD}😀ä\u{FFFD}x"));
        assert_eq!(text(r#""a\n""#).as_deref(), Some("a\n"));
        for none in ["7", "null", "\"a", "[\"a\"]", ""] {
            assert_eq!(text(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_object_has_no_members_and_what_breaks_off_has_those_before() {
        for text in
            ["", "7", "[1]", "{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":\"x\\", "{\"a\":{\"b\":[}"]
        {
            assert_eq!(members(text).count(), 0, "{text}");
        }
        assert_eq!(members(r#"{"a":1,"b":[2"#).count(), 1);
        assert_eq!(members(r#"{"a":1 "b":2}"#).count(), 1);
    }
}
