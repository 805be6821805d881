//! What anybody may do with tasks: submit, look up, cancel. Owns the rules of acceptance and the registry of the runs
//! on this node; a task is accepted when the store has it durably, and not before.

mod history;
mod life;
mod runs;
mod submit;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::counter;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use life::{Beginning, Limits, beginning, failure};
pub use runs::Run;
pub use submit::{SubmitError, SubmitRequest};

use crate::domain::{SessionId, TaskId, TaskRecord, TaskState, TaskStatus, read_data, rfc3339};
use crate::filters::Filters;
use crate::hub::Hub;
use crate::store::{CancelOutcome, Notice, Notices, Store, StoreError};
use runs::{Claiming, Runs};

/// An agent, as far as those who submit tasks know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub summary: String,
    /// Runs the tasks that name no agent.
    pub default: bool,
}

/// What a new turn does to the one that its session is busy with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBusy {
    /// It waits for it.
    #[default]
    Queue,
    /// It cancels it, and those that wait.
    Interrupt,
}

/// Bounds and habits.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of a task input document.
    pub max_input: usize,
    /// Turns of a session that the next one is told, at most.
    pub history_turns: usize,
    /// Bytes of text in them, at most; the latest turns are kept.
    pub history_bytes: usize,
    /// What who finds the queue full is told to wait.
    pub retry_after: Duration,
    /// What a new turn does to the one that its session is busy with.
    pub on_busy: OnBusy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_input: 2 << 20,
            history_turns: 100,
            history_bytes: 512 << 10,
            retry_after: Duration::from_secs(2),
            on_busy: OnBusy::Queue,
        }
    }
}

/// Handle of the tasks.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    hub: Hub,
    agents: Vec<AgentInfo>,
    filters: Filters,
    config: Config,
    runs: Runs,
    closing: AtomicBool,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("agents", &self.inner.agents).finish_non_exhaustive()
    }
}

impl Tasks {
    /// The tasks of a store, for these agents, whose inputs pass these filters. Without a default among them, a task must
    /// name its agent.
    pub fn new(
        store: Arc<dyn Store>,
        hub: Hub,
        agents: Vec<AgentInfo>,
        filters: Filters,
        config: Config,
    ) -> Self {
        let (runs, closing) = (Runs::default(), AtomicBool::new(false));
        Self { inner: Arc::new(Inner { store, hub, agents, filters, config, runs, closing }) }
    }

    /// The agents that tasks may name.
    pub fn agents(&self) -> &[AgentInfo] {
        &self.inner.agents
    }

    /// From now on nothing is accepted; what was accepted goes on.
    pub fn stop_accepting(&self) {
        self.inner.closing.store(true, Ordering::Relaxed);
    }

    /// Looks at a task without reading its documents.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn status(&self, task: TaskId) -> Result<Option<TaskStatus>, StoreError> {
        self.inner.store.status(task).await
    }

    /// Reads all of a task, its input and its result as well.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn task(&self, task: TaskId) -> Result<Option<TaskRecord>, StoreError> {
        self.inner.store.task(task).await
    }

    /// Asks for a task to be stopped: at once if it waits or runs here, at its next renewal if it runs elsewhere.
    /// False: there was nothing to stop, it had ended or nobody knows it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the wish is not noted.
    pub async fn cancel(&self, task: TaskId, reason: &str) -> Result<bool, StoreError> {
        match self.inner.store.cancel(task, reason).await? {
            CancelOutcome::Cancelled { agent, .. } => {
                self.inner.hub.task_changed(task);
                count_ended(&agent, TaskState::Cancelled, "");
                Ok(true)
            }
            CancelOutcome::Running => {
                self.inner.runs.interrupt(task, reason).await;
                Ok(true)
            }
            CancelOutcome::Ended | CancelOutcome::Unknown => Ok(false),
        }
    }

    /// Asks for all of a session's tasks to be stopped, and returns how many there were to stop.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: not all of them were stopped.
    pub async fn cancel_session(&self, session: &SessionId, reason: &str) -> Result<u32, StoreError> {
        let open = self.inner.store.open_tasks(session, None).await?;
        self.cancel_all(open, reason).await
    }

    /// Stops the later ones first, so that none of them starts because the one before it was stopped. One that can't be
    /// stopped does not keep the others from it; the last such error is reported when all were asked.
    async fn cancel_all(&self, tasks: Vec<TaskId>, reason: &str) -> Result<u32, StoreError> {
        let mut cancelled = Ok(0);
        for task in tasks.into_iter().rev() {
            match self.cancel(task, reason).await {
                Ok(stopped) => cancelled = cancelled.map(|count| count + u32::from(stopped)),
                Err(error) => cancelled = Err(error),
            }
        }
        cancelled
    }

    /// Takes in what other nodes do to the store: shows what they log, and stops what they want stopped.
    pub async fn listen(self, mut notices: Box<dyn Notices>, shutdown: CancellationToken) {
        loop {
            let notice = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                notice = notices.next() => notice,
            };
            match notice {
                Notice::Cancel { task, reason } => {
                    // It may have to wait for a claim; those who follow other tasks must not.
                    let tasks = self.clone();
                    tokio::spawn(async move { tasks.inner.runs.interrupt(task, &reason).await });
                }
                notice => self.inner.hub.hear(notice),
            }
        }
    }

    /// To be held from before a claim until every task that it brought is registered, so that nobody who cancels
    /// overlooks one.
    pub(crate) async fn claiming(&self) -> Claiming<'_> {
        self.inner.runs.claiming().await
    }

    /// The document that tells a task's state: ids, agent, times (RFC 3339, UTC, milliseconds), and the data of its
    /// terminal event as `result`.
    pub fn document(record: &TaskRecord) -> Value {
        let result = record.end.as_ref().map(|end| read_data(&end.data));
        json!({
            "task_id": record.id,
            "session_id": record.session.name(),
            "agent": record.agent,
            "state": record.state,
            "attempt": record.attempt,
            "created_at": rfc3339(record.created_ms),
            "started_at": record.started_ms.map(rfc3339),
            "ended_at": record.ended_ms.map(rfc3339),
            "result": result,
        })
    }
}

/// Counts a task that has ended; `error_type` is empty unless it failed.
pub(crate) fn count_ended(agent: &str, state: TaskState, error_type: &str) {
    counter!(
        "plugway_tasks_ended_total",
        "agent" => agent.to_owned(),
        "state" => state.as_str(),
        "error_type" => error_type.to_owned(),
    )
    .increment(1);
}
