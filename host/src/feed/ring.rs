//! The ring: the feed's latest events, each encoded once, and the bell that wakes who waits for the next.
//!
//! Between its floor and its last event the ring holds all that the feed's log has; who stands below the floor reads the
//! log. It is filled by one task, in the order of the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::event::Type;
use super::id::FeedId;
use crate::domain::rfc3339;
use crate::hub::Frame;

/// Bytes shown at once, unless it is one event: what waits for a client that takes nothing.
const SHOWN: usize = 256 << 10;

/// An event of the feed. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: FeedId,
    /// None: it says that events are gone.
    pub(super) kind: Option<Type>,
    pub(super) agent: Option<Arc<str>>,
    pub(super) frame: Frame,
}

impl Entry {
    /// An event with its bytes, as everybody gets them.
    pub(super) fn new(id: FeedId, kind: Type, agent: Option<&str>, data: &str) -> Self {
        let name = kind.as_str();
        Self { id, kind: Some(kind), agent: agent.map(Into::into), frame: frame(&id, name, data) }
    }

    /// Says that events before it are gone: no node could write them.
    pub(super) fn gap(id: FeedId) -> Self {
        let data = serde_json::json!({ "timestamp": rfc3339(id.ms()) }).to_string();
        Self { id, kind: None, agent: None, frame: frame(&id, "gap", &data) }
    }

    /// Its bytes under another id.
    pub(super) fn under(&self, id: &dyn std::fmt::Display) -> Frame {
        let payload = self.frame.payload();
        let rest = payload.iter().position(|byte| *byte == b'\n').unwrap_or_default();
        Frame::write(payload.len() + 96, |bytes| {
            bytes.extend_from_slice(format!("id: {id}").as_bytes());
            bytes.extend_from_slice(&payload[rest..]);
        })
    }

    fn weight(&self) -> usize {
        self.frame.chunk().len() + std::mem::size_of::<Self>()
    }
}

/// An event as it stands on the wire; its data must be one line.
pub(super) fn frame(id: &dyn std::fmt::Display, name: &str, data: &str) -> Frame {
    Frame::text(&format!("id: {id}\nevent: {name}\ndata: {data}\n\n"))
}

/// What the ring has for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was shown events, and stands here now.
    Up(FeedId),
    /// It has all that there is.
    Nothing(FeedId),
    /// It stands behind all that was seen here: another node has shown more, or nobody has.
    Beyond(FeedId),
    /// It stands below the floor: the log has to tell.
    Behind { at: FeedId, floor: FeedId },
    /// The log was never reached.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Ring {
    state: Mutex<State>,
    bell: Notify,
    max_events: usize,
    max_bytes: usize,
    max_signals: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Where the log ended when it was reached for the first time.
    origin: Option<FeedId>,
    floor: FeedId,
    last: FeedId,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The last signals, though they may have left the ring.
    signals: VecDeque<Entry>,
}

impl State {
    fn keep_signal(&mut self, entry: &Entry, most: usize) {
        if entry.kind == Some(Type::Signal) {
            self.signals.push_back(entry.clone());
            while self.signals.len() > most {
                self.signals.pop_front();
            }
        }
    }
}

impl Ring {
    pub(super) fn new(max_events: usize, max_bytes: usize, max_signals: usize) -> Self {
        Self { state: Mutex::default(), bell: Notify::new(), max_events, max_bytes, max_signals }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody.
    pub(super) fn wake(&self) {
        self.bell.notify_waiters();
    }

    /// Completes at the first news after this call.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.bell.notified()
    }

    /// The log was reached for the first time: it ends at `last`.
    pub(super) fn open(&self, floor: FeedId, last: FeedId) {
        let mut state = self.state();
        (state.floor, state.last) = (floor, last);
        state.origin = Some(last.max(floor));
    }

    /// What the log had before it was reached for the first time, for those who come later. Wakes nobody.
    pub(super) fn fill(&self, entries: Vec<Entry>) {
        let mut state = self.state();
        for entry in entries {
            self.push(&mut state, entry);
        }
    }

    /// Shows events, in order, to everybody. The log was read up to `last`.
    pub(super) fn publish(&self, entries: impl IntoIterator<Item = Entry>, last: Option<FeedId>) {
        let mut state = self.state();
        for entry in entries {
            self.push(&mut state, entry);
        }
        state.last = last.unwrap_or_default().max(state.last);
        drop(state);
        self.bell.notify_waiters();
    }

    /// The log lost what followed the last event: what comes next begins behind `floor`.
    pub(super) fn broken_off(&self, floor: FeedId) {
        let mut state = self.state();
        state.entries.clear();
        state.bytes = 0;
        state.floor = floor;
        state.last = state.last.max(floor);
        drop(state);
        self.bell.notify_waiters();
    }

    fn push(&self, state: &mut State, entry: Entry) {
        state.keep_signal(&entry, self.max_signals);
        state.last = entry.id;
        state.bytes += entry.weight();
        state.entries.push_back(entry);
        while state.entries.len() > self.max_events
            || (state.bytes > self.max_bytes && state.entries.len() > 1)
        {
            let Some(entry) = state.entries.pop_front() else { break };
            state.bytes -= entry.weight();
            state.floor = entry.id;
        }
    }

    /// The last place of the log that was seen here; none if that was never reached.
    pub(super) fn last(&self) -> Option<FeedId> {
        let state = self.state();
        state.origin.map(|_| state.last)
    }

