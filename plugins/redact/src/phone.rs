//! Phone numbers: `+` and a country code; the forms of North America; those that begin with a zero; Brazil's.
//!
//! Digits without a gap and without `+` are no phone number: nothing tells them from an order's.

use crate::{
    digits::{self, Gap, Group, Run},
    verdict::{STRONG, Tail, Verdict, is_word, stops},
};

/// Digits that a number may have behind `+`.
const INTERNATIONAL: std::ops::RangeInclusive<usize> = 9..=15;
/// Digits that a number with a leading zero may have.
const NATIONAL: std::ops::RangeInclusive<usize> = 9..=12;

/// What may stand between digits.
const GAPS: &[u8] = b" -./()";

/// Whether a phone number begins at a `+`, a `(` or a digit at which a word may begin.
pub(crate) fn at(text: &str, pos: usize, ended: bool) -> Verdict {
    match text.as_bytes()[pos] {
        b'+' => international(text, pos + 1, ended),
        _ if text[..pos].ends_with(['-', '.', '/', '#', '_', '+']) => Verdict::No,
        b'0' if text[pos..].starts_with("00") => international(text, pos + 2, ended),
        _ => national(text, pos, ended),
    }
}

/// What follows `+` or `00`.
fn international(text: &str, pos: usize, ended: bool) -> Verdict {
    let plus = text[..pos].ends_with('+');
    match text.as_bytes().get(pos) {
        None if !ended => return STRONG,
        Some(b'1'..=b'9') => {}
        _ => return Verdict::No,
    }
    let run = digits::run(text, pos, ended, *INTERNATIONAL.end(), GAPS, |gap| is_gap(gap) || gap.is("-("));
    if run.open {
        // Zeros in front of a long number are no country's.
        return if plus || run.groups[0].len() <= 3 { STRONG } else { Verdict::No };
    }
    let Some(first) = run.groups.first() else { return Verdict::No };
    if !plus && first.len() > 3 {
        return Verdict::No;
    }
    let north_america = text.as_bytes()[pos] == b'1';
    ends(text, &run, ended, |groups| {
        let count = run.count(groups);
        let last = &run.groups[groups - 1];
        if north_america { count == 11 } else { INTERNATIONAL.contains(&count) && last.len() >= 2 }
    })
}

/// What begins with a digit or a parenthesis.
fn national(text: &str, pos: usize, ended: bool) -> Verdict {
    let run = digits::run(text, pos, ended, *NATIONAL.end(), GAPS, is_gap);
    let Some(first) = run.groups.first() else { return if run.open { STRONG } else { Verdict::No } };
    let bracketed = first.gap.is("(");
    if first.start != pos && !bracketed {
        return Verdict::No;
    }
    let digits = run.digits(text).collect::<Vec<_>>();
    if run.open && !may_become(&run, &digits, bracketed) {
        return Verdict::No;
    }
    if run.open {
        return STRONG;
    }
    ends(text, &run, ended, |groups| {
        let run = &run.groups[..groups];
        let count = run.iter().map(Group::len).sum::<usize>();
        zero(run, &digits, count, bracketed)
            || north_america(run, &digits, bracketed)
            || brazil(run, bracketed)
    })
}

/// Whether a run of which more is to come can be of one of the forms.
fn may_become(run: &Run, digits: &[u8], bracketed: bool) -> bool {
    let first = &run.groups[0];
    let whole = run.groups.len() > 1;
    match digits[0] {
        0 => digits.get(1) != Some(&0) && first.len() <= 6,
        1 if !bracketed && !whole => first.len() == 1,
        1 => bracketed || first.len() == 1,
        _ if bracketed => first.len() <= 3,
        _ => {
            first.len() <= 3
                && run.groups.get(1).is_none_or(|second| second.gap.is("-") || second.gap.is("."))
        }
    }
}

/// `030 1234567`, `(030) 12 34 56`, `0171/1234567`, `06 12 34 56 78`, `020 7946 0958`.
fn zero(run: &[Group], digits: &[u8], count: usize, bracketed: bool) -> bool {
    let length = |at: usize| run.get(at).map_or(0, Group::len);
    if digits[0] != 0 || digits.get(1) == Some(&0) || !NATIONAL.contains(&count) || run.len() < 2 {
        return false;
    }
    let date = (length(0), length(1), length(2)) == (2, 2, 4);
    let pairs = run.len() == 5 && run.iter().all(|group| group.len() == 2);
    let gaps = run[1..].iter().enumerate().all(|(at, group)| {
        let gap = group.gap;
        gap.is(" ")
            || gap.is("-")
            || (pairs && gap.is("."))
            || (at == 0 && (gap.is("/") || gap.is(" / ") || gap.is(" - ")))
            || (at == 0 && bracketed && closes(gap))
    });
    // An extension may be one digit: `030 123456-0`.
    let lengths = run[1..]
        .iter()
        .all(|group| (2..=8).contains(&group.len()) || (group.len() == 1 && group.gap.is("-")));
    gaps && lengths && !date && (2..=6).contains(&length(0))
}

/// `(415) 555-2671`, `415-555-2671`, `415.555.2671`, and these behind a 1.
fn north_america(run: &[Group], digits: &[u8], bracketed: bool) -> bool {
    let trunk = digits[0] == 1 && run.first().is_some_and(|first| first.len() == 1);
    let (run, digits) = if trunk { (&run[1..], &digits[1..]) } else { (run, digits) };
    let [area, exchange, line] = run else { return false };
    let lengths = (area.len(), exchange.len(), line.len()) == (3, 3, 4);
    let opened = if trunk { area.gap.is(" (") || area.gap.is("(") || area.gap.is("-(") } else { bracketed };
    let gaps = if opened {
        closes(exchange.gap) && (line.gap.is("-") || line.gap.is(".") || line.gap.is(" "))
    } else {
        (line.gap.is("-") || line.gap.is(".") || (trunk && line.gap.is(" "))) && exchange.gap == line.gap
    };
    lengths && gaps && digits[0] >= 2 && digits[3] >= 2
}

/// `(11) 91234-5678`.
fn brazil(run: &[Group], bracketed: bool) -> bool {
    let [area, prefix, line] = run else { return false };
    let lengths = area.len() == 2 && (4..=5).contains(&prefix.len()) && line.len() == 4;
    bracketed && lengths && closes(prefix.gap) && line.gap.is("-")
}

fn closes(gap: Gap) -> bool {
    gap.is(")") || gap.is(") ") || gap.is(")-")
}

fn is_gap(gap: Gap) -> bool {
    let plain = [" ", "-", ".", "/", " - ", " / ", " (", "("];
    plain.iter().any(|plain| gap.is(plain)) || closes(gap)
}

/// The longest match of a run that `fits`; nothing that a word, a fraction or a time of day goes on behind.
fn ends(text: &str, run: &Run, ended: bool, fits: impl Fn(usize) -> bool) -> Verdict {
    for groups in (1..=run.groups.len()).rev().filter(|groups| fits(*groups)) {
        let end = run.groups[groups - 1].end;
        match stops(text, end, ended) {
            None => return STRONG,
            Some(false) => continue,
            Some(true) => {}
        }
        let mut behind = text[end..].chars();
        if behind.next().is_some_and(|char| matches!(char, ':' | '.' | '-' | '_' | '@')) {
            match behind.next() {
                None if !ended => return STRONG,
                Some(next) if groups == run.groups.len() && is_word(next) => continue,
                _ => {}
            }
        }
        return Verdict::Match { end, tail: Tail::None };
    }
    Verdict::No
}
