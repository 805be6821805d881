//! The Markdown that models write, as Telegram's MarkdownV2.
//!
//! Bold, italic, strikethrough, code, fences, links and headings become entities. Whatever is doubtful (an unclosed marker,
//! a table, a list's bullet) stays the text that it is, escaped. A text without any entity is sent plain, unescaped.
//! Source of the rules: <https://core.telegram.org/bots/api#markdownv2-style>.

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
        return rest;
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
    match heading(body) {
        Some(title) if title.contains('`') => {
            out.formatted = true;
            inline(out, title, Active { bold: true, ..Active::default() });
        }
        Some(title) => {
            out.formatted = true;
            out.marker('*');
            inline(out, title, Active { bold: true, ..Active::default() });
            out.marker('*');
        }
        None => inline(out, body, Active::default()),
    }
    out.raw(end);
}

/// The title of a heading, as in `## Title`.
fn heading(line: &str) -> Option<&str> {
    let level = line.bytes().take_while(|byte| *byte == b'#').count();
    let title = line[level..].strip_prefix(' ')?.trim().trim_end_matches('#').trim_end();
    ((1..=6).contains(&level) && !title.is_empty()).then_some(title)
}

/// Kinds of entity that a text stands in; none nests in itself.
#[derive(Debug, Clone, Copy, Default)]
struct Active {
    bold: bool,
    italic: bool,
    strike: bool,
    link: bool,
}

/// The text of one line, or of an entity in it.
fn inline(out: &mut Writer, text: &str, active: Active) {
    let mut at = 0;
    while let Some(char) = text[at..].chars().next() {
        let before = text[..at].chars().next_back();
        let used = match char {
            '`' => code_span(out, &text[at..], active),
            '*' | '_' | '~' => emphasis(out, text, at, before, active),
            '[' => link(out, &text[at..], active),
            '\\' => escaped(out, &text[at..]),
            _ => None,
        };
        at += used.unwrap_or_else(|| {
            // A run of markers that means nothing is passed over as a whole, so that its tail is not taken for a marker.
            let run = if matches!(char, '*' | '_' | '~' | '`') {
                run_of(&text[at..], char)
            } else {
                char.len_utf8()
            };
            out.escape(&text[at..at + run]);
            run
        });
    }
}

fn run_of(text: &str, marker: char) -> usize {
    text.chars().take_while(|char| *char == marker).count()
}

/// A marker that the model has escaped is that character, and no marker.
fn escaped(out: &mut Writer, text: &str) -> Option<usize> {
    let char = text[1..].chars().next().filter(|char| matches!(char, '*' | '_' | '`' | '~' | '#'))?;
    out.formatted = true;
    out.escape(char.encode_utf8(&mut [0; 4]));
    Some(2)
}

fn code_span(out: &mut Writer, text: &str, active: Active) -> Option<usize> {
    let open = run_of(text, '`');
    let (body, used) = span_body(text, open)?;
    let padded = body.len() > 2 && body.starts_with(' ') && body.ends_with(' ') && !body.trim().is_empty();
    let body = if padded { &body[1..body.len() - 1] } else { body };
    if body.trim().is_empty() || active.link {
        return None;
    }
    out.formatted = true;
    out.marker('`');
    out.code(body);
    out.marker('`');
    Some(used)
}

/// What stands between a run of backticks and the next run of that length, and how much that is with both.
fn span_body(text: &str, open: usize) -> Option<(&str, usize)> {
    let mut at = open;
    while let Some(next) = text[at..].find('`') {
        let close = run_of(&text[at + next..], '`');
        if close == open {
            return Some((&text[open..at + next], at + next + close));
        }
        at += next + close;
    }
    None
}

