//! Secrets that can be told by their form: API keys, JSON Web Tokens, private key blocks, bearer tokens.
//!
//! Only what a secret is recognised by is held back; the rest of it is its [`Tail`].

use crate::verdict::{STRONG, TELLING, Tail, Verdict, WEAK, stops};
use std::ops::Range;

/// How a key begins, how many characters follow at least, and whether a digit or a capital is among them.
const KEYS: &[(&str, usize, bool)] = &[
    ("sk-", 20, true),
    ("sk_live_", 10, false),
    ("sk_test_", 10, false),
    ("rk_live_", 10, false),
    ("rk_test_", 10, false),
    ("whsec_", 20, true),
    ("ghp_", 20, false),
    ("gho_", 20, false),
    ("ghu_", 20, false),
    ("ghs_", 20, false),
    ("ghr_", 20, false),
    ("github_pat_", 20, false),
    ("glpat-", 20, false),
    ("xoxb-", 10, false),
    ("xoxa-", 10, false),
    ("xoxp-", 10, false),
    ("xoxr-", 10, false),
    ("xoxs-", 10, false),
    ("xapp-", 10, true),
    ("AIza", 30, true),
    ("hf_", 30, true),
    ("npm_", 30, true),
];

/// Access key ids of AWS: these, and exactly so many capitals and digits.
const AWS: &[&str] = &["AKIA", "ASIA"];
const AWS_LENGTH: usize = 16;

/// A JSON Web Token begins with the Base64 of `{"`. Its header has at most so many characters.
const TOKEN: &str = "eyJ";
const TOKEN_HEADER: usize = 1024;
const TOKEN_PART: usize = 10;

/// Digits of a Telegram bot's id, and characters of its token.
const BOT_ID: std::ops::RangeInclusive<usize> = 8..=10;
const BOT_TOKEN: usize = 35;

const BEARER: &[u8] = b"bearer ";
const BEARER_LENGTH: usize = 16;

const BLOCK: &str = "-----BEGIN ";
const BLOCK_END: &str = "-----END ";
const DASHES: &str = "-----";
const LABEL: usize = 40;

/// A character that proves a secret stands among so many.
const PROOF: usize = 64;
/// Characters of Base64 that make a line of a key block, and the bytes in which one has to begin.
const LINE: usize = 24;
const WINDOW: usize = 96;
/// Bytes of lines as `Version: 1` that a key block may have before them.
const HEADERS: usize = 1024;

/// A run of characters that keys are made of, which is read once for all places in it.
#[derive(Debug, Default)]
pub(crate) struct Word {
    range: Range<usize>,
    /// The next digit or capital in it.
    proof: usize,
}

impl Word {
    /// Where the run ends that a place is in.
    fn end(&mut self, text: &str, pos: usize) -> usize {
        if !self.range.contains(&pos) {
            *self = Self { range: pos..pos + count(&text[pos..], in_word), proof: pos };
        }
        self.range.end
    }

    /// Whether a digit or a capital stands among so many of its characters.
    fn is_proven(&mut self, text: &str, from: usize, length: usize) -> bool {
        if self.proof <= from {
            let behind = text.as_bytes()[from..self.range.end].iter();
            let proof = behind.take_while(|byte| !byte.is_ascii_digit() && !byte.is_ascii_uppercase());
            self.proof = from + proof.count();
        }
        self.proof < from + length
    }
}

/// Whether a secret begins at a place where a word may.
pub(crate) fn at(text: &str, pos: usize, ended: bool, word: &mut Word) -> Verdict {
    let rest = &text[pos..];
    let mut said = match rest.as_bytes()[0] {
        b'-' => block(rest, ended),
        b'A' => prefer(aws(text, pos, ended), keys(text, pos, ended, word)),
        b'e' if rest.starts_with(TOKEN) => token(rest, word.end(text, pos) - pos, ended),
        b'e' => begun(rest, TOKEN, ended),
        b'g' | b'h' | b'n' | b'r' | b's' | b'w' | b'x' => keys(text, pos, ended, word),
        b'0'..=b'9' => bot(rest, ended),
        _ => Verdict::No,
    };
    let before = &text.as_bytes()[..pos];
    if said == Verdict::No
        && before.last() == Some(&b' ')
        && before.len() >= BEARER.len()
        && before[before.len() - BEARER.len()..].eq_ignore_ascii_case(BEARER)
    {
        said = open(rest, 0, BEARER_LENGTH, true, in_bearer, Tail::Bearer, ended);
    }
    shift(said, pos)
}

