//! The one thread that writes, and its handle. It owns the writing connection; every commit carries all that waited
//! when it began, in the order in which it came.
//!
//! An operation that fails for a reason of its own is run again alone, so that it fails alone. A disk that refuses
//! fails everybody who waits; events, for which nobody waits, stay here in order until it takes them again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{error, info, warn};

use super::super::{Backlog, StoreError};
use super::{Options, is_environment, log, schema};
use crate::domain::{Clock, Event};

/// Operations in one transaction, at most.
const GROUP: usize = 1024;
/// How long to wait before events that the disk refused are tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Bytes that one permit of the budget stands for.
const UNIT: usize = 1024;

/// A transaction under way, as operations see it.
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    /// The group's time stamp.
    pub(super) now: u64,
    pub(super) memory: &'a mut Memory,
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
    fn load(conn: &Connection) -> rusqlite::Result<Self> {
        use schema::{delivery, task};
        let one = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let state = |table: &str, from: i64, to: i64| {
            one(&format!("SELECT count(*) FROM {table} WHERE state BETWEEN {from} AND {to}"))
        };
        let reserved = one("SELECT coalesce(max(value), 0) FROM meta WHERE name = 'kv_version'")?;
        Ok(Self {
            queued: state("tasks", task::WAITING, task::READY)?,
            running: state("tasks", task::RUNNING, task::RUNNING)?,
            deliveries: state("outbox", delivery::WAITING, delivery::LEASED)?,
            dead: state("outbox", delivery::DEAD, delivery::DEAD)?,
            next_task: one("SELECT coalesce(max(n), 0) + 1 FROM tasks")?,
            next_place: one("SELECT coalesce(max(place), 0) + 1 FROM outbox")?,
            kv_version: super::uint(reserved),
            kv_reserved: super::uint(reserved),
            tasks_woken: true,
            deliveries_woken: true,
        })
    }
}

/// What the handle and the thread share.
#[derive(Debug, Default)]
struct Shared {
    task_ready: Notify,
    delivery_ready: Notify,
    queued: AtomicI64,
    running: AtomicI64,
    deliveries: AtomicI64,
    dead: AtomicI64,
    crashed: AtomicBool,
}

