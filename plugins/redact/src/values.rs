//! JSON rewritten value by value: what is not replaced keeps its bytes, names stay.

/// A value that holds no others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Leaf<'a> {
    /// A text, with its quotes and escapes.
    Text(&'a str),
    /// A number, as it is written.
    Number(&'a str),
}

/// Asks for each text and number of valid JSON what to put in its place, as JSON: given are the names of the fields that
/// it is in, from the outermost. None if nothing is replaced.
pub(crate) fn rewrite(
    json: &str,
    judge: &mut dyn FnMut(&[&str], Leaf<'_>) -> Option<String>,
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
                    judge(&path, Leaf::Text(&json[start..at]))
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
                judge(&path, Leaf::Number(&json[start..at]))
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
