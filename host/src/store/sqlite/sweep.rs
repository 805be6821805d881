//! Forgetting. Goes through what has ended in the order of its end, a portion an operation, so that others' writes go
//! in between.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::super::{Retention, StoreError, Swept};
use super::kv::add_usage;
use super::writer::{Tx, Writer};
use super::{int, millis, uint};

/// Rows that one operation removes, about.
const PORTION: i64 = 500;

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
fn events(tx: &mut Tx<'_>, keep: Duration) -> rusqlite::Result<Option<u64>> {
    let done: Place = (mark(tx, "swept_ms")?, mark(tx, "swept_n")?);
    let sql = "SELECT ended_ms, n FROM tasks WHERE ended_ms IS NOT NULL AND ended_ms <= ?1
               AND (ended_ms, n) > (?2, ?3) ORDER BY ended_ms, n LIMIT ?4";
    let before = int(tx.now.saturating_sub(millis(keep)));
    let ended: Vec<Place> = tx
        .conn
        .prepare_cached(sql)?
        .query_map(params![before, done.0, done.1, PORTION], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut removed = 0;
    let mut reached = None;
    for place in &ended {
        let (count, whole) = task_events(tx, place.1, PORTION - removed)?;
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
    Ok((!ended.is_empty()).then_some(uint(removed)))
}

/// Removes up to `most` (at least one) events of a task; true: that was all.
fn task_events(tx: &Tx<'_>, n: i64, most: i64) -> rusqlite::Result<(i64, bool)> {
    let sql = "SELECT attempt, seq FROM events WHERE task = ?1 ORDER BY attempt, seq LIMIT 1 OFFSET ?2";
    let last: Option<Place> = tx
        .conn
        .prepare_cached(sql)?
        .query_row([n, most.max(1)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let removed = match last {
        Some((attempt, seq)) => {
            let sql = "DELETE FROM events WHERE task = ?1 AND (attempt, seq) < (?2, ?3)";
            tx.conn.prepare_cached(sql)?.execute([n, attempt, seq])?
        }
        None => tx.conn.prepare_cached("DELETE FROM events WHERE task = ?1")?.execute([n])?,
    };
    Ok((int(removed as u64), last.is_none()))
}

/// Removes a portion of the tasks that ended long ago; those with a delivery under way stay.
fn tasks(tx: &mut Tx<'_>, keep: Duration, after: Place) -> rusqlite::Result<(u64, u64, Option<Place>)> {
    let sql = "SELECT t.ended_ms, t.n, o.id IS NOT NULL FROM tasks t
               LEFT JOIN outbox o ON o.id = t.delivery AND o.state <= 3
               WHERE t.ended_ms IS NOT NULL AND t.ended_ms <= ?1 AND (t.ended_ms, t.n) > (?2, ?3)
               ORDER BY t.ended_ms, t.n LIMIT ?4";
    let before = int(tx.now.saturating_sub(millis(keep)));
    let ended: Vec<(Place, bool)> = tx
        .conn
        .prepare_cached(sql)?
        .query_map(params![before, after.0, after.1, PORTION / 4], |row| {
            Ok(((row.get(0)?, row.get(1)?), row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let (mut removed, mut events, mut last) = (0, 0, None);
    for (place, delivering) in ended {
        let n = place.1;
        if !delivering {
            let (count, whole) = task_events(tx, n, PORTION)?;
            events += uint(count);
            if !whole {
                // The rest of its events is the next portion's.
                return Ok((removed, events, Some(last.unwrap_or(after))));
            }
            tx.conn.prepare_cached("DELETE FROM inputs WHERE n = ?1")?.execute([n])?;
            tx.conn.prepare_cached("DELETE FROM tasks WHERE n = ?1")?.execute([n])?;
            removed += 1;
        }
        last = Some(place);
    }
    Ok((removed, events, last))
}

/// Removes a portion of the deliveries that were settled long ago, with their keys.
fn deliveries(tx: &mut Tx<'_>, keep: Duration) -> rusqlite::Result<u64> {
    let sql = "DELETE FROM outbox WHERE id IN
                 (SELECT id FROM outbox WHERE settled_ms IS NOT NULL AND settled_ms <= ?1 ORDER BY settled_ms LIMIT ?2)
               RETURNING id, state = 5";
    let before = int(tx.now.saturating_sub(millis(keep)));
    let gone: Vec<(i64, bool)> = tx
        .conn
        .prepare_cached(sql)?
        .query_map([before, PORTION], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (id, dead) in &gone {
        tx.conn.prepare_cached("DELETE FROM bodies WHERE id = ?1")?.execute([id])?;
        tx.memory.dead -= i64::from(*dead);
    }
    Ok(gone.len() as u64)
}

/// Removes a portion of the expired kv entries.
fn expired(tx: &mut Tx<'_>) -> rusqlite::Result<u64> {
    let sql = "DELETE FROM kv WHERE rowid IN (SELECT rowid FROM kv WHERE expires_ms <= ?1 LIMIT ?2)
               RETURNING owner, length(CAST(key AS BLOB)) + length(value)";
    let gone: Vec<(String, i64)> = tx
        .conn
        .prepare_cached(sql)?
        .query_map([int(tx.now), PORTION], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (owner, bytes) in &gone {
        add_usage(tx, owner, -bytes)?;
    }
    Ok(gone.len() as u64)
}

fn mark(tx: &Tx<'_>, name: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT value FROM meta WHERE name = ?1";
    Ok(tx.conn.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn set_mark(tx: &Tx<'_>, name: &str, value: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
    tx.conn.prepare_cached(sql)?.execute(params![name, value]).map(drop)
}
