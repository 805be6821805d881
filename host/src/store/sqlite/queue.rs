//! The task queue. A session's first open task is `READY` or `RUNNING`, those behind it are `WAITING`; whoever ends
//! the first makes the next one ready, so that nobody ever searches for work.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{CancelOutcome, Claim, Claimed, Lease, StoreError, Submitted, TaskQueue, Turn};
use super::schema::task::{CANCELLED, COMPLETED, FAILED, READY, RUNNING, WAITING};
use super::writer::Tx;
use super::{SqliteStore, int, log, outbox, uint};
use crate::domain::{
    Event, Kind, NewTask, Position, SessionId, TaskId, TaskRecord, TaskState, TaskStatus, millis,
};

#[async_trait]
impl TaskQueue for SqliteStore {
    async fn submit(&self, task: NewTask) -> Result<Submitted, StoreError> {
        let limit = self.queue_limit;
        self.writer.call(task.input.len(), move |tx| submit(tx, &task, limit)).await?
    }

    async fn claim(&self, limit: usize, lease: Duration) -> Result<Claimed<Claim>, StoreError> {
        self.writer.call(0, move |tx| claim(tx, limit, lease)).await
    }

    async fn task_ready(&self) {
        self.writer.task_ready().await;
    }

    async fn renew(&self, lease: Lease, length: Duration) -> Result<Option<String>, StoreError> {
        let renewed = self.writer.call(0, move |tx| renew(tx, lease, length)).await?;
        renewed.ok_or(StoreError::LeaseLost)
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        let held = self.writer.call(0, move |tx| release(tx, lease)).await?;
        held.then_some(()).ok_or(StoreError::LeaseLost)
    }

    async fn finish(&self, lease: Lease, terminal: Event) -> Result<(), StoreError> {
        let held = self.writer.call(terminal.weight(), move |tx| finish(tx, lease, &terminal)).await?;
        held.then_some(()).ok_or(StoreError::LeaseLost)
    }

    async fn cancel(&self, task: TaskId, reason: &str) -> Result<CancelOutcome, StoreError> {
        let reason = reason.to_owned();
        self.writer.call(reason.len(), move |tx| cancel(tx, task, &reason)).await
    }

    async fn status(&self, task: TaskId) -> Result<Option<TaskStatus>, StoreError> {
        self.readers.read(move |conn| status(conn, task)).await
    }

    async fn task(&self, task: TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let sql = format!("{RECORD} WHERE t.id = ?1");
        self.readers
            .read(move |conn| conn.prepare_cached(&sql)?.query_row([task.to_bytes()], record).optional())
            .await
    }

