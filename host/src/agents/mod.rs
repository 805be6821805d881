//! The south side: the agents that do the work, one file a kind. An agent gets one turn and tells what happens as a
//! stream of events; dropping the stream stops it.

mod attachment;
mod config;
mod echo;
mod failure;
mod http;
mod openai;
mod redis;
mod sse;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;

use crate::domain::HistoryMessage;
use crate::domain::{AgentEvent, RawFrame, SessionId, TaskId, TaskInput};
use crate::egress::{SecretError, Tls};

pub use config::{AgentConfig, Backend, OnCrash};
pub use echo::EchoConfig;
pub use http::HttpConfig;
pub use openai::OpenAiConfig;
pub use redis::{Pipelines, RedisConfig};

/// One turn of work for an agent.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The task.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// The run's number, from 1.
    pub attempt: u32,
    /// What is to be done.
    pub input: TaskInput,
    /// The input document as it was submitted, for backends that pass it on.
    pub document: Box<str>,
    /// Earlier turns, oldest first: the input's own history where it has one, else the session's.
    pub history: Vec<HistoryMessage>,
}

/// What comes from an agent while it runs a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentSignal {
    /// Something to tell.
    Event(AgentEvent),
    /// The same, with the agent's own frame that it was made of.
    Framed(AgentEvent, RawFrame),
    /// The agent goes on with its answer, and has nothing to tell yet. It ends the silence; nobody hears of it.
    Alive,
}

/// Signals of one turn. Ends after one terminal event ([`AgentEvent::Completed`] or [`AgentEvent::Failed`]).
pub type AgentStream = BoxStream<'static, AgentSignal>;

/// A backend that runs turns.
pub trait Agent: Send + Sync + std::fmt::Debug {
    /// Begins a turn. Nothing happens before the stream is polled; dropping it stops the work.
    fn run(&self, turn: Turn) -> AgentStream;
}

/// An agent under its name, with what the workers need to know about it.
#[derive(Clone, Debug)]
pub struct NamedAgent {
    /// The operator's name for it.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// What becomes of a run whose worker died.
    pub on_crash: OnCrash,
    /// Runs of a task whose workers died; none: as `workers.max_attempts` says.
    pub max_attempts: Option<u32>,
    /// A run that gives no signal for so long fails as `agent_silent`.
    pub stream_timeout: Duration,
    /// Runs the turns.
    pub backend: Arc<dyn Agent>,
}

/// The agents that the operator configured, one of which is the default.
#[derive(Clone, Debug)]
pub struct Agents(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    agents: BTreeMap<String, NamedAgent>,
    default: String,
}

/// Agents that can't be had as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// `default_agent` names none.
    #[error("`default_agent` is `{name}`, and {}", listed(.known))]
    NoSuchDefault {
        /// What it names.
        name: String,
        /// The agents that there are.
        known: Vec<String>,
    },
    /// A setting of one agent can't be used.
    #[error("agents.{agent}.{field}: {reason}")]
    Setting {
        /// The agent.
        agent: String,
        /// The setting.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A secret of one agent can't be had.
    #[error("agents.{agent}: {source}")]
    Secret {
        /// The agent.
        agent: String,
        /// Why.
        #[source]
        source: SecretError,
    },
}

fn listed(known: &[String]) -> String {
    if known.is_empty() {
        "there are no agents: add one, as `[agents.echo]` with `kind = \"echo\"`".to_owned()
    } else {
        format!("there are only: {}", known.join(", "))
    }
}

impl Agents {
    /// Makes the configured agents. Connects to none of them. Those behind Redis take from `pipelines` what they do not
    /// say themselves.
    ///
    /// # Errors
    /// The default names none, or an agent's settings can't be used.
    pub fn new(
        configs: &BTreeMap<String, AgentConfig>,
        default: &str,
        tls: &Tls,
        pipelines: &Pipelines,
    ) -> Result<Self, AgentsError> {
        if !configs.contains_key(default) {
            let known = configs.keys().cloned().collect();
            return Err(AgentsError::NoSuchDefault { name: default.to_owned(), known });
        }
        let mut agents = BTreeMap::new();
        for (name, config) in configs {
            let setting = |field: &str, reason: &str| AgentsError::Setting {
                agent: name.clone(),
                field: field.to_owned(),
                reason: reason.to_owned(),
            };
            if config.max_attempts == Some(0) {
                return Err(setting("max_attempts", "must be at least 1"));
            }
            if config.stream_timeout.is_zero() {
                return Err(setting("stream_timeout", "must be longer than nothing"));
            }
            let backend: Arc<dyn Agent> = match &config.backend {
                Backend::Echo(echo) => Arc::new(echo::Echo::new(echo.clone())),
                Backend::Http(http) => {
                    Arc::new(http::Http::new(name, http, config.stream_timeout, tls.clone())?)
                }
                Backend::OpenAi(openai) => Arc::new(openai::OpenAi::new(name, openai, tls.clone())?),
                Backend::Redis(config) => Arc::new(redis::Redis::new(name, config, pipelines)?),
            };
            agents.insert(
                name.clone(),
                NamedAgent {
                    name: name.clone(),
                    summary: config.summary.clone().unwrap_or_else(|| config.backend.summary()),
                    on_crash: config.on_crash,
                    max_attempts: config.max_attempts,
                    stream_timeout: config.stream_timeout,
                    backend,
                },
            );
        }
        Ok(Self(Arc::new(Inner { agents, default: default.to_owned() })))
    }

    /// The agent of that name.
    pub fn get(&self, name: &str) -> Option<&NamedAgent> {
        self.0.agents.get(name)
    }

    /// Name of the agent that runs tasks which name none.
    pub fn default_name(&self) -> &str {
        &self.0.default
    }

    /// All agents, by name.
    pub fn iter(&self) -> impl Iterator<Item = &NamedAgent> {
        self.0.agents.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipelines() -> Pipelines {
        Pipelines { url: None, channels: Vec::new(), payload: bytesize::ByteSize::mib(1) }
    }

    fn configs(json: &str) -> BTreeMap<String, AgentConfig> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn agents_are_found_by_name_and_a_wrong_default_is_told() {
        let configs = configs(r#"{"echo":{"kind":"echo"},"second":{"kind":"echo","summary":"Repeats."}}"#);
        let agents = Agents::new(&configs, "echo", &Tls::default(), &pipelines()).unwrap();
        assert_eq!(agents.default_name(), "echo");
        assert_eq!(agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), ["echo", "second"]);
        assert_eq!(agents.get("second").unwrap().summary, "Repeats.");
        assert!(agents.get("third").is_none());

        let error = Agents::new(&configs, "model", &Tls::default(), &pipelines()).unwrap_err().to_string();
        assert_eq!(error, "`default_agent` is `model`, and there are only: echo, second");
        let error =
            Agents::new(&BTreeMap::new(), "echo", &Tls::default(), &pipelines()).unwrap_err().to_string();
        assert!(error.contains("[agents.echo]"), "{error}");
    }
}
