//! Numbers as people write them: groups of digits with gaps between. What cards and phones have in common.
//!
//! Invariant: a text's digits are read once, however many places in it could begin a number.

/// Most characters between two groups, as ` - `.
const LONGEST_GAP: usize = 3;
/// Digits that any rule asks for; so many are read ahead.
pub(crate) const MOST: usize = 19;

/// Digits that stand together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// What is before it, spaces as ` ` and dashes as `-`, whichever they were.
    pub(crate) gap: Gap,
    /// Which numbers may have such a gap, as bits of [`Form`].
    forms: u8,
}

/// A form of numbers, by the gaps that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Card = 1,
    National = 2,
    International = 4,
}

impl Form {
    const CARD: [Gap; 7] = gaps([" ", "-", "  ", "--", " - ", "\n", "\t"]);
    const NATIONAL: [Gap; 11] = gaps([" ", "-", ".", "/", " - ", " / ", " (", "(", ")", ") ", ")-"]);
    /// These, and those of national numbers.
    const INTERNATIONAL: [Gap; 2] = gaps(["-(", "  "]);

    /// The forms that may have a gap.
    fn of(gap: Gap) -> u8 {
        let forms = [
            (Self::Card, Self::CARD.contains(&gap)),
            (Self::National, Self::NATIONAL.contains(&gap)),
            (Self::International, Self::NATIONAL.contains(&gap) || Self::INTERNATIONAL.contains(&gap)),
        ];
        forms.into_iter().filter(|(_, fits)| *fits).fold(0, |forms, (form, _)| forms | form as u8)
    }

    /// What its gaps are made of.
    fn chars(self) -> &'static [u8] {
        match self {
            Self::Card => b" -\n\t",
            Self::National | Self::International => b" -./()",
        }
    }
}

const fn gaps<const N: usize>(texts: [&str; N]) -> [Gap; N] {
    let (mut gaps, mut at) = ([Gap(0); N], 0);
    while at < N {
        gaps[at] = Gap::of(texts[at]);
        at += 1;
    }
    gaps
}

impl Group {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Up to three characters between two groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gap(u32);

impl Gap {
    /// The gap of these characters, of which at most three are looked at.
    pub(crate) const fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let (mut gap, mut at) = (Self(0), 0);
        while at < bytes.len() && at < LONGEST_GAP {
            gap = gap.and(bytes[at]);
            at += 1;
        }
        gap
    }

    pub(crate) fn is(self, text: &'static str) -> bool {
        self == Self::of(text)
    }

    /// Whether it goes from one line or column to the next.
    pub(crate) fn is_break(self) -> bool {
        self.is("\n") || self.is("\t")
    }

    fn is_of(self, chars: &[u8]) -> bool {
        self.chars().all(|char| chars.contains(&char))
    }

    fn chars(self) -> impl Iterator<Item = u8> {
        self.0.to_be_bytes().into_iter().filter(|char| *char != 0)
    }

    const fn and(self, char: u8) -> Self {
        Self(self.0 << 8 | char as u32)
    }
}

/// Groups that follow each other.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) groups: &'a [Group],
    /// The text ended before the run did.
    pub(crate) open: bool,
    /// There were more digits than asked for; the group in which they ran out is not there.
    pub(crate) longer: bool,
    /// What the text ends with, if it ends in a gap.
    pub(crate) last_gap: Gap,
    /// The first group that is on another line, or in another column, than the one before it.
    pub(crate) breaks: Option<usize>,
}

impl Run<'_> {
    /// Digits up to and with a group.
    pub(crate) fn count(&self, groups: usize) -> usize {
        self.groups.iter().take(groups).map(Group::len).sum()
    }

    /// All digits, at most [`MOST`], and how many there are.
    pub(crate) fn digits(&self, text: &str) -> ([u8; MOST], usize) {
        let (mut digits, mut count) = ([0; MOST], 0);
        for group in self.groups {
            for byte in &text.as_bytes()[group.start..group.end] {
                digits[count] = byte - b'0';
                count += 1;
            }
        }
        (digits, count)
    }
}

