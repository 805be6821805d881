//! An outbox in memory, for tests of the worker. It keeps the promises of the trait, and remembers what it was told.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::domain::Clock;
use crate::store::{
    Claimed, DeadLetter, Delivery, DeliveryId, DeliveryLease, DeliveryTarget, Except, NewWebhook, Outbox,
    Settlement, StoreError,
};

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) target: DeliveryTarget,
    pub(super) lane: String,
    pub(super) attempts: u32,
    pub(super) due_ms: u64,
    pub(super) since_ms: u64,
    pub(super) token: u64,
    pub(super) leased_until: Option<u64>,
    pub(super) end: Option<Result<(), String>>,
    pub(super) settlements: Vec<Settlement>,
    pub(super) renewals: u32,
}

#[derive(Debug, Default)]
pub(super) struct FakeOutbox {
    rows: Mutex<Vec<Row>>,
    ready: Notify,
    clock: Clock,
    /// While it is set, nothing can be settled.
    pub(super) broken: std::sync::atomic::AtomicBool,
}

impl FakeOutbox {
    pub(super) fn add(&self, target: DeliveryTarget, lane: &str) -> usize {
        let mut rows = self.rows.lock().unwrap();
        let now = self.clock.now_ms();
        rows.push(Row {
            target,
            lane: lane.to_owned(),
            attempts: 0,
            due_ms: now,
            since_ms: now,
            token: 0,
            leased_until: None,
            end: None,
            settlements: Vec::new(),
            renewals: 0,
        });
        self.ready.notify_one();
        rows.len() - 1
    }

    pub(super) fn row(&self, index: usize) -> Row {
        self.rows.lock().unwrap()[index].clone()
    }

    pub(super) fn change(&self, index: usize, change: impl FnOnce(&mut Row)) {
        change(&mut self.rows.lock().unwrap()[index]);
        self.ready.notify_one();
    }

    /// The row that the lease is still good for.
    fn leased<T>(&self, lease: DeliveryLease, use_it: impl FnOnce(&mut Row) -> T) -> Result<T, StoreError> {
        let mut rows = self.rows.lock().unwrap();
        let row = usize::try_from(lease.id.0).ok().and_then(|index| rows.get_mut(index));
        match row {
            Some(row) if row.token == lease.token && row.leased_until.is_some() => Ok(use_it(row)),
            _ => Err(StoreError::LeaseLost),
        }
    }
}

#[async_trait]
impl Outbox for FakeOutbox {
    async fn enqueue_webhook(&self, webhook: NewWebhook) -> Result<bool, StoreError> {
        let NewWebhook { owner, key, url, lane, body, .. } = webhook;
        let known = self.rows.lock().unwrap().iter().any(|row| {
            matches!(&row.target, DeliveryTarget::Webhook { owner: o, key: k, .. } if *o == owner && *k == key)
        });
        if !known {
            self.add(DeliveryTarget::Webhook { owner, key, url, body }, &lane);
        }
        Ok(!known)
    }

    async fn claim_deliveries(
        &self,
        limit: usize,
        lease: Duration,
        except: &Except,
    ) -> Result<Claimed<Delivery>, StoreError> {
        let mut rows = self.rows.lock().unwrap();
        let now = self.clock.now_ms();
        let (mut items, mut lanes, mut next_due) = (Vec::new(), std::collections::BTreeSet::new(), None);
        let mut except = except.clone();
        // Plugin deliveries keep their turn; of webhooks the one under way is first, then by time.
        let place = |row: &Row| match row.target {
            DeliveryTarget::Webhook { .. } if row.leased_until.is_none() => row.due_ms,
            _ => 0,
        };
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|index| (place(&rows[*index]), *index));
        for index in order {
            let row = &mut rows[index];
            if row.end.is_some() || !lanes.insert(row.lane.clone()) {
                continue;
            }
            let excepted = match &row.target {
                DeliveryTarget::Plugin { plugin, .. } => except.plugins.contains(plugin),
                DeliveryTarget::Webhook { .. } => except.webhooks,
            };
            let free_at = row.leased_until.unwrap_or(0).max(row.due_ms);
            if excepted || items.len() == limit {
                continue;
            }
            if free_at > now {
                let wait = Duration::from_millis(free_at - now);
                next_due = Some(next_due.map_or(wait, |due: Duration| due.min(wait)));
                continue;
            }
            if let DeliveryTarget::Webhook { url, .. } = &row.target
                && !except.take_place(&super::callbacks::origin(url))
            {
                continue;
            }
            row.token += 1;
            row.leased_until = Some(now + u64::try_from(lease.as_millis()).unwrap());
            items.push(Delivery {
                lease: DeliveryLease { id: DeliveryId(index as u64), token: row.token },
                target: row.target.clone(),
                attempts: row.attempts,
                since_ms: row.since_ms,
            });
        }
        Ok(Claimed { items, next_due })
    }

    async fn delivery_ready(&self) {
        self.ready.notified().await;
    }

    async fn renew_delivery(&self, lease: DeliveryLease, length: Duration) -> Result<(), StoreError> {
        let until = self.clock.now_ms() + u64::try_from(length.as_millis()).unwrap();
        self.leased(lease, |row| {
            row.leased_until = Some(until);
            row.renewals += 1;
        })
    }

    async fn settle(&self, lease: DeliveryLease, settlement: Settlement) -> Result<(), StoreError> {
        if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the disk is full".into()));
        }
        let now = self.clock.now_ms();
        self.leased(lease, |row| {
            row.leased_until = None;
            row.settlements.push(settlement.clone());
            match settlement {
                Settlement::Done => row.end = Some(Ok(())),
                Settlement::Dead { error } => row.end = Some(Err(error)),
                Settlement::Retry { after, counts, .. } => {
                    row.due_ms = now + u64::try_from(after.as_millis()).unwrap();
                    row.attempts += u32::from(counts);
                }
            }
        })
    }

    async fn dead_letters(&self, _limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(Vec::new())
    }

    async fn replay(&self, _id: DeliveryId) -> Result<bool, StoreError> {
        Ok(false)
    }
}
