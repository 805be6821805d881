//! One text as several messages.
//!
//! Invariants: the pieces are the text, in order and whole; each fits into a message both as it stands and rendered, however
//! it is rendered; a block of code that goes on in the next message is closed here and opened again there. Where a piece
//! ends depends on the text up to there and a message's length beyond, so a piece that was followed by another stays as it
//! is while the text grows.

use crate::markdown::{Fence, is_special, is_special_in_code};
use std::ops::Range;

/// Most that Telegram takes, in UTF-16 units after it has read the entities. Here both forms have to fit.
pub(crate) const LIMIT: usize = 4096;

/// Left free for the cursor of a message that grows.
const CURSOR_ROOM: usize = 4;

/// Left free for closing a block of code: the line end before, and the longest mark.
const CLOSING_ROOM: usize = 2 * (16 + 1);

/// What one message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its part of the text, blocks of code closed and opened again.
    pub(crate) source: String,
    /// Where that part stands in the text.
    pub(crate) range: Range<usize>,
    /// The block of code that is open there.
    reopened: Option<Fence>,
}

/// Splits a text. White space alone makes no message.
pub(crate) fn split(text: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    split_on(&mut chunks, text);
    chunks
}

/// Splits a text whose beginning is split already. Its last two pieces are split again: the last one grows, and the line
/// that closes a block of code may be taken from it by the one before.
pub(crate) fn split_on(chunks: &mut Vec<Chunk>, text: &str) {
    let settled = chunks.len().saturating_sub(2);
    let again = chunks.drain(settled..).next();
    let (mut start, mut fence) = again.map_or((0, None), |chunk| (chunk.range.start, chunk.reopened));
    while start < text.len() {
        let mut cut = cut(&text[start..], fence.as_ref());
        cut.take_closing(&text[start..]);
        let range = start..start + cut.length;
        let source = source(&text[range.clone()], fence.as_ref(), cut.open.as_ref());
        match chunks.last_mut() {
            _ if !source.trim().is_empty() && !text[range.clone()].trim().is_empty() => {
                chunks.push(Chunk { source, range: range.clone(), reopened: fence });
            }
            Some(last) => last.range.end = range.end,
            None => {}
        }
        start = range.end;
        fence = cut.open;
    }
    if let Some(first) = chunks.first_mut() {
        first.range.start = 0;
    }
}

/// At least the first so many bytes of a text, so that what comes after them costs nothing.
fn beginning(text: &str, bytes: usize) -> &str {
    (bytes..text.len()).find(|at| text.is_char_boundary(*at)).map_or(text, |at| &text[..at])
}

fn source(part: &str, reopened: Option<&Fence>, open: Option<&Fence>) -> String {
    let mut source = reopened.map_or_else(String::new, Fence::reopen);
    let part = if reopened.is_some() { part } else { part.trim_start_matches('\n') };
    source.push_str(if open.is_some() { part } else { part.trim_end() });
    if let Some(fence) = open {
        if !source.ends_with('\n') {
            source.push('\n');
        }
        source.push_str(&fence.close());
    }
    source
}

/// Where a message ends.
struct Cut {
    length: usize,
    /// Units that it takes up to there.
    used: usize,
    /// The block of code that is open there.
    open: Option<Fence>,
}

impl Cut {
    /// A block of code whose closing line comes next is closed by it: opened again, there would be nothing in it.
    fn take_closing(&mut self, text: &str) {
        let next = beginning(&text[self.length..], CLOSING_ROOM + 1);
        let next = next.split_inclusive('\n').next().unwrap_or_default();
        let complete = text[..self.length].ends_with('\n') && next.len() <= CLOSING_ROOM;
        if complete && self.open.as_ref().is_some_and(|fence| fence.closes(next)) {
            self.length += next.len();
            self.open = None;
        }
    }
}

