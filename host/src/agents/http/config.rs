//! Settings of an `http` agent, with their defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::egress::SecretRef;

/// Settings of an `http` agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where the runtime is, as `http://127.0.0.1:8001`; `/agent/message/stream` is put behind it, a query is kept.
    pub url: Url,
    /// Sent as `X-Internal-Auth`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_api_key: Option<SecretRef>,
    /// Further headers; values may be `env:NAME` or `file:PATH`. Default: none.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretRef>,
    /// Time from a request to the head of its answer, in each try; for an answer that is not streamed, to its end.
    /// Silence after that is bounded by the agent's `stream_timeout`, which counts from the turn's begin. Default 30 s.
    #[serde(default = "default_request_timeout", with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Time for a connection. Default 10 s.
    #[serde(default = "default_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long an error that the runtime reports is held back. If its answer ends in that time, the turn has failed with
    /// it; else it is told as an `agent_error`. At most half of `stream_timeout` counts. Default 1 s.
    #[serde(default = "default_error_timeout", with = "humantime_serde")]
    pub error_timeout: Duration,
    /// Time for what may follow the end of an answer, or an error that the runtime reports: the end of the stream. Behind
    /// an error, at most half of `stream_timeout` counts. Default 5 s.
    #[serde(default = "default_end_timeout", with = "humantime_serde")]
    pub end_timeout: Duration,
    /// Streams whose end is waited for behind the end of their answer, at most. One more is cut off at once, and what its
    /// runtime still does. Default 4096.
    #[serde(default = "default_ending_streams")]
    pub ending_streams: usize,
    /// How long a connection without a request is kept. Shorter than the runtime keeps it (uvicorn: 5 s), or a request
    /// may meet its closing. Default 4 s.
    #[serde(default = "default_idle_timeout", with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Connections without a request that are kept. Default 32.
    #[serde(default = "default_idle_connections")]
    pub idle_connections: usize,
    /// Tries beyond the first, made only where the runtime did nothing: it could not be reached, or answered with the
    /// status 429 or 503. Default 2.
    #[serde(default = "default_max_retries")]
    pub max_retries: u32,
    /// Wait before the second try; it doubles from try to try, with jitter, up to `max_retry_delay`. Default 500 ms.
    #[serde(default = "default_retry_delay", with = "humantime_serde")]
    pub retry_delay: Duration,
    /// Longest wait between two tries. A runtime that asks for more (`Retry-After`) is not tried again. Default 20 s.
    #[serde(default = "default_max_retry_delay", with = "humantime_serde")]
    pub max_retry_delay: Duration,
    /// Largest frame of the stream. Default 1 MiB.
    #[serde(default = "default_max_frame")]
    pub max_frame: ByteSize,
    /// All frames of an answer together. Default 16 MiB.
    #[serde(default = "default_max_answer")]
    pub max_answer: ByteSize,
}

fn default_request_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_error_timeout() -> Duration {
    Duration::from_secs(1)
}

fn default_ending_streams() -> usize {
    4096
}

fn default_end_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_idle_timeout() -> Duration {
    Duration::from_secs(4)
}

fn default_idle_connections() -> usize {
    32
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
    ByteSize::mib(16)
}
