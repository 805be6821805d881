//! The outbox. Every open delivery has a place in its lane, and only the lane's first is `READY` or `LEASED`; whoever
//! settles the first makes the next one ready if its moment has come.
//!
//! A plugin delivery's place is its turn, and it keeps it. A webhook's place is the time from which it may go, and 0 while
//! it is leased: a retry moves it behind those that may go before.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{
    Claimed, DeadLetter, Delivery, DeliveryId, DeliveryLease, DeliveryTarget, Except, NewWebhook, Outbox,
    Settlement, StoreError,
};
use super::schema::delivery::{DEAD, DONE, HELD, LEASED, READY, WAITING};
use super::writer::Tx;
use super::{SqliteStore, int, log, uint};
use crate::domain::{DeliveryOrder, Moment, NewTask, TaskId, millis};

#[async_trait]
impl Outbox for SqliteStore {
    async fn enqueue_webhook(&self, webhook: NewWebhook) -> Result<bool, StoreError> {
        self.writer.call(webhook.body.len(), move |tx| enqueue(tx, &webhook)).await
    }

    async fn claim_deliveries(
        &self,
        limit: usize,
        lease: Duration,
        except: &Except,
    ) -> Result<Claimed<Delivery>, StoreError> {
        let except = except.clone();
        self.writer.call(0, move |tx| claim(tx, limit, lease, &except)).await
    }

    async fn delivery_ready(&self) {
        self.writer.delivery_ready().await;
    }

    async fn renew_delivery(&self, lease: DeliveryLease, length: Duration) -> Result<(), StoreError> {
        let renew = move |tx: &mut Tx<'_>| {
            let sql = "UPDATE outbox SET due_ms = ?3 WHERE id = ?1 AND token = ?2 AND state = 3";
            let until = int(tx.steady.saturating_add(millis(length)));
            tx.conn.prepare_cached(sql)?.execute(params![int(lease.id.0), int(lease.token), until])
        };
        let held = self.writer.call(0, renew).await?;
        (held > 0).then_some(()).ok_or(StoreError::LeaseLost)
    }

    async fn settle(&self, lease: DeliveryLease, settlement: Settlement) -> Result<(), StoreError> {
        let held = self.writer.call(0, move |tx| settle(tx, lease, &settlement)).await?;
        held.then_some(()).ok_or(StoreError::LeaseLost)
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.readers
            .read(move |conn| {
                let sql = format!(
                    "{ROW} WHERE o.state = 5
                     ORDER BY o.settled_ms DESC, o.id DESC LIMIT ?1"
                );
                let letter = |row: &Row<'_>| {
                    Ok(DeadLetter {
                        id: DeliveryId(uint(row.get("id")?)),
                        target: target(row)?,
                        attempts: row.get("attempts")?,
                        error: row.get::<_, Option<String>>("error")?.unwrap_or_default(),
                        died_ms: uint(row.get("settled_ms")?),
                    })
                };
                conn.prepare_cached(&sql)?.query_map([int(limit as u64)], letter)?.collect()
            })
            .await
    }

    async fn replay(&self, id: DeliveryId) -> Result<bool, StoreError> {
        self.writer.call(0, move |tx| replay(tx, id)).await
    }
}

/// Deliveries of a plugin whose time has come; the index has all of it.
pub(super) const DUE: &str =
    "SELECT due_ms, id, origin FROM outbox WHERE plugin = ?1 AND due_ms <= ?2 ORDER BY due_ms LIMIT ?3";
/// The first open delivery of a lane: its state and its place.
pub(super) const HEAD: &str =
    "SELECT id, state, place FROM outbox WHERE lane = ?1 AND state <= 3 ORDER BY place LIMIT 1";

/// What has happened to the task of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// A run begins.
    Start,
    /// It has ended.
    End,
}