/// What is at a place behind a match: how far it still is part of it. None while nobody can know.
pub(crate) fn tail(text: &str, pos: usize, ended: bool, tail: Tail) -> Option<(usize, Tail)> {
    let rest = &text[pos..];
    let (within, dotted): (fn(u8) -> bool, bool) = match tail {
        Tail::None => return Some((0, Tail::None)),
        Tail::Block { body, line } => return block_tail(rest, ended, body, line),
        Tail::Word => (in_word, false),
        Tail::Dotted => (in_word, true),
        Tail::Bearer => (|byte| byte != b'.' && in_bearer(byte), true),
    };
    let length = count(rest, within);
    if length > 0 {
        return Some((length, tail));
    }
    let mut bytes = rest.bytes();
    match (bytes.next(), bytes.next()) {
        (Some(b'.'), Some(next)) if dotted && within(next) => Some((1, tail)),
        (Some(b'.'), None) if dotted && !ended => None,
        _ => Some((0, Tail::None)),
    }
}

fn keys(text: &str, pos: usize, ended: bool, word: &mut Word) -> Verdict {
    let rest = &text[pos..];
    let first = rest.as_bytes()[0];
    let mut said = Verdict::No;
    for &(prefix, least, proven) in KEYS.iter().filter(|(prefix, ..)| prefix.as_bytes()[0] == first) {
        said = prefer(said, begun(rest, prefix, ended));
        if !rest.starts_with(prefix) {
            continue;
        }
        let behind = pos + prefix.len();
        let length = (word.end(text, pos) - behind).min(PROOF);
        if length >= least && (!proven || word.is_proven(text, behind, length)) {
            return Verdict::Match { end: prefix.len() + least, tail: Tail::Word };
        }
        if behind + length == text.len() && length < PROOF && !ended {
            return if length == 0 { STRONG } else { TELLING };
        }
    }
    said
}

