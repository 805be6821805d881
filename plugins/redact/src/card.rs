//! Card numbers: 13 to 19 digits of a known scheme with a right check digit, spaces and dashes between.

use crate::{
    digits::{self, Gap, Run},
    verdict::{STRONG, Verdict, stops},
};

const MOST: usize = 19;

/// Whether a card number begins at a digit that begins a group.
pub(crate) fn at(text: &str, pos: usize, ended: bool) -> Verdict {
    // No card begins with 0, 1, 7, 8 or 9, and a long fraction is none.
    if !matches!(text.as_bytes()[pos], b'2'..=b'6') || is_fraction(&text[..pos]) {
        return Verdict::No;
    }
    let run = digits::run(text, pos, ended, MOST, b" -", is_gap);
    let mut number = [0; MOST];
    let mut count = 0;
    for digit in run.digits(text) {
        number[count] = digit;
        count += 1;
    }
    let number = &number[..count];
    if run.open {
        let is_one = (1..=run.groups.len()).any(|groups| is_card(&number[..run.count(groups)]));
        return if is_one || may_become(number) { STRONG } else { Verdict::No };
    }
    let last = run.groups.len();
    let Some(group) = run.groups.last() else { return Verdict::No };
    // The digits run up to a letter: the last group is something else.
    let usable = match stops(text, group.end, ended) {
        None => return STRONG,
        Some(true) => last,
        Some(false) => last - 1,
    };
    let all = usable == last && !run.longer;
    for groups in (1..=usable).rev() {
        let number = &number[..run.count(groups)];
        if (as_printed(&run, groups) || (all && groups == last)) && is_card(number) {
            return Verdict::Match { end: run.groups[groups - 1].end, tail: Default::default() };
        }
    }
    Verdict::No
}

/// Whether digits alone, as a JSON number has them, are a card number.
pub(crate) fn is_number(text: &str) -> bool {
    let digits = text.bytes().map(|byte| byte.wrapping_sub(b'0')).collect::<Vec<_>>();
    digits.iter().all(|digit| *digit <= 9) && is_card(&digits)
}

fn is_gap(gap: Gap) -> bool {
    gap.is(" ") || gap.is("-") || gap.is("  ") || gap.is("--") || gap.is(" - ")
}

fn is_fraction(before: &str) -> bool {
    before.strip_suffix('.').is_some_and(|before| before.ends_with(|char: char| char.is_ascii_digit()))
}

/// Whether the first groups are as cards have them, three digits or more in all but the last. Other groups are taken for
/// a card only where nothing else is around.
fn as_printed(run: &Run, groups: usize) -> bool {
    let lengths = |at: usize| run.groups.get(at).map_or(0, digits::Group::len);
    let uuid = (lengths(0), lengths(1), lengths(2)) == (8, 4, 4);
    !uuid && run.groups[..groups - 1].iter().all(|group| group.len() >= 3)
}

fn is_card(digits: &[u8]) -> bool {
    (13..=MOST).contains(&digits.len()) && scheme(digits, digits.len()) && luhn(digits)
}

/// Whether some scheme begins so. Decides by the first digits what has to be held back.
fn may_become(digits: &[u8]) -> bool {
    digits.len() < 6 && incomplete(digits)
        || (13..=MOST).any(|length| length >= digits.len() && scheme(digits, length))
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
