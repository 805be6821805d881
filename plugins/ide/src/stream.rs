//! A session's events as frames, each once and in order, wherever the last connection broke off.

use crate::{
    outbound,
    place::{Frames, Mark, Place, Said},
};
use plugway_sdk::{Cursor, Event, EventKind, Gap, TaskId, json};

/// What was said of a turn does not count any more.
const BEGINS_AGAIN: &str = "Streaming error: the turn broke off and begins again; what it said is void";

/// Where a connection stands in its session's log.
#[derive(Debug)]
pub(crate) struct Stream {
    cursors: bool,
    /// It shows what comes from now on, and nothing has come.
    is_new: bool,
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
    said: Said,
    /// Something of it was sent.
    shown: bool,
    over: bool,
}

impl Stream {
    /// What comes from now on.
    pub(crate) fn from_now(cursors: bool) -> Self {
        Self { is_new: true, ..Self::behind(cursors, Place { cursor: None, mark: Mark::Over }) }
    }

    /// What comes behind a place.
    pub(crate) fn behind(cursors: bool, place: Place) -> Self {
        Self {
            cursors,
            is_new: false,
            resumed: Some(place.mark),
            cursor: place.cursor,
            turn: Turn::default(),
        }
    }

    /// Whether it shows what comes from now on, and nothing has come.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// The frames to be sent for an event.
    pub(crate) fn event(&mut self, event: Event) -> Vec<String> {
        let was_new = std::mem::take(&mut self.is_new);
        let resumed = self.resumed.take();
        self.enter(&event, resumed);
        let mut frames = self.frames(&event);
        self.turn.over = event.is_terminal();
        let before = self.cursor.replace(event.cursor);
        self.turn.shown |= !frames.is_empty();
        let mut out = Vec::with_capacity(frames.len());
        if frames.len() > 1 {
            let first = frames.remove(0);
            if was_new {
                // There is no place before it to come back to.
                out.push(first);
            } else if resumed != Some(Mark::Between) {
                out.push(self.frame(first, &Place { cursor: before, mark: Mark::Between }));
            }
        }
        out.extend(frames.into_iter().map(|frame| self.frame(frame, &self.place())));
        out
    }

    /// The frames of an event, at most two. Notes what they are.
    fn frames(&mut self, event: &Event) -> Vec<String> {
        let said = self.turn.said;
        let is_end = matches!(event.kind, EventKind::Completed(_));
        let Some(own) = event.raw() else {
            if self.begins_again(event) {
                return vec![outbound::error(BEGINS_AGAIN)];
            }
            let mut frames = outbound::frames(event);
            if is_end && (said.whole || said.frames == Frames::Own) {
                // The answer was told to its end, or is the agent's own word; that it is over, it may not have said.
                frames.drain(..frames.len() - usize::from(!said.done));
            }
            if said.done
                && matches!(&event.kind, EventKind::Failed(failed) if failed.error_type == "agent_error")
            {
                // It has said so itself.
                frames.clear();
            }
            if !frames.is_empty() {
                let is_text = matches!(event.kind, EventKind::ResponseChunk(_));
                let whole = said.whole && !is_text;
                self.turn.said = Said { frames: Frames::Made, whole, done: false };
            }
            return frames;
        };
        let mut frames = vec![outbound::verbatim(own, self.cursors)];
        if is_end && said.frames == Frames::Made && !said.whole {
            // The message that closes the answer may have gone with what a filter has changed.
            frames.splice(..0, outbound::whole(event));
        }
        let (mut kind, mut is_final) = ("", false);
        for member in json::members(own) {
            match member.name {
                "type" => kind = member.value,
                "is_final" => is_final = member.value == "true",
                _ => {}
            }
        }
        let whole = if kind == "\"assistant_message\"" { is_final } else { said.whole };
        let frames_of = if said.frames == Frames::Made { Frames::Made } else { Frames::Own };
        self.turn.said = Said { frames: frames_of, whole, done: matches!(kind, "\"done\"" | "\"error\"") };
        frames
    }

    /// The frame to be sent where events are lost.
    pub(crate) fn gap(&self, gap: &Gap) -> String {
        let Gap { first, last, .. } = gap;
        self.error(&format!("Streaming error: events {first} to {last} of a turn are lost"))
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
            (None, turn) => Mark::Amid(turn.said),
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
            let said = match resumed {
                Some(Mark::Amid(said)) => said,
                // A first frame of two is a message that closes the answer.
                Some(Mark::Between) => Said { frames: Frames::Made, ..Said::default() },
                _ => Said::default(),
            };
            let shown = said.frames != Frames::None;
            self.turn = Turn { task: Some(event.task.clone()), said, shown, over: false };
        }
        if matches!(event.kind, EventKind::Started(_)) {
            self.turn.said = Said::default();
        }
    }

    fn begins_again(&self, event: &Event) -> bool {
        matches!(event.kind, EventKind::Started(_)) && event.attempt > 1 && self.turn.shown
    }
}
