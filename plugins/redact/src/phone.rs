//! Phone numbers: `+` and a country code; the forms of North America; those that begin with a zero; Brazil's.
//!
//! Digits without a gap and without `+` are no phone number: nothing tells them from an order's.

use crate::{
    digits::{Form, Gap, Group, Run, Window},
    verdict::{STRONG, TELLING, Tail, Verdict, is_word, stops},
};

/// Digits that a number may have behind `+`.
const INTERNATIONAL: std::ops::RangeInclusive<usize> = 9..=15;
/// Digits that a number with a leading zero may have.
const NATIONAL: std::ops::RangeInclusive<usize> = 9..=12;

/// Digits of a number that may be seen.
const TELLS_NOTHING: usize = 4;
/// Groups of an IBAN, at most.
const IBAN_GROUPS: usize = 7;

/// Whether a phone number begins at a `+`, a `(` or a digit at which a word may begin.
pub(crate) fn at(text: &str, pos: usize, ended: bool, window: &mut Window) -> Verdict {
    match text.as_bytes()[pos] {
        b'+' => international(text, pos + 1, ended, window),
        b'1'..=b'9' if !may_begin(&text.as_bytes()[pos..]) => Verdict::No,
        _ if text[..pos].ends_with(['-', '.', '/', '#', '_', '+']) => Verdict::No,
        b'0' if is_in_iban(text, pos) => Verdict::No,
        b'0' if text[pos..].starts_with("00") => international(text, pos + 2, ended, window),
        b'(' => national(text, pos + 1, ended, true, window),
        _ => national(text, pos, ended, false, window),
    }
}

/// Whether digits that begin with no zero are the first ones of North America's forms, as far as can be seen.
fn may_begin(bytes: &[u8]) -> bool {
    let trunk = bytes[0] == b'1';
    match bytes.iter().position(|byte| !byte.is_ascii_digit()) {
        None => bytes.len() <= 3,
        Some(1) if trunk => true,
        Some(3) => !trunk && (matches!(bytes[3], b'-' | b'.') || !bytes[3].is_ascii()),
        Some(_) => false,
    }
}

/// What follows `+` or `00`.
fn international(text: &str, pos: usize, ended: bool, window: &mut Window) -> Verdict {
    let plus = text[..pos].ends_with('+');
    match text.as_bytes().get(pos) {
        None if !ended => return STRONG,
        Some(b'1'..=b'9') => {}
        _ => return Verdict::No,
    }
    let run = window.run(text, pos, ended, *INTERNATIONAL.end(), Form::International);
    if run.open {
        // Zeros in front of a long number are no country's.
        return if plus || run.groups[0].len() <= 3 { held(&run) } else { Verdict::No };
    }
    let Some(first) = run.groups.first() else { return Verdict::No };
    if !plus && first.len() > 3 {
        return Verdict::No;
    }
    let north_america = text.as_bytes()[pos] == b'1';
    ends(text, &run, ended, |groups| {
        let count = run.count(groups);
        let last = &run.groups[groups - 1];
        let dotted = |at: usize| at < groups && run.groups[at].gap.is(".");
        let registered = groups == 2 && first.len() >= 2 && last.len() >= 9;
        if dotted(1) && !dotted(2) && !north_america && !registered {
            // A fraction with its sign.
            return false;
        }
        if north_america { count == 11 } else { INTERNATIONAL.contains(&count) && last.len() >= 2 }
    })
}