    async fn session_tasks(
        &self,
        session: &SessionId,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<TaskId>, StoreError> {
        let session = session.clone();
        self.readers.read(move |conn| session_tasks(conn, &session, after, limit)).await
    }

    async fn last_task(&self, session: &SessionId) -> Result<Option<TaskId>, StoreError> {
        let session = session.clone();
        let sql = "SELECT id FROM tasks WHERE session = ?1 ORDER BY n DESC LIMIT 1";
        let last = move |conn: &Connection| {
            conn.prepare_cached(sql)?.query_row(params![session.as_key()], |row| id(row, 0)).optional()
        };
        self.readers.read(last).await
    }

    async fn open_tasks(
        &self,
        session: &SessionId,
        before: Option<TaskId>,
    ) -> Result<Vec<TaskId>, StoreError> {
        let session = session.clone();
        self.readers.read(move |conn| open_tasks(conn, &session, before)).await
    }

    async fn turns_before(
        &self,
        task: TaskId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Turn>, StoreError> {
        self.readers.read(move |conn| turns_before(conn, task, limit, max_bytes)).await
    }
}

fn submit(tx: &mut Tx<'_>, task: &NewTask, limit: u64) -> rusqlite::Result<Result<Submitted, StoreError>> {
    if let Some(key) = &task.idempotency_key {
        let sql = "SELECT id, session FROM tasks WHERE adapter = ?1 AND key = ?2";
        let known = |row: &Row<'_>| {
            Ok(Submitted { task: id(row, 0)?, session: log::session(row, 1)?, duplicate: true })
        };
        let mut find = tx.conn.prepare_cached(sql)?;
        if let Some(known) = find.query_row([&task.adapter, key], known).optional()? {
            return Ok(Ok(known));
        }
    }
    let queued = uint(tx.memory.queued);
    if queued >= limit {
        return Ok(Err(StoreError::QueueFull { queued }));
    }
    let session = task.session.as_key();
    let busy = open_head(tx.conn, session)?.is_some();
    let n = tx.memory.next_task;
    tx.memory.next_task += 1;
    tx.memory.queued += 1;
    tx.memory.tasks_woken |= !busy;
    let delivery = match &task.deliver {
        Some(order) => Some(outbox::hold(tx, task, order)?),
        None => None,
    };
    let sql = "INSERT INTO tasks (n, id, adapter, agent, session, key, delivery, state, created_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    tx.conn.prepare_cached(sql)?.execute(params![
        n,
        task.id.to_bytes(),
        task.adapter,
        task.agent,
        session,
        task.idempotency_key,
        delivery,
        if busy { WAITING } else { READY },
        int(tx.now),
    ])?;
    let sql = "INSERT INTO inputs (n, input) VALUES (?1, ?2)";
    tx.conn.prepare_cached(sql)?.execute(params![n, &*task.input])?;
    Ok(Ok(Submitted { task: task.id, session: task.session.clone(), duplicate: false }))
}

/// Tasks whose lease ran out. `+n` keeps SQLite from walking through all tasks in their order to save a sort of few.
pub(super) const EXPIRED: &str =
    "SELECT n FROM tasks WHERE state = 2 AND lease_ms <= ?2 ORDER BY +n LIMIT ?1";
/// Tasks that wait for nothing but a worker.
pub(super) const CLAIMABLE: &str = "SELECT n FROM tasks WHERE state = 1 ORDER BY n LIMIT ?1";
/// A session's first open task, and its state.
pub(super) const HEAD: &str =
    "SELECT n, state FROM tasks WHERE session = ?1 AND state <= 2 ORDER BY n LIMIT 1";

fn claim(tx: &mut Tx<'_>, limit: usize, lease: Duration) -> rusqlite::Result<Claimed<Claim>> {
    let most = int(limit as u64);
    let places = |sql: &str, params: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<Vec<i64>> {
        tx.conn.prepare_cached(sql)?.query_map(params, |row| row.get(0))?.collect()
    };
    let expired = places(EXPIRED, &[&most, &int(tx.steady)])?;
    let ready = places(CLAIMABLE, &[&most])?;
    let mut found: Vec<(i64, bool)> =
        expired.into_iter().map(|n| (n, true)).chain(ready.into_iter().map(|n| (n, false))).collect();
    found.sort_unstable();
    found.truncate(limit);
    // Whoever waits for work beside this caller should look as well.
    tx.memory.tasks_woken |= limit > 0 && found.len() == limit;

    let mut items = Vec::with_capacity(found.len());
    for (n, died) in found {
        let sql =
            "UPDATE tasks SET state = 2, attempt = attempt + 1, deaths = deaths + ?2, token = token + 1,
                   lease_ms = ?3, started_ms = ?4 WHERE n = ?1";
        let until = int(tx.steady.saturating_add(millis(lease)));
        tx.conn.prepare_cached(sql)?.execute(params![n, died, until, int(tx.now)])?;
        let (claim, delivery) =
            tx.conn.prepare_cached(&format!("{RECORD} WHERE t.n = ?1"))?.query_row([n], |row| {
                let task = record(row)?;
                let lease = Lease { task: task.id, token: uint(row.get("token")?) };
                let claim = Claim { lease, task, cancel: row.get("cancel")? };
                Ok((claim, row.get::<_, Option<i64>>("delivery")?))
            })?;
        if !died {
            tx.memory.queued -= 1;
            tx.memory.running += 1;
        }
        if let Some(delivery) = delivery {
            outbox::reached(tx, delivery, outbox::Reached::Start)?;
        }
        items.push(claim);
    }
    let sql = "SELECT min(lease_ms) FROM tasks WHERE state = 2";
    let next: Option<i64> = tx.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let next_due = next.map(|at| Duration::from_millis(uint(at).saturating_sub(tx.steady)));
    Ok(Claimed { items, next_due })
}

