//! The answer as a whole, redacted as its chunks were: adapters compare the two.

use crate::{
    rules::Rules,
    state::Said,
    stream::{Edge, Piece, Stream, redact_to},
};

/// An answer, and what comes of it.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    rules: &'a Rules,
    text: &'a str,
    edge: Edge,
    pieces: Vec<Placed>,
    clean: String,
    /// How far messages have told it.
    told: usize,
}

/// A piece of what comes out, and which bytes of the answer it stands for; of a replacement only the first is known.
#[derive(Debug)]
struct Placed {
    from: usize,
    to: usize,
    text: String,
}

impl<'a> Answer<'a> {
    /// The answer, which was cut where `said` says.
    pub(crate) fn new(rules: &'a Rules, said: &Said, text: &'a str, edge: Edge) -> Self {
        let parts = said.split(text).map_or_else(|| vec![text], |(parts, _)| parts);
        let (mut stream, mut pieces, mut begin) = (Stream::default(), Vec::new(), 0_usize);
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            let mut place = |piece: Piece<'_>| pieces.push(placed(begin, piece));
            stream.push_to(rules, part, if last { edge } else { Edge::Open }, &mut place);
            begin += part.len();
            if !last && stream.can_cut() {
                stream.push_to(rules, "", Edge::Cut, &mut |piece| pieces.push(placed(begin, piece)));
            }
        }
        let clean = pieces.iter().map(|piece| &*piece.text).collect();
        Self { rules, text, edge, pieces, clean, told: 0 }
    }

    /// What is put in place of a text of a message, where it is the answer or the next part of it. None if it is not.
    pub(crate) fn part(&mut self, text: &str, in_message: bool) -> Option<Option<String>> {
        if text.is_empty() {
            return None;
        }
        if text == self.text {
            return Some((self.clean != text).then(|| self.clean.clone()));
        }
        if !in_message {
            return None;
        }
        let rest = &self.text[self.told..];
        let from = match rest.starts_with(text) {
            true => self.told,
            false if rest.trim_start().starts_with(text) => self.text.len() - rest.trim_start().len(),
            false => return self.broken_off(text),
        };
        self.told = from + text.len();
        let clean = self.of(from, self.told);
        Some((clean != text).then_some(clean))
    }

    /// What the answer ends in was broken off where it was.
    fn broken_off(&self, text: &str) -> Option<Option<String>> {
        let ends = self.edge == Edge::Broken && self.text.ends_with(text);
        ends.then(|| redact_to(self.rules, text, self.edge))
    }

    /// What came of some bytes of it.
    fn of(&self, from: usize, to: usize) -> String {
        let first = self.pieces.partition_point(|piece| piece.to.max(piece.from + 1) <= from);
        let pieces = self.pieces[first..].iter().take_while(|piece| piece.from < to);
        let part = |piece: &Placed| {
            if piece.from == piece.to {
                return piece.text.clone();
            }
            piece.text[from.max(piece.from) - piece.from..to.min(piece.to) - piece.from].to_owned()
        };
        pieces.map(part).collect()
    }
}

fn placed(begin: usize, piece: Piece<'_>) -> Placed {
    let (from, length) = match piece {
        Piece::Plain(text, from) => (from, text.len()),
        Piece::Replaced(_, from) => (from, 0),
    };
    let from = begin.saturating_add_signed(from);
    Placed { from, to: from + length, text: piece.text().to_owned() }
}
