//! All rules of a configuration, and what they say to one place of a text.

use crate::{
    card,
    config::Config,
    email,
    pattern::Pattern,
    phone, secret,
    verdict::{Tail, Verdict, begins, is_word},
};

/// A rule, by its place in [`Rules::replacements`].
pub(crate) type Rule = u8;

const SECRET: usize = 0;
const EMAIL: usize = 1;
const CARD: usize = 2;
const PHONE: usize = 3;
/// The first of the operator's own.
const OWN: usize = 4;

/// Compiled rules.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What is put in place of a rule's matches; none if it is off.
    replacements: Vec<Option<String>>,
    own: Vec<Pattern>,
    /// Bytes that matches of own patterns may begin with.
    own_starts: Box<[bool; 256]>,
    hold: usize,
    /// Whether input is judged too.
    pub(crate) input: bool,
}

/// A match at a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Match {
    pub(crate) end: usize,
    pub(crate) rule: Rule,
    pub(crate) tail: Tail,
}

/// What all rules together say to a place.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said {
    No,
    More { strong: bool },
    Match(Match),
}

impl Rules {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// What is wrong with a pattern, which `check` would have said.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        let mut replacements = vec![
            config.secret.replacement("[SECRET]"),
            config.email.replacement("[EMAIL]"),
            config.card.replacement("[CARD]"),
            config.phone.replacement("[PHONE]"),
        ];
        let (mut own, mut own_starts) = (Vec::new(), Box::new([false; 256]));
        for rule in &config.patterns {
            let pattern = Pattern::new(&rule.pattern)?;
            own_starts.iter_mut().zip(pattern.starts()).for_each(|(all, one)| *all |= one);
            own.push(pattern);
            replacements.push(Some(rule.replacement()));
        }
        Ok(Self { replacements, own, own_starts, hold: config.hold_bytes, input: config.input })
    }

    /// What is put in place of a rule's matches.
    pub(crate) fn replacement(&self, rule: Rule) -> &str {
        self.replacements.get(usize::from(rule)).and_then(Option::as_deref).unwrap_or_default()
    }

    /// What is put in place of a number of JSON, if it is a card's.
    pub(crate) fn number(&self, number: &str) -> Option<&str> {
        self.replacements[CARD].as_deref().filter(|_| card::is_number(number))
    }

    /// Whether matches of a rule are judged no further inside: a secret's characters mean nothing.
    pub(crate) fn is_opaque(rule: Rule) -> bool {
        usize::from(rule) == SECRET
    }

    /// Where the next place is at which a rule might have something to say.
    pub(crate) fn next(&self, text: &str, pos: usize) -> usize {
        let bytes = text.as_bytes();
        let mut word = text[..pos].chars().next_back().is_some_and(is_word);
        for (at, byte) in bytes.iter().enumerate().skip(pos) {
            let starts = BUILT_IN[usize::from(*byte)];
            if self.own_starts[usize::from(*byte)] || (starts && (!word || at == pos)) {
                return at;
            }
            // An escape's letter is no part of a word, which only a look at both tells.
            word =
                byte.is_ascii_alphanumeric() && at.checked_sub(1).is_none_or(|before| bytes[before] != b'\\');
        }
        text.len()
    }

    /// What the rules say to a place: the longest match, once all of them know.
    pub(crate) fn at(&self, text: &str, pos: usize, ended: bool) -> Said {
        let mut all = All::default();
        let first = text.as_bytes()[pos];
        if self.own_starts[usize::from(first)] {
            for (number, pattern) in self.own.iter().enumerate() {
                all.hear(OWN + number, pattern.at(text, pos, ended, self.hold));
            }
        }
        if BUILT_IN[usize::from(first)] && begins(text, pos) {
            let on = |rule: usize| self.replacements[rule].is_some();
            if on(SECRET) {
                all.hear(SECRET, secret::at(text, pos, ended));
            }
            if on(EMAIL) {
                all.hear(EMAIL, email::at(text, pos, ended));
            }
            if on(CARD) && first.is_ascii_digit() {
                all.hear(CARD, card::at(text, pos, ended));
            }
            if on(PHONE) && (first.is_ascii_digit() || matches!(first, b'+' | b'(')) {
                all.hear(PHONE, phone::at(text, pos, ended));
            }
        }
        match (all.more, all.found) {
            (Some(strong), _) => Said::More { strong },
            (None, Some(found)) => Said::Match(found),
            (None, None) => Said::No,
        }
    }
}

/// Bytes that matches of the built-in rules begin with. Characters beyond ASCII begin an address's name.
const BUILT_IN: [bool; 256] = {
    let mut starts = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let char = byte as u8;
        starts[byte] = char.is_ascii_alphanumeric()
            || matches!(char, b'_' | b'+' | b'(' | b'-')
            || char >= 0xc3 && char < 0xd5;
        byte += 1;
    }
    starts
};

#[derive(Default)]
struct All {
    found: Option<Match>,
    more: Option<bool>,
}

impl All {
    fn hear(&mut self, rule: usize, said: Verdict) {
        match said {
            Verdict::No => {}
            Verdict::More { strong } => self.more = Some(strong | self.more.unwrap_or_default()),
            Verdict::Match { end, tail } => {
                let new = Match { end, rule: rule as Rule, tail };
                self.found = Some(match self.found {
                    None => new,
                    // What has a tail ends later than it says.
                    Some(found) if found.tail != Tail::None || (found.end >= end && tail == Tail::None) => {
                        Match { end: end.max(found.end), ..found }
                    }
                    Some(found) => Match { end: end.max(found.end), ..new },
                });
            }
        }
    }
}