    /// The last signals.
    pub(super) fn signals(&self) -> Vec<Entry> {
        self.state().signals.iter().cloned().collect()
    }

    /// Shows up to `most` of the events behind a place, none: behind where the log ended when it was first reached.
    pub(super) fn take(&self, at: Option<FeedId>, most: usize, mut show: impl FnMut(&Entry)) -> Taken {
        let state = self.state();
        let Some(origin) = state.origin else { return Taken::Unknown };
        let at = at.unwrap_or(origin);
        if at < state.floor {
            return Taken::Behind { at, floor: state.floor };
        }
        let start = state.entries.partition_point(|entry| entry.id <= at);
        let (mut reached, mut bytes) = (None, 0);
        for entry in state.entries.range(start..).take(most) {
            bytes += entry.weight();
            if bytes > SHOWN && reached.is_some() {
                break;
            }
            show(entry);
            reached = Some(entry.id);
        }
        match reached {
            Some(reached) => Taken::Up(reached),
            None if at > state.last => Taken::Beyond(at),
            None => Taken::Nothing(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> FeedId {
        format!("{n}-0").parse().unwrap()
    }

    fn entry(n: u64) -> Entry {
        let kind = if n.is_multiple_of(2) { Type::Signal } else { Type::Reasoning };
        Entry::new(id(n), kind, None, &format!("{{\"n\":{n}}}"))
    }

    fn took(ring: &Ring, at: Option<u64>, most: usize) -> (Taken, Vec<FeedId>) {
        let mut seen = Vec::new();
        let taken = ring.take(at.map(id), most, |entry| seen.push(entry.id));
        (taken, seen)
    }

    #[test]
    fn a_client_is_shown_what_is_behind_its_place_and_told_when_the_ring_does_not_reach_back() {
        let ring = Ring::new(3, 1 << 20, 2);
        assert_eq!(took(&ring, Some(1), 9), (Taken::Unknown, vec![]));
        assert_eq!(ring.last(), None);
        ring.open(FeedId::START, FeedId::START);
        ring.fill((1..=2).map(entry).collect());
        assert_eq!(took(&ring, Some(0), 9), (Taken::Up(id(2)), vec![id(1), id(2)]));
        ring.publish((3..=6).map(entry), Some(id(6)));
        assert_eq!(took(&ring, Some(2), 9), (Taken::Behind { at: id(2), floor: id(3) }, vec![]));
        assert_eq!(took(&ring, Some(3), 2), (Taken::Up(id(5)), vec![id(4), id(5)]));
        assert_eq!(took(&ring, Some(5), 2), (Taken::Up(id(6)), vec![id(6)]));
        assert_eq!(took(&ring, Some(6), 2), (Taken::Nothing(id(6)), vec![]));
        assert_eq!(took(&ring, Some(7), 2), (Taken::Beyond(id(7)), vec![]));
        assert_eq!(ring.signals().iter().map(|entry| entry.id).collect::<Vec<_>>(), [id(4), id(6)]);
        assert_eq!(ring.last(), Some(id(6)));
    }

    #[test]
    fn who_came_before_the_log_was_reached_sees_what_came_after() {
        let ring = Ring::new(10, 1 << 20, 2);
        ring.open(FeedId::START, id(2));
        ring.fill((1..=2).map(entry).collect());
        ring.publish([entry(3)], None);
        assert_eq!(took(&ring, None, 9), (Taken::Up(id(3)), vec![id(3)]));
    }

    #[test]
    fn a_break_in_the_log_is_a_floor() {
        let ring = Ring::new(10, 1 << 20, 2);
        ring.open(FeedId::START, FeedId::START);
        ring.publish([entry(1), entry(2)], None);
        ring.broken_off(id(8));
        ring.publish([entry(9)], None);
        assert_eq!(took(&ring, Some(2), 9).0, Taken::Behind { at: id(2), floor: id(8) });
        assert_eq!(took(&ring, Some(8), 9).1, [id(9)]);
    }

    #[test]
    fn bytes_are_bounded_and_the_latest_event_stays() {
        let ring = Ring::new(10, 1, 1);
        ring.open(FeedId::START, FeedId::START);
        ring.publish([entry(1), entry(2)], None);
        assert_eq!(took(&ring, Some(1), 9).1, [id(2)]);
        assert_eq!(took(&ring, Some(0), 9).0, Taken::Behind { at: id(0), floor: id(1) });
    }

    #[test]
    fn no_more_is_shown_at_once_than_may_wait_for_a_client() {
        let ring = Ring::new(10, 1 << 30, 1);
        ring.open(FeedId::START, FeedId::START);
        let large = |n| Entry::new(id(n), Type::Signal, None, &"x".repeat(SHOWN / 2));
        ring.publish((1..=4).map(large), None);
        assert_eq!(took(&ring, Some(0), 9), (Taken::Up(id(1)), vec![id(1)]));
        ring.publish([Entry::new(id(5), Type::Signal, None, &"x".repeat(SHOWN))], None);
        assert_eq!(took(&ring, Some(4), 9), (Taken::Up(id(5)), vec![id(5)]));
    }

    #[test]
    fn an_event_under_another_id_is_the_same_otherwise() {
        let entry = entry(2);
        assert_eq!(entry.frame.payload(), b"id: 2-0\nevent: signal\ndata: {\"n\":2}\n\n");
        assert_eq!(entry.under(&"2-0~x").payload(), b"id: 2-0~x\nevent: signal\ndata: {\"n\":2}\n\n");
    }
}
