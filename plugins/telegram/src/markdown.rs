//! The Markdown that models write, as Telegram's MarkdownV2: blocks of code, headings and lines (see `inline`).
//!
//! Bold, italic, strikethrough, code, fences, links and headings become entities. Whatever is doubtful (an unclosed marker,
//! a table, a list's bullet) stays the text that it is, escaped. A text without any entity is sent plain, unescaped.
//! Source of the rules: <https://core.telegram.org/bots/api#markdownv2-style>.

use crate::inline::{Active, Line};

/// A text as Telegram takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Whether it has entities, and so needs `parse_mode`.
    pub(crate) formatted: bool,
}

/// Whether MarkdownV2 wants a backslash before it, outside of code.
pub(crate) fn is_special(char: char) -> bool {
    matches!(
        char,
        '_' | '*'
            | '['
            | ']'
            | '('
            | ')'
            | '~'
            | '`'
            | '>'
            | '#'
            | '+'
            | '-'
            | '='
            | '|'
            | '{'
            | '}'
            | '.'
            | '!'
            | '\\'
    )
}

/// Whether it wants one inside of code.
pub(crate) fn is_special_in_code(char: char) -> bool {
    matches!(char, '`' | '\\')
}

/// A line that opens a block of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    marker: char,
    count: usize,
    language: String,
}

impl Fence {
    /// Reads an opening line.
    pub(crate) fn opening(line: &str) -> Option<Self> {
        let line = line.trim();
        let marker = line.chars().next().filter(|char| matches!(char, '`' | '~'))?;
        let count = line.chars().take_while(|char| *char == marker).count();
        let info = line[count..].trim();
        if count < 3 || info.contains('`') {
            return None;
        }
        let name = info.split_whitespace().next().unwrap_or_default();
        let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '#' | '.' | '_');
        let language = if name.len() <= 32 && name.chars().all(plain) { name } else { "" };
        Some(Self { marker, count: count.min(16), language: language.to_owned() })
    }

    /// Whether a line closes it.
    pub(crate) fn closes(&self, line: &str) -> bool {
        let line = line.trim();
        line.len() >= self.count && line.chars().all(|char| char == self.marker)
    }

    /// The line that opens it again in the next message.
    pub(crate) fn reopen(&self) -> String {
        format!("{}{}\n", self.close(), self.language)
    }

    /// The line that closes it.
    pub(crate) fn close(&self) -> String {
        std::iter::repeat_n(self.marker, self.count).collect()
    }
}

/// Renders a message.
pub(crate) fn render(source: &str) -> Rendered {
    let mut out =
        Writer { text: String::with_capacity(source.len() + source.len() / 8), ..Writer::default() };
    let mut rest = source;
    while let Some(line) = rest.split_inclusive('\n').next() {
        rest = &rest[line.len()..];
        match Fence::opening(line) {
            Some(fence) => rest = code_block(&mut out, &fence, line, rest),
            None => text_line(&mut out, line),
        }
    }
    if out.formatted {
        Rendered { text: out.text, formatted: true }
    } else {
        Rendered { text: source.to_owned(), formatted: false }
    }
}

/// A block of code; closed here if the source does not. Returns what follows it.
fn code_block<'a>(out: &mut Writer, fence: &Fence, line: &str, rest: &'a str) -> &'a str {
    let (mut end, mut after) = (rest.len(), rest.len());
    let mut at = 0;
    for body in rest.split_inclusive('\n') {
        if fence.closes(body) {
            (end, after) = (at, at + body.len());
            break;
        }
        at += body.len();
    }
    let code = rest[..end].strip_suffix('\n').unwrap_or(&rest[..end]);
    if code.trim().is_empty() {
        out.escape(line);
        out.escape(&rest[..after]);
        return &rest[after..];
    }
    out.formatted = true;
    out.raw("```");
    out.raw(&fence.language);
    out.raw("\n");
    out.code(code);
    out.raw("\n```");
    if rest[end..after].ends_with('\n') {
        out.raw("\n");
    }
    &rest[after..]
}

fn text_line(out: &mut Writer, line: &str) {
    let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
    let title = heading(body);
    let line = Line::read(title.unwrap_or(body));
    out.formatted |= title.is_some();
    // Code can't stand inside of bold, so a title with code is none.
    if title.is_some() && !line.has_code() {
        out.marker('*');
        line.write(out, Active::BOLD);
        out.marker('*');
    } else {
        line.write(out, Active::default());
    }
    out.raw(end);
}

/// The title of a heading, as in `## Title` or `## Title ##`.
fn heading(line: &str) -> Option<&str> {
    let level = line.bytes().take_while(|byte| *byte == b'#').count();
    let title = line[level..].strip_prefix(' ')?.trim();
    let open = title.trim_end_matches('#');
    let title = if open.ends_with(char::is_whitespace) { open.trim_end() } else { title };
    ((1..=6).contains(&level) && !open.is_empty()).then_some(title)
}

/// What is written so far.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    text: String,
    pub(crate) formatted: bool,
    /// The marker that was written last, if nothing was written since.
    pub(crate) last_marker: Option<char>,
}

impl Writer {
    pub(crate) fn raw(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text);
            self.last_marker = None;
        }
    }

    pub(crate) fn marker(&mut self, marker: char) {
        self.text.push(marker);
        self.last_marker = Some(marker);
    }

    pub(crate) fn escape(&mut self, text: &str) {
        for char in text.chars() {
            if is_special(char) {
                self.text.push('\\');
            }
            self.text.push(char);
            self.last_marker = None;
        }
    }

    pub(crate) fn code(&mut self, code: &str) {
        for char in code.chars() {
            if is_special_in_code(char) {
                self.text.push('\\');
            }
            self.text.push(char);
            self.last_marker = None;
        }
    }

    /// The target of a link.
    pub(crate) fn address(&mut self, url: &str) {
        for char in url.chars() {
            if matches!(char, ')' | '\\') {
                self.text.push('\\');
            }
            self.text.push(char);
        }
    }
}
