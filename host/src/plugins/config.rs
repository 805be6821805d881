//! What the operator says about plugins: grants, limits and each plugin's own configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::egress::{Origin, SecretRef};

/// Most instances that a filter may be allowed: each has a slot of the engine.
const MOST_FILTER_INSTANCES: usize = 4_096;

/// What becomes of an event or an input that a filter can't judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It goes nowhere: the task fails, or is not accepted.
    #[default]
    Fail,
    /// It goes on as it was.
    Skip,
}

impl Policy {
    /// Name in the configuration, also a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

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
    /// Wall clock of one call of the role `filter`, and longest wait for an instance.
    #[serde(with = "humantime_serde")]
    pub filter_timeout: Duration,
    /// What a filter may remember of one task.
    pub filter_state: ByteSize,
    /// Events that a filter may make of one.
    pub filter_events: usize,
    /// Largest event or input that a filter is given, and most that it may give back in one call.
    pub filter_bytes: ByteSize,
    /// Instances of a filter at once.
    pub filter_instances: usize,
    /// Calls after which an instance is replaced by a fresh one.
    pub filter_calls: u32,
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
    #[serde(with = "humantime_serde::option")]
    filter_timeout: Option<Duration>,
    filter_state: Option<ByteSize>,
    filter_events: Option<usize>,
    filter_bytes: Option<ByteSize>,
    filter_instances: Option<usize>,
    filter_calls: Option<u32>,
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
            ("filter_events", self.filter_events as u64),
            ("filter_bytes", self.filter_bytes.as_u64()),
            ("filter_instances", self.filter_instances as u64),
            ("filter_calls", self.filter_calls.into()),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err((key, "must be more than nothing"));
        }
        if self.filter_instances > MOST_FILTER_INSTANCES {
            return Err(("filter_instances", "must be at most 4096"));
        }
        let durations = [
            ("cpu_per_step", self.cpu_per_step),
            ("exchange_timeout", self.exchange_timeout),
            ("trap_window", self.trap_window),
            ("filter_timeout", self.filter_timeout),
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
            filter_timeout: own.filter_timeout.unwrap_or(self.filter_timeout),
            filter_state: own.filter_state.unwrap_or(self.filter_state),
            filter_events: own.filter_events.unwrap_or(self.filter_events),
            filter_bytes: own.filter_bytes.unwrap_or(self.filter_bytes),
            filter_instances: own.filter_instances.unwrap_or(self.filter_instances),
            filter_calls: own.filter_calls.unwrap_or(self.filter_calls),
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
    /// Filters of the tasks that it submits, after those for all and those of the agent.
    pub filters: Vec<String>,
    /// What becomes of what it can't judge, where it is a filter. Default `fail`.
    pub policy: Option<Policy>,
    /// Limits that differ from `[plugin_defaults]`.
    pub limits: LimitsOverride,
}
