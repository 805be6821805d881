//! The events that are sent: one line of JSON with a mark in it.

use std::time::{Duration, Instant};

use plugway_figures::mark::{Found, Mark, find};

/// What every server's event should have on the wire, in bytes.
pub(crate) const WIRE: usize = 247;

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

/// The document that is published, with `padding` bytes to spare.
pub(crate) fn document(mark: Mark, padding: usize) -> String {
    format!(r#"{{"type":"signal","agent_name":"load","mark":"{}"}}"#, mark.text(padding))
}

/// Whether an event's data is the whole document.
pub(crate) fn is_whole(data: &str, padding: usize) -> bool {
    match find(data.as_bytes(), padding) {
        // A server may write JSON with other spaces, or leave out what names the kind of event.
        Found::Mark(mark, _) => {
            let document = document(mark, padding);
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

    #[test]
    fn what_is_cut_short_or_mixed_up_is_not_whole() {
        let document = document(Mark { number: 7, made: Duration::from_nanos(12_345) }, 10);
        assert!(is_whole(&document, 10));
        assert!(is_whole(&document.replace(r#""type":"signal","#, ""), 10));
        assert!(!is_whole(&document.replace("xx", "xy"), 10));
        assert!(!is_whole(&document[..document.len() - 1], 10));
    }
}
