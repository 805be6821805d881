//! The handle of the thread that writes: hands operations over, bounded in bytes, and waits for what became of them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::error;

use super::super::{Backlog, StoreError};
use super::Options;
use super::group::{Op, Thread};
use crate::domain::Event;

/// Bytes that one permit of the budget stands for.
const UNIT: usize = 1024;

/// A transaction under way, as operations see it.
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    /// The group's time stamp.
    pub(super) now: u64,
    /// The group's time for leases and waits.
    pub(super) steady: u64,
    pub(super) memory: &'a mut Memory,
}

impl Tx<'_> {
    /// Writes something small.
    pub(super) fn probe(&self) -> rusqlite::Result<()> {
        let sql = "INSERT INTO meta (name, value) VALUES ('probe', 1)
                   ON CONFLICT (name) DO UPDATE SET value = value + 1";
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }
}

/// What the writer knows without asking the file; goes back with the transaction when that does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) queued: i64,
    pub(super) running: i64,
    pub(super) deliveries: i64,
    pub(super) dead: i64,
    /// Next task's place in the order of acceptance.
    pub(super) next_task: i64,
    /// Next delivery's place in its lane.
    pub(super) next_place: i64,
    /// Last version given to a kv entry.
    pub(super) kv_version: u64,
    /// Versions up to this one may be given without a note in the file.
    pub(super) kv_reserved: u64,
    /// A task can be claimed that could not before.
    pub(super) tasks_woken: bool,
    /// A delivery can be claimed that could not before.
    pub(super) deliveries_woken: bool,
}

impl Memory {
    /// Counts what is open. All of this is in indexes of open rows, however long the past is.
    fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let one = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let running = one("SELECT count(*) FROM tasks WHERE state = 2")?;
        let reserved = one("SELECT coalesce(max(value), 0) FROM meta WHERE name = 'kv_version'")?;
        Ok(Self {
            queued: one("SELECT count(*) FROM tasks WHERE state <= 2")? - running,
            running,
            deliveries: one("SELECT count(*) FROM outbox WHERE state <= 3 AND state <> 0")?,
            dead: one("SELECT count(*) FROM outbox WHERE state = 5")?,
            next_task: one("SELECT coalesce(max(n), 0) + 1 FROM tasks")?,
            next_place: one("SELECT coalesce(max(place), 0) + 1 FROM outbox WHERE state <= 3")?,
            kv_version: super::uint(reserved),
            kv_reserved: super::uint(reserved),
            tasks_woken: true,
            deliveries_woken: true,
        })
    }
}

/// What the handle and the thread share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    task_ready: Notify,
    delivery_ready: Notify,
    queued: AtomicI64,
    running: AtomicI64,
    deliveries: AtomicI64,
    dead: AtomicI64,
    pub(super) crashed: AtomicBool,
    /// A disk that is full: nothing can be added to the file.
    #[cfg(test)]
    pub(super) full: AtomicBool,
}

impl Shared {
    pub(super) fn publish(&self, memory: &Memory) {
        self.queued.store(memory.queued, Ordering::Relaxed);
        self.running.store(memory.running, Ordering::Relaxed);
        self.deliveries.store(memory.deliveries, Ordering::Relaxed);
        self.dead.store(memory.dead, Ordering::Relaxed);
        if memory.tasks_woken {
            self.task_ready.notify_one();
        }
        if memory.deliveries_woken {
            self.delivery_ready.notify_one();
        }
    }
}

/// Something to be written, and where to say what became of it.
pub(super) trait Call: Send {
    fn is_wanted(&self) -> bool;
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>);
    fn fail(self: Box<Self>, error: &rusqlite::Error);
}

struct Pending<T, F> {
    run: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send> Call for Pending<T, F> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.run)(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>) {
        // Nobody may be there any more; what was written stays written.
        if let Some(result) = self.result {
            self.reply.send(Ok(result)).ok();
        }
    }

    fn fail(self: Box<Self>, error: &rusqlite::Error) {
        self.reply.send(Err(super::error(error))).ok();
    }
}

/// Bytes that may wait for the thread.
#[derive(Debug)]
struct Room {
    permits: Arc<Semaphore>,
    size: u32,
}

