//! Settings of an `openai` agent, with their defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::egress::SecretRef;

/// Settings of an `openai` agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAiConfig {
    /// Where the API begins, as `http://127.0.0.1:11434/v1`; a query is kept.
    pub base_url: Url,
    /// The model, by the server's name for it.
    pub model: String,
    /// Sent as a Bearer token. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// The agent's own system text; what an input brings is put under it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Further headers; values may be `env:NAME` or `file:PATH`. Default: none.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretRef>,
    /// Members of every request, as `temperature`; an input's own sampling parameters win. Default: none.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Asks for token counts (`stream_options.include_usage`), which a few old servers refuse. Default true.
    #[serde(default = "yes")]
    pub include_usage: bool,
    /// Time for a connection. Default 10 s.
    #[serde(default = "default_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time from the request to the first piece of the answer, in each try. Default 60 s. For a model that takes longer
    /// to load, raise the agent's `stream_timeout` as well.
    #[serde(default = "default_first_token_timeout", with = "humantime_serde")]
    pub first_token_timeout: Duration,
    /// Time for what may follow the end of the answer (token counts). Default 5 s.
    #[serde(default = "default_end_timeout", with = "humantime_serde")]
    pub end_timeout: Duration,
    /// Tries beyond the first, made only while nothing of the answer was passed on. Default 2.
    #[serde(default = "default_max_retries")]
    pub max_retries: u32,
    /// Wait before the second try; it doubles from try to try, with jitter, up to `max_retry_delay`. Default 500 ms.
    #[serde(default = "default_retry_delay", with = "humantime_serde")]
    pub retry_delay: Duration,
    /// Longest wait between two tries. A server that asks for more (`Retry-After`) is not tried again. Default 20 s.
    #[serde(default = "default_max_retry_delay", with = "humantime_serde")]
    pub max_retry_delay: Duration,
    /// Largest frame of the stream. Default 1 MiB.
    #[serde(default = "default_max_frame")]
    pub max_frame: ByteSize,
    /// Largest answer: text, thoughts and tool arguments together. Default 4 MiB.
    #[serde(default = "default_max_answer")]
    pub max_answer: ByteSize,
}

fn yes() -> bool {
    true
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_first_token_timeout() -> Duration {
    Duration::from_secs(60)
}

fn default_end_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_max_retries() -> u32 {
    2
}

fn default_retry_delay() -> Duration {
    Duration::from_millis(500)
}

fn default_max_retry_delay() -> Duration {
    Duration::from_secs(20)
}

fn default_max_frame() -> ByteSize {
    ByteSize::mib(1)
}

fn default_max_answer() -> ByteSize {
    ByteSize::mib(4)
}
