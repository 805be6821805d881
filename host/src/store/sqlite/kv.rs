//! The plugins' kv. Versions come from one counter of the whole store, so that no key ever sees one twice; a note of
//! how far it may have gone is written ahead.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::super::{Kv, KvEntry, KvError, KvQuota, StoreError};
use super::writer::Tx;
use super::{SqliteStore, int, uint};
use crate::domain::millis;

/// Versions noted ahead at a time.
const RESERVE: u64 = 10_000;

#[async_trait]
impl Kv for SqliteStore {
    async fn get(&self, owner: &str, key: &str) -> Result<Option<KvEntry>, StoreError> {
        let (owner, key, now) = (owner.to_owned(), key.to_owned(), int(self.clock.now_ms()));
        self.readers
            .read(move |conn| {
                let sql = "SELECT value, version FROM kv
                           WHERE owner = ?1 AND key = ?2 AND (expires_ms IS NULL OR expires_ms > ?3)";
                conn.prepare_cached(sql)?
                    .query_row(params![owner, key, now], |row| {
                        Ok(KvEntry { value: row.get(0)?, version: uint(row.get(1)?) })
                    })
                    .optional()
            })
            .await
    }

    async fn put(
        &self,
        owner: &str,
        key: &str,
        value: Vec<u8>,
        version: Option<u64>,
        ttl: Option<Duration>,
        quota: KvQuota,
    ) -> Result<u64, KvError> {
        let (owner, key, bytes) = (owner.to_owned(), key.to_owned(), value.len());
        let run = move |tx: &mut Tx<'_>| put(tx, &owner, &key, &value, version, ttl, quota);
        self.writer.call(bytes, run).await?
    }

    async fn delete(&self, owner: &str, key: &str) -> Result<(), StoreError> {
        let (owner, key) = (owner.to_owned(), key.to_owned());
        let delete = move |tx: &mut Tx<'_>| {
            let sql = "DELETE FROM kv WHERE owner = ?1 AND key = ?2
                       RETURNING length(CAST(key AS BLOB)) + length(value)";
            let freed: Option<i64> =
                tx.conn.prepare_cached(sql)?.query_row([&owner, &key], |row| row.get(0)).optional()?;
            freed.map_or(Ok(()), |freed| add_usage(tx, &owner, -freed))
        };
        self.writer.call(0, delete).await
    }

    async fn keys(
        &self,
        owner: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let (owner, prefix, now) = (owner.to_owned(), prefix.to_owned(), int(self.clock.now_ms()));
        let after = after.map(str::to_owned);
        self.readers
            .read(move |conn| {
                // Keys with the prefix lie together: read from its first, stop at the first without it.
                let sql = "SELECT key FROM kv WHERE owner = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3)
                           AND (expires_ms IS NULL OR expires_ms > ?4) ORDER BY key";
                let from = after.as_deref().filter(|after| *after > prefix.as_str()).unwrap_or(&prefix);
                let mut statement = conn.prepare_cached(sql)?;
                let mut rows = statement.query(params![owner, from, after, now])?;
                let mut keys = Vec::new();
                while keys.len() < limit {
                    let Some(row) = rows.next()? else { break };
                    let key: String = row.get(0)?;
                    if !key.starts_with(&prefix) {
                        break;
                    }
                    keys.push(key);
                }
                Ok(keys)
            })
            .await
    }

    async fn usage(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.readers
            .read(|conn| {
                conn.prepare_cached("SELECT owner, bytes FROM kv_usage WHERE bytes > 0 ORDER BY owner")?
                    .query_map([], |row| Ok((row.get(0)?, uint(row.get(1)?))))?
                    .collect()
            })
            .await
    }
}

fn put(
    tx: &mut Tx<'_>,
    owner: &str,
    key: &str,
    value: &[u8],
    version: Option<u64>,
    ttl: Option<Duration>,
    quota: KvQuota,
) -> rusqlite::Result<Result<u64, KvError>> {
    let sql = "SELECT version, expires_ms, length(value) FROM kv WHERE owner = ?1 AND key = ?2";
    let found = tx
        .conn
        .prepare_cached(sql)?
        .query_row([owner, key], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let now = int(tx.now);
    let present = match found {
        Some((version, expires, _)) if expires.is_none_or(|at| at > now) => uint(version),
        _ => 0,
    };
    if version.is_some_and(|wanted| wanted != present) {
        return Ok(Err(KvError::Conflict(present)));
    }
    let key_bytes = int(key.len() as u64);
    let old = found.map_or(0, |(_, _, value)| key_bytes + value);
    let needed = key_bytes + int(value.len() as u64) - old;
    let mut used = usage(tx, owner)?;
    while needed > 0 && uint(used + needed) > quota.bytes && forget_expired(tx, owner, key)? {
        used = usage(tx, owner)?;
    }
    if needed > 0 && uint(used + needed) > quota.bytes {
        let (used, needed) = (uint(used), uint(needed));
        return Ok(Err(KvError::Quota { used, quota: quota.bytes, needed }));
    }
    let version = next_version(tx)?;
    let expires = ttl.map(|ttl| int(tx.now.saturating_add(millis(ttl))));
    let sql = "INSERT INTO kv (owner, key, version, expires_ms, value) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (owner, key) DO UPDATE SET version = ?3, expires_ms = ?4, value = ?5";
    tx.conn.prepare_cached(sql)?.execute(params![owner, key, int(version), expires, value])?;
    add_usage(tx, owner, needed)?;
    Ok(Ok(version))
}

fn usage(tx: &Tx<'_>, owner: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT bytes FROM kv_usage WHERE owner = ?1";
    Ok(tx.conn.prepare_cached(sql)?.query_row([owner], |row| row.get(0)).optional()?.unwrap_or(0))
}

pub(super) fn add_usage(tx: &Tx<'_>, owner: &str, bytes: i64) -> rusqlite::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let sql = "INSERT INTO kv_usage (owner, bytes) VALUES (?1, max(?2, 0))
               ON CONFLICT (owner) DO UPDATE SET bytes = max(bytes + ?2, 0)";
    tx.conn.prepare_cached(sql)?.execute(params![owner, bytes]).map(drop)
}

/// Makes some room: what has expired is as good as absent, so it must not count. The key that is about to be written
/// stays, since its bytes are reckoned with already. False: there was nothing of the owner's to forget.
fn forget_expired(tx: &Tx<'_>, owner: &str, except: &str) -> rusqlite::Result<bool> {
    // By expiry, not by owner: an owner may have many entries, of expired ones there are few.
    let sql = "DELETE FROM kv WHERE rowid IN (SELECT rowid FROM kv
                   WHERE +owner = ?1 AND expires_ms <= ?2 AND key <> ?3 LIMIT 500)
               RETURNING length(CAST(key AS BLOB)) + length(value)";
    let freed: Vec<i64> = tx
        .conn
        .prepare_cached(sql)?
        .query_map(params![owner, int(tx.now), except], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    add_usage(tx, owner, -freed.iter().sum::<i64>())?;
    Ok(!freed.is_empty())
}

fn next_version(tx: &mut Tx<'_>) -> rusqlite::Result<u64> {
    tx.memory.kv_version += 1;
    if tx.memory.kv_version > tx.memory.kv_reserved {
        tx.memory.kv_reserved = tx.memory.kv_version + RESERVE;
        let sql = "INSERT INTO meta (name, value) VALUES ('kv_version', ?1)
                   ON CONFLICT (name) DO UPDATE SET value = ?1";
        tx.conn.prepare_cached(sql)?.execute([int(tx.memory.kv_reserved)])?;
    }
    Ok(tx.memory.kv_version)
}
