//! The task queue: acceptance, leases with fencing tokens, and the one terminal event.

use std::time::Duration;

use async_trait::async_trait;

use super::{Claimed, StoreError};
use crate::domain::{Event, NewTask, SessionId, TaskId, TaskRecord, TaskStatus};

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The task: the new one, or the one that the idempotency key named already.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// The key was known: nothing was written.
    pub duplicate: bool,
}

/// The right to run a task, until it expires. Whoever claims the task later gets another token, and writes under the
/// old one are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// Grows with every claim of the task.
    pub token: u64,
}

/// A task that is the caller's to run.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The right to run it.
    pub lease: Lease,
    /// The task, as it is now; `attempt` is already this run's number.
    pub task: TaskRecord,
    /// Why somebody asked for it to be stopped, if somebody did while an earlier run had it.
    pub cancel: Option<String>,
}

/// What asking to stop a task came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It had not started: it has ended now.
    Cancelled {
        /// The agent that would have run it.
        agent: String,
        /// Its terminal event.
        event: Box<Event>,
    },
    /// A worker runs it; the request is noted on the task, and the worker's next renewal tells it so.
    Running,
    /// It had ended before.
    Ended,
    /// Nobody knows it.
    Unknown,
}

/// An earlier turn of a session, for the agent's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The task.
    pub task: TaskId,
    /// Its input document.
    pub input: Box<str>,
    /// Data of its `completed` event.
    pub completed: Box<str>,
}

/// The queue of tasks.
///
/// Order: tasks of one session are handed out one at a time, in the order of their acceptance; among sessions, whose
/// next task was accepted first comes first.
#[async_trait]
pub trait TaskQueue: Send + Sync {
    /// Accepts a task: when this returns it is durable, with its delivery order, and its idempotency key is taken.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] beyond the bound that the store was opened with (duplicates are told apart first).
    async fn submit(&self, task: NewTask) -> Result<Submitted, StoreError>;

    /// Takes up to `limit` tasks that may run now, each under a lease of that length: queued ones whose session is
    /// idle, and running ones whose lease ran out (`deaths` has then grown by one). Every claim raises `attempt` by
    /// one and makes the task's deliveries of [`crate::domain::Moment::Start`] due.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn claim(&self, limit: usize, lease: Duration) -> Result<Claimed<Claim>, StoreError>;

    /// Returns when there may be something to claim that was not there before. May return for nothing.
    async fn task_ready(&self);

    /// Lengthens a lease from now on. Some: the reason for which somebody asked for the task to be stopped.
    ///
    /// A lease that ran out, and that nobody took over, may still be renewed and finished.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    async fn renew(&self, lease: Lease, length: Duration) -> Result<Option<String>, StoreError>;

    /// Gives a task back unfinished, to be run again as the next attempt. Not a death.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    async fn release(&self, lease: Lease) -> Result<(), StoreError>;

    /// Ends a task by its terminal event: logs the event, sets state and times, makes its deliveries due (those of
    /// [`crate::domain::Moment::End`], and those of `Start` that no claim made due), and lets the session's next turn run. All or nothing.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]: nothing was written.
    async fn finish(&self, lease: Lease, terminal: Event) -> Result<(), StoreError>;

    /// Ends a task that no worker has, with a `cancelled` event of the next attempt's number, `seq` 1 and the data
    /// `{"reason":…}`; on a running one notes the wish (the first one's reason stays).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn cancel(&self, task: TaskId, reason: &str) -> Result<CancelOutcome, StoreError>;

    /// Looks at a task without reading its documents.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn status(&self, task: TaskId) -> Result<Option<TaskStatus>, StoreError>;

    /// Reads all of a task, its input and its result as well.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn task(&self, task: TaskId) -> Result<Option<TaskRecord>, StoreError>;

    /// Ids of a session's tasks accepted after the given one (none: from the first that is kept), in order of
    /// acceptance.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn session_tasks(
        &self,
        session: &SessionId,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<TaskId>, StoreError>;

    /// Id of the session's task that was accepted last; none: it has none that is kept.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn last_task(&self, session: &SessionId) -> Result<Option<TaskId>, StoreError>;

    /// Ids of a session's tasks that have not ended and were accepted before the given one (none: all of them), in
    /// order of acceptance. Nothing was accepted before a task that nobody knows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn open_tasks(
        &self,
        session: &SessionId,
        before: Option<TaskId>,
    ) -> Result<Vec<TaskId>, StoreError>;

    /// The session's last completed turns before the given task, oldest first: up to `limit`, and no more than have
    /// `max_bytes` of inputs and data together. What lies before a turn that is too large is left out as well.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn turns_before(
        &self,
        task: TaskId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Turn>, StoreError>;
}
