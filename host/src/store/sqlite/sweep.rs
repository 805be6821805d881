//! Forgetting. Goes through what has ended in the order of its end, a portion an operation, so that others' writes go
//! in between.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::super::{Retention, StoreError, Swept};
use super::int;
use super::kv::add_usage;
use super::writer::{Tx, Writer};
use crate::domain::millis;

/// Rows that one operation looks at and removes, about.
const ROWS: i64 = 500;
/// Bytes that one operation removes, about. Others' writes wait for as long as that takes.
const BYTES: i64 = 4 << 20;

/// What one operation may still remove.
struct Portion {
    rows: i64,
    bytes: i64,
}

impl Portion {
    fn new() -> Self {
        Self { rows: ROWS, bytes: BYTES }
    }

    fn take(&mut self, bytes: i64) {
        self.rows -= 1;
        self.bytes -= bytes;
    }

    fn is_used_up(&self) -> bool {
        self.rows <= 0 || self.bytes <= 0
    }
}

/// A place in the order of ending.
type Place = (i64, i64);

/// Removes what is older than its retention.
pub(super) async fn sweep(writer: &Writer, retention: Retention) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    let keep = retention.events;
    while let Some(removed) = writer.call(0, move |tx| events(tx, keep)).await? {
        swept.events += removed;
    }
    let keep = retention.tasks;
    let mut after = Some((0, 0));
    while let Some(place) = after {
        let (tasks, events, next) = writer.call(0, move |tx| tasks(tx, keep, place)).await?;
        swept.tasks += tasks;
        swept.events += events;
        after = next;
    }
    loop {
        let removed = writer.call(0, move |tx| deliveries(tx, keep)).await?;
        swept.deliveries += removed;
        if removed == 0 {
            break;
        }
    }
    loop {
        let removed = writer.call(0, expired).await?;
        swept.kv += removed;
        if removed == 0 {
            break;
        }
    }
    Ok(swept)
}

