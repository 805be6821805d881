//! A follower: one cursor, served from the ring while that reaches back to it and from the log where it does not.
//!
//! The log is written in the order of publishing. So what the log has behind the cursor is delivered if it follows
//! the cursor, and is proof of a gap if it does not; while it has nothing, it may just be a few milliseconds behind.

use std::sync::Arc;
use std::time::Duration;

use super::topic::{Found, Topic, Watch};
use super::{Entry, Hub, Member};
use crate::domain::{Event, Position, TaskId};
use crate::store::StoreError;

/// Events that one look into the log brings, at most.
const PAGE: usize = 256;
/// First wait for a log that is behind the ring.
const CATCH_UP: Duration = Duration::from_millis(5);
/// Longest one.
const LATE: Duration = Duration::from_secs(1);

/// What following brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// At least one entry was appended.
    Events {
        /// They came from the log.
        replayed: bool,
        /// Entries that wait in the ring behind them.
        behind: usize,
    },
    /// These events of a run are gone; the next ones follow them.
    Gap {
        /// The run.
        attempt: u32,
        /// First that is missing.
        first: u64,
        /// Last that is missing.
        last: u64,
    },
    /// The terminal event was the last one.
    Ended,
}

/// Follows one task.
#[derive(Debug)]
pub struct Follower {
    hub: Hub,
    task: TaskId,
    topic: Arc<Member<TaskId, Topic>>,
    position: Position,
    ended: bool,
}

/// Why a follower looks into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It has just come, or has waited for long: whatever could have happened may have.
    Unsure,
    /// It was woken.
    Woken,
}

impl Follower {
    pub(super) fn new(hub: Hub, task: TaskId, after: Position) -> Self {
        let topic = hub.topic(task);
        Self { hub, task, topic, position: after, ended: false }
    }

    /// The task.
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// The place of the last entry that was delivered, or the place to follow from.
    pub fn position(&self) -> Position {
        self.position
    }

    /// One that follows from the same place.
    pub fn another(&self) -> Self {
        Self::new(self.hub.clone(), self.task, self.position)
    }

    /// Goes on from behind another place: what lies before it was delivered by somebody else.
    pub fn move_to(&mut self, position: Position) {
        self.position = position;
    }

    /// Appends up to `max` (at least one) of the next entries to `into`, waiting until there is one. Cancel safe: what
    /// was not returned is not lost.
    ///
    /// # Errors
    /// The log could not be read; the follower stands where it stood.
    pub async fn next(&mut self, into: &mut Vec<Entry>, max: usize) -> Result<Step, StoreError> {
        let mut wait = Wait::new(self.hub.inner.config.poll);
        let mut cause = Cause::Unsure;
        // The ring has nothing, and it may be that nothing more will come.
        let mut doubtful = false;
        loop {
            if self.ended {
                return Ok(Step::Ended);
            }
            let topic = Arc::clone(&self.topic);
            // Made before looking, so that it knows of all that happens afterwards.
            let woken = topic.woken();
            match topic.take(self.position, into, max) {
                Found::Events { behind } => return Ok(self.delivered(into, false, behind)),
                Found::Nothing { from_here } if !doubtful => {
                    if from_here {
                        woken.await;
                    } else {
                        // The other node may vanish with all that the store had.
                        let _ = Box::pin(tokio::time::timeout(wait.for_others(), woken)).await;
                    }
                    // If that was no event, whoever published has gone.
                    (doubtful, cause) = (true, Cause::Unsure);
                    continue;
                }
                Found::Nothing { .. } | Found::Elsewhere => doubtful = false,
            }
            // What is rare is boxed, so that a follower that waits for its next event takes little memory.
            if let Some(step) = Box::pin(self.replay(into, max, cause)).await? {
                return Ok(step);
            }
            if topic.pending(self.position) > 0 {
                // The log is a moment behind the ring. Whatever is published meanwhile does not change that.
                Box::pin(tokio::time::sleep(wait.for_log())).await;
                continue;
            }
            topic.watch(|| Watch::new(&self.hub.inner.store, self.task));
            cause = match Box::pin(tokio::time::timeout(wait.for_others(), woken)).await {
                Ok(()) => Cause::Woken,
                Err(_) => Cause::Unsure,
            };
        }
    }