impl Shared {
    fn publish(&self, memory: &Memory) {
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
trait Call: Send {
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

enum Op {
    Append { events: Vec<Arc<Event>>, _room: OwnedSemaphorePermit },
    Call { call: Box<dyn Call>, _room: OwnedSemaphorePermit },
    Close { done: Option<oneshot::Sender<()>> },
}

/// Handle of the thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    ops: mpsc::Sender<Op>,
    room: Arc<Semaphore>,
    room_size: u32,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Takes over what an earlier process left, and starts the thread.
    pub(super) fn start(conn: Connection, path: PathBuf, options: &Options) -> rusqlite::Result<Self> {
        conn.execute_batch(
            "BEGIN IMMEDIATE;
             UPDATE tasks SET lease_ms = 0 WHERE state = 2 AND lease_ms > 0;
             UPDATE outbox SET due_ms = 0 WHERE due_ms > 0 AND state = 3;
             COMMIT;",
        )?;
        let memory = Memory::load(&conn)?;
        let shared = Arc::new(Shared::default());
        shared.publish(&memory);
        let (ops, inbox) = mpsc::channel();
        let thread = Thread {
            path,
            conn: Some(conn),
            memory,
            inbox,
            waiting: VecDeque::new(),
            refused: false,
            shared: Arc::clone(&shared),
            clock: options.clock.clone(),
            group_wait: options.group_wait,
        };
        let thread = std::thread::Builder::new()
            .name("plugway-store".into())
            .spawn(move || thread.run())
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        let room_size = u32::try_from(options.pending_bytes / UNIT).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        Ok(Self {
            ops,
            room: Arc::new(Semaphore::new(room_size as usize)),
            room_size,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let units = u32::try_from(bytes / UNIT + 1).unwrap_or(u32::MAX).min(self.room_size);
        Arc::clone(&self.room).acquire_many_owned(units).await.map_err(|_| closed())
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
        let room = self.room(bytes).await?;
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
        let room = self.room(events.iter().map(|event| event.weight()).sum()).await?;
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

struct Thread {
    path: PathBuf,
    /// None after a failure of the disk: opened anew for the next group.
    conn: Option<Connection>,
    memory: Memory,
    inbox: mpsc::Receiver<Op>,
    /// What the next group carries; begins with events that the disk refused.
    waiting: VecDeque<Op>,
    refused: bool,
    shared: Arc<Shared>,
    clock: Clock,
    group_wait: Duration,
}

impl Thread {
    fn run(mut self) {
        let mut open = true;
        while open {
            open = self.gather();
            if self.shared.crashed.load(Ordering::SeqCst) {
                return;
            }
            let closing = self.take_close();
            self.write();
            if let Some(done) = closing {
                if !self.waiting.is_empty() {
                    error!(lost = self.waiting.len(), "events could not be logged before the store closed");
                }
                self.conn = None;
                if let Some(done) = done {
                    done.send(()).ok();
                }
                return;
            }
        }
    }

    /// Waits for something to write and takes what is there with it. False: nobody can send any more.
    fn gather(&mut self) -> bool {
        let first = if self.waiting.is_empty() {
            self.inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            self.inbox.recv_timeout(RETRY)
        };
        match first {
            Ok(op) => self.waiting.push_back(op),
            Err(mpsc::RecvTimeoutError::Timeout) => return true,
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
        }
        let patience = Instant::now() + self.group_wait;
        let mut alone = self.waiting.iter().all(|op| matches!(op, Op::Append { .. }));
        while self.waiting.len() < GROUP {
            let next = match self.inbox.try_recv() {
                Ok(op) => Some(op),
                Err(_) if alone => {
                    let left = patience.saturating_duration_since(Instant::now());
                    self.inbox.recv_timeout(left).ok()
                }
                Err(_) => None,
            };
            let Some(op) = next else { break };
            alone &= matches!(op, Op::Append { .. });
            self.waiting.push_back(op);
        }
        true
    }

    /// Takes out the wish to close, with everything behind it.
    fn take_close(&mut self) -> Option<Option<oneshot::Sender<()>>> {
        let at = self.waiting.iter().position(|op| matches!(op, Op::Close { .. }))?;
        match self.waiting.drain(at..).next() {
            Some(Op::Close { done }) => Some(done),
            _ => None,
        }
    }

    /// Commits what waits. What stays are events that the disk refused.
    fn write(&mut self) {
        self.waiting.retain(|op| !matches!(op, Op::Call { call, .. } if !call.is_wanted()));
        let mut ops: Vec<Op> = std::mem::take(&mut self.waiting).into();
        match self.transact(&mut ops) {
            Ok(()) => ops.into_iter().for_each(Op::answer),
            Err(error) if is_environment(&error) => self.refuse(ops, &error),
            Err(_) => self.write_singly(ops),
        }
    }

    /// Finds the operation that spoils the group: each gets a transaction of its own.
    fn write_singly(&mut self, ops: Vec<Op>) {
        let mut ops = ops.into_iter();
        while let Some(op) = ops.next() {
            let mut alone = [op];
            let result = self.transact(&mut alone);
            let [op] = alone;
            match result {
                Ok(()) => op.answer(),
                Err(error) if is_environment(&error) => {
                    return self.refuse(std::iter::once(op).chain(ops).collect(), &error);
                }
                Err(error) => op.fail(&error),
            }
        }
    }

    fn transact(&mut self, ops: &mut [Op]) -> rusqlite::Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => super::connect(&self.path)?,
        };
        let mut memory = self.memory;
        (memory.tasks_woken, memory.deliveries_woken) = (false, false);
        let mut tx = Tx { conn: &conn, now: self.clock.now_ms(), memory: &mut memory };
        let result = execute(&conn, "BEGIN IMMEDIATE")
            .and_then(|()| ops.iter_mut().try_for_each(|op| op.apply(&mut tx)))
            .and_then(|()| execute(&conn, "COMMIT"));
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.refused) {
                    info!("the store can be written again");
                }
                self.memory = memory;
                self.shared.publish(&memory);
                self.conn = Some(conn);
                Ok(())
            }
            Err(error) => {
                let clean = conn.is_autocommit() || execute(&conn, "ROLLBACK").is_ok();
                let known = !is_environment(&error) || error.sqlite_error_code() == Some(ErrorCode::DiskFull);
                if clean && known {
                    self.conn = Some(conn);
                }
                Err(error)
            }
        }
    }

    /// The disk does not take anything: whoever waits is told so, events stay.
    fn refuse(&mut self, ops: Vec<Op>, error: &rusqlite::Error) {
        if !std::mem::replace(&mut self.refused, true) {
            warn!(%error, "the store can't be written");
        }
        for op in ops {
            match op {
                Op::Append { .. } => self.waiting.push_back(op),
                other => other.fail(error),
            }
        }
    }
}

impl Op {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Append { events, .. } => log::append(tx, events),
            Self::Call { call, .. } => call.apply(tx),
            Self::Close { .. } => Ok(()),
        }
    }

    fn answer(self) {
        if let Self::Call { call, .. } = self {
            call.answer();
        }
    }

    fn fail(self, error: &rusqlite::Error) {
        match self {
            Self::Append { events, .. } => error!(%error, events = events.len(), "events could not be logged"),
            Self::Call { call, .. } => call.fail(error),
            Self::Close { .. } => {}
        }
    }
}

fn execute(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}
