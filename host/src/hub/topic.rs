//! A topic: the ring of a task's latest events and the bell that wakes who waits for the next.
//!
//! What is in the ring is without a gap: an event that does not follow the one before it empties the ring first, and
//! so does `started`, since it voids what was before.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Frame;
use crate::domain::{Event, Kind, Position, TaskId};
use crate::store::Store;

/// Weight of entries after which a reader has enough at a time, so that what a slow one holds is bounded.
const TAKE_BYTES: usize = 64 << 10;

/// Bytes that an encoded event may have beside its data: names, ids, the time.
pub const FRAME_OVERHEAD: usize = 256;

/// An event on its way to followers, with its encoded form once somebody has made it. Cheap to clone.
#[derive(Clone)]
pub struct Entry {
    inner: Arc<Encoded>,
}

struct Encoded {
    event: Arc<Event>,
    frame: OnceLock<Frame>,
}

impl Entry {
    /// An event that nobody has encoded yet.
    pub fn new(event: Arc<Event>) -> Self {
        Self { inner: Arc::new(Encoded { event, frame: OnceLock::new() }) }
    }

    /// The event.
    pub fn event(&self) -> &Arc<Event> {
        &self.inner.event
    }

    /// Bytes that it is counted with in a ring: the event and its encoded form, whether or not that is there yet.
    pub fn weight(&self) -> usize {
        let event = self.event();
        event.weight() + event.data.len() + FRAME_OVERHEAD
    }

    /// The event as bytes: its data, and up to [`FRAME_OVERHEAD`] around it. Only the first caller's encoder runs, so
    /// that every caller must use the same one.
    pub fn frame(&self, encode: impl FnOnce(&Event) -> Frame) -> &Frame {
        self.inner.frame.get_or_init(|| encode(&self.inner.event))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner.event, f)
    }
}

/// What the ring has for a reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Events were taken; this many are left.
    Events { behind: usize },
    /// The reader has all that there is, and more will come: from here, or else from another node.
    Nothing { from_here: bool },
    /// The ring does not reach back to the reader's place, or does not hold its run: the log has to tell.
    Elsewhere,
}

#[derive(Debug)]
pub(super) struct Topic {
    ring: Mutex<Ring>,
    bell: Notify,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    publishers: usize,
    /// Asked for what other nodes log of the task.
    watch: Option<Watch>,
    /// It comes here, and what came before is in the log.
    watching: bool,
}

/// The wish to hear what other nodes log of a task, until it is dropped.
pub(super) struct Watch {
    store: Arc<dyn Store>,
    task: TaskId,
}

impl Watch {
    pub(super) fn new(store: &Arc<dyn Store>, task: TaskId) -> Self {
        store.watch(task);
        Self { store: Arc::clone(store), task }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.store.unwatch(self.task);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.task).finish()
    }
}

impl Topic {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { ring: Mutex::default(), bell: Notify::new(), max_events: max_events.max(1), max_bytes }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self) {
        self.ring().publishers += 1;
    }

    pub(super) fn leave(&self) {
        self.ring().publishers -= 1;
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.bell.notify_waiters();
    }

    /// Asks for what other nodes log, if nobody has.
    pub(super) fn watch(&self, ask: impl FnOnce() -> Watch) {
        let mut ring = self.ring();
        ring.watch.get_or_insert_with(ask);
    }

    /// From now on it comes. What it did not bring is in the log, where followers look once more.
    pub(super) fn watching(&self) {
        let mut ring = self.ring();
        ring.watching = ring.watch.is_some();
        if ring.publishers == 0 {
            ring.clear();
        }
        drop(ring);
        self.wake();
    }

    /// It comes no more, until the store says that it does again.
    pub(super) fn lost(&self) {
        self.ring().watching = false;
        self.wake();
    }

    /// Completes at the first wake-up after this call.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.bell.notified()
    }

    pub(super) fn publish(&self, entry: Entry) {
        let mut ring = self.ring();
        let event = entry.event();
        if let Some(last) = ring.entries.back().map(|entry| entry.event().position) {
            if event.position <= last {
                return;
            }
            let follows = event.position.attempt == last.attempt && event.position.seq == last.seq + 1;
            if !follows {
                ring.clear();
            }
        }
        ring.bytes += entry.weight();
        ring.entries.push_back(entry);
        while ring.entries.len() > self.max_events || (ring.bytes > self.max_bytes && ring.entries.len() > 1)
        {
            let Some(entry) = ring.entries.pop_front() else { break };
            ring.bytes -= entry.weight();
        }
        drop(ring);
        self.wake();
    }

    /// Appends to `into` up to `max` of the entries behind the place.
    pub(super) fn take(&self, after: Position, into: &mut Vec<Entry>, max: usize) -> Found {
        let ring = self.ring();
        let Some(start) = ring.behind(after) else { return Found::Elsewhere };
        let left = ring.entries.len() - start;
        if left == 0 {
            let from_here = ring.publishers > 0;
            return if ring.is_complete() { Found::Nothing { from_here } } else { Found::Elsewhere };
        }
        let mut bytes = 0;
        let entries = ring.entries.range(start..).take(max.max(1)).take_while(|entry| {
            let wanted = bytes < TAKE_BYTES;
            bytes += entry.weight();
            wanted
        });
        let before = into.len();
        into.extend(entries.cloned());
        let taken = into.len() - before;
        Found::Events { behind: left - taken }
    }

    /// Place of the last entry; none: the ring has none.
    pub(super) fn last(&self) -> Option<Position> {
        self.ring().entries.back().map(|entry| entry.event().position)
    }

    /// How many entries the ring has behind the place, whether or not it reaches back to it.
    pub(super) fn pending(&self, after: Position) -> usize {
        let ring = self.ring();
        match ring.entries.front() {
            Some(first) if after < first.event().position => ring.entries.len(),
            _ => ring.behind(after).map_or(0, |start| ring.entries.len() - start),
        }
    }
}

impl Ring {
    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Whether nothing can be in the log that is not in the ring.
    fn is_complete(&self) -> bool {
        self.publishers > 0 || self.watching
    }

    /// Index of the first entry behind the place, if the ring has all that is behind it.
    fn behind(&self, after: Position) -> Option<usize> {
        let (first, last) = (self.entries.front()?.event(), self.entries.back()?.event());
        if after >= last.position {
            return Some(self.entries.len());
        }
        let Position { attempt, seq } = first.position;
        if after.attempt == attempt && after.seq >= seq - 1 {
            return usize::try_from(after.seq - (seq - 1)).ok();
        }
        // A run's beginning voids all that was before; any other event does not.
        (after.attempt < attempt && first.kind == Kind::Started).then_some(0)
    }
}