    /// Appends up to `max` (at least one) of the next entries that the ring has now; none: there are none, or the log
    /// would have to tell.
    pub fn try_next(&mut self, into: &mut Vec<Entry>, max: usize) -> Option<Step> {
        if self.ended {
            return Some(Step::Ended);
        }
        match self.topic.take(self.position, into, max) {
            Found::Events { behind } => Some(self.delivered(into, false, behind)),
            Found::Nothing { .. } | Found::Elsewhere => None,
        }
    }

    fn delivered(&mut self, entries: &[Entry], replayed: bool, behind: usize) -> Step {
        if let Some(entry) = entries.last() {
            self.position = entry.event().position;
            self.ended = entry.event().kind.is_terminal();
        }
        Step::Events { replayed, behind }
    }

    /// Looks into the log. None: it has nothing behind the cursor, and the task has not ended.
    async fn replay(
        &mut self,
        into: &mut Vec<Entry>,
        max: usize,
        cause: Cause,
    ) -> Result<Option<Step>, StoreError> {
        let store = Arc::clone(&self.hub.inner.store);
        let limit = max.clamp(1, PAGE);
        let mut events = store.read(self.task, self.position, limit).await?;
        if events.is_empty() && cause == Cause::Unsure {
            let status = store.status(self.task).await?;
            if status.is_none_or(|status| status.state.is_ended()) {
                // It may have ended between the two looks.
                events = store.read(self.task, self.position, limit).await?;
                if events.is_empty() {
                    self.ended = true;
                    return Ok(Some(Step::Ended));
                }
            }
        }
        Ok((!events.is_empty()).then(|| self.replayed(events, into)))
    }

    /// Delivers what follows the cursor without a gap, or else the gap.
    fn replayed(&mut self, events: Vec<Event>, into: &mut Vec<Entry>) -> Step {
        let before = into.len();
        let mut at = self.position;
        for event in events {
            if let Some((first, last)) = missing(at, &event) {
                if into.len() == before {
                    let attempt = event.position.attempt;
                    self.position = Position { attempt, seq: last };
                    return Step::Gap { attempt, first, last };
                }
                break;
            }
            at = event.position;
            into.push(Entry::new(Arc::new(event)));
        }
        let behind = self.topic.pending(at);
        self.delivered(into, true, behind)
    }
}

/// The numbers of the run's events that lie between a place and an event, if any do. Who reads a task from its
/// beginning after its log was forgotten gets its terminal event alone: that is no gap.
fn missing(at: Position, event: &Event) -> Option<(u64, u64)> {
    let Position { attempt, seq } = event.position;
    let seen = if at.attempt == attempt { at.seq } else { 0 };
    let alone = seen == 0 && event.kind.is_terminal();
    (seq > seen.saturating_add(1) && !alone).then(|| (seen + 1, seq - 1))
}

/// Pauses between looks into the store.
#[derive(Debug)]
pub(super) struct Wait {
    log: Duration,
    poll: Duration,
}

impl Wait {
    pub(super) fn new(poll: Duration) -> Self {
        Self { log: CATCH_UP, poll }
    }

    /// The log is behind the ring: a little longer every time.
    fn for_log(&mut self) -> Duration {
        let length = self.log;
        self.log = (length * 2).min(LATE);
        length
    }

    /// Somebody else may write. Between a half and the whole of the poll, so that those who came together do not look
    /// together.
    pub(super) fn for_others(&self) -> Duration {
        self.poll.mul_f64(rand::random_range(0.5..1.0))
    }
}
