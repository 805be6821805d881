//! The runs on this node, so that a cancel stops one at once instead of at its next renewal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::TaskId;

/// The registry. Short-lived locks only; nothing is awaited under `table`.
#[derive(Debug, Default)]
pub(super) struct Runs {
    table: Arc<Mutex<Table>>,
    /// Held from before a claim until what it brought is registered.
    gate: tokio::sync::Mutex<()>,
}

type Table = HashMap<TaskId, Arc<Interrupt>>;

#[derive(Debug, Default)]
struct Interrupt {
    token: CancellationToken,
    reason: OnceLock<String>,
}

impl Interrupt {
    fn ask(&self, reason: &str) {
        self.reason.set(reason.to_owned()).ok();
        self.token.cancel();
    }
}

/// A run on this node, registered until it is dropped.
#[derive(Debug)]
pub struct Run {
    task: TaskId,
    interrupt: Arc<Interrupt>,
    table: Arc<Mutex<Table>>,
}

impl Run {
    /// Asks for the run to be stopped. The first reason stays.
    pub fn interrupt(&self, reason: &str) {
        self.interrupt.ask(reason);
    }

    /// Waits until somebody asks for the run to be stopped, and returns the reason. Cancel safe.
    pub async fn interrupted(&self) -> &str {
        self.interrupt.token.cancelled().await;
        self.interrupt.reason.get().map_or("", String::as_str)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // A run that lost its lease may outlive the registration of the next one of the same task.
        if table.get(&self.task).is_some_and(|known| Arc::ptr_eq(known, &self.interrupt)) {
            table.remove(&self.task);
        }
    }
}

/// The right to claim: while it is held, who cancels a task that the store calls running waits for its registration.
#[derive(Debug)]
pub(crate) struct Claiming<'a> {
    runs: &'a Runs,
    _gate: tokio::sync::MutexGuard<'a, ()>,
}

impl Claiming<'_> {
    /// Registers a run that was claimed.
    pub(crate) fn begin(&self, task: TaskId) -> Run {
        let interrupt = Arc::<Interrupt>::default();
        let table = Arc::clone(&self.runs.table);
        lock(&table).insert(task, Arc::clone(&interrupt));
        Run { task, interrupt, table }
    }
}

impl Runs {
    pub(super) async fn claiming(&self) -> Claiming<'_> {
        Claiming { runs: self, _gate: self.gate.lock().await }
    }

    /// Stops the run of a task that the store says is running, if it runs here.
    pub(super) async fn interrupt(&self, task: TaskId, reason: &str) {
        if self.ask(task, reason) {
            return;
        }
        // It may have been claimed a moment ago and not be registered yet.
        let _gate = self.gate.lock().await;
        self.ask(task, reason);
    }

    fn ask(&self, task: TaskId, reason: &str) -> bool {
        let found = lock(&self.table).get(&task).cloned();
        found.inspect(|interrupt| interrupt.ask(reason)).is_some()
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
