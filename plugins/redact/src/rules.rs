//! All rules of a configuration, and what they say to one place of a text.

use crate::{
    card,
    config::{Config, Flow, StreamField},
    digits::Window,
    email::{self, Names},
    pattern::{self, Pattern},
    phone,
    secret::{self, Word},
    verdict::{Tail, Verdict, Weight, begins, is_within},
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
    streams: Option<Vec<StreamField>>,
}

/// What was read of a text for places before, so that nothing is read again for each of them. One for each walk through a
/// text.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    digits: Window,
    names: Names,
    word: Word,
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
    More { weight: Weight, rule: Rule },
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
        let own = pattern::compile(config.patterns.iter().map(|own| own.pattern.as_str()))
            .map_err(|(_, reason)| reason)?;
        let mut own_starts = Box::new([false; 256]);
        for pattern in &own {
            own_starts.iter_mut().zip(pattern.starts()).for_each(|(all, one)| *all |= one);
        }
        replacements.extend(config.patterns.iter().map(|own| Some(own.replacement())));
        let streams = config.streams.clone();
        Ok(Self { replacements, own, own_starts, hold: config.hold_bytes, streams })
    }

    /// What is put in place of a rule's matches.
    pub(crate) fn replacement(&self, rule: Rule) -> &str {
        self.replacements.get(usize::from(rule)).and_then(Option::as_deref).unwrap_or_default()
    }

    /// How a field of a kind beside the response brings text, if it is a stream.
    pub(crate) fn flow(&self, kind: &str, field: &str) -> Option<Flow> {
        Config::flow(self.streams.as_deref(), kind, field)
    }

    /// What is put in place of a number of JSON, if it is a card's.
    pub(crate) fn number(&self, number: &str) -> Option<&str> {
        self.replacements[CARD].as_deref().filter(|_| card::is_number(number))
    }

    /// Whether matches of a rule are judged no further inside: a secret's characters mean nothing.
    pub(crate) fn is_opaque(rule: Rule) -> bool {
        usize::from(rule) == SECRET
    }

    /// Whether matches of a rule are digits, of which it only shows behind them whether they are all.
    pub(crate) fn is_number(rule: Rule) -> bool {
        matches!(usize::from(rule), CARD | PHONE)
    }

    /// Where the next place is at which a rule might have something to say.
    pub(crate) fn next(&self, text: &str, pos: usize) -> usize {
        let starts = |(at, byte): (usize, &u8)| {
            self.own_starts[usize::from(*byte)]
                || (BUILT_IN[usize::from(*byte)] && !is_within(text, pos + at))
        };
        let next = text.as_bytes()[pos..].iter().enumerate().position(starts);
        next.map_or(text.len(), |next| pos + next)
    }

    /// What the rules say to a place: the longest match, once all of them know.
    pub(crate) fn at(&self, scan: &mut Scan, text: &str, pos: usize, ended: bool) -> Said {
        let mut all = All::default();
        let first = text.as_bytes()[pos];
        if self.own_starts[usize::from(first)] {
            for (number, pattern) in self.own.iter().enumerate() {
                all.hear(OWN + number, pattern.at(text, pos, ended, self.hold));
            }
        }
        if BUILT_IN[usize::from(first)] {
            match begins(text, pos, ended) {
                None => all.hear(SECRET, Verdict::More(Weight::Weak)),
                Some(true) => self.built_in(&mut all, scan, text, pos, ended),
                Some(false) => {}
            }
        }
        match (all.more, all.found) {
            (Some((weight, rule)), _) => Said::More { weight, rule },
            (None, Some(found)) => Said::Match(found),
            (None, None) => Said::No,
        }
    }

    fn built_in(&self, all: &mut All, scan: &mut Scan, text: &str, pos: usize, ended: bool) {
        let first = text.as_bytes()[pos];
        let on = |rule: usize| self.replacements[rule].is_some();
        if on(SECRET) {
            all.hear(SECRET, secret::at(text, pos, ended, &mut scan.word));
        }
        if on(EMAIL) {
            all.hear(EMAIL, email::at(text, pos, ended, &mut scan.names));
        }
        if on(CARD) && first.is_ascii_digit() {
            all.hear(CARD, card::at(text, pos, ended, &mut scan.digits));
        }
        if on(PHONE) && (first.is_ascii_digit() || matches!(first, b'+' | b'(')) {
            all.hear(PHONE, phone::at(text, pos, ended, &mut scan.digits));
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
    more: Option<(Weight, Rule)>,
}

impl All {
    fn hear(&mut self, rule: usize, said: Verdict) {
        match said {
            Verdict::No => {}
            Verdict::More(weight) => {
                if self.more.is_none_or(|(most, _)| weight > most) {
                    self.more = Some((weight, rule as Rule));
                }
            }
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
