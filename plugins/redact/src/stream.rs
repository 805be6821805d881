//! A text that comes in chunks. What comes out is the same however it is cut: a place is let out once every rule knows
//! what it says to it. All that may be in the middle of a match is held back, and nothing else.

use crate::{
    rules::{Rule, Rules, Said, Scan},
    secret,
    verdict::{Tail, Weight},
};

/// Bytes of what was let out that rules may look back at.
const CONTEXT: usize = 40;

/// A text up to here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// What came last before `held`.
    pub(crate) context: String,
    /// What has come and is not decided.
    pub(crate) held: String,
    /// Bytes of `held` that are out already, since the text was cut behind them.
    pub(crate) shown: usize,
    /// Bytes of `held` that belong to a match whose replacement is out already, of which rule, and what more belongs to it.
    pub(crate) covered: usize,
    pub(crate) rule: Rule,
    pub(crate) tail: Tail,
    /// How much of a match `held` is, and whether it is one of a card's or a phone's, which may be whole.
    pub(crate) weight: Weight,
    pub(crate) number: bool,
}

/// What follows a piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// More of it.
    Open,
    /// Something else, and more of it then: no word goes on.
    Cut,
    /// Nothing: the text was broken off, and what is the beginning of a match was to be one.
    Broken,
    /// Nothing: it is whole.
    End,
}

/// What comes out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece<'a> {
    /// Text as it was, and where it begins, in bytes from the begin of the chunk that was taken last.
    Plain(&'a str, isize),
    /// What stands in place of a match that begins there.
    Replaced(&'a str, isize),
}

impl<'a> Piece<'a> {
    pub(crate) fn text(self) -> &'a str {
        match self {
            Self::Plain(text, _) | Self::Replaced(text, _) => text,
        }
    }
}

impl Stream {
    /// Takes what comes next, and gives what may be let out.
    pub(crate) fn push(&mut self, rules: &Rules, chunk: &str, edge: Edge) -> String {
        let mut out = String::with_capacity(self.held.len() + chunk.len());
        self.push_to(rules, chunk, edge, &mut |piece| out.push_str(piece.text()));
        out
    }

    /// As [`Stream::push`], piece by piece.
    pub(crate) fn push_to(&mut self, rules: &Rules, chunk: &str, edge: Edge, out: &mut dyn FnMut(Piece<'_>)) {
        let text = [&*self.context, &*self.held, chunk].concat();
        let base = (self.context.len() + self.held.len()) as isize;
        let mut walk = Walk { rules, text: &text, base, edge, scan: Scan::default(), out };
        let pos = walk.go(self);
        if matches!(edge, Edge::Broken | Edge::End)
            || (edge == Edge::Cut && pos == text.len() && self.is_idle())
        {
            *self = Self::default();
            return;
        }
        self.context.clear();
        self.context.push_str(&text[text.ceil_char_boundary(pos.saturating_sub(CONTEXT))..pos]);
        self.held.clear();
        self.held.push_str(&text[pos..]);
    }

    /// Something else comes before more of the text: gives what is let out then. Nothing is changed where nothing is.
    pub(crate) fn cut(&mut self, rules: &Rules) -> String {
        if self.can_cut() { self.push(rules, "", Edge::Cut) } else { String::new() }
    }

    /// Whether something may come out by a cut.
    pub(crate) fn can_cut(&self) -> bool {
        self.shown < self.held.len() && (self.weight != Weight::Telling || self.number)
    }

    /// Whether some of the text is not out.
    pub(crate) fn hides(&self) -> bool {
        self.shown < self.held.len() || !self.is_idle()
    }

    /// Whether no match goes on.
    pub(crate) fn is_idle(&self) -> bool {
        self.covered == 0 && self.tail == Tail::None
    }
}

/// One way through what is there of a text.
struct Walk<'a> {
    rules: &'a Rules,
    text: &'a str,
    /// Where the chunk begins.
    base: isize,
    edge: Edge,
    scan: Scan,
    out: &'a mut dyn FnMut(Piece<'_>),
}