/// Removes a portion of the events of tasks that ended long ago. None: there is nothing more. How far the tasks are
/// done is noted, so that none is looked at again.
pub(super) fn events(tx: &mut Tx<'_>, keep: Duration) -> rusqlite::Result<Option<u64>> {
    let done: Place = (mark(tx, "swept_ms")?, mark(tx, "swept_n")?);
    let sql = "SELECT ended_ms, n FROM tasks WHERE ended_ms IS NOT NULL AND ended_ms <= ?1
               AND (ended_ms, n) > (?2, ?3) ORDER BY ended_ms, n LIMIT ?4";
    let before = int(tx.now.saturating_sub(millis(keep)));
    let ended: Vec<Place> = tx
        .conn
        .prepare_cached(sql)?
        .query_map(params![before, done.0, done.1, ROWS], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut portion = Portion::new();
    let mut removed = 0;
    let mut reached = None;
    for place in &ended {
        let (count, whole) = task_events(tx, place.1, &mut portion)?;
        removed += count;
        if !whole {
            break;
        }
        reached = Some(*place);
    }
    if let Some((ms, n)) = reached {
        set_mark(tx, "swept_ms", ms)?;
        set_mark(tx, "swept_n", n)?;
    }
    Ok((!ended.is_empty()).then_some(removed))
}

/// Removes a task's events as far as the portion reaches; true: that was all.
fn task_events(tx: &Tx<'_>, n: i64, portion: &mut Portion) -> rusqlite::Result<(u64, bool)> {
    let sql = "SELECT attempt, seq, octet_length(data) FROM events WHERE task = ?1 ORDER BY attempt, seq";
    let mut statement = tx.conn.prepare_cached(sql)?;
    let mut rows = statement.query([n])?;
    let mut whole = true;
    let mut last: Option<Place> = None;
    while let Some(row) = rows.next()? {
        if portion.is_used_up() {
            whole = false;
            break;
        }
        portion.take(row.get(2)?);
        last = Some((row.get(0)?, row.get(1)?));
    }
    drop(rows);
    let Some((attempt, seq)) = last else { return Ok((0, whole)) };
    let sql = "DELETE FROM events WHERE task = ?1 AND (attempt, seq) <= (?2, ?3)";
    let removed = tx.conn.prepare_cached(sql)?.execute([n, attempt, seq])?;
    Ok((removed as u64, whole))
}

/// Removes a portion of the tasks that ended long ago; those with a delivery under way stay. Returns how many tasks and
/// events, and the place to go on from; none: there is nothing more.
pub(super) fn tasks(
    tx: &mut Tx<'_>,
    keep: Duration,
    after: Place,
) -> rusqlite::Result<(u64, u64, Option<Place>)> {
    let sql = "SELECT t.ended_ms, t.n, o.id IS NOT NULL, octet_length(i.input) + octet_length(t.end_data)
               FROM tasks t JOIN inputs i ON i.n = t.n
               LEFT JOIN outbox o ON o.id = t.delivery AND o.state <= 3
               WHERE t.ended_ms IS NOT NULL AND t.ended_ms <= ?1 AND (t.ended_ms, t.n) > (?2, ?3)
               ORDER BY t.ended_ms, t.n LIMIT ?4";
    let before = int(tx.now.saturating_sub(millis(keep)));
    let ended: Vec<(Place, bool, i64)> = tx
        .conn
        .prepare_cached(sql)?
        .query_map(params![before, after.0, after.1, ROWS / 4], |row| {
            Ok(((row.get(0)?, row.get(1)?), row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut portion = Portion::new();
    let (mut removed, mut events, mut last) = (0, 0, None);
    for (place, delivering, bytes) in ended {
        let n = place.1;
        if !delivering {
            let (count, whole) = task_events(tx, n, &mut portion)?;
            events += count;
            if !whole || portion.is_used_up() {
                // The rest of it is the next portion's.
                return Ok((removed, events, Some(last.unwrap_or(after))));
            }
            portion.take(bytes);
            tx.conn.prepare_cached("DELETE FROM inputs WHERE n = ?1")?.execute([n])?;
            tx.conn.prepare_cached("DELETE FROM tasks WHERE n = ?1")?.execute([n])?;
            removed += 1;
        }
        last = Some(place);
    }
    Ok((removed, events, last))
}

/// Removes a portion of the deliveries that were settled long ago, with their keys.
pub(super) fn deliveries(tx: &mut Tx<'_>, keep: Duration) -> rusqlite::Result<u64> {
    let sql = "SELECT o.id, o.state = 5, coalesce(octet_length(b.body), octet_length(o.address), 0)
               FROM outbox o LEFT JOIN bodies b ON b.id = o.id
               WHERE o.settled_ms IS NOT NULL AND o.settled_ms <= ?1 ORDER BY o.settled_ms LIMIT ?2";
    let before = int(tx.now.saturating_sub(millis(keep)));
    let settled: Vec<(i64, bool, i64)> = tx
        .conn
        .prepare_cached(sql)?
        .query_map([before, ROWS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut portion = Portion::new();
    let mut removed = 0;
    for (id, dead, bytes) in settled {
        if portion.is_used_up() {
            break;
        }
        portion.take(bytes);
        tx.conn.prepare_cached("DELETE FROM bodies WHERE id = ?1")?.execute([id])?;
        tx.conn.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
        tx.memory.dead -= i64::from(dead);
        removed += 1;
    }
    Ok(removed)
}

/// Removes a portion of the expired kv entries.
pub(super) fn expired(tx: &mut Tx<'_>) -> rusqlite::Result<u64> {
    let sql = "SELECT rowid, owner, octet_length(key) + octet_length(value) FROM kv
               WHERE expires_ms <= ?1 LIMIT ?2";
    let gone: Vec<(i64, String, i64)> = tx
        .conn
        .prepare_cached(sql)?
        .query_map([int(tx.now), ROWS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut portion = Portion::new();
    let mut removed = 0;
    for (rowid, owner, bytes) in gone {
        if portion.is_used_up() {
            break;
        }
        portion.take(bytes);
        tx.conn.prepare_cached("DELETE FROM kv WHERE rowid = ?1")?.execute([rowid])?;
        add_usage(tx, &owner, -bytes)?;
        removed += 1;
    }
    Ok(removed)
}

fn mark(tx: &Tx<'_>, name: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT value FROM meta WHERE name = ?1";
    Ok(tx.conn.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn set_mark(tx: &Tx<'_>, name: &str, value: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
    tx.conn.prepare_cached(sql)?.execute(params![name, value]).map(drop)
}
