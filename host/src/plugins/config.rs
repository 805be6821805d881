//! What the operator says about plugins: grants, limits and each plugin's own configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::egress::{Origin, SecretRef};

/// Limits of one plugin. `[plugin_defaults]` gives all of them, `plugins.NAME.limits` some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memory of one exchange.
    pub memory: ByteSize,
    /// Linear memory of all exchanges of the plugin together.
    pub memory_total: ByteSize,
    /// CPU time between two waits.
    #[serde(with = "humantime_serde")]
    pub cpu_per_step: Duration,
    /// Wall clock of one HTTP exchange or delivery.
    #[serde(with = "humantime_serde")]
    pub exchange_timeout: Duration,
    /// How long WebSocket connections of a replaced generation go on.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Exchanges at once; requests, connections and deliveries are counted apart.
    pub exchanges: usize,
    /// Requests that may wait for a free exchange before others get 503.
    pub waiting: usize,
    /// How long one waits before it gets 503.
    #[serde(with = "humantime_serde")]
    pub waiting_timeout: Duration,
    /// Replaced generations that may still have exchanges; the oldest one's are told to end.
    pub old_generations: usize,
    /// What one exchange may write to its log.
    pub log: ByteSize,
    /// Outgoing requests of one exchange.
    pub requests: u32,
    /// Keys and values that the plugin may keep.
    pub kv: ByteSize,
    /// Traps within `trap_window` that put the plugin aside.
    pub traps: u32,
    /// See `traps`.
    #[serde(with = "humantime_serde")]
    pub trap_window: Duration,
    /// Size of the component file.
    pub file: ByteSize,
}

/// The same, with everything optional: what a plugin's own table may say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsOverride {
    memory: Option<ByteSize>,
    memory_total: Option<ByteSize>,
    #[serde(with = "humantime_serde::option")]
    cpu_per_step: Option<Duration>,
    #[serde(with = "humantime_serde::option")]
    exchange_timeout: Option<Duration>,
    #[serde(with = "humantime_serde::option")]
    drain_timeout: Option<Duration>,
    exchanges: Option<usize>,
    waiting: Option<usize>,
    #[serde(with = "humantime_serde::option")]
    waiting_timeout: Option<Duration>,
    old_generations: Option<usize>,
    log: Option<ByteSize>,
    requests: Option<u32>,
    kv: Option<ByteSize>,
    traps: Option<u32>,
    #[serde(with = "humantime_serde::option")]
    trap_window: Option<Duration>,
    file: Option<ByteSize>,
}

impl Limits {
    /// What no type can say.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let positive = [
            ("memory", self.memory.as_u64()),
            ("memory_total", self.memory_total.as_u64()),
            ("exchanges", self.exchanges as u64),
            ("traps", self.traps.into()),
            ("file", self.file.as_u64()),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err((key, "must be more than nothing"));
        }
        let durations = [
            ("cpu_per_step", self.cpu_per_step),
            ("exchange_timeout", self.exchange_timeout),
            ("trap_window", self.trap_window),
        ];
        match durations.into_iter().find(|(_, value)| value.is_zero()) {
            Some((key, _)) => Err((key, "must be longer than nothing")),
            None => Ok(()),
        }
    }

    /// These limits, with what the plugin's own table says put over them.
    pub fn with(&self, own: &LimitsOverride) -> Self {
        Self {
            memory: own.memory.unwrap_or(self.memory),
            memory_total: own.memory_total.unwrap_or(self.memory_total),
            cpu_per_step: own.cpu_per_step.unwrap_or(self.cpu_per_step),
            exchange_timeout: own.exchange_timeout.unwrap_or(self.exchange_timeout),
            drain_timeout: own.drain_timeout.unwrap_or(self.drain_timeout),
            exchanges: own.exchanges.unwrap_or(self.exchanges),
            waiting: own.waiting.unwrap_or(self.waiting),
            waiting_timeout: own.waiting_timeout.unwrap_or(self.waiting_timeout),
            old_generations: own.old_generations.unwrap_or(self.old_generations),
            log: own.log.unwrap_or(self.log),
            requests: own.requests.unwrap_or(self.requests),
            kv: own.kv.unwrap_or(self.kv),
            traps: own.traps.unwrap_or(self.traps),
            trap_window: own.trap_window.unwrap_or(self.trap_window),
            file: own.file.unwrap_or(self.file),
        }
    }
}

/// What the operator says about one plugin, `[plugins.NAME]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginConfig {
    /// Whether it is served at all.
    pub enabled: Option<bool>,
    /// Origins that it may reach, as "https://api.telegram.org".
    pub origins: Vec<Origin>,
    /// Networks (CIDR) that its origins may resolve to though they are private.
    pub private_networks: Vec<IpNet>,
    /// Secrets by name: "env:NAME", "file:PATH", or the value.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Put before all of its routes, as "/second".
    pub mount: Option<String>,
    /// Its own configuration, handed to it as JSON.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Limits that differ from `[plugin_defaults]`.
    pub limits: LimitsOverride,
}