impl Walk<'_> {
    /// Lets out what may be, and gives the first place that is not decided.
    fn go(&mut self, stream: &mut Stream) -> usize {
        let (rules, text) = (self.rules, self.text);
        let mut pos = stream.context.len();
        let mut covered = pos.saturating_add(stream.covered);
        let shown = pos + stream.shown;
        // What is before this is out, or no one's.
        let mut plain = covered.max(shown);
        let (mut more, mut number) = (Weight::Weak, false);
        while pos < text.len() {
            if pos >= covered && stream.tail != Tail::None {
                let ended = self.edge == Edge::End;
                let Some((length, tail)) = secret::tail(text, pos, ended, stream.tail) else {
                    if self.edge == Edge::Broken {
                        (pos, plain) = (text.len(), text.len());
                    }
                    more = Weight::Telling;
                    break;
                };
                stream.tail = tail;
                pos += length;
                plain = pos.max(shown);
                if length > 0 {
                    continue;
                }
            }
            let next = rules.next(text, pos);
            if pos < covered && (next >= covered || Rules::is_opaque(stream.rule)) {
                pos = covered.min(text.len());
                continue;
            }
            pos = next;
            if pos == text.len() {
                break;
            }
            match self.at(pos, pos < covered) {
                Said::More { weight, rule } => {
                    more = if pos < covered { Weight::Telling } else { weight };
                    number = pos >= covered && Rules::is_number(rule);
                    break;
                }
                Said::Match(found) if pos >= covered || found.end > covered => {
                    self.plain(plain, pos);
                    // Matches of one rule that overlap are one.
                    if pos >= covered || found.rule != stream.rule {
                        (self.out)(Piece::Replaced(rules.replacement(found.rule), pos as isize - self.base));
                    }
                    (covered, stream.rule, stream.tail) = (found.end, found.rule, found.tail);
                    plain = covered.max(shown);
                }
                _ => {}
            }
            pos += text[pos..].chars().next().map_or(1, char::len_utf8);
        }
        self.plain(plain, pos);
        stream.shown = shown.saturating_sub(pos);
        if self.edge == Edge::Cut && pos < text.len() && more == Weight::Strong {
            self.plain(plain.max(pos), text.len());
            stream.shown = text.len() - pos;
        }
        stream.covered = covered.saturating_sub(pos);
        (stream.weight, stream.number) = (more, number);
        pos
    }

    /// What the rules say to a place, with what follows the text in mind.
    fn at(&mut self, pos: usize, is_covered: bool) -> Said {
        let (rules, text) = (self.rules, self.text);
        let said = rules.at(&mut self.scan, text, pos, self.edge == Edge::End);
        match (self.edge, said) {
            (Edge::Broken, Said::More { weight: Weight::Telling, rule }) => {
                Said::Match(crate::rules::Match { end: text.len(), rule, tail: Tail::None })
            }
            (Edge::Broken, Said::More { .. }) => rules.at(&mut Scan::default(), text, pos, true),
            (Edge::Cut, Said::More { weight: Weight::Weak, .. }) if !is_covered => {
                rules.at(&mut Scan::default(), text, pos, true)
            }
            (Edge::Cut, Said::More { weight: Weight::Telling, rule })
                if !is_covered && Rules::is_number(rule) =>
            {
                // Whole as it is; what comes next is no part of it.
                match rules.at(&mut Scan::default(), text, pos, true) {
                    Said::Match(found) if found.end == text.len() && Rules::is_number(found.rule) => {
                        Said::Match(found)
                    }
                    _ => said,
                }
            }
            (_, said) => said,
        }
    }

    fn plain(&mut self, from: usize, to: usize) {
        if let Some(text) = self.text.get(from..to).filter(|text| !text.is_empty()) {
            (self.out)(Piece::Plain(text, from as isize - self.base));
        }
    }
}

/// A whole text; none if nothing in it matches.
pub(crate) fn redact(rules: &Rules, text: &str) -> Option<String> {
    redact_to(rules, text, Edge::End)
}

/// As [`redact`], of a text that may have been broken off.
pub(crate) fn redact_to(rules: &Rules, text: &str, edge: Edge) -> Option<String> {
    let out = Stream::default().push(rules, text, edge);
    (out != text).then_some(out)
}
