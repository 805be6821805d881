//! What other nodes do to a store that several share.

use async_trait::async_trait;

use crate::domain::{Event, SessionId, TaskId};

/// Something that was done to the store, here or on another node. What wakes claimers ([`super::TaskQueue::task_ready`],
/// [`super::Outbox::delivery_ready`]) is the store's own business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// From here on, whatever is logged of the task comes as [`Notice::Events`], until [`Notice::Lost`].
    Watching(TaskId),
    /// Events of one task that is watched were logged, in order. They may come twice.
    Events(Vec<Event>),
    /// A session got another task.
    SessionGrew(SessionId),
    /// Somebody asked for a running task to be stopped.
    Cancel {
        /// The task.
        task: TaskId,
        /// Why.
        reason: String,
    },
    /// Notices may have been missed, and nothing is watched any more until it is said again with [`Notice::Watching`],
    /// which the store sees to by itself.
    Lost,
}

/// Where notices come from. Dropping it ends them.
#[async_trait]
pub trait Notices: Send {
    /// The next notice. Cancel safe. Never ends: while the store is out of reach there are none.
    async fn next(&mut self) -> Notice;
}