fn renew(tx: &mut Tx<'_>, lease: Lease, length: Duration) -> rusqlite::Result<Option<Option<String>>> {
    let sql = "UPDATE tasks SET lease_ms = ?3 WHERE id = ?1 AND token = ?2 AND state = 2 RETURNING cancel";
    let until = int(tx.steady.saturating_add(millis(length)));
    tx.conn
        .prepare_cached(sql)?
        .query_row(params![lease.task.to_bytes(), int(lease.token), until], |row| row.get(0))
        .optional()
}

/// Takes all leases that ran out, as a claim does, and leaves the tasks to the next one.
pub(super) fn forfeit(tx: &mut Tx<'_>) -> rusqlite::Result<()> {
    let sql = "UPDATE tasks SET state = 1, deaths = deaths + 1, token = token + 1, lease_ms = NULL
               WHERE state = 2 AND lease_ms <= ?1";
    let forfeited = tx.conn.prepare_cached(sql)?.execute([int(tx.steady)])?;
    tx.memory.running -= int(forfeited as u64);
    tx.memory.queued += int(forfeited as u64);
    tx.memory.tasks_woken |= forfeited > 0;
    Ok(())
}

fn release(tx: &mut Tx<'_>, lease: Lease) -> rusqlite::Result<bool> {
    let sql = "UPDATE tasks SET state = 1, lease_ms = NULL WHERE id = ?1 AND token = ?2 AND state = 2";
    let held = tx.conn.prepare_cached(sql)?.execute(params![lease.task.to_bytes(), int(lease.token)])? > 0;
    if held {
        tx.memory.running -= 1;
        tx.memory.queued += 1;
        tx.memory.tasks_woken = true;
    }
    Ok(held)
}

fn finish(tx: &mut Tx<'_>, lease: Lease, terminal: &Event) -> rusqlite::Result<bool> {
    let sql = "SELECT n, session, delivery FROM tasks WHERE id = ?1 AND token = ?2 AND state = 2";
    let held = tx
        .conn
        .prepare_cached(sql)?
        .query_row(params![lease.task.to_bytes(), int(lease.token)], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((n, session, delivery)) = held else { return Ok(false) };
    tx.memory.running -= 1;
    end(tx, n, terminal)?;
    after_end(tx, &session, delivery)?;
    Ok(true)
}

fn cancel(tx: &mut Tx<'_>, task: TaskId, reason: &str) -> rusqlite::Result<CancelOutcome> {
    let sql = "SELECT n, session, delivery, state, attempt, agent FROM tasks WHERE id = ?1";
    let found = tx
        .conn
        .prepare_cached(sql)?
        .query_row([task.to_bytes()], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                log::session(row, 1)?,
                row.get(2)?,
                row.get(3)?,
                row.get::<_, u32>(4)?,
                row.get(5)?,
            ))
        })
        .optional()?;
    let Some((n, session, delivery, state, attempt, agent)) = found else {
        return Ok(CancelOutcome::Unknown);
    };
    match state {
        WAITING | READY => {
            let event = Event {
                task,
                session,
                position: Position { attempt: attempt.saturating_add(1), seq: 1 },
                kind: Kind::Cancelled,
                at_ms: tx.now,
                data: serde_json::json!({ "reason": reason }).to_string().into(),
            };
            tx.memory.queued -= 1;
            end(tx, n, &event)?;
            after_end(tx, event.session.as_key(), delivery)?;
            Ok(CancelOutcome::Cancelled { agent, event: Box::new(event) })
        }
        RUNNING => {
            let sql = "UPDATE tasks SET cancel = ?2 WHERE n = ?1 AND cancel IS NULL";
            tx.conn.prepare_cached(sql)?.execute(params![n, reason])?;
            Ok(CancelOutcome::Running)
        }
        _ => Ok(CancelOutcome::Ended),
    }
}