/// Puts in the delivery of a task that is being accepted.
pub(super) fn hold(tx: &mut Tx<'_>, task: &NewTask, order: &DeliveryOrder) -> rusqlite::Result<i64> {
    let place = tx.memory.next_place;
    tx.memory.next_place += 1;
    let session = task.session.as_key();
    let sql = "INSERT INTO outbox (lane, place, state, since_ms, plugin, task, session, address, moment)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    tx.conn.prepare_cached(sql)?.execute(params![
        format!("s/{session}"),
        place,
        HELD,
        int(tx.now),
        task.adapter,
        task.id.to_bytes(),
        session,
        order.address,
        moment(order.at),
    ])?;
    Ok(tx.conn.last_insert_rowid())
}

fn moment(at: Moment) -> i64 {
    match at {
        Moment::Start => 0,
        Moment::End => 1,
    }
}

/// Makes a task's delivery due if this is its moment, or its moment has passed.
pub(super) fn reached(tx: &mut Tx<'_>, id: i64, what: Reached) -> rusqlite::Result<()> {
    let latest = if what == Reached::Start { moment(Moment::Start) } else { moment(Moment::End) };
    let sql = "UPDATE outbox SET state = 1, since_ms = ?3
               WHERE id = ?1 AND state = 0 AND moment <= ?2 RETURNING lane";
    let now = int(tx.now);
    let lane: Option<String> =
        tx.conn.prepare_cached(sql)?.query_row([id, latest, now], |row| row.get(0)).optional()?;
    if let Some(lane) = lane {
        tx.memory.deliveries += 1;
        advance(tx, &lane)?;
    }
    Ok(())
}

/// Lets the lane's first delivery go if it waits.
fn advance(tx: &mut Tx<'_>, lane: &str) -> rusqlite::Result<()> {
    if let Some(Head { id, state: WAITING, place }) = head(tx.conn, lane)? {
        let now = int(tx.steady);
        let due = if lane.starts_with(WEBHOOKS) { place.max(now) } else { now };
        let sql = "UPDATE outbox SET state = 2, due_ms = ?2 WHERE id = ?1";
        tx.conn.prepare_cached(sql)?.execute([id, due])?;
        tx.memory.deliveries_woken = true;
    }
    Ok(())
}

/// Lets a webhook take its place in its lane, which may be before the one that was first until then.
fn take_place(tx: &mut Tx<'_>, lane: &str, before: Option<Head>) -> rusqlite::Result<()> {
    if let Some(Head { id, state: READY, .. }) = before
        && head(tx.conn, lane)?.is_some_and(|head| head.id != id)
    {
        let sql = "UPDATE outbox SET state = 1, due_ms = NULL WHERE id = ?1";
        tx.conn.prepare_cached(sql)?.execute([id])?;
    }
    advance(tx, lane)
}

/// What the lanes of webhooks begin with.
const WEBHOOKS: &str = "w/";

/// The first open delivery of a lane.
struct Head {
    id: i64,
    state: i64,
    place: i64,
}

fn head(conn: &Connection, lane: &str) -> rusqlite::Result<Option<Head>> {
    let head = |row: &Row<'_>| Ok(Head { id: row.get(0)?, state: row.get(1)?, place: row.get(2)? });
    conn.prepare_cached(HEAD)?.query_row([lane], head).optional()
}

fn enqueue(tx: &mut Tx<'_>, webhook: &NewWebhook) -> rusqlite::Result<bool> {
    let NewWebhook { owner, key, url, origin, lane, body } = webhook;
    let sql = "SELECT 1 FROM outbox WHERE owner = ?1 AND key = ?2";
    if tx.conn.prepare_cached(sql)?.exists([owner, key])? {
        return Ok(false);
    }
    tx.memory.deliveries += 1;
    let (lane, now) = (format!("{WEBHOOKS}{owner}/{lane}"), int(tx.now));
    let before = head(tx.conn, &lane)?;
    let sql = "INSERT INTO outbox (lane, place, state, since_ms, plugin, owner, key, url, origin)
               VALUES (?1, ?2, ?3, ?2, '', ?4, ?5, ?6, ?7)";
    tx.conn.prepare_cached(sql)?.execute(params![lane, now, WAITING, owner, key, url, origin])?;
    let id = tx.conn.last_insert_rowid();
    let sql = "INSERT INTO bodies (id, body) VALUES (?1, ?2)";
    tx.conn.prepare_cached(sql)?.execute(params![id, &**body])?;
    take_place(tx, &lane, before)?;
    Ok(true)
}