fn aws(text: &str, pos: usize, ended: bool) -> Verdict {
    let rest = &text[pos..];
    let Some(prefix) = AWS.iter().find(|prefix| rest.starts_with(**prefix)) else {
        return AWS.iter().fold(Verdict::No, |said, prefix| prefer(said, begun(rest, prefix, ended)));
    };
    let end = prefix.len()
        + count(&rest[prefix.len()..], |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    let length = end - prefix.len();
    if end == rest.len() && length <= AWS_LENGTH && !ended {
        return if length == 0 { STRONG } else { TELLING };
    }
    if length == AWS_LENGTH && stops(text, pos + end, ended) == Some(true) {
        return Verdict::Match { end, tail: Tail::None };
    }
    Verdict::No
}

fn token(rest: &str, header: usize, ended: bool) -> Verdict {
    if !(TOKEN_PART..=TOKEN_HEADER).contains(&header) {
        return if header == rest.len() && header < TOKEN_PART && !ended { TELLING } else { Verdict::No };
    }
    match rest.as_bytes().get(header) {
        None if !ended => TELLING,
        Some(b'.') => open(rest, header + 1, TOKEN_PART, false, in_word, Tail::Dotted, ended),
        _ => Verdict::No,
    }
}

fn bot(rest: &str, ended: bool) -> Verdict {
    let digits = count(rest, |byte| byte.is_ascii_digit());
    match rest.as_bytes().get(digits) {
        None if digits <= *BOT_ID.end() && !ended => STRONG,
        Some(b':') if BOT_ID.contains(&digits) => {
            open(rest, digits + 1, BOT_TOKEN, true, in_word, Tail::Word, ended)
        }
        _ => Verdict::No,
    }
}

fn block(rest: &str, ended: bool) -> Verdict {
    let Some(label) = rest.strip_prefix(BLOCK) else { return begun(rest, BLOCK, ended) };
    let length = count(label, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ');
    let dashes = &label[length..];
    if length > LABEL {
        return Verdict::No;
    }
    if dashes.len() < DASHES.len() && DASHES.starts_with(dashes) && !ended {
        return if label.bytes().any(|byte| byte.is_ascii_digit()) { TELLING } else { STRONG };
    }
    if !dashes.starts_with(DASHES) || !label[..length].contains("PRIVATE KEY") {
        return Verdict::No;
    }
    let end = BLOCK.len() + length + DASHES.len();
    Verdict::Match { end, tail: Tail::Block { body: false, line: false } }
}

/// A block goes on as long as a line of Base64 or the block's end is near: behind a heading, a line break however it is
/// written, a quotation mark. So a text that only names a block's first line loses nothing else.
fn block_tail(rest: &str, ended: bool, body: bool, line: bool) -> Option<(usize, Tail)> {
    if line {
        let length = count(rest, in_base64);
        if length > 0 {
            return Some((length, Tail::Block { body, line }));
        }
    }
    let from = if body || line { 0 } else { headers(rest) };
    let window = from + WINDOW;
    let mut at = from;
    while at < rest.len() && at < window {
        if let Some(label) = rest[at..].strip_prefix(BLOCK_END) {
            let length =
                count(label, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ');
            let dashes = &label[length.min(LABEL)..];
            if dashes.len() < DASHES.len() && DASHES.starts_with(dashes) && !ended {
                return None;
            }
            let dashes = if dashes.starts_with(DASHES) { DASHES.len() } else { 0 };
            return Some((at + BLOCK_END.len() + length.min(LABEL) + dashes, Tail::None));
        }
        if !ended && BLOCK_END.starts_with(&rest[at..]) {
            return None;
        }
        let length = count(&rest[at..], in_base64);
        if length >= LINE {
            return Some((at + LINE, Tail::Block { body: true, line: true }));
        }
        if at + length == rest.len() {
            break;
        }
        at += length
            .max(rest[at + length..].chars().next().map_or(1, char::len_utf8) * usize::from(length == 0));
    }
    if !ended && at < window {
        return None;
    }
    // A block that was cut off: its last line may be short.
    let cut_off = body && rest.bytes().all(|byte| in_base64(byte) || matches!(byte, b'\n' | b'\r'));
    Some((if ended && cut_off { rest.len() } else { 0 }, Tail::None))
}

/// How many bytes of lines as `Version: 1`, and of line breaks, stand before a block's body. What is not over is none, but
/// for a line at the end of what has come.
fn headers(rest: &str) -> usize {
    let mut at = 0;
    loop {
        at += line_breaks(&rest[at..]);
        let line = &rest[at..];
        let name = count(line, |byte| byte.is_ascii_alphanumeric() || byte == b'-');
        // A longer one is a line of the body as long as its colon has not come.
        if !(1..LINE).contains(&name) || !line[name..].starts_with(": ") {
            return at;
        }
        let most = HEADERS.saturating_sub(at).min(line.len());
        let bytes = &line.as_bytes()[..most];
        let ends = |at: &usize| {
            bytes[*at] == b'\n' || bytes[*at..].starts_with(b"\\n") || bytes[*at..].starts_with(b"\\r")
        };
        let end = (name..most).find(ends);
        if line[..line.floor_char_boundary(end.unwrap_or(most))].contains(BLOCK) {
            return at;
        }
        match end {
            Some(end) => at += end,
            None if most == line.len() => return rest.len(),
            None => return at,
        }
    }
}

/// Line breaks, also as they are written out.
fn line_breaks(text: &str) -> usize {
    let mut at = 0;
    loop {
        at += match text.as_bytes()[at..] {
            [b'\n' | b'\r', ..] => 1,
            [b'\\', b'n' | b'r', ..] => 2,
            _ => return at,
        };
    }
}

/// A match of which only the beginning is told by its form: `least` characters behind the prefix.
fn open(
    rest: &str,
    prefix: usize,
    least: usize,
    proven: bool,
    within: fn(u8) -> bool,
    tail: Tail,
    ended: bool,
) -> Verdict {
    // More than this tells nothing new, and would be read again behind every dash.
    let behind = &rest[prefix..];
    let length = count_to(behind, PROOF, within);
    let proof = || {
        behind.bytes().take(length.min(PROOF)).any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
    };
    if length >= least && (!proven || proof()) {
        return Verdict::Match { end: prefix + least, tail };
    }
    match length == behind.len() && length < PROOF && !ended {
        true if length == 0 => STRONG,
        true => TELLING,
        false => Verdict::No,
    }
}

/// Whether the text ends in the middle of a prefix.
fn begun(rest: &str, prefix: &str, ended: bool) -> Verdict {
    match rest.len() {
        length if ended || length >= prefix.len() || !prefix.starts_with(rest) => Verdict::No,
        ..=2 => WEAK,
        _ => STRONG,
    }
}

/// Of two words the one that says more.
fn prefer(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Match { .. }, _) | (_, Verdict::No) => one,
        (Verdict::More(weight), Verdict::More(other)) => Verdict::More(weight.max(other)),
        _ => other,
    }
}

fn shift(said: Verdict, by: usize) -> Verdict {
    match said {
        Verdict::Match { end, tail } => Verdict::Match { end: end + by, tail },
        other => other,
    }
}

/// As [`count`], of so many bytes at most.
fn count_to(text: &str, most: usize, within: fn(u8) -> bool) -> usize {
    text.bytes().take(most).take_while(|byte| within(*byte)).count()
}

fn count(text: &str, within: fn(u8) -> bool) -> usize {
    text.bytes().position(|byte| !within(byte)).unwrap_or(text.len())
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn in_bearer(byte: u8) -> bool {
    in_word(byte) || matches!(byte, b'.' | b'~' | b'+' | b'/' | b'=')
}

fn in_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}
