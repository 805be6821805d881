//! The cursor that a frame carries: the session's, and behind a `~` what going on from there has to know of the turn.

use plugway_sdk::Cursor;
use std::fmt;

/// How things stand behind a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The turn is over.
    Over,
    /// The turn goes on.
    Amid(Said),
    /// The cursor is of the event before; of the next one's two frames this was the first.
    Between,
}

/// What a turn has had of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) frames: Frames,
    /// The last message of the answer was closed, with `is_final`.
    pub(crate) whole: bool,
    /// The last frame was the agent's own `done`, or its own `error`.
    pub(crate) done: bool,
}

/// Whose frames a turn consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Frames {
    /// There are none.
    #[default]
    None,
    /// All are the agent's own.
    Own,
    /// Some were made of events: the agent has none, or a filter has changed what it said.
    Made,
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self {
            Self::Over => return Ok(()),
            Self::Between => return out.write_str("~b"),
            Self::Amid(said) => said,
        };
        out.write_str(match said.frames {
            Frames::None => "~n",
            Frames::Own => "~o",
            Frames::Made => "~m",
        })?;
        out.write_str(if said.whole { "w" } else { "" })?;
        out.write_str(if said.done { "d" } else { "" })
    }
}

impl Mark {
    /// Reads what [`Mark`] writes.
    fn read(text: &str) -> Option<Self> {
        let frames = [Frames::None, Frames::Own, Frames::Made];
        let amid = frames.into_iter().flat_map(|frames| {
            [(false, false), (true, false), (false, true), (true, true)]
                .map(|(whole, done)| Self::Amid(Said { frames, whole, done }))
        });
        [Self::Over, Self::Between].into_iter().chain(amid).find(|mark| mark.to_string() == text)
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
        write!(out, "{}{}", self.cursor.as_ref().map_or("", Cursor::as_str), self.mark)
    }
}

impl Place {
    /// Reads what a frame carried; the empty text is the session's start. None: nothing ever carried this.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (cursor, suffix) = text.split_at(text.find('~').unwrap_or(text.len()));
        let mark = Mark::read(suffix)?;
        let cursor = Some(cursor).filter(|cursor| !cursor.is_empty()).map(Cursor::from);
        Some(Self { cursor, mark })
    }
}
