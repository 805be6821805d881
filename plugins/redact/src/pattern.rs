//! The operator's own patterns. A pattern is run as a lazy DFA, byte by byte: so it can be told where a match could still
//! be going on, which a search over what has come so far could not.

use crate::verdict::{TELLING, Tail, Verdict};
use regex_automata::{
    Anchored, Input,
    hybrid::dfa::{Cache, DFA},
    nfa::thompson::{self, NFA, State},
};
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look, Repetition};
use std::cell::RefCell;

/// Bytes that all compiled patterns may take. Making them takes an instance some 30 ns each.
const MOST_COMPILED: usize = 1 << 20;
/// What reading all of them may cost, see [`cost`].
const MOST_COST: usize = 20_000;
/// Bytes of memory for a pattern's states; they are made as texts need them, and again when it is full.
const STATES: usize = 256 << 10;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    dfa: DFA,
    cache: RefCell<Cache>,
    /// Bytes of its program.
    size: usize,
    starts: [bool; 256],
}

/// Compiles patterns.
///
/// # Errors
/// What is wrong with which of them, or with all together.
pub(crate) fn compile<'a>(
    patterns: impl Iterator<Item = &'a str>,
) -> Result<Vec<Pattern>, (Option<usize>, String)> {
    let (mut left, mut cost_left) = (MOST_COMPILED, MOST_COST);
    // One for all: the tables that it makes first cost more than most patterns do.
    let mut compiler = thompson::Compiler::new();
    patterns
        .enumerate()
        .map(|(at, pattern)| {
            let Some(rest) = cost_left.checked_sub(cost(pattern)) else {
                let advice =
                    "use fewer, or fewer classes such as `\\w`, above all in brackets and under `(?i)`";
                return Err((None, format!("these are too much to compile for every instance: {advice}")));
            };
            cost_left = rest;
            let pattern = Pattern::new(&mut compiler, pattern, left).map_err(|reason| (Some(at), reason))?;
            left = left.saturating_sub(pattern.size);
            Ok(pattern)
        })
        .collect()
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    fn new(compiler: &mut thompson::Compiler, pattern: &str, most: usize) -> Result<Self, String> {
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
        let limits = thompson::Config::new().nfa_size_limit(Some(most)).shrink(false);
        let nfa = compiler.configure(limits).build_from_hir(&with_ascii_words(hir)).map_err(|error| {
            let advice = "repeat less, or write `[0-9A-Za-z_]` for `\\w`";
            let large =
                format!("all patterns together are more than {MOST_COMPILED} bytes compiled: {advice}");
            if error.size_limit().is_some() { large } else { error.to_string() }
        })?;
        let (size, starts) = (nfa.memory_usage(), starts(&nfa));
        let settings = DFA::config().cache_capacity(STATES).skip_cache_capacity_check(true);
        let dfa =
            DFA::builder().configure(settings).build_from_nfa(nfa).map_err(|error| error.to_string())?;
        let cache = RefCell::new(dfa.create_cache());
        Ok(Self { dfa, cache, size, starts })
    }

    /// Which bytes a match may begin with.
    pub(crate) fn starts(&self) -> [bool; 256] {
        self.starts
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
            return TELLING;
        }
        match self.dfa.next_eoi_state(&mut cache, state) {
            Ok(state) if state.is_match() => found(Some(end)),
            _ => found(last),
        }
    }
}

/// What reading a pattern costs an instance, in microseconds at most: characters are little, classes of all scripts more, and
/// most where upper and lower case of each of their characters are looked for.
fn cost(pattern: &str) -> usize {
    let flags = pattern.split("(?").skip(1).map(|group| group.split([':', ')']).next().unwrap_or_default());
    let folded = flags.into_iter().any(|flags| flags.contains('i'));
    let (mut cost, mut depth) = (0, 0_usize);
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        let wide = char == '\\'
            && matches!(chars.next(), Some('w' | 'W' | 'd' | 'D' | 's' | 'S' | 'p' | 'P' | 'x' | 'u' | 'U'));
        match char {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        cost += match (folded, wide, depth > 0 && !char.is_ascii() || char == '[') {
            (true, true, _) if depth > 0 => 600,
            (_, true, _) => 30,
            (true, _, true) => 150,
            (true, ..) => 5,
            (false, _, true) => 10,
            (false, ..) => 1,
        };
    }
    cost
}

/// Which bytes a match may begin with, whatever is before it.
fn starts(nfa: &NFA) -> [bool; 256] {
    let mut starts = [false; 256];
    let (mut seen, mut next) = (vec![false; nfa.states().len()], vec![nfa.start_anchored()]);
    let mut mark = |from: u8, to: u8| starts[usize::from(from)..=usize::from(to)].fill(true);
    while let Some(id) = next.pop() {
        if std::mem::replace(&mut seen[id.as_usize()], true) {
            continue;
        }
        match nfa.state(id) {
            State::ByteRange { trans } => mark(trans.start, trans.end),
            State::Sparse(sparse) => {
                sparse.transitions.iter().for_each(|trans| mark(trans.start, trans.end));
            }
            State::Dense(dense) => {
                (0..=u8::MAX)
                    .filter(|byte| dense.matches_byte(*byte).is_some())
                    .for_each(|byte| mark(byte, byte));
            }
            State::Look { next: behind, .. } | State::Capture { next: behind, .. } => next.push(*behind),
            State::Union { alternates } => next.extend(alternates.iter().copied()),
            State::BinaryUnion { alt1, alt2 } => next.extend([*alt1, *alt2]),
            State::Fail | State::Match { .. } => {}
        }
    }
    starts
}

/// The same with `\b` and its kind over ASCII, which is all that a DFA knows, and with `\d` too: digits of other scripts would
/// make up most of a program.
fn with_ascii_words(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(Class::Unicode(class)) => Hir::class(Class::Unicode(with_ascii_digits(class))),
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

/// `[0-9]` for `\d`, and all others for `\D`.
fn with_ascii_digits(mut class: ClassUnicode) -> ClassUnicode {
    let all = char::MAX;
    let ascii = ClassUnicode::new([ClassUnicodeRange::new('0', '9')]);
    // `\d` is the only class with so many ranges of ten that begins with ASCII's.
    let tens = |class: &ClassUnicode| {
        class.ranges().len() > 32
            && class.ranges().first() == ascii.ranges().first()
            && class.iter().all(|range| (range.end() as u32 - range.start() as u32 + 1).is_multiple_of(10))
    };
    if tens(&class) {
        return ascii;
    }
    if class.ranges().last().is_some_and(|last| last.end() == all) && class.ranges().len() > 32 {
        class.negate();
        if tens(&class) {
            class = ascii;
        }
        class.negate();
    }
    class
}