/// What begins with a digit, or behind a parenthesis.
fn national(text: &str, pos: usize, ended: bool, bracketed: bool, window: &mut Window) -> Verdict {
    match text.as_bytes().get(pos) {
        None if !ended => return STRONG,
        Some(b'0'..=b'9') => {}
        _ => return Verdict::No,
    }
    if text[pos..].starts_with('0')
        && !bracketed
        && text.as_bytes().get(pos + 1).is_some_and(|byte| !byte.is_ascii_digit())
    {
        return Verdict::No;
    }
    let run = window.run(text, pos, ended, *NATIONAL.end(), Form::National);
    if run.open {
        return if may_become(text, &run, bracketed) { held(&run) } else { Verdict::No };
    }
    if run.groups.is_empty() {
        return Verdict::No;
    }
    // North America's alone begin with no zero, and have three digits behind what is dialled first.
    if !bracketed && text.as_bytes()[pos] != b'0' && (run.groups.len() < 3 || run.groups[1].len() != 3) {
        return Verdict::No;
    }
    let (digits, _) = run.digits(text);
    ends(text, &run, ended, |groups| {
        let run = &run.groups[..groups];
        let count = run.iter().map(Group::len).sum::<usize>();
        zero(run, &digits[..count], bracketed)
            || north_america(run, &digits, bracketed)
            || brazil(run, bracketed)
    })
}

fn held(run: &Run<'_>) -> Verdict {
    if run.count(run.groups.len()) > TELLS_NOTHING { TELLING } else { STRONG }
}

/// Whether a run of which more is to come can be of one of the forms.
fn may_become(text: &str, run: &Run<'_>, bracketed: bool) -> bool {
    let (digits, count) = run.digits(text);
    let digits = &digits[..count];
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

/// Whether groups of four, as an IBAN is printed with, lead from a country and a check number to a place.
fn is_in_iban(text: &str, pos: usize) -> bool {
    let mut before = &text.as_bytes()[..pos];
    for _ in 0..IBAN_GROUPS {
        let [rest @ .., a, b, c, d, b' '] = before else { return false };
        let all = |group: &[u8], fits: fn(&u8) -> bool| group.iter().all(fits);
        if all(&[*a, *b], u8::is_ascii_uppercase) && all(&[*c, *d], u8::is_ascii_digit) {
            return true;
        }
        if !all(&[*a, *b, *c, *d], |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()) {
            return false;
        }
        before = rest;
    }
    false
}

/// `030 1234567`, `(030) 12 34 56`, `0171/1234567`, `06 12 34 56 78`, `020 7946 0958`.
fn zero(run: &[Group], digits: &[u8], bracketed: bool) -> bool {
    let length = |at: usize| run.get(at).map_or(0, Group::len);
    if digits[0] != 0 || digits.get(1) == Some(&0) || !NATIONAL.contains(&digits.len()) || run.len() < 2 {
        return false;
    }
    let binary = digits.iter().all(|digit| *digit <= 1);
    let date = (length(0), length(1), length(2)) == (2, 2, 4);
    let pairs = run.len() == 5 && run.iter().all(|group| group.len() == 2);
    let number = |at: usize| digits[2 * at] * 10 + digits[2 * at + 1];
    let counts =
        run.iter().all(|group| group.len() == 2) && (1..run.len()).all(|at| number(at) == number(at - 1) + 1);
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
    gaps && lengths && !date && !binary && !counts && (2..=6).contains(&length(0))
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

/// The longest match of a run that `fits`; nothing that a word, a fraction or a time of day goes on behind.
fn ends(text: &str, run: &Run<'_>, ended: bool, fits: impl Fn(usize) -> bool) -> Verdict {
    for groups in (1..=run.groups.len()).rev().filter(|groups| fits(*groups)) {
        let end = run.groups[groups - 1].end;
        match stops(text, end, ended) {
            None => return TELLING,
            Some(false) => continue,
            Some(true) => {}
        }
        let mut behind = text[end..].chars();
        if behind.next().is_some_and(|char| matches!(char, ':' | '.' | '-' | '_' | '@')) {
            match behind.next() {
                None if !ended => return TELLING,
                Some(next) if groups == run.groups.len() && is_word(next) => continue,
                _ => {}
            }
        }
        return Verdict::Match { end, tail: Tail::None };
    }
    Verdict::No
}
