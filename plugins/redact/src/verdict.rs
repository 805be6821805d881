//! What a rule says to one place of a text, and what all rules ask about the characters around it.

/// What a rule says to one place. Another word than [`Verdict::More`] holds whatever follows the text: so what comes out
/// does not depend on how a text was cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No match begins here.
    No,
    /// More text has to be seen. A match that could begin here would reach the end of the text.
    More(Weight),
    /// A match, from here to `end`, and `tail` beyond it.
    Match { end: usize, tail: Tail },
}

/// How much of a match is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// A word: where the text is cut it is let out, and forgotten.
    #[default]
    Weak,
    /// A beginning that tells nothing by itself, as the first digits of a card: where the text is cut it is let out, and
    /// what completes it is left out.
    Strong,
    /// So much that it is not let out before what follows proves that it is no match.
    Telling,
}

/// What still belongs to a match behind its end: so nothing long is ever held back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tail {
    #[default]
    None,
    /// Letters, digits, `_` and `-`.
    Word,
    /// The same in parts that are joined by dots.
    Dotted,
    /// The same with the characters of a bearer token.
    Bearer,
    /// The rest of a key block. Whether some of its body was seen, and whether this is in the middle of a line of it.
    Block { body: bool, line: bool },
}

pub(crate) const WEAK: Verdict = Verdict::More(Weight::Weak);
pub(crate) const STRONG: Verdict = Verdict::More(Weight::Strong);
pub(crate) const TELLING: Verdict = Verdict::More(Weight::Telling);

/// Whether a character makes words. Scripts that put no space between words don't count.
pub(crate) fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || (!char.is_ascii() && char < '\u{530}' && char.is_alphanumeric())
}

/// Whether a word may begin at a place: not in the middle of one, where what an escape is written with (`\n`, `\u003c`) is
/// none. None while nobody can know.
pub(crate) fn begins(text: &str, pos: usize, ended: bool) -> Option<bool> {
    let bytes = text.as_bytes();
    if pos == 0 || bytes[pos - 1] != b'\\' {
        return Some(!is_within(text, pos));
    }
    match bytes.get(pos) {
        Some(b'n' | b'r' | b't') => Some(false),
        Some(b'u') => {
            let digits = &bytes[pos + 1..bytes.len().min(pos + 5)];
            match digits.iter().all(u8::is_ascii_hexdigit) {
                true if digits.len() < 4 && !ended => None,
                all => Some(!all || digits.len() < 4),
            }
        }
        _ => Some(true),
    }
}

/// Whether a word goes on at a place.
pub(crate) fn is_within(text: &str, pos: usize) -> bool {
    let before = &text.as_bytes()[..pos];
    match before.last() {
        None => false,
        Some(last) if last.is_ascii() => last.is_ascii_alphanumeric() && !ends_with_escape(before),
        Some(_) => text[..pos].chars().next_back().is_some_and(is_word),
    }
}

/// Whether the last of it is an escape that is written out: `\n`, `\r`, `\t`, `\u003c`.
fn ends_with_escape(before: &[u8]) -> bool {
    match before {
        [.., b'\\', last] => matches!(last, b'n' | b'r' | b't'),
        [.., b'\\', b'u', a, b, c, d] => [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit),
        _ => false,
    }
}

/// Whether no word goes on at a place. None while nobody can know.
pub(crate) fn stops(text: &str, pos: usize, ended: bool) -> Option<bool> {
    match text[pos..].chars().next() {
        Some(next) => Some(!is_word(next)),
        None => ended.then_some(true),
    }
}
