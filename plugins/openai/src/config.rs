//! What the operator may set. Unknown names are refused, so that a typing error does not pass for a setting.

use plugway_sdk::bounds;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// Configuration of the OpenAI plugin.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Other names of agents, as `{"gpt-5": "coder"}`. They are listed as models too.
    pub(crate) aliases: BTreeMap<String, String>,
    /// What `owned_by` of a model says.
    pub(crate) owned_by: String,
    /// Seconds for which responses and conversations are kept after they were last written to.
    #[schemars(range(min = 1))]
    pub(crate) keep_seconds: u32,
    /// Milliseconds without an event after which a stream gets a comment, so that nothing on the way takes it for dead.
    #[schemars(range(min = 1000))]
    pub(crate) keep_alive_ms: u64,
    /// Requests for an answer that a caller may make within a minute, at most 1000; 0: as many as the gateway takes. Callers
    /// are told apart by their key, or by their address where no keys are set.
    #[schemars(range(max = 1000))]
    pub(crate) requests_per_minute: u32,
    /// Bytes of a request's body. An instance holds it several times over: more needs more of `limits.memory`.
    #[schemars(range(min = 1024))]
    pub(crate) max_body_bytes: u64,
    /// Bytes of earlier turns that a request may bring together, as an instance holds them: a message takes some 2 KiB beside
    /// its text. With `truncation: "auto"` the turns
    /// before are left out.
    #[schemars(range(min = 1024))]
    pub(crate) max_context_bytes: u64,
    /// Bytes of messages that an agent is told; the host bounds all that it is told by `workers.input`. With
    /// `truncation: "auto"` the messages before are left out.
    #[schemars(range(min = 1024))]
    pub(crate) max_input_bytes: u64,
    /// Messages of earlier turns that an agent is told of with `truncation: "auto"`.
    #[schemars(range(min = 1))]
    pub(crate) truncated_to: usize,
    /// Messages of earlier turns that a request without it may bring together: more is a 400.
    #[schemars(range(min = 1))]
    pub(crate) max_messages: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            aliases: BTreeMap::new(),
            owned_by: "plugway".to_owned(),
            keep_seconds: 30 * 24 * 3600,
            keep_alive_ms: 15_000,
            requests_per_minute: 0,
            max_body_bytes: 4 << 20,
            max_context_bytes: 6 << 20,
            max_input_bytes: 1_900_000,
            truncated_to: 100,
            max_messages: 2_000,
        }
    }
}

impl Config {
    /// Says what is wrong with it.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let least = [
            ("keep_seconds", u64::from(self.keep_seconds), 1),
            ("keep_alive_ms", self.keep_alive_ms, 1000),
            ("max_body_bytes", self.max_body_bytes, 1024),
            ("max_context_bytes", self.max_context_bytes, 1024),
            ("max_input_bytes", self.max_input_bytes, 1024),
            ("truncated_to", self.truncated_to as u64, 1),
            ("max_messages", self.max_messages as u64, 1),
        ];
        if let Some((name, _, least)) = least.into_iter().find(|(_, value, least)| value < least) {
            return Err(format!("{name}: must be at least {least}"));
        }
        if self.requests_per_minute > bounds::PACING_COUNT {
            return Err(format!("requests_per_minute: must be at most {}", bounds::PACING_COUNT));
        }
        Ok(())
    }

    pub(crate) fn keep(&self) -> Duration {
        Duration::from_secs(self.keep_seconds.into())
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms)
    }
}
