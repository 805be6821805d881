//! Numbers as people write them: groups of digits with gaps between. What cards and phones have in common.

/// Most characters between two groups, as ` - `.
const LONGEST_GAP: usize = 3;

/// Digits that stand together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// What is before it, spaces as ` ` and dashes as `-`, whichever they were.
    pub(crate) gap: Gap,
}

impl Group {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Up to three characters between two groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gap([u8; LONGEST_GAP]);

impl Gap {
    pub(crate) fn is(self, text: &str) -> bool {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(LONGEST_GAP);
        &self.0[..length] == text.as_bytes()
    }
}

/// Groups that follow each other.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) groups: Vec<Group>,
    /// The text ended before the run did.
    pub(crate) open: bool,
    /// There were more digits than asked for; the group in which they ran out is not there.
    pub(crate) longer: bool,
}

impl Run {
    /// Digits up to and with a group.
    pub(crate) fn count(&self, groups: usize) -> usize {
        self.groups.iter().take(groups).map(Group::len).sum()
    }

    /// All digits.
    pub(crate) fn digits<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u8> + 'a {
        self.groups
            .iter()
            .flat_map(|group| text.as_bytes()[group.start..group.end].iter().map(|byte| byte - b'0'))
    }
}

/// Reads the run that begins at `pos`, of at most so many digits, as long as gaps have only such characters and are as
/// `fits` wants them.
pub(crate) fn run(
    text: &str,
    pos: usize,
    ended: bool,
    most: usize,
    gaps: &[u8],
    fits: fn(Gap) -> bool,
) -> Run {
    let bytes = text.as_bytes();
    let (mut run, mut at, mut count) = (Run::default(), pos, 0);
    loop {
        // The gap, empty before the first group.
        let (mut gap, mut length) = (Gap::default(), 0);
        while let Some(char) = text[at..].chars().next()
            && let Some(plain) = gap_char(char).filter(|plain| gaps.contains(plain))
        {
            if length == LONGEST_GAP {
                return run;
            }
            gap.0[length] = plain;
            length += 1;
            at += char.len_utf8();
        }
        if at == text.len() {
            run.open = !ended;
            return run;
        }
        if !bytes[at].is_ascii_digit() || (!run.groups.is_empty() && !fits(gap)) {
            return run;
        }
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
            count += 1;
            if count > most {
                run.longer = true;
                return run;
            }
        }
        run.groups.push(Group { start, end: at, gap });
    }
}

/// What may stand in a gap, as ASCII: models like narrow spaces and hyphens that do not break.
fn gap_char(char: char) -> Option<u8> {
    match char {
        ' ' | '\u{a0}' | '\u{2007}' | '\u{2009}' | '\u{200a}' | '\u{202f}' => Some(b' '),
        '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' => Some(b'-'),
        '.' | '/' | '(' | ')' => Some(char as u8),
        _ => None,
    }
}
