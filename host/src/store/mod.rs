//! Everything that must outlive the process: the task queue, the event log, the outbox, the plugins' kv.
//!
//! Four traits, implemented by one object: [`sqlite`], a file on one machine. What a caller awaits here is durable when it
//! returns, except [`EventLog::append`]. Leases and waits are lengths, so that whoever sets the wall clock neither ends nor
//! prolongs one; stamps are wall-clock time. One conformance suite (`store/conformance/`) says what an implementation owes.

#[cfg(test)]
pub(crate) mod conformance;
mod kv;
mod log;
mod notices;
mod outbox;
mod pace;
mod queue;

pub mod redis;
pub mod sqlite;

use std::time::Duration;

pub use kv::{Kv, KvEntry, KvError, KvQuota};
pub use log::EventLog;
pub use notices::{Notice, Notices};
pub use outbox::{
    DeadLetter, Delivery, DeliveryId, DeliveryLease, DeliveryTarget, Except, NewWebhook, Outbox, Settlement,
};
pub use pace::{Pace, Rate, Room};
pub use queue::{CancelOutcome, Claim, Lease, Submitted, TaskQueue, Turn};

use crate::domain::TaskId;

/// What a claim found.
#[derive(Clone, Debug)]
pub struct Claimed<T> {
    /// What is now the caller's, at most as many as it asked for.
    pub items: Vec<T>,
    /// How long until the next thing that waits for its time is due.
    pub next_due: Option<Duration>,
}

/// The store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// As many tasks wait as the configuration allows (`workers.queue`).
    #[error("the queue is full: {queued} tasks wait")]
    QueueFull {
        /// How many wait.
        queued: u64,
    },
    /// The lease was lost: its time ran out and somebody else may hold the work now. Nothing was written.
    #[error("the lease was lost")]
    LeaseLost,
    /// The store can't be reached or refuses to write: disk full, connection refused.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What the store holds can't be read: written by a newer gateway, or damaged.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Events of ended tasks, counted from the end.
    pub events: Duration,
    /// Ended tasks, their idempotency keys, delivered webhooks' keys and dead letters.
    pub tasks: Duration,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Events.
    pub events: u64,
    /// Tasks.
    pub tasks: u64,
    /// Expired kv entries.
    pub kv: u64,
    /// Settled or dead deliveries.
    pub deliveries: u64,
}

/// How full the store is, for metrics and readiness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Tasks accepted and not started.
    pub queued: u64,
    /// Tasks running.
    pub running: u64,
    /// Deliveries that wait or are under way.
    pub deliveries: u64,
    /// Dead letters.
    pub dead: u64,
}

/// A store: all four traits, and its own upkeep.
#[async_trait::async_trait]
pub trait Store: TaskQueue + EventLog + Outbox + Kv + std::fmt::Debug {
    /// Writes something and waits until it is durable.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the gateway is not ready.
    async fn probe(&self) -> Result<(), StoreError>;

    /// Removes what is older than its retention, in portions that don't hold up others.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; what was removed before stays removed.
    async fn sweep(&self, retention: Retention) -> Result<Swept, StoreError>;

    /// Counts what waits.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn backlog(&self) -> Result<Backlog, StoreError>;

    /// What others do to the store; none: nobody else can. To be called once.
    fn notices(&self) -> Option<Box<dyn Notices>> {
        None
    }

    /// Rates that hold over all nodes; none: there are no others.
    fn pace(&self) -> Option<&dyn Pace> {
        None
    }

    /// Asks for notices of a task's events, from some time on and until [`Store::unwatch`]. Never waits.
    fn watch(&self, _task: TaskId) {}

    /// Asks for no more of them. To be called once for every [`Store::watch`].
    fn unwatch(&self, _task: TaskId) {}

    /// Writes out what was appended and not yet committed, and stops. Called last.
    async fn close(&self);
}
