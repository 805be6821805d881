//! The cursor that a frame carries: the session's, and behind a `~` what going on from there has to know of the turn.

use plugway_sdk::Cursor;
use std::fmt;

/// How things stand behind a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The turn is over.
    Over,
    /// The turn goes on, and has no frames yet.
    Begun,
    /// The turn goes on; its frames are the agent's own.
    Own,
    /// The turn goes on; some of its frames were made of events.
    Made,
    /// The cursor is of the event before; of the next one's two frames this was the first.
    Between,
}

impl Mark {
    const ALL: [(Self, &str); 5] =
        [(Self::Over, ""), (Self::Begun, "~n"), (Self::Own, "~o"), (Self::Made, "~m"), (Self::Between, "~b")];

    fn suffix(self) -> &'static str {
        Self::ALL.iter().find(|(mark, _)| *mark == self).map_or("", |(_, suffix)| suffix)
    }
}

/// A place between two frames of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// None: the session's start.
    pub(crate) cursor: Option<Cursor>,
    pub(crate) mark: Mark,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.cursor.as_ref().map_or("", Cursor::as_str), self.mark.suffix())
    }
}

impl Place {
    /// Reads what a frame carried; the empty text is the session's start. None: nothing ever carried this.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (cursor, suffix) = text.split_at(text.find('~').unwrap_or(text.len()));
        let (mark, _) = Mark::ALL.into_iter().find(|(_, known)| *known == suffix)?;
        let cursor = Some(cursor).filter(|cursor| !cursor.is_empty()).map(Cursor::from);
        Some(Self { cursor, mark })
    }
}
