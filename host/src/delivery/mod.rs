//! Everything that leaves on its own: deliveries by plugins, and webhooks. What is in the outbox is tried until it has
//! arrived or is a dead letter, at least once. Deliveries of one session leave in order; webhooks have none.

mod callbacks;
#[cfg(test)]
mod fake;
mod retry;
#[cfg(test)]
mod tests;
mod webhook;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::domain::{Clock, SessionId, TaskId};
use crate::egress::Egress;
use crate::store::Outbox;

pub use callbacks::{Callbacks, CallbacksConfig, CallbacksError, WebhookError, Webhooks};
pub use retry::Retry;
pub use worker::run;

/// Settings of the outbox worker (`[delivery]`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Webhooks under way at once. Default 512.
    pub webhooks: usize,
    /// Deliveries of one plugin under way at once. Default 4096.
    pub per_plugin: usize,
    /// Length of a delivery's lease, which is renewed while it is under way. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Longest time between two looks into the outbox. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// Time that deliveries under way get to finish when the gateway stops. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// When plugins' deliveries are tried again (webhooks: `callbacks.retry`).
    pub retry: Retry,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            webhooks: 512,
            per_plugin: 4096,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            retry: Retry::default(),
        }
    }
}

/// A call of a plugin's delivery role that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginDelivery {
    /// The plugin.
    pub plugin: String,
    /// The task whose outcome it carries.
    pub task: TaskId,
    /// The task's session.
    pub session: SessionId,
    /// The plugin's own note of where it goes.
    pub address: String,
    /// Number of the try, from 1. One that the plugin asked for has the number of the one before it.
    pub attempt: u32,
    /// Set: the delivery is given up for this reason. The plugin may tell those who wait for it; what comes of that
    /// changes nothing.
    pub given_up: Option<String>,
}

/// Why a plugin did not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryFailure {
    /// The plugin wants to be called again, since its platform can't take it now. Does not count as a try: only age
    /// ends it.
    Retry {
        /// Least wait.
        after: Duration,
        /// Why, in the plugin's words.
        reason: String,
    },
    /// The plugin says that it can't be delivered, ever: why. Becomes a dead letter.
    Permanent(String),
    /// The plugin trapped or took too long: how. Tried again after a growing wait; counts as a try.
    Broken(String),
    /// The plugin can't be called: absent, disabled, put aside, draining, at its bound. Does not count as a try, and none
    /// of its deliveries is claimed before `after`.
    NotNow {
        /// When to look again.
        after: Duration,
        /// Why.
        reason: String,
    },
}

/// Calls a plugin's delivery role. Dropping the future abandons the call.
pub type PluginDeliver =
    Arc<dyn Fn(PluginDelivery) -> BoxFuture<'static, Result<(), DeliveryFailure>> + Send + Sync>;

/// What the outbox worker works with.
#[derive(Clone)]
pub struct Worker {
    /// Where deliveries wait.
    pub outbox: Arc<dyn Outbox>,
    /// Carries webhooks.
    pub egress: Egress,
    /// Signs webhooks, and says what they may reach.
    pub callbacks: Callbacks,
    /// Calls plugins.
    pub deliver: PluginDeliver,
    /// Bounds and times.
    pub config: Config,
    /// Stamps; must agree with the store's.
    pub clock: Clock,
    /// Seed of the jitter.
    pub seed: u64,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("config", &self.config).finish_non_exhaustive()
    }
}
