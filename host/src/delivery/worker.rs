//! The outbox worker: claims what is due, makes one try of each, and says what it came to.
//!
//! A permit is there before a delivery is claimed and moves into the try. While a try is under way its lease is renewed;
//! a try whose lease is lost is dropped on the spot, since somebody else may be making it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::retry::{Jitter, Outcome};
use super::{DeliveryFailure, PluginDelivery, Worker, callbacks, webhook};
use crate::store::{Delivery, DeliveryLease, DeliveryTarget, Except, Settlement, StoreError};

/// Deliveries claimed in one go.
const BATCH: usize = 64;
/// When something comes back to the outbox because there is no permit for it.
const NO_PERMIT_WAIT: Duration = Duration::from_secs(1);
/// Least wait between two looks that found nothing, whatever the store says is due.
const LEAST_WAIT: Duration = Duration::from_millis(10);
/// Least time that a plugin which can't be called is left alone.
const LEAST_NOT_NOW: Duration = Duration::from_millis(100);
/// Least length of a lease: it has to be renewed three times within.
const LEAST_LEASE: Duration = Duration::from_millis(300);
/// Wait after the store failed.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// A plugin whose deliveries are to be left alone for a while.
type Away = Option<(String, Duration)>;

/// Works off the outbox until it is told to stop; then deliveries under way get `config.drain` to finish, and what has
/// not finished goes back to the outbox without counting as a try.
pub async fn run(mut worker: Worker, stop: CancellationToken) {
    worker.config.lease = worker.config.lease.max(LEAST_LEASE);
    let tries = Tries { jitter: Jitter::new(worker.seed), worker, stop: stop.clone() };
    Loop {
        webhooks: Arc::new(Semaphore::new(tries.worker.config.webhooks.clamp(1, Semaphore::MAX_PERMITS))),
        origins: BTreeMap::new(),
        plugins: BTreeMap::new(),
        away: BTreeMap::new(),
        under_way: JoinSet::new(),
        tries: Arc::new(tries),
    }
    .run(&stop)
    .await;
}

struct Loop {
    tries: Arc<Tries>,
    /// Permits of webhooks.
    webhooks: Arc<Semaphore>,
    /// Permits of each origin that has webhooks under way.
    origins: BTreeMap<String, Arc<Semaphore>>,
    /// Permits of each plugin that has something under way.
    plugins: BTreeMap<String, Arc<Semaphore>>,
    /// Plugins that can't be called, and until when.
    away: BTreeMap<String, Instant>,
    under_way: JoinSet<Away>,
}

