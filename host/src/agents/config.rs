//! What the operator says about an agent: what all kinds have in common, and the settings of its kind.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{EchoConfig, HttpConfig, OpenAiConfig, RedisConfig};

/// What becomes of a run whose worker died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCrash {
    /// The task is run again, up to `max_attempts` times.
    #[default]
    Retry,
    /// The task ends as failed, with the error type `abandoned`: for agents whose work must not be done twice.
    Fail,
}

/// One agent (`[agents.NAME]`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct AgentConfig {
    /// One sentence for people. Default: what its kind says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What becomes of a run whose worker died. Default `retry`.
    pub on_crash: OnCrash,
    /// Runs of a task whose workers died. Default: `workers.max_attempts` (3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// A run that gives no sign of life for so long fails as `agent_silent`. Every piece of the answer is one, told or
    /// not; what only keeps the connection open is none. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub stream_timeout: Duration,
    /// Filters of its tasks, after those for all.
    pub filters: Vec<String>,
    /// What runs the turns, and its settings.
    #[serde(flatten)]
    pub backend: Backend,
}

/// Kinds of agents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Backend {
    /// Answers with what it was sent.
    #[serde(rename = "echo")]
    Echo(EchoConfig),
    /// A runtime that streams its answers over HTTP.
    #[serde(rename = "http")]
    Http(Box<HttpConfig>),
    /// A model behind a server that speaks the OpenAI chat-completions API.
    #[serde(rename = "openai")]
    OpenAi(Box<OpenAiConfig>),
    /// A pipeline behind Redis.
    #[serde(rename = "redis")]
    Redis(RedisConfig),
}

impl Backend {
    /// What it is, in one sentence.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Echo(_) => "Answers with the text that it was sent.".to_owned(),
            // Without a query, which may hold a key.
            Self::Http(config) => format!("The runtime at {}.", config.url.origin().ascii_serialization()),
            Self::OpenAi(config) => format!("The model {}.", config.model),
            Self::Redis(config) => format!("A pipeline that hears {}.", config.command_channel),
        }
    }
}

/// Read in two steps: serde can't refuse unknown fields beside flattened ones, the backends' own types can.
#[derive(Deserialize)]
struct Raw {
    summary: Option<String>,
    #[serde(default)]
    on_crash: OnCrash,
    max_attempts: Option<u32>,
    #[serde(default = "default_stream_timeout", with = "humantime_serde")]
    stream_timeout: Duration,
    #[serde(default)]
    filters: Vec<String>,
    #[serde(flatten)]
    backend: Map<String, Value>,
}

fn default_stream_timeout() -> Duration {
    Duration::from_secs(60)
}

impl TryFrom<Raw> for AgentConfig {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let read = serde_path_to_error::deserialize(Value::Object(raw.backend));
        let backend: Backend = read.map_err(|error| {
            let path = error.path().to_string();
            if path == "." {
                error.into_inner().to_string()
            } else {
                format!("{path}: {}", error.into_inner())
            }
        })?;
        let Raw { summary, on_crash, max_attempts, stream_timeout, filters, .. } = raw;
        Ok(Self { summary, on_crash, max_attempts, stream_timeout, filters, backend })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AgentConfig, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn defaults_are_filled_in_and_written_out() {
        let config = read("kind = \"echo\"").unwrap();
        assert_eq!((config.on_crash, config.max_attempts), (OnCrash::Retry, None));
        assert_eq!(config.stream_timeout, Duration::from_secs(60));
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!((&written["kind"], &written["stream_timeout"]), (&"echo".into(), &"1m".into()));
        let again: AgentConfig = serde_json::from_value(written).unwrap();
        assert!(matches!(again.backend, Backend::Echo(_)));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = read("kind = \"echo\"\nchunk_dely = \"2s\"").unwrap_err();
        assert!(error.contains("chunk_dely") && error.contains("chunk_delay"), "{error}");
        let error = read("kind = \"parrot\"").unwrap_err();
        assert!(error.contains("parrot") && error.contains("echo"), "{error}");
        let error = read("kind = \"openai\"\nmodel = \"m\"").unwrap_err();
        assert!(error.contains("base_url"), "{error}");
        assert!(read("chunk_delay = \"2s\"").unwrap_err().contains("kind"));
    }
}
