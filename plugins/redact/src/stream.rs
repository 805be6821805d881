//! A text that comes in chunks. What comes out is the same however it is cut: a place is let out once every rule knows
//! what it says to it. All that may be in the middle of a match is held back, and nothing else.

use crate::{
    rules::{Rule, Rules, Said},
    secret,
    verdict::Tail,
};

/// Bytes of what was let out that rules may look back at.
const CONTEXT: usize = 16;

/// A text up to here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// What came last before `held`.
    pub(crate) context: String,
    /// What has come and is not decided.
    pub(crate) held: String,
    /// Bytes of `held` that belong to a match whose replacement is out already, of which rule, and what more belongs to it.
    pub(crate) covered: usize,
    pub(crate) rule: Rule,
    pub(crate) tail: Tail,
    /// Whether `held` is too much of a match to be let out.
    pub(crate) strong: bool,
}

impl Stream {
    /// Takes what comes next, and gives what may be let out. Nothing is held back once the text has `ended`.
    pub(crate) fn push(&mut self, rules: &Rules, chunk: &str, ended: bool) -> String {
        let text = [&*self.context, &*self.held, chunk].concat();
        let mut out = String::with_capacity(self.held.len() + chunk.len());
        let mut pos = self.context.len();
        let mut covered = pos.saturating_add(self.covered);
        // What is before this and not out yet is no one's.
        let mut plain = covered;
        self.strong = false;
        while pos < text.len() {
            if pos >= covered && self.tail != Tail::None {
                let Some((length, tail)) = secret::tail(&text, pos, ended, self.tail) else {
                    self.strong = true;
                    break;
                };
                self.tail = tail;
                pos += length;
                plain = pos;
                if length > 0 {
                    continue;
                }
            }
            let next = rules.next(&text, pos);
            if pos < covered && (next >= covered || Rules::is_opaque(self.rule)) {
                pos = covered.min(text.len());
                continue;
            }
            pos = next;
            if pos == text.len() {
                break;
            }
            match rules.at(&text, pos, ended) {
                Said::More { strong } => {
                    self.strong = strong || pos < covered;
                    break;
                }
                Said::Match(found) if pos >= covered || found.end > covered => {
                    out.push_str(text.get(plain..pos).unwrap_or_default());
                    // Matches of one rule that overlap are one.
                    if pos >= covered || found.rule != self.rule {
                        out.push_str(rules.replacement(found.rule));
                    }
                    (covered, self.rule, self.tail) = (found.end, found.rule, found.tail);
                    plain = covered;
                }
                _ => {}
            }
            pos += text[pos..].chars().next().map_or(1, char::len_utf8);
        }
        out.push_str(text.get(plain..pos).unwrap_or_default());
        if ended {
            *self = Self::default();
            return out;
        }
        self.covered = covered.saturating_sub(pos);
        self.context.clear();
        self.context.push_str(&text[text.ceil_char_boundary(pos.saturating_sub(CONTEXT))..pos]);
        self.held.clear();
        self.held.push_str(&text[pos..]);
        out
    }

    /// The text ends here.
    pub(crate) fn finish(&mut self, rules: &Rules) -> String {
        if self.held.is_empty() {
            *self = Self::default();
            return String::new();
        }
        self.push(rules, "", true)
    }
}

/// A whole text; none if nothing in it matches.
pub(crate) fn redact(rules: &Rules, text: &str) -> Option<String> {
    let out = Stream::default().push(rules, text, true);
    (out != text).then_some(out)
}