impl Loop {
    async fn run(mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let wait = self.claim().await;
            if wait.is_zero() {
                self.collect();
                continue;
            }
            let outbox = Arc::clone(&self.tries.worker.outbox);
            tokio::select! {
                () = stop.cancelled() => {}
                () = outbox.delivery_ready() => {}
                () = tokio::time::sleep(wait) => {}
                Some(ended) = self.under_way.join_next() => self.ended(ended),
            }
            self.collect();
        }
        // Every try sees the token itself.
        while let Some(ended) = self.under_way.join_next().await {
            self.ended(ended);
        }
    }

    /// Notes what has ended meanwhile.
    fn collect(&mut self) {
        while let Some(ended) = self.under_way.try_join_next() {
            self.ended(ended);
        }
        let all = self.per_plugin();
        self.plugins.retain(|_, permits| permits.available_permits() < all);
        let all = self.per_origin();
        self.origins.retain(|_, permits| permits.available_permits() < all);
        let now = Instant::now();
        self.away.retain(|_, until| *until > now);
    }

    fn ended(&mut self, ended: Result<Away, tokio::task::JoinError>) {
        match ended {
            Ok(Some((plugin, after))) => {
                self.away.insert(plugin, Instant::now() + after);
            }
            Ok(None) => {}
            // Its lease runs out, and it is tried again.
            Err(error) => error!(%error, "a delivery panicked"),
        }
    }

    fn per_plugin(&self) -> usize {
        self.tries.worker.config.per_plugin.clamp(1, Semaphore::MAX_PERMITS)
    }

    fn per_origin(&self) -> usize {
        self.tries.worker.callbacks.config().per_origin.clamp(1, Semaphore::MAX_PERMITS)
    }

    /// Claims once and begins what was claimed. Returns how long there is nothing to do; zero: look again at once.
    async fn claim(&mut self) -> Duration {
        let Worker { outbox, config, .. } = &self.tries.worker;
        let full = self.plugins.iter().filter(|(_, permits)| permits.available_permits() == 0);
        let plugins = self.away.keys().chain(full.map(|(plugin, _)| plugin)).cloned().collect();
        // Every webhook that is claimed must find a permit, and what is no webhook gives its permit back.
        let free = self.webhooks.available_permits().min(BATCH);
        let mut permits: Vec<_> =
            (0..free).map_while(|_| Arc::clone(&self.webhooks).try_acquire_owned().ok()).collect();
        let left =
            |(origin, permits): (&String, &Arc<Semaphore>)| (origin.clone(), permits.available_permits());
        let except = Except {
            plugins,
            webhooks: permits.is_empty(),
            origins: self.origins.iter().map(left).collect(),
            per_origin: self.per_origin(),
        };
        let limit = if permits.is_empty() { BATCH } else { permits.len() };
        let claimed = match outbox.claim_deliveries(limit, config.lease, &except).await {
            Ok(claimed) => claimed,
            Err(error) => {
                warn!(%error, "the outbox can't be read");
                return STORE_WAIT;
            }
        };
        let more = claimed.items.len() >= limit;
        // What is due and was not handed out waits for something else: for its lane, or for a plugin.
        let due = claimed.next_due.filter(|due| !due.is_zero());
        let poll = config.poll;
        let mut back = Vec::new();
        for delivery in claimed.items {
            match self.permit(&delivery.target, &mut permits) {
                Some(permit) => {
                    let tries = Arc::clone(&self.tries);
                    self.under_way.spawn(async move {
                        let away = tries.make(delivery).await;
                        drop(permit);
                        away
                    });
                }
                None => back.push(delivery),
            }
        }
        let back = back.iter().map(|delivery| {
            let reason = "as many are under way as the configuration allows".to_owned();
            let verdict = self.tries.judge(delivery, Outcome::PutBack { reason, after: NO_PERMIT_WAIT });
            self.tries.end(delivery, verdict)
        });
        futures::future::join_all(back).await;
        if more {
            return Duration::ZERO;
        }
        let away = self.away.values().min().map(|until| until.saturating_duration_since(Instant::now()));
        [due, away].into_iter().flatten().fold(poll, Duration::min).max(LEAST_WAIT)
    }

    fn permit(
        &mut self,
        target: &DeliveryTarget,
        webhooks: &mut Vec<OwnedSemaphorePermit>,
    ) -> Option<Permit> {
        let (all, permits) = match target {
            DeliveryTarget::Webhook { url, .. } => {
                (self.per_origin(), self.origins.entry(callbacks::origin(url)))
            }
            DeliveryTarget::Plugin { plugin, .. } => (self.per_plugin(), self.plugins.entry(plugin.clone())),
        };
        let permits = permits.or_insert_with(|| Arc::new(Semaphore::new(all)));
        let of_target = Arc::clone(permits).try_acquire_owned().ok()?;
        let of_all = match target {
            DeliveryTarget::Webhook { .. } => Some(webhooks.pop()?),
            DeliveryTarget::Plugin { .. } => None,
        };
        Some(Permit { _of_target: of_target, _of_all: of_all })
    }
}

/// The right to have a delivery under way.
struct Permit {
    /// One of its plugin's or of its origin's.
    _of_target: OwnedSemaphorePermit,
    /// One of all webhooks'.
    _of_all: Option<OwnedSemaphorePermit>,
}

/// What becomes of a delivery after a try.
struct Verdict {
    settlement: Settlement,
    /// Whoever takes it was asked, and did not take it.
    was_tried: bool,
    /// How long its plugin is to be left alone.
    away: Option<Duration>,
}

/// Makes tries.
struct Tries {
    worker: Worker,
    jitter: Jitter,
    stop: CancellationToken,
}

impl Tries {
    /// One try of a delivery, to its settlement.
    async fn make(&self, delivery: Delivery) -> Away {
        let verdict = tokio::select! {
            biased;
            verdict = self.attempt(&delivery) => verdict,
            () = self.drained() => {
                let reason = "the gateway is stopping".to_owned();
                self.judge(&delivery, Outcome::PutBack { reason, after: Duration::ZERO })
            }
            () = self.keep(delivery.lease) => {
                count(&delivery.target, "lost");
                warn!(delivery = delivery.lease.id.0, "the lease of a delivery was lost, it is left to whoever has it now");
                return None;
            }
        };
        let away = match (verdict.away, &delivery.target) {
            (Some(after), DeliveryTarget::Plugin { plugin, .. }) => Some((plugin.clone(), after)),
            _ => None,
        };
        self.end(&delivery, verdict).await;
        away
    }

    /// Makes the try. The plugin hears of it if that was the last one, while the lease still holds.
    async fn attempt(&self, delivery: &Delivery) -> Verdict {
        let Worker { egress, callbacks, clock, deliver, .. } = &self.worker;
        let call = match &delivery.target {
            DeliveryTarget::Webhook { owner, key, url, body } => {
                let outcome = webhook::post(egress, callbacks, clock, owner, key, url, body).await;
                return self.judge(delivery, outcome);
            }
            DeliveryTarget::Plugin { plugin, task, session, address } => PluginDelivery {
                plugin: plugin.clone(),
                task: *task,
                session: session.clone(),
                address: address.clone(),
                attempt: delivery.attempts.saturating_add(1),
                given_up: None,
            },
        };
        let outcome = match deliver(call.clone()).await {
            Ok(()) => Outcome::Delivered,
            Err(DeliveryFailure::Retry { after, reason }) => Outcome::Later { reason, after },
            Err(DeliveryFailure::Permanent(error)) => Outcome::Hopeless { error },
            Err(DeliveryFailure::Broken(error)) => Outcome::Failed { error, after: Duration::ZERO },
            Err(DeliveryFailure::NotNow { after, reason }) => {
                Outcome::NotNow { reason, after: after.max(LEAST_NOT_NOW) }
            }
        };
        let verdict = self.judge(delivery, outcome);
        if let Settlement::Dead { error } = &verdict.settlement {
            let told = deliver(PluginDelivery { given_up: Some(error.clone()), ..call }).await;
            if let Err(failure) = told {
                let (id, to) = (delivery.lease.id.0, destination(&delivery.target));
                warn!(delivery = id, to, ?failure, "the plugin could not tell that a delivery is given up");
            }
        }
        verdict
    }

