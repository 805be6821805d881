//! E-mail addresses, as they are written in texts: no quoted names, no addresses without a top-level domain.

use crate::verdict::{TELLING, Tail, Verdict, WEAK, is_word};

/// Most characters before the `@`, and bytes behind it (RFC 5321).
const NAME: usize = 64;
const DOMAIN: usize = 255;

/// What files with a scale in their name end in, as `icon@2x.png`.
const IMAGES: &[&str] =
    &["png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "bmp", "ico", "tif", "tiff", "heic", "pdf"];

/// Characters that a name may have, one after another, which are read once for all places in them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    from: usize,
    end: usize,
    /// What is behind them, once somebody asked.
    domain: Option<Domain>,
}

#[derive(Debug, Clone, Copy)]
enum Domain {
    None,
    More,
    /// Where it ends, and whether it is the host of `git@host:path`.
    To {
        end: usize,
        path: bool,
    },
}

/// Whether an address begins at a place where a word may.
pub(crate) fn at(text: &str, pos: usize, ended: bool, names: &mut Names) -> Verdict {
    let bytes = text.as_bytes();
    if matches!(bytes[pos], b'.' | b'-' | b'+' | b'%') {
        return Verdict::No;
    }
    if !(names.from..names.end).contains(&pos) {
        *names = Names { from: pos, end: name_end(text, pos), domain: None };
    }
    let behind = names.end;
    let name = &text[pos..behind];
    if name.is_empty() || name.len() > NAME && (name.len() > 4 * NAME || name.chars().count() > NAME) {
        return Verdict::No;
    }
    match bytes.get(behind) {
        None if !ended => return WEAK,
        Some(b'@') => {}
        _ => return Verdict::No,
    }
    match *names.domain.get_or_insert_with(|| domain(text, behind + 1, ended)) {
        Domain::None => Verdict::No,
        Domain::More => TELLING,
        Domain::To { path: true, .. } if name == "git" => Verdict::No,
        Domain::To { end, .. } => Verdict::Match { end, tail: Tail::None },
    }
}

fn name_end(text: &str, pos: usize) -> usize {
    let mut end = pos;
    while let Some(byte) = text.as_bytes().get(end) {
        end += match byte {
            0..0x80 if IN_NAME[usize::from(*byte)] => 1,
            0..0x80 => break,
            _ => match text[end..].chars().next() {
                Some(char) if is_word(char) => char.len_utf8(),
                _ => break,
            },
        };
    }
    end
}

fn domain(text: &str, pos: usize, ended: bool) -> Domain {
    let rest = &text[pos..];
    let chars = rest
        .char_indices()
        .take_while(|&(at, char)| at < DOMAIN && (is_word(char) || matches!(char, '-' | '.')));
    let length = chars.last().map_or(0, |(at, char)| at + char.len_utf8());
    if length == rest.len() && length < DOMAIN && !ended {
        return Domain::More;
    }
    let domain = &rest[..length];
    let mut labels = domain.split('.');
    let scale = labels.next().is_some_and(|label| matches!(label.as_bytes(), [b'0'..=b'9', b'x']));
    if domain.is_empty() || (scale && labels.all(|label| IMAGES.contains(&label))) {
        return Domain::None;
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
    let mut behind = rest[end..].bytes();
    match (behind.next(), behind.next()) {
        _ if end == 0 => Domain::None,
        (None, _) | (Some(b':' | b'('), None) if !ended => Domain::More,
        // A method is called, on a product of matrices.
        (Some(b'('), Some(b')')) => Domain::None,
        (Some(b'/'), _) => Domain::To { end: pos + end, path: true },
        (Some(b':'), next) => {
            Domain::To { end: pos + end, path: next.is_some_and(|next| !next.is_ascii_whitespace()) }
        }
        _ => Domain::To { end: pos + end, path: false },
    }
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
