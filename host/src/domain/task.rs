//! A task: one turn of work, from its acceptance to its one terminal event.

use serde::{Deserialize, Serialize};

use super::{Event, Position, SessionId, TaskId};

/// Work that somebody wants done, not yet accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Name that it will have.
    pub id: TaskId,
    /// The plugin that submits it; empty for the gateway's own routes.
    pub adapter: String,
    /// Agent to run it.
    pub agent: String,
    /// Turns of one session run one after the other, in the order of their acceptance.
    pub session: SessionId,
    /// Task input document (JSON), checked.
    pub input: Box<str>,
    /// Makes the adapter's delivery role carry the outcome to its platform.
    pub deliver: Option<DeliveryOrder>,
    /// The same key of the same adapter names the same task within the retention time.
    pub idempotency_key: Option<String>,
}

/// Asks for a call of the adapter's delivery role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryOrder {
    /// Opaque to the host.
    pub address: String,
    /// When to call.
    pub at: Moment,
}

/// When a delivery begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// When the task starts: the delivery shows the answer growing.
    Start,
    /// When the task has ended.
    End,
}

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Accepted; no worker has it.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Was stopped.
    Cancelled,
}

impl TaskState {
    /// Name on the wire and in stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen to it.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// All that is known about an accepted task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    /// Its name.
    pub id: TaskId,
    /// Who submitted it.
    pub adapter: String,
    /// Who runs it.
    pub agent: String,
    /// Its session.
    pub session: SessionId,
    /// Its input document.
    pub input: Box<str>,
    /// Where it is.
    pub state: TaskState,
    /// Runs begun so far; 0 while it never ran.
    pub attempt: u32,
    /// Runs whose worker died.
    pub deaths: u32,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When its present run began.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Its terminal event, kept as long as the task though the log forgets earlier.
    pub end: Option<Event>,
}

/// Whose a task is and where it is, without its documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// Who submitted it.
    pub adapter: String,
    /// Who runs it.
    pub agent: String,
    /// Its session.
    pub session: SessionId,
    /// Where it is.
    pub state: TaskState,
    /// Place of its terminal event.
    pub end: Option<Position>,
}