    fn judge(&self, delivery: &Delivery, outcome: Outcome) -> Verdict {
        let Worker { config, callbacks, clock, .. } = &self.worker;
        let retry = match delivery.target {
            DeliveryTarget::Webhook { .. } => &callbacks.config().retry,
            DeliveryTarget::Plugin { .. } => &config.retry,
        };
        let was_tried = matches!(outcome, Outcome::Failed { .. } | Outcome::Later { .. });
        let away = match outcome {
            Outcome::NotNow { after, .. } => Some(after),
            _ => None,
        };
        let age = Duration::from_millis(clock.now_ms().saturating_sub(delivery.since_ms));
        let settlement = retry.settle(outcome, delivery.attempts, age, &self.jitter);
        Verdict { settlement, was_tried, away }
    }

    /// Returns when there is no more time to finish anything.
    async fn drained(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.worker.config.drain).await;
    }

    /// Renews a lease; returns when it is lost, or can't be known not to be.
    async fn keep(&self, lease: DeliveryLease) {
        let length = self.worker.config.lease;
        let mut held_until = Instant::now() + length;
        loop {
            tokio::time::sleep(length / 3).await;
            match tokio::time::timeout_at(held_until, self.worker.outbox.renew_delivery(lease, length)).await
            {
                Ok(Ok(())) => held_until = Instant::now() + length,
                Ok(Err(StoreError::LeaseLost)) => return,
                Ok(Err(error)) => warn!(%error, delivery = lease.id.0, "a delivery's lease can't be renewed"),
                Err(_) => {}
            }
            if Instant::now() >= held_until {
                return;
            }
        }
    }

    /// Settles, logs and counts. While the store fails it is asked again, as long as the lease may last: a delivery that
    /// is not settled is made again.
    async fn end(&self, delivery: &Delivery, verdict: Verdict) {
        let Worker { outbox, config, .. } = &self.worker;
        report(delivery, &verdict);
        let deadline = Instant::now() + config.lease;
        let mut wait = LEAST_WAIT;
        loop {
            match outbox.settle(delivery.lease, verdict.settlement.clone()).await {
                Ok(()) => return,
                Err(error) if matches!(error, StoreError::LeaseLost) || Instant::now() + wait > deadline => {
                    warn!(%error, delivery = delivery.lease.id.0, "a delivery can't be settled, it may be made again");
                    return;
                }
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(STORE_WAIT);
                }
            }
        }
    }
}

/// Where a delivery goes, for logs: of a URL only the origin, since the rest of it may be confidential.
fn destination(target: &DeliveryTarget) -> String {
    match target {
        DeliveryTarget::Plugin { plugin, task, .. } => format!("{plugin} ({task})"),
        DeliveryTarget::Webhook { url, .. } => callbacks::origin(url),
    }
}

fn report(delivery: &Delivery, verdict: &Verdict) {
    let (id, to) = (delivery.lease.id.0, destination(&delivery.target));
    let attempt = delivery.attempts.saturating_add(1);
    match &verdict.settlement {
        Settlement::Done => {
            count(&delivery.target, "delivered");
            debug!(delivery = id, to, attempt, "delivered");
        }
        Settlement::Retry { after: wait, error, .. } if verdict.was_tried => {
            count(&delivery.target, "retry");
            info!(delivery = id, to, attempt, ?wait, error, "a delivery failed and is tried again");
        }
        Settlement::Retry { error, .. } => {
            count(&delivery.target, "deferred");
            debug!(delivery = id, to, error, "a delivery waits");
        }
        Settlement::Dead { error } => {
            count(&delivery.target, "dead");
            warn!(delivery = id, to, attempt, error, "a delivery was given up and is a dead letter now");
        }
    }
}

fn count(target: &DeliveryTarget, outcome: &'static str) {
    let (kind, plugin) = match target {
        DeliveryTarget::Plugin { plugin, .. } => ("plugin", plugin.clone()),
        DeliveryTarget::Webhook { owner, .. } => ("webhook", owner.clone()),
    };
    metrics::counter!("plugway_deliveries_total", "kind" => kind, "plugin" => plugin, "outcome" => outcome)
        .increment(1);
}
