//! The event log: what every task said, in order, for those who come later or come back.

use std::sync::Arc;

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{Event, Position, TaskId};

/// The log of events. Terminal events come in through [`super::TaskQueue::finish`], in order with these.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Adds numbered events, those of one task in order. Returns when they are taken, waiting only while too many are
    /// pending; they are committed with the next group, within 5 ms, and before any later claim or probe of the same
    /// store, and any later write that releases, ends or cancels their task.
    /// A `started` event voids the runs before it: they are no longer read. Events of a run that is not the task's
    /// present one, or of a task that ended, are dropped: they come from a worker that lost its lease. A store that refuses
    /// to write may take a lease that runs out meanwhile; what its run said in that time is dropped as well.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn append(&self, events: Vec<Arc<Event>>) -> Result<(), StoreError>;

    /// Up to `limit` committed events of a task after the place, in order, beginning at the latest `started` where
    /// the place lies before it. May return fewer than there are, but none only where there are none. The terminal
    /// event is there as long as the task, the others as long as [`super::Retention::events`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read(&self, task: TaskId, after: Position, limit: usize) -> Result<Vec<Event>, StoreError>;
}
