//! The one thread that writes. It owns the writing connection; every commit carries all that waited when it began, in
//! the order in which it came.
//!
//! An operation that fails for a reason of its own is run again alone, so that it fails alone. A disk that refuses
//! fails everybody who waits; events, for which nobody waits, stay here in order until it takes them again. Whether it
//! does is found out by something small, which also takes the leases that ran out meanwhile: what their runs said is
//! not written any more.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{error, info, warn};

use super::writer::{Call, Memory, Shared, Tx};
use super::{Options, is_environment, log, queue};
use crate::domain::{Clock, Event, Steady};

/// Operations in one transaction, at most.
const GROUP: usize = 1024;
/// How long to wait before events that the disk refused are tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long a group waits, at most, for callers that were answered a moment ago.
const COMPANY: Duration = Duration::from_millis(1);

/// What the thread is asked to do; the room that it takes up is free again when it is done.
pub(super) enum Op {
    Append { events: Vec<Arc<Event>>, _room: OwnedSemaphorePermit },
    Call { call: Box<dyn Call>, _room: OwnedSemaphorePermit },
    Close { done: Option<oneshot::Sender<()>> },
}

/// The thread's own.
pub(super) struct Thread {
    path: PathBuf,
    /// None after a failure of the disk: opened anew for the next group.
    conn: Option<Connection>,
    /// The connection does not wait for the disk when it commits.
    lazy: bool,
    memory: Memory,
    inbox: mpsc::Receiver<Op>,
    /// What the next group carries; begins with events that the disk refused.
    waiting: VecDeque<Op>,
    refused: bool,
    shared: Arc<Shared>,
    clock: Clock,
    steady: Steady,
    group_wait: Duration,
    last: Group,
}

/// The group that was committed last. Who is answered often comes back at once: waiting an eighth of a commit for
/// them makes one large group out of two that take turns.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    callers: usize,
    took: Duration,
}

impl Thread {
    pub(super) fn new(
        path: PathBuf,
        conn: Connection,
        memory: Memory,
        inbox: mpsc::Receiver<Op>,
        shared: Arc<Shared>,
        options: &Options,
    ) -> Self {
        Self {
            path,
            conn: Some(conn),
            lazy: false,
            memory,
            inbox,
            waiting: VecDeque::new(),
            refused: false,
            shared,
            clock: options.clock.clone(),
            steady: options.clock.steady(),
            group_wait: options.group_wait,
            last: Group::default(),
        }
    }

    /// Writes until the store is closed.
    pub(super) fn run(mut self) {
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
        self.waiting.extend(std::iter::from_fn(|| self.inbox.try_recv().ok()).take(GROUP));
        let began = Instant::now();
        let mut callers = self.waiting.iter().filter(|op| op.is_awaited()).count();
        let expected = callers + self.last.callers;
        while self.waiting.len() < GROUP {
            let patience = match callers {
                0 => self.group_wait,
                _ if self.last.callers > 1 && callers < expected => (self.last.took / 8).min(COMPANY),
                _ => break,
            };
            let left = patience.saturating_sub(began.elapsed());
            let Ok(op) = self.inbox.recv_timeout(left) else { break };
            callers += usize::from(op.is_awaited());
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
        if self.refused
            && let Err(error) = self.sound_out()
        {
            return self.refuse(ops, &error);
        }
        let began = Instant::now();
        let result = self.transact(&mut ops);
        self.last = Group { callers: ops.iter().filter(|op| op.is_awaited()).count(), took: began.elapsed() };
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.refused) {
                    info!("the store can be written again");
                }
                ops.into_iter().for_each(Op::answer);
            }
            Err(error) if is_environment(&error) => self.refuse(ops, &error),
            Err(_) => self.write_singly(ops),
        }
    }

    /// Whether a disk that refused takes anything again. Takes the leases that ran out meanwhile.
    fn sound_out(&mut self) -> rusqlite::Result<()> {
        self.transaction(false, |tx| {
            queue::forfeit(tx)?;
            tx.probe()
        })
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
        // Nobody waits for events alone: they are on the disk with the next thing that somebody waits for, at the latest with
        // their run's end.
        let lazy = !ops.iter().any(Op::is_awaited);
        self.transaction(lazy, |tx| ops.iter_mut().try_for_each(|op| op.apply(tx)))
    }

    /// Commits what `work` does. `lazy`: a power failure may undo it, and all that was lazy just before; the death of this
    /// process may not.
    fn transaction(
        &mut self,
        lazy: bool,
        work: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => {
                self.lazy = false;
                super::connect(&self.path)?
            }
        };
        if self.lazy != lazy {
            conn.pragma_update(None, "synchronous", if lazy { "NORMAL" } else { "FULL" })?;
            self.lazy = lazy;
        }
        #[cfg(test)]
        super::limit(&conn, self.shared.full.load(Ordering::SeqCst))?;
        let mut memory = self.memory;
        (memory.tasks_woken, memory.deliveries_woken) = (false, false);
        let (now, steady) = (self.clock.now_ms(), self.steady.now_ms());
        let mut tx = Tx { conn: &conn, now, steady, memory: &mut memory };
        let result = execute(&conn, "BEGIN IMMEDIATE")
            .and_then(|()| work(&mut tx))
            .and_then(|()| execute(&conn, "COMMIT"));
        match result {
            Ok(()) => {
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
    /// Whether somebody waits for it.
    fn is_awaited(&self) -> bool {
        !matches!(self, Self::Append { .. })
    }

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
            Self::Append { events, .. } => {
                error!(%error, events = events.len(), "events could not be logged")
            }
            Self::Call { call, .. } => call.fail(error),
            Self::Close { .. } => {}
        }
    }
}

fn execute(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}
