//! Card numbers: 13 to 19 digits of a known scheme with a right check digit, spaces and dashes between.

use crate::{
    digits::{Form, Gap, Group, MOST, Run, Window},
    verdict::{STRONG, TELLING, Verdict, stops},
};

/// Digits of a card, at least.
const LEAST: usize = 13;
/// Digits of a card that may be seen.
const TELLS_NOTHING: usize = 4;

/// Whether a card number begins at a digit that begins a group.
pub(crate) fn at(text: &str, pos: usize, ended: bool, window: &mut Window) -> Verdict {
    // No card begins with 0, 1, 7, 8 or 9, and a long fraction is none.
    if !matches!(text.as_bytes()[pos], b'2'..=b'6') || is_fraction(&text[..pos]) || window.is_long(text, pos)
    {
        return Verdict::No;
    }
    let run = window.run(text, pos, ended, MOST, Form::Card);
    let printed = as_printed(&run);
    let breaks = run.breaks;
    if run.longer && printed < 2 && breaks.is_none_or(|groups| run.count(groups) < LEAST) {
        return Verdict::No;
    }
    let (number, count) = run.digits(text);
    let number = &number[..count];
    let last = run.groups.len();
    let usable = if run.open {
        if breaks.is_none() && (!run.last_gap.is_break() || count >= LEAST) || may_go_over_lines(&run) {
            let is_one = (1..=last).any(|groups| is_card(&number[..run.count(groups)]));
            return match is_one || may_become(number) {
                true if count > TELLS_NOTHING => TELLING,
                true => STRONG,
                false => Verdict::No,
            };
        }
        breaks.unwrap_or(0)
    } else {
        let Some(group) = run.groups.last() else { return Verdict::No };
        // The digits run up to a letter: the last group is something else.
        match stops(text, group.end, ended) {
            None => return TELLING,
            Some(true) => last,
            Some(false) => last - 1,
        }
    };
    let mut count = run.count(usable);
    for groups in (1..=usable).rev() {
        if count < LEAST {
            break;
        }
        let alone = if groups == last { !run.longer } else { breaks == Some(groups) };
        let over_lines = breaks.is_some_and(|first| groups > first);
        let written =
            if over_lines { is_over_lines(&run.groups[..groups]) } else { groups <= printed || alone };
        if written && is_card(&number[..count]) {
            return Verdict::Match { end: run.groups[groups - 1].end, tail: Default::default() };
        }
        count -= run.groups[groups - 1].len();
    }
    Verdict::No
}

/// Whether digits alone, as a JSON number has them, are a card number.
pub(crate) fn is_number(text: &str) -> bool {
    let digits = text.bytes().map(|byte| byte.wrapping_sub(b'0')).collect::<Vec<_>>();
    digits.iter().all(|digit| *digit <= 9) && is_card(&digits)
}

fn is_fraction(before: &str) -> bool {
    before.strip_suffix('.').is_some_and(|before| before.ends_with(|char: char| char.is_ascii_digit()))
}

/// How many groups together are as cards have them: three digits or more in all but the last. Other groups are taken for a
/// card only where nothing else is around. No UUID's are.
fn as_printed(run: &Run<'_>) -> usize {
    let lengths = |at: usize| run.groups.get(at).map_or(0, Group::len);
    if (lengths(0), lengths(1), lengths(2)) == (8, 4, 4) {
        return 0;
    }
    run.groups.iter().take_while(|group| group.len() >= 3).count() + 1
}

/// Over lines and columns a card is only one in the groups that are on cards: other numbers stand there too.
fn is_over_lines(groups: &[Group]) -> bool {
    match groups {
        [a, b, c] => (a.len(), b.len()) == (4, 6) && matches!(c.len(), 4 | 5),
        [first @ .., last] if groups.len() <= 5 => {
            first.iter().all(|group| group.len() == 4)
                && if groups.len() == 4 { last.len() == 4 } else { groups.len() == 5 && last.len() <= 3 }
        }
        _ => false,
    }
}

/// Whether more digits may make such groups of a run that is not over.
fn may_go_over_lines(run: &Run<'_>) -> bool {
    let complete = run.last_gap != Gap::default();
    let Some((last, whole)) = run.groups.split_last() else { return false };
    let may_be = |most: usize| last.len() == most || (!complete && last.len() < most);
    match whole {
        [] => may_be(4),
        [a] => a.len() == 4 && (may_be(4) || may_be(6)),
        [a, b] if b.len() == 6 => a.len() == 4 && last.len() <= 5,
        [a, b, rest @ ..] if a.len() == 4 && b.len() == 4 && rest.iter().all(|group| group.len() == 4) => {
            match rest.len() {
                0 | 1 => may_be(4),
                2 => last.len() <= 3,
                _ => false,
            }
        }
        _ => false,
    }
}

fn is_card(digits: &[u8]) -> bool {
    (LEAST..=MOST).contains(&digits.len()) && scheme(digits, digits.len()) && luhn(digits)
}

/// Whether some scheme begins so. Decides by the first digits what has to be held back.
fn may_become(digits: &[u8]) -> bool {
    digits.len() < 6 && incomplete(digits)
        || (LEAST..=MOST).any(|length| length >= digits.len() && scheme(digits, length))
}

/// Whether the prefix is too short to tell a scheme by; 2 is, years are not.
fn incomplete(digits: &[u8]) -> bool {
    match digits {
        [2, rest @ ..] => matches!(rest, [] | [2..=7] | [2..=7, _] | [2..=7, _, _]),
        [3, rest @ ..] => matches!(rest, [] | [0 | 4..=9] | [0 | 4..=9, _] | [0 | 4..=9, _, _]),
        _ => true,
    }
}

/// Whether a scheme has numbers of this length that begin so.
fn scheme(digits: &[u8], length: usize) -> bool {
    let first =
        |count: usize| digits.iter().take(count).fold(0, |number, digit| number * 10 + u32::from(*digit));
    match digits.first() {
        // Visa.
        Some(4) => matches!(length, 13 | 16 | 19),
        // Mastercard, Maestro.
        Some(5) => match first(2) {
            51..=55 => length == 16,
            50 | 56..=58 => matches!(length, 16 | 18 | 19),
            _ => false,
        },
        // Mastercard, Mir.
        Some(2) => match first(4) {
            2221..=2720 => length == 16,
            2200..=2204 => (16..=19).contains(&length),
            _ => false,
        },
        // American Express, Diners Club, JCB.
        Some(3) => match (first(2), first(4)) {
            (34 | 37, _) => length == 15,
            (36 | 38 | 39, _) | (30, 3000..=3059 | 3095) => matches!(length, 14 | 16),
            (35, 3528..=3589) => (16..=19).contains(&length),
            _ => false,
        },
        // Discover, UnionPay, Maestro.
        Some(6) => match first(2) {
            62 => (16..=19).contains(&length),
            60 | 63..=69 => matches!(length, 16 | 18 | 19),
            _ => false,
        },
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum = digits.iter().rev().enumerate().map(|(at, digit)| match (at % 2, u32::from(*digit)) {
        (0, digit) => digit,
        (_, digit) => digit * 2 % 10 + digit / 5,
    });
    sum.sum::<u32>().is_multiple_of(10)
}
