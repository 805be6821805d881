//! What the operator may set. Unknown names are refused, so that a typing error does not pass for a setting.

use crate::inbound::KNOWN;
use schemars::JsonSchema;
use serde::Deserialize;

/// Deepest nesting that can be set: the host's parser reads a frame within the task's document, down to 128.
const NESTING: usize = 100;

/// Configuration of the IDE plugin.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Agent that answers; the gateway's default if none.
    pub(crate) agent: Option<String>,
    /// Bytes of a frame from an IDE. Its words stand in a task's input twice, so `workers.input` has to be more than twice
    /// as much.
    #[schemars(range(min = 1024))]
    pub(crate) max_frame_bytes: usize,
    /// Values that a frame may hold: each costs an instance far more memory than it has bytes.
    #[schemars(range(min = 16))]
    pub(crate) max_values: usize,
    /// Levels to which a frame may be nested: 4 to 100.
    #[schemars(range(min = 4, max = 100))]
    pub(crate) max_nesting: usize,
    /// Types of frames beside those of the protocol that the agent runtime understands, as `["plan_decision"]`. They are
    /// passed on as they are.
    pub(crate) forward_types: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            agent: None,
            max_frame_bytes: 1_000_000,
            max_values: 50_000,
            max_nesting: 64,
            forward_types: Vec::new(),
        }
    }
}

impl Config {
    /// Says what is wrong with it.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let least = [
            ("max_frame_bytes", self.max_frame_bytes, 1024),
            ("max_values", self.max_values, 16),
            ("max_nesting", self.max_nesting, 4),
        ];
        if let Some((name, _, least)) = least.into_iter().find(|(_, value, least)| value < least) {
            return Err(format!("{name}: must be at least {least}"));
        }
        if self.max_nesting > NESTING {
            return Err(format!("max_nesting: must be at most {NESTING}"));
        }
        if self.agent.as_ref().is_some_and(String::is_empty) {
            return Err("agent: must not be empty; leave it out for the gateway's default".to_owned());
        }
        for (at, name) in self.forward_types.iter().enumerate() {
            if name.is_empty() {
                return Err(format!("forward_types[{at}]: must not be empty"));
            }
            if KNOWN.contains(&name.as_str()) {
                return Err(format!("forward_types[{at}]: {name:?} is a type of the protocol already"));
            }
        }
        Ok(())
    }
}
