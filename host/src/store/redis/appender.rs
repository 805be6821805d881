//! Writing events: one task sends what has come in since it sent last, and keeps what could not be written, in order,
//! until Redis takes it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::super::{Lease, StoreError};
use super::failure::Failure;
use super::link::Again;
use super::{Line, log};
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
    number: u64,
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

/// What was taken and is not written yet. Batches are numbered in the order in which they are taken and written.
#[derive(Debug)]
struct Pending {
    taken: Mutex<Taken>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Number of the last batch.
    last: u64,
    /// And of the last one with events of a task, for those that are not written.
    tasks: HashMap<TaskId, u64>,
    /// Tokens of the runs that this node began.
    tokens: HashMap<TaskId, u64>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    /// Number of the last batch that was written.
    written: u64,
    /// Why the last attempt failed; none: it did not.
    failure: Option<Failure>,
}

impl Pending {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batch to wait for before all that was taken of a task (none: of all) is written.
    fn last(&self, task: Option<TaskId>) -> u64 {
        let taken = self.taken();
        match task {
            None => taken.last,
            Some(task) => taken.tasks.get(&task).copied().unwrap_or(0),
        }
    }

    fn token(&self, task: TaskId) -> Option<u64> {
        self.taken().tokens.get(&task).copied()
    }

    fn written(&self, number: u64, tasks: impl Iterator<Item = TaskId>) {
        let mut taken = self.taken();
        for task in tasks {
            if taken.tasks.get(&task).is_some_and(|last| *last <= number) {
                taken.tasks.remove(&task);
            }
        }
        drop(taken);
        self.progress.send_replace(Progress { written: number, failure: None });
    }
}

impl Appender {
    pub(super) fn start(line: Arc<Line>, cap: u64, bytes: usize, stop: CancellationToken) -> Self {
        let size = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        let pending = Arc::new(Pending { taken: Mutex::default(), progress: watch::Sender::default() });
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

    /// A run begins here: its events are written under its token from now on.
    pub(super) fn began(&self, lease: Lease) {
        self.pending.taken().tokens.insert(lease.task, lease.token);
    }

    /// It is over.
    pub(super) fn ended(&self, lease: Lease) {
        let mut taken = self.pending.taken();
        if taken.tokens.get(&lease.task) == Some(&lease.token) {
            taken.tokens.remove(&lease.task);
        }
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
        let mut taken = self.pending.taken();
        taken.last += 1;
        let number = taken.last;
        for event in &events {
            taken.tasks.insert(event.task, number);
        }
        // Still locked: batches go into the queue in the order of their numbers.
        self.queue.send(Batch { events, number, _room: room }).map_err(|_| closed())
    }

    /// Waits until the events that were taken of a task (none: of all) are written.
    ///
    /// # Errors
    /// Redis does not take them.
    pub(super) async fn flush(&self, task: Option<TaskId>) -> Result<(), Failure> {
        let mut progress = self.pending.progress.subscribe();
        let wanted = self.pending.last(task);
        let until = Instant::now() + self.line.link.timeout();
        while progress.borrow_and_update().written < wanted {
            match timeout_at(until, progress.changed()).await {
                Ok(Ok(())) => {
                    let now = progress.borrow().clone();
                    if let Some(failure) = now.failure
                        && now.written < wanted
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
            let lost = self.pending.last(None) - self.pending.progress.borrow().written;
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
            let last = group.last().map_or(0, |batch: &Batch| batch.number);
            self.pending.written(last, by_task.into_keys());
            group.clear();
        }
    }

    /// Writes a task's events, in order, however long it takes.
    async fn write_all(&self, task: TaskId, events: &[Arc<Event>]) {
        let id = task.digits();
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
                cmd.arg(self.pending.token(task).map(|token| token.to_string()).unwrap_or_default());
                for event in events {
                    let started = u8::from(event.kind == Kind::Started);
                    cmd.arg(event.position.seq).arg(started).arg(log::encode(event));
                }
            };
            let written = self.line.run(|scripts| &scripts.append, arguments, Again::Yes).await;
            match written {
                Ok(_) => return,
                // Nobody will ever be able to write these; what comes behind them may be.
                Err(failure @ Failure::Unreadable { .. }) => {
                    error!(%task, events = events.len(), "events could not be logged: {failure}");
                    return;
                }
                Err(failure) => {
                    self.pending.progress.send_modify(|progress| progress.failure = Some(failure));
                }
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