fn claim(
    tx: &mut Tx<'_>,
    limit: usize,
    lease: Duration,
    except: &Except,
) -> rusqlite::Result<Claimed<Delivery>> {
    let now = int(tx.steady);
    let mut except = except.clone();
    let mut due: Vec<(i64, i64)> = Vec::new();
    let mut next_due = None;
    // A few plugins, each with a range of its own: those left out cost nothing however much waits for them.
    let mut plugin = first_plugin(tx.conn, None)?;
    while let Some(name) = plugin {
        let left = if name.is_empty() { except.webhooks } else { except.plugins.contains(&name) };
        if !left {
            let mut statement = tx.conn.prepare_cached(DUE)?;
            // Of webhooks some are passed over, and those that are due are the first of their lanes only.
            let rows = if name.is_empty() { i64::MAX } else { int(limit as u64) };
            let mut rows = statement.query(params![name, now, rows])?;
            let mut found = 0;
            while found < limit
                && let Some(row) = rows.next()?
            {
                let origin: Option<String> = row.get(2)?;
                if origin.is_none_or(|origin| except.take_place(&origin)) {
                    due.push((row.get(0)?, row.get(1)?));
                    found += 1;
                }
            }
            let sql = "SELECT min(due_ms) FROM outbox WHERE plugin = ?1 AND due_ms > ?2";
            let later: Option<i64> =
                tx.conn.prepare_cached(sql)?.query_row(params![name, now], |row| row.get(0))?;
            next_due = next_due.into_iter().chain(later.map(uint)).min();
        }
        plugin = first_plugin(tx.conn, Some(&name))?;
    }
    due.sort_unstable();
    due.truncate(limit);
    tx.memory.deliveries_woken |= limit > 0 && due.len() == limit;

    let until = int(tx.steady.saturating_add(millis(lease)));
    let mut items = Vec::with_capacity(due.len());
    for (_, id) in due {
        let sql =
            "UPDATE outbox SET attempts = attempts + (state = ?3), state = ?3, token = token + 1, due_ms = ?2,
                   place = iif(key IS NULL, place, 0) WHERE id = ?1";
        tx.conn.prepare_cached(sql)?.execute([id, until, LEASED])?;
        let delivery = |row: &Row<'_>| {
            Ok(Delivery {
                lease: DeliveryLease { id: DeliveryId(uint(id)), token: uint(row.get("token")?) },
                target: target(row)?,
                attempts: row.get("attempts")?,
                since_ms: uint(row.get("since_ms")?),
            })
        };
        items.push(tx.conn.prepare_cached(&format!("{ROW} WHERE o.id = ?1"))?.query_row([id], delivery)?);
    }
    if !items.is_empty() {
        next_due = next_due.into_iter().chain([uint(until)]).min();
    }
    let next_due = next_due.map(|at: u64| Duration::from_millis(at.saturating_sub(tx.steady)));
    Ok(Claimed { items, next_due })
}

/// The first plugin with a delivery that is due some time, after the given one; webhooks have the empty name.
fn first_plugin(conn: &Connection, after: Option<&str>) -> rusqlite::Result<Option<String>> {
    let next = |row: &Row<'_>| row.get(0);
    match after {
        None => {
            let sql = "SELECT plugin FROM outbox WHERE due_ms IS NOT NULL ORDER BY plugin LIMIT 1";
            conn.prepare_cached(sql)?.query_row([], next).optional()
        }
        Some(after) => {
            let sql =
                "SELECT plugin FROM outbox WHERE due_ms IS NOT NULL AND plugin > ?1 ORDER BY plugin LIMIT 1";
            conn.prepare_cached(sql)?.query_row([after], next).optional()
        }
    }
}

