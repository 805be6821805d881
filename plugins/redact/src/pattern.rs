//! The operator's own patterns. A pattern is run as a lazy DFA, byte by byte: so it can be told where a match could still
//! be going on, which a search over what has come so far could not.

use crate::verdict::{STRONG, Tail, Verdict};
use regex_automata::{
    Anchored, Input,
    hybrid::dfa::{Cache, DFA},
    nfa::thompson,
};
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};
use std::cell::RefCell;

/// Bytes that a compiled pattern may take.
pub(crate) const MOST_COMPILED: usize = 1 << 20;
/// Bytes of memory for a pattern's states; they are made as texts need them, and again when it is full.
const STATES: usize = 256 << 10;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    dfa: DFA,
    cache: RefCell<Cache>,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let hir = regex_syntax::parse(pattern).map_err(|error| match error {
            regex_syntax::Error::Parse(error) => format!("{} at {}", error.kind(), error.span().start.column),
            regex_syntax::Error::Translate(error) => {
                format!("{} at {}", error.kind(), error.span().start.column)
            }
            error => error.to_string(),
        })?;
        if hir.properties().minimum_len().is_none_or(|least| least == 0) {
            return Err("it matches the empty text, which is everywhere".to_owned());
        }
        let limits = thompson::Config::new().nfa_size_limit(Some(MOST_COMPILED)).shrink(false);
        let nfa = thompson::Compiler::new()
            .configure(limits)
            .build_from_hir(&with_ascii_words(hir))
            .map_err(|error| error.to_string())?;
        let settings = DFA::config().cache_capacity(STATES).skip_cache_capacity_check(true);
        let dfa =
            DFA::builder().configure(settings).build_from_nfa(nfa).map_err(|error| error.to_string())?;
        let cache = RefCell::new(dfa.create_cache());
        Ok(Self { dfa, cache })
    }

    /// Which bytes a match may begin with.
    pub(crate) fn starts(&self) -> [bool; 256] {
        let mut starts = [false; 256];
        for (byte, starts) in (0..=u8::MAX).zip(&mut starts) {
            // Before every kind of character that a look behind can tell.
            *starts = ["", "\n", "\r", "a", " "].iter().any(|before| {
                let mut cache = self.cache.borrow_mut();
                let input = Input::new(*before).range(before.len()..).anchored(Anchored::Yes);
                let state = self.dfa.start_state_forward(&mut cache, &input);
                let next = state.map(|state| self.dfa.next_state(&mut cache, state, byte));
                !matches!(next, Ok(Ok(next)) if next.is_dead())
            });
        }
        starts
    }

    /// Whether a match begins at a place, of at most `hold` bytes.
    pub(crate) fn at(&self, text: &str, pos: usize, ended: bool, hold: usize) -> Verdict {
        let mut end = text.len();
        let mut ended = ended;
        if pos + hold <= end {
            end = text.floor_char_boundary(pos + hold);
            ended = true;
        }
        let mut cache = self.cache.borrow_mut();
        let input = Input::new(&text[..end]).range(pos..end).anchored(Anchored::Yes);
        let Ok(mut state) = self.dfa.start_state_forward(&mut cache, &input) else { return Verdict::No };
        let found =
            |end: Option<usize>| end.map_or(Verdict::No, |end| Verdict::Match { end, tail: Tail::None });
        let mut last = None;
        for at in pos..end {
            let Ok(next) = self.dfa.next_state(&mut cache, state, text.as_bytes()[at]) else {
                return found(last);
            };
            state = next;
            // A match is told one byte late.
            if state.is_match() {
                last = Some(at);
            } else if state.is_dead() {
                return found(last);
            }
        }
        if !ended {
            return STRONG;
        }
        match self.dfa.next_eoi_state(&mut cache, state) {
            Ok(state) if state.is_match() => found(Some(end)),
            _ => found(last),
        }
    }
}

/// The same with `\b` and its kind over ASCII, which is all that a DFA knows.
fn with_ascii_words(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(Class::Unicode(class)) => Hir::class(Class::Unicode(class)),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(match look {
            Look::WordUnicode => Look::WordAscii,
            Look::WordUnicodeNegate => Look::WordAsciiNegate,
            Look::WordStartUnicode => Look::WordStartAscii,
            Look::WordEndUnicode => Look::WordEndAscii,
            Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
            Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
            other => other,
        }),
        HirKind::Repetition(repetition) => {
            Hir::repetition(Repetition { sub: Box::new(with_ascii_words(*repetition.sub)), ..repetition })
        }
        // A group captures nothing here: there is nothing to put a captured text into.
        HirKind::Capture(capture) => with_ascii_words(*capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(with_ascii_words).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(with_ascii_words).collect()),
    }
}