impl Room {
    fn new(bytes: usize) -> Self {
        let size = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        Self { permits: Arc::new(Semaphore::new(size as usize)), size }
    }

    /// Waits until there is room for so many bytes; what is larger than all of it takes all of it.
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let units = u32::try_from(bytes / UNIT + 1).unwrap_or(u32::MAX).min(self.size);
        Arc::clone(&self.permits).acquire_many_owned(units).await.map_err(|_| closed())
    }
}

/// Handle of the thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    ops: mpsc::Sender<Op>,
    /// Calls and events have a budget each: those of a disk that refuses events are answered nevertheless.
    calls: Room,
    events: Room,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Takes over what an earlier process left, and starts the thread.
    pub(super) fn start(conn: Connection, path: PathBuf, options: &Options) -> rusqlite::Result<Self> {
        let now = options.clock.now_ms();
        // What came in later than now was stamped, and told to wait, by a clock that somebody has set back.
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             UPDATE tasks SET lease_ms = 0 WHERE state = 2 AND lease_ms > 0;
             UPDATE outbox SET due_ms = 0 WHERE state <= 3 AND state = 3;
             UPDATE outbox SET due_ms = 0 WHERE state <= 3 AND state = 2 AND since_ms > {now};
             COMMIT;"
        ))?;
        let memory = Memory::load(&conn)?;
        let shared = Arc::new(Shared::default());
        shared.publish(&memory);
        let (ops, inbox) = mpsc::channel();
        let thread = Thread::new(path, conn, memory, inbox, Arc::clone(&shared), options);
        let thread = std::thread::Builder::new()
            .name("plugway-store".into())
            .spawn(move || thread.run())
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        Ok(Self {
            ops,
            calls: Room::new(options.pending_bytes / 2),
            events: Room::new(options.pending_bytes / 2),
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Runs an operation in a transaction and returns when that is durable. `run` may be called more than once, each
    /// time in a transaction of which nothing else was committed; `bytes` is about what it keeps in memory.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing was written.
    pub(super) async fn call<T, F>(&self, bytes: usize, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let room = self.calls.take(bytes).await?;
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Pending { run, result: None, reply });
        self.ops.send(Op::Call { call, _room: room }).map_err(|_| closed())?;
        heard(answer).await.unwrap_or_else(|| Err(closed()))
    }

    /// Hands events over; they are committed with the next group.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the store was closed.
    pub(super) async fn append(&self, events: Vec<Arc<Event>>) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let room = self.events.take(events.iter().map(|event| event.weight()).sum()).await?;
        self.ops.send(Op::Append { events, _room: room }).map_err(|_| closed())
    }

    pub(super) async fn task_ready(&self) {
        self.shared.task_ready.notified().await;
    }

    pub(super) async fn delivery_ready(&self) {
        self.shared.delivery_ready.notified().await;
    }

    pub(super) fn backlog(&self) -> Backlog {
        let read = |count: &AtomicI64| super::uint(count.load(Ordering::Relaxed));
        Backlog {
            queued: read(&self.shared.queued),
            running: read(&self.shared.running),
            deliveries: read(&self.shared.deliveries),
            dead: read(&self.shared.dead),
        }
    }

    /// Commits what waits and stops the thread. A second call returns at once.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.ops.send(Op::Close { done: Some(done) }).is_ok() {
            heard(closed).await;
        }
    }

    #[cfg(test)]
    pub(super) fn crash(&self) {
        self.shared.crashed.store(true, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(super) fn fill_disk(&self, full: bool) {
        self.shared.full.store(full, Ordering::SeqCst);
    }
}

impl Drop for Writer {
    /// Waits for the thread's last commit, so that the directory is free when the store is gone.
    fn drop(&mut self) {
        self.ops.send(Op::Close { done: None }).ok();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            error!("the store's writer panicked");
        }
    }
}

#[cfg(not(test))]
async fn heard<T>(answer: oneshot::Receiver<T>) -> Option<T> {
    answer.await.ok()
}

/// A paused clock stands still while a blocking task runs, so tests wait for the writer in one.
#[cfg(test)]
async fn heard<T: Send + 'static>(answer: oneshot::Receiver<T>) -> Option<T> {
    tokio::task::spawn_blocking(|| answer.blocking_recv().ok()).await.ok().flatten()
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}
