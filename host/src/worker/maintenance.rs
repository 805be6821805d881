//! Upkeep of the store while the gateway runs: forgetting what is older than its retention, and the gauges.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{Retention, Store, Swept};

/// How the store is looked after.
#[derive(Clone, Copy, Debug)]
pub struct Maintenance {
    /// How long things are kept.
    pub retention: Retention,
    /// Time between sweeps.
    pub sweep_every: Duration,
    /// Time between looks at how much waits.
    pub gauge_every: Duration,
}

impl Default for Maintenance {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            retention: Retention { events: day, tasks: 7 * day },
            sweep_every: Duration::from_secs(60),
            gauge_every: Duration::from_secs(5),
        }
    }
}

/// Looks after the store until the shutdown.
pub async fn maintain(store: Arc<dyn Store>, config: Maintenance, shutdown: CancellationToken) {
    let mut sweeps = interval_at(Instant::now() + config.sweep_every, config.sweep_every);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gauges = interval(config.gauge_every);
    gauges.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut owners = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = gauges.tick() => {
                measure(&*store).await;
                measure_usage(&*store, &mut owners).await;
            }
            _ = sweeps.tick() => tokio::select! {
                () = shutdown.cancelled() => return,
                () = sweep(&*store, config.retention) => {}
            },
        }
    }
}

async fn measure(store: &dyn Store) {
    // A store that does not answer shows in readiness and in what fails; the gauges stand still.
    if let Ok(backlog) = store.backlog().await {
        gauge!("plugway_tasks_queued").set(backlog.queued as f64);
        gauge!("plugway_deliveries_pending").set(backlog.deliveries as f64);
        gauge!("plugway_deliveries_dead").set(backlog.dead as f64);
    }
}

/// Shows what plugins have stored. One that has nothing any more is shown with nothing.
async fn measure_usage(store: &dyn Store, owners: &mut BTreeSet<String>) {
    let Ok(usage) = store.usage().await else { return };
    let show = |plugin: &str, bytes: u64| {
        gauge!("plugway_plugin_storage_bytes", "plugin" => plugin.to_owned()).set(bytes as f64);
    };
    for gone in owners.iter().filter(|owner| usage.iter().all(|(found, _)| found != *owner)) {
        show(gone, 0);
    }
    for (plugin, bytes) in usage {
        show(&plugin, bytes);
        owners.insert(plugin);
    }
}

async fn sweep(store: &dyn Store, retention: Retention) {
    match store.sweep(retention).await {
        Ok(swept) if swept == Swept::default() => {}
        Ok(Swept { events, tasks, kv, deliveries }) => {
            info!(events, tasks, kv, deliveries, "swept what was older than its retention");
        }
        Err(error) => warn!(%error, "could not sweep"),
    }
}
