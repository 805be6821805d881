//! The outbox. Every open delivery has a place in its lane, a sorted set; only the lane's first is due or leased, and
//! stands in the set of its plugin or of its origin by when it is due.

use std::time::Duration;

use async_trait::async_trait;
use redis::Value;

use super::super::{
    Claimed, DeadLetter, Delivery, DeliveryId, DeliveryLease, DeliveryTarget, Except, NewWebhook, Outbox,
    Settlement, StoreError,
};
use super::failure::Failure;
use super::link::Again;
use super::queue::due;
use super::reply::{Fields, Read, Words, misread, number, text};
use super::{Line, RedisStore, log, task_id};
use crate::domain::millis;

#[async_trait]
impl Outbox for RedisStore {
    async fn enqueue_webhook(&self, webhook: NewWebhook) -> Result<bool, StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            let NewWebhook { owner, key, url, origin, lane, body } = &webhook;
            cmd.arg(owner).arg(key).arg(url).arg(origin).arg(lane).arg(&**body);
        };
        let mut words = self.line.run(|scripts| &scripts.enqueue, arguments, Again::No).await?;
        Ok(self.line.understood(|| Ok(words.text()? == "new"))?)
    }

    async fn claim_deliveries(
        &self,
        limit: usize,
        lease: Duration,
        except: &Except,
    ) -> Result<Claimed<Delivery>, StoreError> {
        let mut calls = self.deliveries.calls.lock().await;
        calls.made += 1;
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(limit).arg(millis(lease));
            cmd.arg(&*self.deliveries.node).arg(calls.made).arg(calls.heard);
            cmd.arg(u8::from(except.webhooks)).arg(except.per_origin);
            cmd.arg(except.plugins.len()).arg(&except.plugins);
            for (origin, places) in &except.origins {
                cmd.arg(origin).arg(*places);
            }
        };
        let mut words = self.line.run(|scripts| &scripts.claim_deliveries, arguments, Again::No).await?;
        let (next_due, claimed) = self.line.understood(|| {
            let next_due = due(&words.text()?)?;
            let claim = |claim: Value| {
                let mut claim = Words::of(claim)?;
                let fields = claim.text().and_then(|id| Ok((id, Fields::of(claim.value()?)?)))?;
                Ok((number(&fields.0)?, fields.1.ok_or_else(|| misread("a delivery has no fields"))?))
            };
            Ok((next_due, words.words()?.map(claim).collect::<Read<Vec<_>>>()?))
        })?;
        if limit > 0 && claimed.len() == limit {
            self.line.ready.wake(2);
        }
        let items = targets(&self.line, claimed).await?;
        calls.heard = calls.made;
        let items = items.into_iter().map(|(id, mut fields, target)| {
            Ok(Delivery {
                lease: DeliveryLease { id, token: fields.number("token")? },
                target,
                attempts: fields.maybe_number("attempts")?.unwrap_or(0),
                since_ms: fields.number("since")?,
            })
        });
        let readable = items.filter_map(|item: Read<Delivery>| {
            item.inspect_err(|misread| tracing::warn!("a delivery can't be made: {misread}")).ok()
        });
        Ok(Claimed { items: readable.collect(), next_due })
    }

    async fn delivery_ready(&self) {
        self.line.ready.deliveries.notified().await;
    }

    async fn renew_delivery(&self, lease: DeliveryLease, length: Duration) -> Result<(), StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(lease.id.0).arg(lease.token).arg(millis(length));
        };
        let mut words = self.line.run(|scripts| &scripts.renew_delivery, arguments, Again::Yes).await?;
        self.held(&mut words)
    }

    async fn settle(&self, lease: DeliveryLease, settlement: Settlement) -> Result<(), StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(lease.id.0).arg(lease.token);
            match &settlement {
                Settlement::Done => cmd.arg("done").arg("").arg(0).arg(0),
                Settlement::Retry { after, counts, error } => {
                    cmd.arg("retry").arg(error).arg(millis(*after)).arg(u8::from(*counts))
                }
                Settlement::Dead { error } => cmd.arg("dead").arg(error).arg(0).arg(1),
            };
        };
        let mut words = self.line.run(|scripts| &scripts.settle, arguments, Again::No).await?;
        self.held(&mut words)
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let line = &self.line;
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZRANGE").arg(format!("{}:dead", line.base)).arg(0).arg(last).arg("REV");
        let answers = line.read(&pipeline).await?;
        let ids = line.understood(|| Words::of(Value::Array(answers.collect()))?.words()?.texts())?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for id in &ids {
            pipeline.cmd("HGETALL").arg(line.key("d", id));
        }
        let answers = line.read(&pipeline).await?;
        let found = line.understood(|| {
            let mut found = Vec::with_capacity(ids.len());
            for (id, fields) in ids.iter().zip(answers) {
                // Replayed or forgotten in between.
                found.extend(Fields::of(fields)?.map(|fields| Ok((number(id)?, fields))).transpose()?);
            }
            Ok(found)
        })?;
        let letters = targets(line, found).await?.into_iter().filter_map(|(id, mut fields, target)| {
            let died_ms = fields.maybe_number("settled").transpose()?;
            Some(died_ms.and_then(|died_ms| {
                Ok(DeadLetter {
                    id,
                    target,
                    attempts: fields.maybe_number("attempts")?.unwrap_or(0),
                    error: fields.maybe("error").unwrap_or_default(),
                    died_ms,
                })
            }))
        });
        Ok(line.understood(|| letters.collect())?)
    }

    async fn replay(&self, id: DeliveryId) -> Result<bool, StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(id.0);
        };
        let mut words = self.line.run(|scripts| &scripts.replay, arguments, Again::No).await?;
        Ok(self.line.understood(|| Ok(words.text()? == "replayed"))?)
    }
}

/// Where deliveries go; the bodies of webhooks are read here. One whose body is gone was settled in between.
async fn targets(
    line: &Line,
    mut found: Vec<(u64, Fields)>,
) -> Result<Vec<(DeliveryId, Fields, DeliveryTarget)>, Failure> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = redis::pipe();
    for (id, _) in &found {
        pipeline.cmd("GET").arg(line.key("b", &id.to_string()));
    }
    let bodies = line.read(&pipeline).await?;
    line.understood(|| {
        let mut targets = Vec::with_capacity(found.len());
        for ((id, mut fields), body) in found.drain(..).zip(bodies) {
            let target = match (fields.maybe("task"), text(body)?) {
                (Some(task), _) => DeliveryTarget::Plugin {
                    plugin: fields.take("plugin")?,
                    task: task_id(&task)?,
                    session: log::session(&fields.take("session")?)?,
                    address: fields.take("address")?,
                },
                (None, Some(body)) => DeliveryTarget::Webhook {
                    owner: fields.take("owner")?,
                    key: fields.take("key")?,
                    url: fields.take("url")?,
                    body: body.into(),
                },
                (None, None) => continue,
            };
            targets.push((DeliveryId(id), fields, target));
        }
        Ok(targets)
    })
}