fn emphasis(out: &mut Writer, text: &str, at: usize, before: Option<char>, active: Active) -> Option<usize> {
    let marker = text[at..].chars().next()?;
    let run = run_of(&text[at..], marker);
    let kinds: &[(usize, &[char])] = match (marker, run) {
        ('~', 2) => &[(2, &['~'])],
        ('*' | '_', 1) => &[(1, &['_'])],
        ('*' | '_', 2) => &[(2, &['*'])],
        ('*' | '_', 3) => &[(3, &['*', '_'])],
        _ => &[],
    };
    let &(width, signs) = kinds.first()?;
    let inside = Active {
        bold: active.bold || signs.contains(&'*'),
        italic: active.italic || signs.contains(&'_'),
        strike: active.strike || signs.contains(&'~'),
        ..active
    };
    let nested = (active.bold && signs.contains(&'*'))
        || (active.italic && signs.contains(&'_'))
        || (active.strike && signs.contains(&'~'));
    let within_word = marker == '_' && before.is_some_and(char::is_alphanumeric);
    let start = at + width;
    let opens = text[start..].chars().next().is_some_and(|char| !char.is_whitespace());
    if nested || within_word || !opens {
        return None;
    }
    let end = closing(text, start, marker, width)?;
    let body = &text[start..end];
    // Two italics that touch would read as underline, and code can't stand inside another entity.
    if signs.contains(&'_') && out.last_marker == Some('_') {
        return None;
    }
    out.formatted = true;
    if body.contains('`') {
        inline(out, body, inside);
    } else {
        signs.iter().for_each(|sign| out.marker(*sign));
        inline(out, body, inside);
        signs.iter().rev().for_each(|sign| out.marker(*sign));
    }
    Some(end + width - at)
}

/// Where an emphasis ends: at a run of the same width that follows no white space, outside of code.
fn closing(text: &str, start: usize, marker: char, width: usize) -> Option<usize> {
    let mut at = start;
    while let Some(char) = text[at..].chars().next() {
        let step = match char {
            '\\' => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
            '`' => {
                let open = run_of(&text[at..], '`');
                span_body(&text[at..], open).map_or(open, |(_, used)| used)
            }
            char if char == marker => {
                let run = run_of(&text[at..], marker);
                let after = text[at + run..].chars().next();
                let before = text[..at].chars().next_back();
                let ends = before.is_some_and(|char| !char.is_whitespace())
                    && (marker != '_' || !after.is_some_and(char::is_alphanumeric));
                if run == width && ends && at > start {
                    return Some(at);
                }
                run
            }
            other => other.len_utf8(),
        };
        at += step;
    }
    None
}

/// `[text](https://…)`.
fn link(out: &mut Writer, text: &str, active: Active) -> Option<usize> {
    if active.link {
        return None;
    }
    let middle = text.find("](")?;
    let label = &text[1..middle];
    let target = &text[middle + 2..];
    let mut depth = 0_usize;
    let end = target.char_indices().find_map(|(at, char)| match char {
        '(' => {
            depth += 1;
            None
        }
        ')' if depth == 0 => Some(Some(at)),
        ')' => {
            depth -= 1;
            None
        }
        char if char.is_whitespace() => Some(None),
        _ => None,
    })??;
    let url = &target[..end];
    let known = ["https://", "http://", "tg://", "mailto:"];
    if label.trim().is_empty()
        || label.contains(['[', ']', '`'])
        || !known.iter().any(|scheme| url.starts_with(scheme))
    {
        return None;
    }
    out.formatted = true;
    out.marker('[');
    inline(out, label, Active { link: true, ..active });
    out.raw("](");
    for char in url.chars() {
        if matches!(char, ')' | '\\') {
            out.text.push('\\');
        }
        out.text.push(char);
    }
    out.raw(")");
    Some(middle + 2 + end + 1)
}

#[derive(Debug, Default)]
struct Writer {
    text: String,
    formatted: bool,
    /// The marker that was written last, if nothing was written since.
    last_marker: Option<char>,
}

impl Writer {
    fn raw(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text);
            self.last_marker = None;
        }
    }

    fn marker(&mut self, marker: char) {
        self.text.push(marker);
        self.last_marker = Some(marker);
    }

    fn escape(&mut self, text: &str) {
        for char in text.chars() {
            if is_special(char) {
                self.text.push('\\');
            }
            self.text.push(char);
            self.last_marker = None;
        }
    }

    fn code(&mut self, code: &str) {
        for char in code.chars() {
            if is_special_in_code(char) {
                self.text.push('\\');
            }
            self.text.push(char);
            self.last_marker = None;
        }
    }
}