fn settle(tx: &mut Tx<'_>, lease: DeliveryLease, settlement: &Settlement) -> rusqlite::Result<bool> {
    let id = int(lease.id.0);
    let sql = "SELECT lane, key IS NOT NULL FROM outbox WHERE id = ?1 AND token = ?2 AND state = 3";
    let held = tx
        .conn
        .prepare_cached(sql)?
        .query_row([id, int(lease.token)], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))
        .optional()?;
    let Some((lane, keyed)) = held else { return Ok(false) };
    match settlement {
        Settlement::Retry { after, counts, error } if keyed => {
            let sql = "UPDATE outbox SET state = ?2, due_ms = NULL, place = ?3, attempts = attempts + ?4,
                       error = ?5 WHERE id = ?1";
            let place = int(tx.steady.saturating_add(millis(*after)));
            tx.conn.prepare_cached(sql)?.execute(params![id, WAITING, place, counts, error])?;
            advance(tx, &lane)?;
            return Ok(true);
        }
        Settlement::Retry { after, counts, error } => {
            let sql = "UPDATE outbox SET state = ?2, due_ms = ?3, attempts = attempts + ?4, error = ?5
                       WHERE id = ?1";
            let due = int(tx.steady.saturating_add(millis(*after)));
            let params = params![id, READY, due, counts, error];
            tx.conn.prepare_cached(sql)?.execute(params)?;
            tx.memory.deliveries_woken = true;
            return Ok(true);
        }
        Settlement::Dead { error } => {
            let sql = "UPDATE outbox SET state = ?2, due_ms = NULL, settled_ms = ?3, error = ?4,
                       attempts = attempts + 1 WHERE id = ?1";
            tx.conn.prepare_cached(sql)?.execute(params![id, DEAD, int(tx.now), error])?;
            tx.memory.dead += 1;
        }
        Settlement::Done if keyed => {
            let sql =
                "UPDATE outbox SET state = ?2, due_ms = NULL, settled_ms = ?3, error = NULL WHERE id = ?1";
            tx.conn.prepare_cached(sql)?.execute(params![id, DONE, int(tx.now)])?;
            tx.conn.prepare_cached("DELETE FROM bodies WHERE id = ?1")?.execute([id])?;
        }
        Settlement::Done => {
            tx.conn.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
        }
    }
    tx.memory.deliveries -= 1;
    advance(tx, &lane)?;
    Ok(true)
}

fn replay(tx: &mut Tx<'_>, id: DeliveryId) -> rusqlite::Result<bool> {
    let sql = "SELECT lane FROM outbox WHERE id = ?1 AND state = ?2";
    let lane: Option<String> =
        tx.conn.prepare_cached(sql)?.query_row([int(id.0), DEAD], |row| row.get(0)).optional()?;
    let Some(lane) = lane else { return Ok(false) };
    let (now, is_webhook) = (int(tx.now), lane.starts_with(WEBHOOKS));
    let before = head(tx.conn, &lane)?;
    let sql = "UPDATE outbox SET state = ?2, place = ?3, since_ms = ?4, attempts = 0, settled_ms = NULL, error = NULL
               WHERE id = ?1";
    let place = if is_webhook { now } else { tx.memory.next_place };
    tx.conn.prepare_cached(sql)?.execute([int(id.0), WAITING, place, now])?;
    tx.memory.next_place += i64::from(!is_webhook);
    tx.memory.dead -= 1;
    tx.memory.deliveries += 1;
    if is_webhook {
        take_place(tx, &lane, before)?
    } else {
        advance(tx, &lane)?
    }
    Ok(true)
}

/// All of a delivery; [`target`] reads where it goes.
const ROW: &str = "SELECT o.*, b.body FROM outbox o LEFT JOIN bodies b ON b.id = o.id";

fn target(row: &Row<'_>) -> rusqlite::Result<DeliveryTarget> {
    match row.get::<_, Option<[u8; 16]>>("task")? {
        Some(task) => Ok(DeliveryTarget::Plugin {
            plugin: row.get("plugin")?,
            task: TaskId::from_bytes(task),
            session: log::session(row, row.as_ref().column_index("session")?)?,
            address: row.get("address")?,
        }),
        None => Ok(DeliveryTarget::Webhook {
            owner: row.get("owner")?,
            key: row.get("key")?,
            url: row.get("url")?,
            body: row.get("body")?,
        }),
    }
}
