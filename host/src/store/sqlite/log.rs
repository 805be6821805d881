//! The event log. A task's terminal event is a part of its row and is read as the last of its events.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{EventLog, StoreError};
use super::schema::task;
use super::writer::Tx;
use super::{SqliteStore, int, uint};
use crate::domain::{Event, Kind, Position, SessionId, TaskId};

/// Bytes of event data after which a read says what it has.
const PAGE_BYTES: usize = 256 << 10;

#[async_trait]
impl EventLog for SqliteStore {
    async fn append(&self, events: Vec<Arc<Event>>) -> Result<(), StoreError> {
        self.writer.append(events).await
    }

    async fn read(&self, task: TaskId, after: Position, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.readers.read(move |conn| read(conn, task, after, limit)).await
    }
}

/// Adds events, those of one task one behind the other. What does not belong to a task's present run is left out.
pub(super) fn append(tx: &mut Tx<'_>, events: &[Arc<Event>]) -> rusqlite::Result<()> {
    let mut find = tx.conn.prepare_cached("SELECT n, attempt FROM tasks WHERE id = ?1 AND state = 2")?;
    let mut insert = tx.conn.prepare_cached(
        "INSERT OR IGNORE INTO events (task, attempt, seq, kind, at_ms, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for events in events.chunk_by(|a, b| a.task == b.task) {
        let run =
            find.query_row([events[0].task.to_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((n, attempt)): Option<(i64, u32)> = run else { continue };
        for event in events.iter().filter(|event| event.position.attempt == attempt) {
            let Position { attempt, seq } = event.position;
            insert.execute(params![
                n,
                attempt,
                int(seq),
                event.kind.as_str(),
                int(event.at_ms),
                &*event.data
            ])?;
            if event.kind == Kind::Started {
                let sql = "UPDATE tasks SET run_from = ?2 WHERE n = ?1";
                tx.conn.prepare_cached(sql)?.execute(params![n, attempt])?;
            }
        }
    }
    Ok(())
}

fn read(conn: &Connection, id: TaskId, after: Position, limit: usize) -> rusqlite::Result<Vec<Event>> {
    let sql = "SELECT n, run_from, session, end_seq IS NOT NULL FROM tasks WHERE id = ?1";
    let found = conn
        .prepare_cached(sql)?
        .query_row([id.to_bytes()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?, session(row, 2)?, row.get::<_, bool>(3)?))
        })
        .optional()?;
    let Some((n, run_from, session, ended)) = found else { return Ok(Vec::new()) };
    let from = after.max(Position { attempt: run_from, seq: 0 });
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut statement = conn.prepare_cached(
        "SELECT attempt, seq, kind, at_ms, data FROM events
         WHERE task = ?1 AND (attempt, seq) > (?2, ?3) ORDER BY attempt, seq LIMIT ?4",
    )?;
    let mut rows = statement.query(params![n, from.attempt, int(from.seq), int(limit as u64)])?;
    while let Some(row) = rows.next()? {
        let data: Box<str> = row.get(4)?;
        bytes += data.len();
        events.push(Event {
            task: id,
            session: session.clone(),
            position: Position { attempt: row.get(0)?, seq: uint(row.get(1)?) },
            kind: Kind::from(row.get_ref(2)?.as_str()?),
            at_ms: uint(row.get(3)?),
            data,
        });
        if bytes >= PAGE_BYTES {
            return Ok(events);
        }
    }
    // A task that had ended before its events were read has no others: its terminal event is next. Its data, which
    // holds the whole answer, is read with the last page only.
    if ended && events.len() < limit {
        let sql = "SELECT state, ended_ms, end_attempt, end_seq, end_data FROM tasks WHERE n = ?1";
        let terminal =
            conn.prepare_cached(sql)?.query_row([n], |row| end(row, id, &session, 0)).optional()?.flatten();
        events.extend(terminal.filter(|end| end.position > after));
    }
    Ok(events)
}

/// The session in a column.
pub(super) fn session(row: &Row<'_>, at: usize) -> rusqlite::Result<SessionId> {
    let text = rusqlite::types::Type::Text;
    SessionId::from_key(row.get_ref(at)?.as_str()?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(at, text, Box::new(e)))
}

/// The terminal event in the columns `state, ended_ms, end_attempt, end_seq, end_data`.
pub(super) fn end(
    row: &Row<'_>,
    task: TaskId,
    session: &SessionId,
    at: usize,
) -> rusqlite::Result<Option<Event>> {
    let kind = match row.get(at)? {
        task::COMPLETED => Kind::Completed,
        task::FAILED => Kind::Failed,
        task::CANCELLED => Kind::Cancelled,
        _ => return Ok(None),
    };
    Ok(Some(Event {
        task,
        session: session.clone(),
        position: Position { attempt: row.get(at + 2)?, seq: uint(row.get(at + 3)?) },
        kind,
        at_ms: uint(row.get(at + 1)?),
        data: row.get(at + 4)?,
    }))
}
