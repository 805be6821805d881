//! What a rule says to one place of a text, and what all rules ask about the characters around it.

/// What a rule says to one place. Another word than [`Verdict::More`] holds whatever follows the text: so what comes out
/// does not depend on how a text was cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No match begins here.
    No,
    /// More text has to be seen.
    More {
        /// Whether so much of a match is there already that it is not let out before what follows is known, even where a
        /// tool call cuts the text.
        strong: bool,
    },
    /// A match, from here to `end`, and `tail` beyond it.
    Match { end: usize, tail: Tail },
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

pub(crate) const WEAK: Verdict = Verdict::More { strong: false };
pub(crate) const STRONG: Verdict = Verdict::More { strong: true };

/// Whether a character makes words. Scripts that put no space between words don't count.
pub(crate) fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || (!char.is_ascii() && char < '\u{530}' && char.is_alphanumeric())
}

/// Whether a word may begin at a place: not in the middle of one, where the `n` of an escaped `\n` is no word.
pub(crate) fn begins(text: &str, pos: usize) -> bool {
    let escapes = |byte: Option<&u8>| matches!(byte, Some(b'n' | b'r' | b't'));
    let (before, bytes) = (&text[..pos], text.as_bytes());
    match before.chars().next_back() {
        None => true,
        Some('\\') => !escapes(bytes.get(pos)),
        Some(last) if is_word(last) => escapes(bytes.get(pos - 1)) && before[..pos - 1].ends_with('\\'),
        Some(_) => true,
    }
}

/// Whether no word goes on at a place. None while nobody can know.
pub(crate) fn stops(text: &str, pos: usize, ended: bool) -> Option<bool> {
    match text[pos..].chars().next() {
        Some(next) => Some(!is_word(next)),
        None => ended.then_some(true),
    }
}
