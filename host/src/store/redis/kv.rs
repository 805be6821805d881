//! The plugins' kv: a hash for each entry, a sorted set of an owner's keys in byte order, and one of their expiries.
//! Expiry is a time that is looked at; what has expired is removed by who needs the room, and by the sweep.

use std::time::Duration;

use async_trait::async_trait;
use redis::Value;

use super::super::{Kv, KvEntry, KvError, KvQuota, StoreError};
use super::RedisStore;
use super::link::Again;
use super::reply::{Words, bytes, number};
use crate::domain::millis;

/// Keys that are read at once.
const PAGE: usize = 500;

#[async_trait]
impl Kv for RedisStore {
    async fn get(&self, owner: &str, key: &str) -> Result<Option<KvEntry>, StoreError> {
        let line = &self.line;
        let entry = line.owned_key("v", owner, key);
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        pipeline.cmd("HMGET").arg(entry).arg("version").arg("expires").arg("value");
        let mut answers = line.read(&pipeline).await?;
        let now = line.now_ms(answers.next().unwrap_or_default())?;
        Ok(line.understood(|| {
            let mut words = Words::of(answers.next().unwrap_or_default())?;
            let (version, expires) = (words.maybe_number()?, words.maybe_number::<u64>()?);
            let value = bytes(words.value()?)?;
            let present = expires.is_none_or(|expires| expires > now);
            Ok(version.zip(value).filter(|_| present).map(|(version, value)| KvEntry { value, version }))
        })?)
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
        loop {
            let arguments = |cmd: &mut redis::Cmd| {
                let wanted = version.map(|version| version.to_string()).unwrap_or_default();
                // A time that lies further away than numbers reach is as good as never.
                let ttl = ttl.map(|ttl| millis(ttl).min(1 << 52).to_string()).unwrap_or_default();
                cmd.arg(owner).arg(key).arg(&*value).arg(wanted).arg(ttl).arg(quota.bytes);
            };
            let answer = self.line.run(|scripts| &scripts.kv_put, arguments, Again::No).await;
            let mut words = answer.map_err(StoreError::from)?;
            let outcome = self.line.understood(|| {
                Ok(match &*words.text()? {
                    "stored" => Some(Ok(words.number()?)),
                    "conflict" => Some(Err(KvError::Conflict(words.number()?))),
                    // A portion of what has expired was removed, and there may be more of it.
                    "again" => None,
                    _ => {
                        let (used, needed) = (words.number()?, words.number()?);
                        Some(Err(KvError::Quota { used, quota: quota.bytes, needed }))
                    }
                })
            });
            if let Some(outcome) = outcome.map_err(StoreError::from)? {
                return outcome;
            }
        }
    }

    async fn delete(&self, owner: &str, key: &str) -> Result<(), StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(owner).arg(key);
        };
        self.line.run(|scripts| &scripts.kv_delete, arguments, Again::Yes).await?;
        Ok(())
    }

    async fn keys(
        &self,
        owner: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let line = &self.line;
        let (all, expiring) = (line.key("vk", owner), line.key("vx", owner));
        let mut from = match after {
            Some(after) if after >= prefix => format!("({after}").into_bytes(),
            _ => format!("[{prefix}").into_bytes(),
        };
        // No text goes on with this byte, so this lies behind all that begins with the prefix.
        let end = [b"(", prefix.as_bytes(), b"\xff"].concat();
        let mut keys = Vec::new();
        while keys.len() < limit {
            let wanted = PAGE.min(limit - keys.len());
            let mut pipeline = redis::pipe();
            pipeline
                .cmd("ZRANGE")
                .arg(&all)
                .arg(&from)
                .arg(&end)
                .arg("BYLEX")
                .arg("LIMIT")
                .arg(0)
                .arg(wanted);
            let answers = line.read(&pipeline).await?;
            let page = line.understood(|| Words::of(Value::Array(answers.collect()))?.words()?.texts())?;
            let Some(last) = page.last() else { break };
            from = format!("({last}").into_bytes();
            let is_last = page.len() < wanted;
            let mut pipeline = redis::pipe();
            pipeline.cmd("TIME");
            pipeline.cmd("ZMSCORE").arg(&expiring).arg(&page);
            let mut answers = line.read(&pipeline).await?;
            let now = line.now_ms(answers.next().unwrap_or_default())?;
            let expiries = line.understood(|| {
                let words = Words::of(answers.next().unwrap_or_default())?;
                words
                    .map(|score| super::reply::text(score)?.map(|score| number::<f64>(&score)).transpose())
                    .collect::<Result<Vec<_>, _>>()
            })?;
            let present = page.into_iter().zip(expiries);
            keys.extend(present.filter(|(_, at)| at.is_none_or(|at| at > now as f64)).map(|(key, _)| key));
            if is_last {
                break;
            }
        }
        Ok(keys)
    }

    async fn usage(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let line = &self.line;
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGETALL").arg(format!("{}:usage", line.base));
        let mut answers = line.read(&pipeline).await?;
        let mut usage = line.understood(|| {
            let mut words = Words::of(answers.next().unwrap_or_default())?.texts()?.into_iter();
            let mut usage = Vec::new();
            while let (Some(owner), Some(bytes)) = (words.next(), words.next()) {
                usage.push((owner, number(&bytes)?));
            }
            Ok(usage)
        })?;
        usage.sort_unstable();
        Ok(usage)
    }
}