/// The groups that a text has next, read ahead as far as a rule may look.
#[derive(Debug, Default)]
pub(crate) struct Window {
    groups: Vec<Group>,
    /// The first that is still asked for.
    first: usize,
    /// Digits of the groups from the first.
    digits: usize,
    /// Where reading goes on.
    at: usize,
    end: End,
    /// What the text ends with, if it ends in a gap.
    last_gap: Gap,
    /// Where the last group begins that no card goes on with on its line.
    break_at: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    /// There may be more to read.
    #[default]
    Ahead,
    /// The text ends.
    Text,
    /// Something else follows.
    Other,
}

impl Window {
    /// The run that begins with the digit at `pos`, of at most so many digits ([`MOST`] at most), as long as gaps are as the
    /// form wants them. Places are asked for from left to right.
    pub(crate) fn run(&mut self, text: &str, pos: usize, ended: bool, most: usize, form: Form) -> Run<'_> {
        self.go_to(pos);
        self.read(text);
        let (mut groups, mut count, mut breaks) = (0, 0, None);
        let (mut open, mut longer) = (false, false);
        loop {
            let Some(group) = self.groups.get(self.first + groups) else {
                open = !ended && self.end == End::Text && self.last_gap.is_of(form.chars());
                break;
            };
            if groups > 0 {
                if group.forms & form as u8 == 0 {
                    break;
                }
                if breaks.is_none() && group.gap.is_break() {
                    breaks = Some(groups);
                }
            }
            count += group.len();
            if count > most {
                longer = true;
                break;
            }
            groups += 1;
        }
        let last_gap = if open { self.last_gap } else { Gap::default() };
        let groups = &self.groups[self.first..self.first + groups];
        Run { groups, open, longer, last_gap, breaks: breaks.filter(|at| *at < groups.len()) }
    }

    /// Whether the run of a card's form that begins with the digit at `pos` has more than [`MOST`] digits on one line, and a first
    /// group of at most two: told without going through it again.
    pub(crate) fn is_long(&mut self, text: &str, pos: usize) -> bool {
        self.go_to(pos);
        self.read(text);
        let is_short = self.groups.get(self.first).is_some_and(|first| first.len() < 3);
        is_short && self.digits > MOST && self.break_at <= pos
    }

    fn go_to(&mut self, pos: usize) {
        while let Some(group) = self.groups.get_mut(self.first) {
            if pos < group.start {
                break;
            }
            if pos < group.end {
                self.digits -= pos - group.start;
                group.start = pos;
                return;
            }
            self.digits -= group.len();
            self.first += 1;
        }
        *self = Self { groups: std::mem::take(&mut self.groups), at: pos, ..Self::default() };
        self.groups.clear();
    }

    fn read(&mut self, text: &str) {
        if self.first > 2 * MOST {
            self.groups.drain(..self.first);
            self.first = 0;
        }
        while self.end == End::Ahead && self.digits <= MOST {
            let (mut gap, mut length) = (Gap::default(), 0);
            while let Some((plain, size)) = gap_char(text, self.at) {
                if length == LONGEST_GAP {
                    self.end = End::Other;
                    return;
                }
                gap = gap.and(plain);
                length += 1;
                self.at += size;
            }
            let start = self.at;
            self.at += text.as_bytes()[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if self.at > start {
                let forms = Form::of(gap);
                if forms & Form::Card as u8 == 0 || gap.is_break() {
                    self.break_at = start;
                }
                self.groups.push(Group { start, end: self.at, gap, forms });
                self.digits += self.at - start;
            } else {
                (self.end, self.last_gap) = (if start == text.len() { End::Text } else { End::Other }, gap);
            }
        }
    }
}

/// What may stand in a gap, as ASCII, and its size: models like narrow spaces and hyphens that do not break.
fn gap_char(text: &str, at: usize) -> Option<(u8, usize)> {
    let byte = *text.as_bytes().get(at)?;
    if byte.is_ascii() {
        return matches!(byte, b' ' | b'-' | b'.' | b'/' | b'(' | b')' | b'\n' | b'\t').then_some((byte, 1));
    }
    let char = text[at..].chars().next()?;
    let plain = match char {
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => b' ',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => b'-',
        _ => return None,
    };
    Some((plain, char.len_utf8()))
}
