//! A strict reader of MarkdownV2, for what the plugin writes: every special character is escaped or part of an entity, and
//! every entity ends.

/// What a text shows, and its entities as `(kind, text)`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) visible: String,
    pub(super) entities: Vec<(&'static str, String)>,
}

pub(super) fn read(source: &str) -> Result<Read, String> {
    let mut read = Read::default();
    let mut open: Vec<(&'static str, usize)> = Vec::new();
    let mut at = 0;
    while let Some(char) = source[at..].chars().next() {
        let rest = &source[at..];
        at += match char {
            '\\' => {
                let escaped = rest[1..].chars().next().ok_or("a backslash at the end")?;
                if !escaped.is_ascii() || escaped.is_ascii_alphanumeric() || escaped.is_whitespace() {
                    return Err(format!("character {escaped:?} can't be escaped"));
                }
                read.visible.push(escaped);
                2
            }
            '`' if rest.starts_with("```") => {
                let end = code_end(&rest[3..], "```").ok_or("can't find end of Pre entity")?;
                let (_language, code) = rest[3..3 + end].split_once('\n').unwrap_or(("", &rest[3..3 + end]));
                push_code(&mut read, &open, "pre", code.strip_suffix('\n').unwrap_or(code))?;
                end + 6
            }
            '`' => {
                let end = code_end(&rest[1..], "`").ok_or("can't find end of Code entity")?;
                push_code(&mut read, &open, "code", &rest[1..=end])?;
                end + 2
            }
            '_' if rest.starts_with("__") => return Err("underline, which nobody asked for".into()),
            '*' => toggle(&mut read, &mut open, "bold", 1)?,
            '_' => toggle(&mut read, &mut open, "italic", 1)?,
            '~' => toggle(&mut read, &mut open, "strike", 1)?,
            '[' => {
                open.push(("link", read.visible.len()));
                1
            }
            ']' => {
                let (kind, start) = open.pop().ok_or("character ']' is reserved")?;
                let target = rest.strip_prefix("](").ok_or("character ']' is reserved")?;
                if kind != "link" {
                    return Err(format!("link ends inside of {kind}"));
                }
                let mut end = None;
                let mut chars = target.char_indices();
                while let Some((index, char)) = chars.next() {
                    match char {
                        '\\' => _ = chars.next(),
                        ')' => {
                            end = Some(index);
                            break;
                        }
                        _ => {}
                    }
                }
                let end = end.ok_or("can't find end of a URL")?;
                read.entities.push(("link", read.visible[start..].to_owned()));
                read.entities.push(("url", target[..end].replace('\\', "")));
                end + 3
            }
            '(' | ')' | '>' | '#' | '+' | '-' | '=' | '|' | '{' | '}' | '.' | '!' => {
                return Err(format!("character {char:?} is reserved and must be escaped"));
            }
            other => {
                read.visible.push(other);
                other.len_utf8()
            }
        };
    }
    match open.last() {
        Some((kind, _)) => Err(format!("can't find end of {kind}")),
        None => Ok(read),
    }
}

fn toggle(
    read: &mut Read,
    open: &mut Vec<(&'static str, usize)>,
    kind: &'static str,
    width: usize,
) -> Result<usize, String> {
    match open.iter().position(|(other, _)| *other == kind) {
        Some(index) if index + 1 == open.len() => {
            let start = open[index].1;
            open.pop();
            if start == read.visible.len() {
                return Err(format!("empty {kind}"));
            }
            read.entities.push((kind, read.visible[start..].to_owned()));
        }
        Some(_) => return Err(format!("{kind} ends across another entity")),
        None => open.push((kind, read.visible.len())),
    }
    Ok(width)
}

fn push_code(
    read: &mut Read,
    open: &[(&'static str, usize)],
    kind: &'static str,
    code: &str,
) -> Result<(), String> {
    if let Some((outer, _)) = open.first() {
        return Err(format!("{kind} inside of {outer}"));
    }
    let mut text = String::new();
    let mut chars = code.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(escaped @ ('`' | '\\')) => text.push(escaped),
                other => return Err(format!("{other:?} is escaped in code")),
            },
            other => text.push(other),
        }
    }
    if text.trim().is_empty() {
        return Err(format!("empty {kind}"));
    }
    read.visible.push_str(&text);
    read.entities.push((kind, text));
    Ok(())
}

fn code_end(text: &str, mark: &str) -> Option<usize> {
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with('\\') {
            at += 1 + text[at + 1..].chars().next()?.len_utf8();
        } else if text[at..].starts_with(mark) {
            return Some(at);
        } else {
            at += text[at..].chars().next()?.len_utf8();
        }
    }
    None
}
