//! Marks in what is sent: each tells its number and when it was made, and where it has to end. What carries them is found
//! by them, whatever a server puts around.

use std::time::Duration;

const START: &[u8] = b"@@";
const END: &[u8] = b"##";
/// Digits of the number.
const NUMBER: usize = 7;
/// Digits of the nanoseconds: enough for three years.
const MADE: usize = 17;
const HEAD: usize = START.len() + NUMBER + 1 + MADE + 1;

/// What a piece of a stream says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which one it is; below ten million.
    pub number: u32,
    /// When it was made, by the clock of who looks for it.
    pub made: Duration,
}

impl Mark {
    /// The mark as text: 30 bytes that JSON takes as they are, and `padding` more.
    pub fn text(self, padding: usize) -> String {
        let Self { number, made } = self;
        let (made, x) = (made.as_nanos(), "x".repeat(padding));
        format!("@@{number:0NUMBER$}:{made:0MADE$}:{x}##")
    }
}

/// What there is at the beginning of some text of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A mark, and how far it goes.
    Mark(Mark, usize),
    /// No mark yet: so much may be forgotten, the rest may be the beginning of one.
    Nothing(usize),
    /// Something that begins as a mark and goes on otherwise.
    Broken,
}

/// Looks for the first mark with this padding.
pub fn find(text: &[u8], padding: usize) -> Found {
    let Some(at) = memchr::memmem::find(text, START) else {
        return Found::Nothing(text.len() - usize::from(text.last() == START.first()));
    };
    let end = at + HEAD + padding + END.len();
    if text.len() < end {
        return Found::Nothing(at);
    }
    let text = &text[at..end];
    let digits = |from: usize, length: usize| {
        let digits = std::str::from_utf8(&text[from..from + length]).ok()?;
        digits.parse::<u64>().ok()
    };
    let number = digits(START.len(), NUMBER).and_then(|number| u32::try_from(number).ok());
    let made = digits(START.len() + NUMBER + 1, MADE);
    match (number, made) {
        (Some(number), Some(made)) if text.ends_with(END) => {
            Found::Mark(Mark { number, made: Duration::from_nanos(made) }, end)
        }
        _ => Found::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { number: 7, made: Duration::from_nanos(12_345) };

    #[test]
    fn a_mark_is_found_wherever_its_text_is_cut() {
        let document = format!(r#"{{"text":"{}"}}"#, MARK.text(10));
        let end = document.find("##").unwrap() + 2;
        for cut in 0..document.len() {
            let (head, tail) = document.split_at(cut);
            let found = match find(head.as_bytes(), 10) {
                Found::Nothing(forgotten) => {
                    let rest = format!("{}{tail}", &head[forgotten..]);
                    find(rest.as_bytes(), 10)
                }
                found => found,
            };
            let Found::Mark(mark, at) = found else { panic!("cut at {cut}: {found:?}") };
            assert_eq!(mark, MARK);
            assert!(at <= end);
        }
    }

    #[test]
    fn what_is_cut_short_or_mixed_up_is_broken() {
        let text = MARK.text(10);
        assert_eq!(find(format!("{} ", text.replace("xxx#", "xx#")).as_bytes(), 10), Found::Broken);
        assert_eq!(find(text.replace(":0", ":@").as_bytes(), 10), Found::Broken);
        assert_eq!(MARK.text(0).len(), 30);
    }
}
