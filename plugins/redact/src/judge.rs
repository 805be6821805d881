//! What is put in place of an event's values: texts, numbers, and JSON that is written into a text.
//!
//! Invariant: a value that can't be read is replaced as a whole.

use crate::{
    rules::Rules,
    stream::redact,
    values::{Leaf, Place, is_json, quote, rewrite, unquote},
};

/// What stands in place of a value that can't be read.
const UNREADABLE: &str = "[UNREADABLE]";
/// How often JSON may be written into a text of JSON.
const DEEPEST: usize = 8;
/// Texts of so many bytes are remembered, so many of them: one event often says the same twice.
const LONG: usize = 256;
const REMEMBERED: usize = 8;

/// Judges the values of one event.
#[derive(Debug)]
pub(crate) struct Judge<'r, 'e> {
    rules: &'r Rules,
    /// Values that join events and messages: they are no text of the agent's.
    ids: &'static [&'static [&'static str]],
    /// Texts as they are written, and what became of them.
    seen: Vec<(&'e str, Option<String>)>,
}

impl<'r, 'e> Judge<'r, 'e> {
    pub(crate) fn new(rules: &'r Rules, ids: &'static [&'static [&'static str]]) -> Self {
        Self { rules, ids, seen: Vec::new() }
    }

    /// What is put in a value's place, as JSON.
    pub(crate) fn value(&mut self, place: Place<'_>, leaf: Leaf<'e>) -> Option<String> {
        if self.ids.contains(&place.path) {
            return None;
        }
        let Leaf::Text(json) = leaf else { return value(self.rules, leaf, 0) };
        if json.len() < LONG {
            return value(self.rules, leaf, 0);
        }
        if let Some((_, clean)) = self.seen.iter().find(|(seen, _)| *seen == json) {
            return clean.clone();
        }
        let clean = value(self.rules, leaf, 0);
        if self.seen.len() == REMEMBERED {
            self.seen.remove(0);
        }
        self.seen.push((json, clean.clone()));
        clean
    }
}

fn value(rules: &Rules, leaf: Leaf<'_>, depth: usize) -> Option<String> {
    let json = match leaf {
        Leaf::Number(number) => {
            let digits = number.trim_start_matches('-');
            return rules.number(digits.strip_suffix(".0").unwrap_or(digits)).map(quote);
        }
        Leaf::Text(json) => json,
    };
    let Some(text) = unquote(json) else { return Some(unreadable()) };
    let clean = if !text.trim_ascii_start().starts_with(['{', '[']) || !is_json(&text) {
        redact(rules, &text)
    } else if depth < DEEPEST {
        rewrite(&text, &mut |_, leaf| value(rules, leaf, depth + 1))
    } else {
        return Some(unreadable());
    };
    clean.map(|clean| quote(&clean))
}

/// What is put in place of a value that can't be read, as JSON.
pub(crate) fn unreadable() -> String {
    quote(UNREADABLE)
}
