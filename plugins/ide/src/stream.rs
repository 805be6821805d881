//! A session's events as frames, each once and in order, wherever the last connection broke off.

use crate::{
    outbound,
    place::{Mark, Place},
};
use plugway_sdk::{Cursor, Event, EventKind, Gap, TaskId};
use std::time::SystemTime;

/// What was said of a turn does not count any more.
const BEGINS_AGAIN: &str = "Streaming error: the turn broke off and begins again; what it said is void";

/// Where a connection stands in its session's log.
#[derive(Debug)]
pub(crate) struct Stream {
    cursors: bool,
    /// What happened before this is not shown; none once something has happened after it.
    since: Option<SystemTime>,
    /// The first turn of this connection's own: it is shown, whatever other nodes' clocks say.
    own: Option<TaskId>,
    /// How things stood where it goes on from, until the first event.
    resumed: Option<Mark>,
    /// The last event that was heard.
    cursor: Option<Cursor>,
    turn: Turn,
}

/// The turn that is being heard.
#[derive(Debug, Default)]
struct Turn {
    task: Option<TaskId>,
    frames: Frames,
    /// Something of it was sent.
    shown: bool,
    over: bool,
}

/// Whose frames a turn consists of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Frames {
    #[default]
    None,
    /// All are the agent's own.
    Own,
    /// Some were made here: the agent has none, or a filter has changed what it said.
    Made,
}

impl Stream {
    /// What comes from now on.
    pub(crate) fn from_now(cursors: bool, now: SystemTime) -> Self {
        Self { since: Some(now), ..Self::behind(cursors, Place { cursor: None, mark: Mark::Over }) }
    }

    /// What comes behind a place.
    pub(crate) fn behind(cursors: bool, place: Place) -> Self {
        Self {
            cursors,
            since: None,
            own: None,
            resumed: Some(place.mark),
            cursor: place.cursor,
            turn: Turn::default(),
        }
    }

    /// A turn of this connection's own was accepted.
    pub(crate) fn accepted(&mut self, task: &TaskId) {
        if self.since.is_some() && self.own.is_none() {
            self.own = Some(task.clone());
        }
    }

    /// The frames to be sent for an event.
    pub(crate) fn event(&mut self, event: Event) -> Vec<String> {
        let resumed = self.resumed.take();
        self.enter(&event, resumed);
        let mut frames = match event.raw() {
            Some(frame) => vec![outbound::verbatim(frame, self.cursors)],
            None if self.begins_again(&event) => vec![outbound::error(BEGINS_AGAIN)],
            // How its answer ends is the agent's word, if all before was.
            None if self.turn.frames == Frames::Own && matches!(event.kind, EventKind::Completed(_)) => {
                Vec::new()
            }
            None => outbound::frames(&event),
        };
        if !matches!(event.kind, EventKind::Started(_)) && !frames.is_empty() {
            self.turn.frames = match (event.raw(), self.turn.frames) {
                (Some(_), Frames::None | Frames::Own) => Frames::Own,
                _ => Frames::Made,
            };
        }
        self.turn.over = event.is_terminal();
        let before = self.cursor.replace(event.cursor.clone());
        if self.is_past(&event) {
            return Vec::new();
        }
        self.turn.shown |= !frames.is_empty();
        let mut out = Vec::with_capacity(frames.len());
        if frames.len() > 1 {
            let first = frames.remove(0);
            if resumed != Some(Mark::Between) {
                out.push(self.frame(first, &Place { cursor: before, mark: Mark::Between }));
            }
        }
        out.extend(frames.into_iter().map(|frame| self.frame(frame, &self.place())));
        out
    }

    /// The frame to be sent where events are lost.
    pub(crate) fn gap(&mut self, gap: &Gap) -> Option<String> {
        if self.since.is_some() && self.own.as_ref() != Some(&gap.task) {
            return None;
        }
        let Gap { first, last, .. } = gap;
        Some(self.error(&format!("Streaming error: events {first} to {last} of a turn are lost")))
    }

    /// A frame that says what is wrong. Its cursor is that of the frames before it.
    pub(crate) fn error(&self, content: &str) -> String {
        self.frame(outbound::error(content), &self.place())
    }

    /// Where it stands, behind all that was sent.
    fn place(&self) -> Place {
        let mark = match (self.resumed, &self.turn) {
            (Some(mark), _) => mark,
            (None, Turn { over: true, .. }) => Mark::Over,
            (None, Turn { frames: Frames::None, .. }) => Mark::Begun,
            (None, Turn { frames: Frames::Own, .. }) => Mark::Own,
            (None, Turn { frames: Frames::Made, .. }) => Mark::Made,
        };
        Place { cursor: self.cursor.clone(), mark }
    }

    fn frame(&self, frame: String, place: &Place) -> String {
        match place.to_string() {
            cursor if self.cursors && !cursor.is_empty() => outbound::with_cursor(frame, &cursor),
            _ => frame,
        }
    }

    /// Notes whose event it is.
    fn enter(&mut self, event: &Event, resumed: Option<Mark>) {
        let known = self.turn.task.as_ref() == Some(&event.task);
        if !known {
            let frames = match resumed {
                Some(Mark::Own) => Frames::Own,
                Some(Mark::Made) => Frames::Made,
                _ => Frames::None,
            };
            let shown = frames != Frames::None;
            self.turn = Turn { task: Some(event.task.clone()), frames, shown, over: false };
        }
        if matches!(event.kind, EventKind::Started(_)) {
            self.turn.frames = Frames::None;
        }
    }

    fn begins_again(&self, event: &Event) -> bool {
        matches!(event.kind, EventKind::Started(_)) && event.attempt > 1 && self.turn.shown
    }

    /// Whether it happened before the connection began. What follows something that did not, did not.
    fn is_past(&mut self, event: &Event) -> bool {
        let past = self.since.is_some_and(|since| event.at < since) && self.own.as_ref() != Some(&event.task);
        if !past {
            self.since = None;
            self.own = None;
        }
        past
    }
}