fn cut(text: &str, reopened: Option<&Fence>) -> Cut {
    let room = LIMIT - CURSOR_ROOM - CLOSING_ROOM - reopened.map_or(0, |fence| costs(&fence.reopen(), false));
    // A unit has three bytes at most, so what is left out here would not fit.
    let text = beginning(text, 3 * LIMIT);
    let mut open = reopened.cloned();
    let (mut at, mut used) = (0, 0);
    let (mut paragraph, mut line_end): (Option<Cut>, Option<Cut>) = (None, None);
    for line in text.split_inclusive('\n') {
        // A block of code with nothing in it is shown as it is, so its last line may cost more than code does.
        let in_code = open.as_ref().is_some_and(|fence| !fence.closes(line));
        let cost = costs(line, in_code);
        if used + cost > room {
            return match (paragraph, line_end) {
                (Some(cut), _) if cut.used >= room / 2 => cut,
                (_, Some(cut)) if cut.used >= room / 4 => cut,
                _ => Cut { length: at + cut_line(line, room - used, in_code), used: room, open },
            };
        }
        (at, used) = (at + line.len(), used + cost);
        let opens = match &open {
            Some(fence) if fence.closes(line) => {
                open = None;
                false
            }
            Some(_) => false,
            None => {
                open = Fence::opening(line);
                open.is_some()
            }
        };
        let here = || Some(Cut { length: at, used, open: open.clone() });
        if !opens {
            line_end = here();
        }
        if open.is_none() && line.trim().is_empty() {
            paragraph = here();
        }
    }
    Cut { length: text.len(), used, open: None }
}

/// How much of a line fits: up to a space if there is one in the last three quarters, and never between a letter and what
/// belongs to it.
fn cut_line(line: &str, room: usize, in_code: bool) -> usize {
    let mut used = 0;
    let fits = line.char_indices().find(|(_, char)| {
        used += cost(*char, in_code);
        used > room
    });
    let end = fits.map_or(line.len(), |(at, _)| at);
    let after_space = |(at, char): (usize, char)| char.is_whitespace().then(|| at + char.len_utf8());
    let spaces =
        line[..end].char_indices().rev().take_while(|(at, _)| *at >= end / 4).filter_map(after_space);
    let mut spaces = spaces.take(64).peekable();
    // What begins a block at the beginning of a line had better not get there.
    let begins_block = |at: usize| line[at..].trim_start().starts_with(['`', '~', '#']);
    let last = spaces.peek().copied();
    if let Some(at) = spaces.find(|at| !begins_block(*at)).or(last) {
        return at;
    }
    let joins = |at: usize| {
        let joined = line[at..].chars().next().is_some_and(is_joined);
        joined || line[..at].ends_with('\u{200d}')
    };
    let whole = line[..end].char_indices().rev().map(|(at, _)| at).take(16);
    std::iter::once(end).chain(whole).find(|at| *at > 0 && !joins(*at)).unwrap_or(end)
}

/// Combining marks, variation selectors, joiners and skin tones: they belong to the character before.
fn is_joined(char: char) -> bool {
    matches!(char, '\u{300}'..='\u{36f}' | '\u{200d}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}')
}

/// UTF-16 units that a character may take at most, however it is rendered.
fn cost(char: char, in_code: bool) -> usize {
    char.len_utf16() + usize::from(if in_code { is_special_in_code(char) } else { is_special(char) })
}

fn costs(text: &str, in_code: bool) -> usize {
    text.chars().map(|char| cost(char, in_code)).sum()
}

/// The line that closes the block of code in which a text ends, if it does.
pub(crate) fn open_fence(text: &str) -> Option<String> {
    let open = text.split_inclusive('\n').fold(None, |open: Option<Fence>, line| match open {
        Some(fence) if fence.closes(line) => None,
        Some(fence) => Some(fence),
        None => Fence::opening(line),
    });
    open.map(|fence| fence.close())
}

/// Length as Telegram counts.
pub(crate) fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}
