//! The events that are sent: one line of JSON with a mark in it that tells its number, when it was sent, and where it
//! has to end.

use std::time::{Duration, Instant};

/// What every server's event should have on the wire, in bytes.
pub(crate) const WIRE: usize = 247;

const START: &[u8] = b"@@";
const END: &[u8] = b"##";
/// Digits of the number, and of the nanoseconds.
const NUMBER: usize = 8;
const SENT: usize = 16;
const HEAD: usize = START.len() + NUMBER + 1 + SENT + 1;

/// Time since the run began, the same for who sends and who receives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// What an event says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) number: u32,
    pub(crate) sent: Duration,
}

impl Mark {
    /// The document that is published, with `padding` bytes to spare.
    pub(crate) fn document(self, padding: usize) -> String {
        let Self { number, sent } = self;
        let sent = sent.as_nanos();
        let x = "x".repeat(padding);
        format!(r#"{{"type":"signal","agent_name":"load","mark":"@@{number:08}:{sent:016}:{x}##"}}"#)
    }
}

/// What there is at the beginning of some text of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A mark, and how far it goes.
    Mark(Mark, usize),
    /// No mark yet: so much may be forgotten, the rest may be the beginning of one.
    Nothing(usize),
    /// Something that begins as a mark and goes on otherwise.
    Broken,
}

/// Looks for the first mark of an event with this padding.
pub(crate) fn find(text: &[u8], padding: usize) -> Found {
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
    let sent = digits(START.len() + NUMBER + 1, SENT);
    match (number, sent) {
        (Some(number), Some(sent)) if text.ends_with(END) => {
            Found::Mark(Mark { number, sent: Duration::from_nanos(sent) }, end)
        }
        _ => Found::Broken,
    }
}

/// Whether an event's data is the whole document.
pub(crate) fn is_whole(data: &str, padding: usize) -> bool {
    match find(data.as_bytes(), padding) {
        // A server may write JSON with other spaces, or leave out what names the kind of event.
        Found::Mark(mark, _) => {
            let document = mark.document(padding);
            let from = document.find("@@").unwrap_or_default();
            data.starts_with('{')
                && data.trim_end().ends_with('}')
                && data.contains(&document[from..document.len() - 1])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { number: 7, sent: Duration::from_nanos(12_345) };

    #[test]
    fn a_mark_is_found_wherever_its_text_is_cut() {
        let document = MARK.document(10);
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
        let document = MARK.document(10);
        assert_eq!(find(document.replace("xxx#", "xx#").as_bytes(), 10), Found::Broken);
        assert_eq!(find(document.replace(":0", ":@").as_bytes(), 10), Found::Broken);
        assert!(is_whole(&document, 10));
        assert!(is_whole(&document.replace(r#""type":"signal","#, ""), 10));
        assert!(!is_whole(&document.replace("xx", "xy"), 10));
        assert!(!is_whole(&document[..document.len() - 1], 10));
    }
}