fn end(tx: &Tx<'_>, n: i64, terminal: &Event) -> rusqlite::Result<()> {
    let state = match terminal.kind {
        Kind::Completed => COMPLETED,
        Kind::Cancelled => CANCELLED,
        _ => FAILED,
    };
    let sql = "UPDATE tasks SET state = ?2, lease_ms = NULL, ended_ms = ?3, end_attempt = ?4, end_seq = ?5,
               end_data = ?6 WHERE n = ?1";
    let Position { attempt, seq } = terminal.position;
    tx.conn
        .prepare_cached(sql)?
        .execute(params![n, state, int(terminal.at_ms), attempt, int(seq), &*terminal.data])
        .map(drop)
}

/// A task of the session has ended: its delivery's moment has come, and the next turn's.
fn after_end(tx: &mut Tx<'_>, session: &str, delivery: Option<i64>) -> rusqlite::Result<()> {
    if let Some(delivery) = delivery {
        outbox::reached(tx, delivery, outbox::Reached::End)?;
    }
    if let Some((next, WAITING)) = open_head(tx.conn, session)? {
        tx.conn.prepare_cached("UPDATE tasks SET state = 1 WHERE n = ?1")?.execute([next])?;
        tx.memory.tasks_woken = true;
    }
    Ok(())
}

