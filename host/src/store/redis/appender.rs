//! Writing events: one task sends what has come in since it sent last, and keeps what could not be written, in order,
//! until Redis takes it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::super::StoreError;
use super::failure::Failure;
use super::link::Again;
use super::{Line, hex, log};
use crate::domain::{Event, Kind, TaskId};

/// Bytes that one permit stands for.
const UNIT: usize = 1024;
/// Calls of `append` that are written together, at most.
const GROUP: usize = 1024;
/// Events and bytes in one call of the script, about: others wait for as long as it takes.
const CALL_EVENTS: usize = 512;
const CALL_BYTES: usize = 1 << 20;
/// Before what Redis refused is tried again.
const PAUSE: Duration = Duration::from_millis(250);

struct Batch {
    events: Vec<Arc<Event>>,
    _room: OwnedSemaphorePermit,
}

/// Handle of the task that writes events.
#[derive(Debug)]
pub(super) struct Appender {
    queue: mpsc::UnboundedSender<Batch>,
    room: Arc<Semaphore>,
    size: u32,
    pending: Arc<Pending>,
    line: Arc<Line>,
}

/// What was taken and is not written yet.
#[derive(Debug)]
struct Pending {
    tasks: Mutex<HashMap<TaskId, usize>>,
    /// Why the last attempt failed; none: it did not. Changes with every attempt.
    attempts: watch::Sender<Option<Failure>>,
}

impl Pending {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<TaskId, usize>) -> T) -> T {
        change(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has(&self, task: Option<TaskId>) -> bool {
        self.with(|tasks| task.map_or(!tasks.is_empty(), |task| tasks.contains_key(&task)))
    }

    fn add(&self, events: &[Arc<Event>]) {
        self.with(|tasks| {
            for event in events {
                *tasks.entry(event.task).or_insert(0) += 1;
            }
        });
    }

    fn remove(&self, task: TaskId, count: usize) {
        self.with(|tasks| {
            if let Some(left) = tasks.get_mut(&task) {
                *left = left.saturating_sub(count);
                if *left == 0 {
                    tasks.remove(&task);
                }
            }
        });
    }
}

impl Appender {
    pub(super) fn start(line: Arc<Line>, cap: u64, bytes: usize, stop: CancellationToken) -> Self {
        let size = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        let pending = Arc::new(Pending { tasks: Mutex::default(), attempts: watch::Sender::new(None) });
        let (queue, inbox) = mpsc::unbounded_channel();
        let writer = Writer { line: Arc::clone(&line), cap, inbox, pending: Arc::clone(&pending) };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = writer.run() => {}
            }
        });
        Self { queue, room: Arc::new(Semaphore::new(size as usize)), size, pending, line }
    }

    /// Takes events, waiting while too many are pending.
    pub(super) async fn append(&self, events: Vec<Arc<Event>>) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let bytes: usize = events.iter().map(|event| event.weight()).sum();
        let units = u32::try_from(bytes / UNIT + 1).unwrap_or(u32::MAX).min(self.size);
        let closed = || StoreError::from(Failure::Closed);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await.map_err(|_| closed())?;
        if self.line.link.is_closed() {
            return Err(closed());
        }
        self.pending.add(&events);
        self.queue.send(Batch { events, _room: room }).map_err(|_| closed())
    }

    /// Waits until the events that were taken of a task (none: of all) are written.
    ///
    /// # Errors
    /// Redis does not take them.
    pub(super) async fn flush(&self, task: Option<TaskId>) -> Result<(), Failure> {
        let mut attempts = self.pending.attempts.subscribe();
        let until = Instant::now() + self.line.link.timeout();
        while self.pending.has(task) {
            match tokio::time::timeout_at(until, attempts.changed()).await {
                Ok(Ok(())) => {
                    let failure = attempts.borrow_and_update().clone();
                    if let Some(failure) = failure
                        && self.pending.has(task)
                    {
                        return Err(failure);
                    }
                }
                Ok(Err(_)) => return Err(Failure::Closed),
                Err(_) => {
                    let (at, after) = (Arc::clone(self.line.link.at()), self.line.link.timeout());
                    return Err(Failure::Slow { at, after });
                }
            }
        }
        Ok(())
    }

    /// Takes no more, and waits for what is pending as long as a call may take.
    pub(super) async fn close(&self) {
        self.room.close();
        let patience = self.line.link.timeout();
        let flushed = timeout(patience, async { while self.flush(None).await.is_err() {} }).await;
        if flushed.is_err() {
            let lost = self.pending.with(|tasks| tasks.values().sum::<usize>());
            error!(lost, "events could not be logged before the store closed");
        }
    }
}

struct Writer {
    line: Arc<Line>,
    cap: u64,
    inbox: mpsc::UnboundedReceiver<Batch>,
    pending: Arc<Pending>,
}

impl Writer {
    async fn run(mut self) {
        let mut group = Vec::new();
        while self.inbox.recv_many(&mut group, GROUP).await > 0 {
            let mut by_task: HashMap<TaskId, Vec<Arc<Event>>> = HashMap::new();
            for event in group.iter().flat_map(|batch| &batch.events) {
                by_task.entry(event.task).or_default().push(Arc::clone(event));
            }
            join_all(by_task.iter().map(|(task, events)| self.write_all(*task, events))).await;
            group.clear();
        }
    }

    /// Writes a task's events, in order, however long it takes.
    async fn write_all(&self, task: TaskId, events: &[Arc<Event>]) {
        let id = hex(task);
        for run in events.chunk_by(|a, b| a.position.attempt == b.position.attempt) {
            let mut rest = run;
            while !rest.is_empty() {
                let (call, left) = rest.split_at(portion(rest));
                self.write(task, &id, call).await;
                rest = left;
            }
        }
    }

    async fn write(&self, task: TaskId, id: &str, events: &[Arc<Event>]) {
        loop {
            let arguments = |cmd: &mut redis::Cmd| {
                cmd.arg(id).arg(events[0].position.attempt).arg(self.cap);
                for event in events {
                    let started = u8::from(event.kind == Kind::Started);
                    cmd.arg(event.position.seq).arg(started).arg(log::encode(event));
                }
            };
            let written = self.line.run(|scripts| &scripts.append, arguments, Again::Yes).await;
            let failure = match written {
                Ok(_) => None,
                // Nobody will ever be able to write these; what comes behind them may be.
                Err(failure @ Failure::Unreadable { .. }) => {
                    error!(%task, events = events.len(), "events could not be logged: {failure}");
                    None
                }
                Err(failure) => Some(failure),
            };
            let done = failure.is_none();
            if done {
                self.pending.remove(task, events.len());
            }
            self.pending.attempts.send_replace(failure);
            if done {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

/// How many of the events go into one call: at least one.
fn portion(events: &[Arc<Event>]) -> usize {
    let mut bytes = 0;
    let fits = |event: &&Arc<Event>| {
        bytes += event.weight();
        bytes <= CALL_BYTES
    };
    events.iter().take(CALL_EVENTS).take_while(fits).count().max(1)
}
