//! One line of Markdown: what in it is code, a link or a marker, and which markers belong together.
//!
//! Invariant: what a line costs grows with its length, whatever it says. It is cut into tokens once, and where a code span,
//! an address or an emphasis ends is looked up, not searched for again from every place where one may begin.

use crate::markdown::Writer;
use std::ops::Range;

/// A line, cut into tokens.
pub(crate) struct Line<'a>(Vec<Token<'a>>);

enum Token<'a> {
    Text(&'a str),
    /// A marker that the model has escaped: that character, and no marker.
    Escaped(&'a str),
    Code(&'a str),
    Link {
        label: Line<'a>,
        url: &'a str,
    },
    /// `*`, `_` or `~`, once or several times; and the token at which what it opens would end.
    Run {
        run: &'a str,
        end: Option<usize>,
    },
}

/// Kinds of entity that a text stands in; none nests in itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Active {
    bold: bool,
    italic: bool,
    strike: bool,
}

impl Active {
    pub(crate) const BOLD: Self = Self { bold: true, italic: false, strike: false };

    fn has(self, sign: char) -> bool {
        match sign {
            '*' => self.bold,
            '_' => self.italic,
            _ => self.strike,
        }
    }

    fn with(self, signs: &[char]) -> Self {
        Self {
            bold: self.bold || signs.contains(&'*'),
            italic: self.italic || signs.contains(&'_'),
            strike: self.strike || signs.contains(&'~'),
        }
    }
}

impl<'a> Line<'a> {
    pub(crate) fn read(text: &'a str) -> Self {
        let (ticks, parentheses) = (Ticks::of(text), parentheses(text));
        let mut tokens = Vec::new();
        let mut runs = Vec::new();
        let (mut at, mut plain) = (0, 0);
        while let Some(char) = text[at..].chars().next() {
            let rest = &text[at..];
            let read = match char {
                '`' => code(&ticks, text, at),
                '[' => bracket(text, at, &parentheses),
                '\\' => escaped(rest),
                '*' | '_' | '~' => {
                    let run = run_of(rest, char);
                    Some((Token::Run { run, end: None }, run.len()))
                }
                _ => None,
            };
            let Some((token, length)) = read else {
                // A run of backticks that means nothing is passed over as a whole, so that its tail is not taken for one.
                at += if char == '`' { run_of(rest, char).len() } else { char.len_utf8() };
                continue;
            };
            if plain < at {
                tokens.push(Token::Text(&text[plain..at]));
            }
            if matches!(token, Token::Run { .. }) {
                runs.push((tokens.len(), at));
            }
            tokens.push(token);
            at += length;
            plain = at;
        }
        if plain < text.len() {
            tokens.push(Token::Text(&text[plain..]));
        }
        pair(text, &mut tokens, &runs);
        Self(tokens)
    }

    pub(crate) fn has_code(&self) -> bool {
        has_code(&self.0)
    }

    pub(crate) fn write(&self, out: &mut Writer, active: Active) {
        self.write_part(out, 0..self.0.len(), active);
    }

    fn write_part(&self, out: &mut Writer, part: Range<usize>, active: Active) {
        let mut at = part.start;
        while at < part.end {
            match &self.0[at] {
                Token::Text(text) => out.escape(text),
                Token::Escaped(marker) => {
                    out.formatted = true;
                    out.escape(marker);
                }
                Token::Code(code) => {
                    out.formatted = true;
                    out.marker('`');
                    out.code(code);
                    out.marker('`');
                }
                Token::Link { label, url } => {
                    out.formatted = true;
                    out.marker('[');
                    label.write(out, active);
                    out.raw("](");
                    out.address(url);
                    out.raw(")");
                }
                Token::Run { run, end } => {
                    match end.filter(|end| *end < part.end && self.emphasis(out, run, at + 1..*end, active)) {
                        Some(end) => at = end,
                        None => out.escape(run),
                    }
                }
            }
            at += 1;
        }
    }

    /// What stands between two runs of markers. False if they had better be shown as they are.
    fn emphasis(&self, out: &mut Writer, run: &str, body: Range<usize>, active: Active) -> bool {
        // Within an emphasis of the same kind it adds nothing, and code can't stand inside of any.
        let signs: Vec<char> = signs(run).iter().copied().filter(|sign| !active.has(*sign)).collect();
        let bare = signs.is_empty() || has_code(&self.0[body.clone()]);
        // Two italics that touch would read as underline.
        if signs.contains(&'_') && out.last_marker == Some('_') {
            return false;
        }
        out.formatted = true;
        if bare {
            self.write_part(out, body, active);
            return true;
        }
        signs.iter().for_each(|sign| out.marker(*sign));
        self.write_part(out, body, active.with(&signs));
        signs.iter().rev().for_each(|sign| out.marker(*sign));
        true
    }
}

fn has_code(tokens: &[Token<'_>]) -> bool {
    tokens.iter().any(|token| matches!(token, Token::Code(_)))
}

fn run_of(text: &str, marker: char) -> &str {
    &text[..text.len() - text.trim_start_matches(marker).len()]
}

/// What a run of markers stands for in MarkdownV2.
fn signs(run: &str) -> &'static [char] {
    match run {
        "~~" => &['~'],
        "*" | "_" => &['_'],
        "**" | "__" => &['*'],
        "***" | "___" => &['*', '_'],
        _ => &[],
    }
}

/// Finds the end of every run that may open: the next equal run that may close.
fn pair(text: &str, tokens: &mut [Token<'_>], runs: &[(usize, usize)]) {
    // One for each run that means something, so there are few.
    let mut next: Vec<(&str, usize)> = Vec::new();
    for (index, at) in runs.iter().rev() {
        let Token::Run { run, end } = &mut tokens[*index] else { continue };
        if signs(run).is_empty() {
            continue;
        }
        let before = text[..*at].chars().next_back();
        let after = text[at + run.len()..].chars().next();
        let is_word = |char: Option<char>| run.starts_with('_') && char.is_some_and(char::is_alphanumeric);
        let is_black = |char: Option<char>| char.is_some_and(|char| !char.is_whitespace());
        if is_black(after) && !is_word(before) {
            *end = next.iter().find(|(closing, _)| closing == run).map(|(_, index)| *index);
        }
        if is_black(before) && !is_word(after) {
            next.retain(|(closing, _)| closing != run);
            next.push((*run, *index));
        }
    }
}

/// Where the last run of backticks of each length is: beyond it no look ahead is worth its while.
struct Ticks(Vec<usize>);

impl Ticks {
    fn of(text: &str) -> Self {
        let mut last = Vec::new();
        let mut at = 0;
        while let Some(next) = text[at..].find('`') {
            let length = run_of(&text[at + next..], '`').len();
            last.resize(last.len().max(length + 1), 0);
            last[length] = at + next;
            at += next + length;
        }
        Self(last)
    }

    /// The next run of this length, from a place on.
    fn next(&self, text: &str, length: usize, from: usize) -> Option<usize> {
        self.0.get(length).filter(|last| **last >= from)?;
        let mut at = from;
        loop {
            at += text[at..].find('`')?;
            let run = run_of(&text[at..], '`').len();
            if run == length {
                return Some(at);
            }
            at += run;
        }
    }
}

fn code<'a>(ticks: &Ticks, text: &'a str, at: usize) -> Option<(Token<'a>, usize)> {
    let width = run_of(&text[at..], '`').len();
    let body = &text[at + width..ticks.next(text, width, at + width)?];
    let padded = body.len() > 2 && body.starts_with(' ') && body.ends_with(' ');
    let code = if padded { &body[1..body.len() - 1] } else { body };
    (!code.trim().is_empty()).then_some((Token::Code(code), body.len() + 2 * width))
}

fn escaped(text: &str) -> Option<(Token<'_>, usize)> {
    let marker = text.get(1..2).filter(|marker| matches!(*marker, "*" | "_" | "`" | "~" | "#"))?;
    Some((Token::Escaped(marker), 2))
}

/// For each byte at which a parenthesis begins, where it ends: 0 if not before white space.
fn parentheses(text: &str) -> Vec<usize> {
    if !text.contains("](") {
        return Vec::new();
    }
    let mut ends = vec![0; text.len()];
    let mut open = Vec::new();
    for (at, char) in text.char_indices() {
        match char {
            '(' => open.push(at),
            ')' => {
                if let Some(start) = open.pop() {
                    ends[start] = at;
                }
            }
            char if char.is_whitespace() => open.clear(),
            _ => {}
        }
    }
    ends
}

/// `[text](address)`: a link, or where Telegram would drop the address, that text with it.
fn bracket<'a>(text: &'a str, at: usize, parentheses: &[usize]) -> Option<(Token<'a>, usize)> {
    let label = &text[at + 1..];
    let label = &label[..label.find(['[', ']', '`'])?];
    let middle = at + 1 + label.len();
    if !text[middle..].starts_with("](") {
        return None;
    }
    let end = parentheses.get(middle + 1).copied().filter(|end| *end > 0)?;
    let url = &text[middle + 2..end];
    let token = if !label.trim().is_empty() && is_linkable(url) {
        Token::Link { label: Line::read(label), url }
    } else {
        Token::Text(&text[at..=end])
    };
    Some((token, end + 1 - at))
}

/// Whether Telegram makes a link of it. Of others it shows the label alone, so that the address would be lost.
fn is_linkable(url: &str) -> bool {
    if let Some(target) = url.strip_prefix("tg://") {
        return !target.is_empty();
    }
    let Some(rest) = ["https://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    host.contains('.') && host.split('.').all(|label| !label.is_empty())
}
