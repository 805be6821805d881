//! JSON rewritten value by value: what is not replaced keeps its bytes, names stay. However deep it is, it takes no stack.

use std::borrow::Cow;

/// A value that holds no others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Leaf<'a> {
    /// A text, with its quotes and escapes.
    Text(&'a str),
    /// A number, as it is written.
    Number(&'a str),
}

/// Where a value is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Names of the fields that it is in, from the outermost, as they are written.
    pub(crate) path: &'a [&'a str],
    /// How many objects and lists it is in.
    pub(crate) depth: usize,
}

/// Asks for each text and number of valid JSON what to put in its place, as JSON. None if nothing is replaced.
pub(crate) fn rewrite<'a>(
    json: &'a str,
    judge: &mut dyn FnMut(Place<'_>, Leaf<'a>) -> Option<String>,
) -> Option<String> {
    let bytes = json.as_bytes();
    // Whether each of what is open is an object; a name for each that is.
    let (mut open, mut path) = (Vec::new(), Vec::new());
    let (mut name_next, mut at, mut copied) = (false, 0, 0);
    let mut out = String::new();
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        let replaced = match byte {
            b'{' => {
                open.push(true);
                path.push("");
                name_next = true;
                None
            }
            b'[' => {
                open.push(false);
                name_next = false;
                None
            }
            b'}' => {
                open.pop();
                path.pop();
                None
            }
            b']' => {
                open.pop();
                None
            }
            b',' => {
                name_next = open.last() == Some(&true);
                None
            }
            b':' => {
                name_next = false;
                None
            }
            b'"' => {
                at = text_end(bytes, at);
                if !name_next {
                    judge(Place { path: &path, depth: open.len() }, Leaf::Text(&json[start..at]))
                } else {
                    if let Some(name) = path.last_mut() {
                        *name = &json[start + 1..at - 1];
                    }
                    None
                }
            }
            b'-' | b'0'..=b'9' => {
                let more = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                at += bytes[at..].iter().take_while(|byte| more(byte)).count();
                judge(Place { path: &path, depth: open.len() }, Leaf::Number(&json[start..at]))
            }
            _ => None,
        };
        if let Some(replaced) = replaced {
            out.push_str(&json[copied..start]);
            out.push_str(&replaced);
            copied = at;
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&json[copied..]);
    Some(out)
}

/// Where a text ends whose first quote was before `at`.
pub(crate) fn text_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'"' => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The objects of a list of valid JSON, as they are written.
pub(crate) fn objects(list: &str) -> Vec<&str> {
    let bytes = list.as_bytes();
    let (mut objects, mut depth, mut from, mut at) = (Vec::new(), 0_usize, 0, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = text_end(bytes, at),
            b'{' | b'[' => {
                if depth == 1 {
                    from = at - 1;
                }
                depth += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 1 && *byte == b'}' {
                    objects.push(&list[from..at]);
                }
            }
            _ => {}
        }
    }
    objects
}

/// Whether a text is one JSON object or list. Its texts may hold halves of surrogate pairs.
pub(crate) fn is_json(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut open = Vec::new();
    // What may come next: a value, a name, the end of what was just opened, or what stands behind a value.
    let (mut value, mut name, mut empty) = (true, false, false);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let behind = !value && !name;
        at += 1;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' | b'[' if value => {
                open.push(byte);
                (value, name, empty) = (byte == b'[', byte == b'{', true);
            }
            b'}' | b']' if behind || empty => {
                // `{` and `}`, `[` and `]` are two apart.
                if open.pop() != Some(byte - 2) {
                    return false;
                }
                (value, name, empty) = (false, false, false);
                if open.is_empty() {
                    return bytes[at..].iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
                }
            }
            b',' if behind => (value, name) = (open.last() == Some(&b'['), open.last() == Some(&b'{')),
            b'"' if name || (value && !open.is_empty()) => {
                let Some(end) = string_end(bytes, at) else { return false };
                at = end;
                empty = false;
                if name {
                    at += bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                    if bytes.get(at) != Some(&b':') {
                        return false;
                    }
                    at += 1;
                }
                (value, name) = (name, false);
            }
            _ if value && !open.is_empty() => {
                let length = scalar(&bytes[at - 1..]);
                if length == 0 {
                    return false;
                }
                at += length - 1;
                (value, empty) = (false, false);
            }
            _ => return false,
        }
    }
    false
}

/// Where a text ends whose first quote was before `at`; none if it has no end, or what no text may have.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => match bytes.get(at + 1)? {
                b'u' => {
                    let digits = bytes.get(at + 2..at + 6)?;
                    digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                    at += 6;
                }
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                _ => return None,
            },
            0..0x20 => return None,
            _ => at += 1,
        }
    }
}

/// Length of a number or a word of JSON that begins here; 0 if none does.
fn scalar(bytes: &[u8]) -> usize {
    for word in [&b"true"[..], b"false", b"null"] {
        if bytes.starts_with(word) {
            return word.len();
        }
    }
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(bytes[0] == b'-');
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return 0;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return 0;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return 0;
        }
        at += exponent;
    }
    at
}

/// The text that a string of JSON is, with U+FFFD for half of a surrogate pair. None if it is no string.
pub(crate) fn unquote(json: &str) -> Option<Cow<'_, str>> {
    let mut rest = json.strip_prefix('"')?.strip_suffix('"')?;
    if !rest.contains('\\') {
        return Some(Cow::Borrowed(rest));
    }
    let mut text = String::with_capacity(rest.len());
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (char, length) = escape(&rest[at + 1..])?;
        text.push(char);
        rest = &rest[at + 1 + length..];
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

/// The character that is escaped, and the length of what stands behind the backslash.
fn escape(text: &str) -> Option<(char, usize)> {
    let unit = |text: &str| {
        let digits = text.strip_prefix('u')?.get(..4)?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
        u16::from_str_radix(digits, 16).ok()
    };
    let char = match text.bytes().next()? {
        byte @ (b'"' | b'\\' | b'/') => char::from(byte),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => {
            let first = unit(text)?;
            let second = text[5..].strip_prefix('\\').and_then(unit);
            let pair = [first, second.unwrap_or_default()];
            return match (char::from_u32(u32::from(first)), char::decode_utf16(pair).next()) {
                (Some(char), _) => Some((char, 5)),
                (None, Some(Ok(char))) => Some((char, 11)),
                _ => Some((char::REPLACEMENT_CHARACTER, 5)),
            };
        }
    };
    Some((char, 1))
}

/// Text as JSON.
pub(crate) fn quote(text: &str) -> String {
    // Only maps with keys that are no strings could fail.
    serde_json::to_string(text).unwrap_or_default()
}