/// The session's first open task, and its state.
fn open_head(conn: &Connection, session: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    conn.prepare_cached(HEAD)?.query_row([session], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn session_tasks(
    conn: &Connection,
    session: &SessionId,
    after: Option<TaskId>,
    limit: usize,
) -> rusqlite::Result<Vec<TaskId>> {
    let key = session.as_key();
    let place = match after {
        None => Some(0),
        Some(after) => conn
            .prepare_cached("SELECT n FROM tasks WHERE id = ?1 AND session = ?2")?
            .query_row(params![after.to_bytes(), key], |row| row.get::<_, i64>(0))
            .optional()?,
    };
    let limit = int(limit as u64);
    match (place, after) {
        (None, Some(after)) => {
            // It is forgotten; ids sort by time, so those after it are the larger ones.
            let sql = "SELECT id FROM tasks WHERE session = ?1 AND id > ?2 ORDER BY n LIMIT ?3";
            conn.prepare_cached(sql)?
                .query_map(params![key, after.to_bytes(), limit], |row| id(row, 0))?
                .collect()
        }
        (place, _) => {
            let sql = "SELECT id FROM tasks WHERE session = ?1 AND n > ?2 ORDER BY n LIMIT ?3";
            conn.prepare_cached(sql)?
                .query_map(params![key, place.unwrap_or(0), limit], |row| id(row, 0))?
                .collect()
        }
    }
}

fn open_tasks(
    conn: &Connection,
    session: &SessionId,
    before: Option<TaskId>,
) -> rusqlite::Result<Vec<TaskId>> {
    let sql = "SELECT id FROM tasks WHERE session = ?1 AND state <= 2
               AND (?2 IS NULL OR n < (SELECT n FROM tasks WHERE id = ?2)) ORDER BY n";
    let before = before.map(TaskId::to_bytes);
    conn.prepare_cached(sql)?.query_map(params![session.as_key(), before], |row| id(row, 0))?.collect()
}

fn turns_before(
    conn: &Connection,
    task: TaskId,
    limit: usize,
    max_bytes: usize,
) -> rusqlite::Result<Vec<Turn>> {
    // `octet_length` knows the size of a text that it does not read.
    let sql = "SELECT t.n, octet_length(i.input) + octet_length(t.end_data)
               FROM tasks t JOIN inputs i ON i.n = t.n, (SELECT n, session FROM tasks WHERE id = ?1) this
               WHERE t.session = this.session AND t.n < this.n AND t.state = 3
               ORDER BY t.n DESC LIMIT ?2";
    let mut sizes = conn.prepare_cached(sql)?;
    let sizes = sizes.query_map(params![task.to_bytes(), int(limit as u64)], |row| {
        Ok((row.get::<_, i64>(0)?, uint(row.get(1)?)))
    })?;
    let sql = "SELECT t.id, i.input, t.end_data FROM tasks t JOIN inputs i ON i.n = t.n WHERE t.n = ?1";
    let mut read = conn.prepare_cached(sql)?;
    let mut left = max_bytes as u64;
    let mut turns = Vec::new();
    for size in sizes {
        let (n, bytes) = size?;
        let Some(rest) = left.checked_sub(bytes) else { break };
        left = rest;
        turns.push(read.query_row([n], |row| {
            Ok(Turn { task: id(row, 0)?, input: row.get(1)?, completed: row.get(2)? })
        })?);
    }
    turns.reverse();
    Ok(turns)
}

fn status(conn: &Connection, task: TaskId) -> rusqlite::Result<Option<TaskStatus>> {
    let sql = "SELECT adapter, agent, session, state, end_attempt, end_seq FROM tasks WHERE id = ?1";
    let status = |row: &Row<'_>| {
        let end = match row.get(4)? {
            Some(attempt) => Some(Position { attempt, seq: uint(row.get(5)?) }),
            None => None,
        };
        Ok(TaskStatus {
            adapter: row.get(0)?,
            agent: row.get(1)?,
            session: log::session(row, 2)?,
            state: state(row, 3)?,
            end,
        })
    };
    conn.prepare_cached(sql)?.query_row([task.to_bytes()], status).optional()
}

/// All of a task; [`record`] reads it.
const RECORD: &str =
    "SELECT t.id, t.session, t.state, t.ended_ms, t.end_attempt, t.end_seq, t.end_data, t.adapter,
                      t.agent, t.attempt, t.deaths, t.created_ms, t.started_ms, t.token, t.cancel, t.delivery,
                      i.input FROM tasks t JOIN inputs i ON i.n = t.n";

fn record(row: &Row<'_>) -> rusqlite::Result<TaskRecord> {
    let (id, session) = (id(row, 0)?, log::session(row, 1)?);
    let end = log::end(row, id, &session, 2)?;
    let state = state(row, 2)?;
    Ok(TaskRecord {
        id,
        adapter: row.get(7)?,
        agent: row.get(8)?,
        input: row.get(16)?,
        state,
        attempt: row.get(9)?,
        deaths: row.get(10)?,
        created_ms: uint(row.get(11)?),
        started_ms: row.get::<_, Option<i64>>(12)?.map(uint),
        ended_ms: row.get::<_, Option<i64>>(3)?.map(uint),
        session,
        end,
    })
}

fn state(row: &Row<'_>, at: usize) -> rusqlite::Result<TaskState> {
    Ok(match row.get(at)? {
        WAITING | READY => TaskState::Queued,
        RUNNING => TaskState::Running,
        COMPLETED => TaskState::Completed,
        CANCELLED => TaskState::Cancelled,
        _ => TaskState::Failed,
    })
}

fn id(row: &Row<'_>, at: usize) -> rusqlite::Result<TaskId> {
    Ok(TaskId::from_bytes(row.get(at)?))
}
