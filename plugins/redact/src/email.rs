//! E-mail addresses, as they are written in texts: no quoted names, no addresses without a top-level domain.

use crate::verdict::{STRONG, Tail, Verdict, WEAK, is_word};

/// Most characters before the `@`, and bytes behind it (RFC 5321).
const NAME: usize = 64;
const DOMAIN: usize = 255;

/// Whether an address begins at a place where a word may.
pub(crate) fn at(text: &str, pos: usize, ended: bool) -> Verdict {
    let bytes = text.as_bytes();
    if matches!(bytes[pos], b'.' | b'-' | b'+' | b'%') {
        return Verdict::No;
    }
    let (mut behind, mut count) = (pos, 0);
    while let Some(byte) = bytes.get(behind) {
        let length = match byte {
            0..0x80 => usize::from(IN_NAME[usize::from(*byte)]),
            _ => text[behind..].chars().next().filter(|char| is_word(*char)).map_or(0, char::len_utf8),
        };
        if length == 0 {
            break;
        }
        behind += length;
        count += 1;
        if count > NAME {
            return Verdict::No;
        }
    }
    if count == 0 {
        return Verdict::No;
    }
    match text.as_bytes().get(behind) {
        Some(b'@') => domain(text, &text[pos..behind], behind + 1, ended),
        None if !ended => WEAK,
        _ => Verdict::No,
    }
}

fn domain(text: &str, name: &str, pos: usize, ended: bool) -> Verdict {
    let rest = &text[pos..];
    let chars = rest
        .char_indices()
        .take_while(|&(at, char)| at < DOMAIN && (is_word(char) || matches!(char, '-' | '.')));
    let length = chars.last().map_or(0, |(at, char)| at + char.len_utf8());
    if length == rest.len() && length < DOMAIN && !ended {
        return STRONG;
    }
    let domain = &rest[..length];
    if domain.is_empty() {
        return Verdict::No;
    }
    // `git@host:path` and `icon@2x.png` are no one's address.
    if name == "git" || (domain.as_bytes()[0].is_ascii_digit() && domain[1..].starts_with("x.")) {
        return Verdict::No;
    }
    // The longest part that ends in a top-level domain.
    let mut end = 0;
    let mut at = 0;
    for (number, label) in domain.split('.').enumerate() {
        if label.is_empty() || label.starts_with('-') {
            break;
        }
        let label_end = at + label.trim_end_matches('-').len();
        let top = &domain[at..label_end];
        if number > 0 && is_top(top) {
            end = label_end;
        }
        if label.ends_with('-') {
            break;
        }
        at += label.len() + 1;
    }
    if end == 0 { Verdict::No } else { Verdict::Match { end: pos + end, tail: Tail::None } }
}

fn is_top(label: &str) -> bool {
    label.starts_with("xn--")
        || (label.chars().count() >= 2 && label.chars().all(|char| !char.is_ascii_digit() && is_word(char)))
}

/// ASCII that an address's name is made of.
const IN_NAME: [bool; 128] = {
    let mut within = [false; 128];
    let mut byte = 0;
    while byte < 128 {
        let char = byte as u8;
        within[byte] = char.is_ascii_alphanumeric() || matches!(char, b'.' | b'_' | b'%' | b'+' | b'-');
        byte += 1;
    }
    within
};
