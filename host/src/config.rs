//! One typed configuration: the defaults file, then the operator's file, then the environment.
//!
//! Invariant: a setting that is not understood stops the start with its name; none is read and ignored.

mod aliases;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::agents::AgentConfig;
use crate::delivery::CallbacksConfig;
use crate::egress::SecretRef;
use crate::feed::FeedConfig;
use crate::ingress::{AuthConfig, CorsConfig, HttpLimits, StreamConfig, WebSocketLimits};
use crate::plugins::{EngineConfig, Limits, PluginConfig};
use crate::tasks::OnBusy;
use crate::telemetry::TelemetryConfig;
use crate::{delivery, egress};

/// The defaults, which are also the reference of all settings.
pub const DEFAULTS: &str = include_str!("../config.default.toml");
/// What is read where no file is named, if it is there.
const USUAL_FILE: &str = "plugway.toml";
/// Before the gateway's own names in the environment.
const PREFIX: &str = "PLUGWAY__";
/// Most tasks that one gateway runs at once.
const MOST_WORKERS: usize = 65_536;

/// The whole configuration. Units and defaults stand in `config.default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Embedded store and artefact cache.
    pub data_dir: PathBuf,
    /// Where plugins are dropped.
    pub plugins_dir: PathBuf,
    /// Runs tasks that name no agent.
    pub default_agent: String,
    /// Filters of all tasks, in their order.
    pub filters: Vec<String>,
    /// What is under way gets this long when the gateway stops.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Keys.
    pub auth: AuthConfig,
    /// Bounds of connections and requests.
    pub limits: HttpLimits,
    /// Pages that may call.
    pub cors: CorsConfig,
    /// Where what must last is kept.
    pub store: StoreConfig,
    /// The worker pool.
    pub workers: WorkersConfig,
    /// The event stream.
    pub stream: StreamConfig,
    /// Connections that plugins serve.
    pub websocket: WebSocketLimits,
    /// The agent feed.
    pub feed: FeedConfig,
    /// The WebAssembly engine.
    pub engine: EngineConfig,
    /// Limits of plugins that say nothing else.
    pub plugin_defaults: Limits,
    /// Outgoing requests.
    pub egress: egress::Config,
    /// The outbox.
    pub delivery: delivery::Config,
    /// Callbacks.
    pub callbacks: CallbacksConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
    /// Agents by name.
    pub agents: BTreeMap<String, AgentConfig>,
    /// Plugins by name.
    #[serde(default)]
    pub plugins: BTreeMap<String, PluginConfig>,
}

/// `[store]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Which.
    pub kind: StoreKind,
    /// Of Redis; may hold a password.
    pub url: SecretRef,
    /// What all keys in Redis begin with.
    pub prefix: String,
    /// How long a call of Redis may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long the start waits for Redis.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Events of one task that Redis keeps.
    pub log_events: u64,
    /// Bytes of events that wait for Redis.
    pub pending: ByteSize,
    /// Bytes of other nodes' notices that wait for this one.
    pub notices: ByteSize,
    /// Events of ended tasks.
    #[serde(with = "humantime_serde")]
    pub event_retention: Duration,
    /// Ended tasks and all that goes with them.
    #[serde(with = "humantime_serde")]
    pub task_retention: Duration,
    /// Time between two looks for what is older than its retention.
    #[serde(with = "humantime_serde")]
    pub sweep_every: Duration,
}

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A file in the data directory, for one gateway.
    Sqlite,
    /// One Redis that many gateways share.
    Redis,
}

/// `[workers]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkersConfig {
    /// Tasks that run at once.
    pub count: usize,
    /// Tasks accepted and not started.
    pub queue: u64,
    /// How long one run may take.
    #[serde(with = "humantime_serde")]
    pub task_deadline: Duration,
    /// Length of a lease.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Runs of a task whose worker died.
    pub max_attempts: u32,
    /// What a new turn does to a busy session.
    pub on_busy: OnBusy,
    /// Bytes of a task input document.
    pub input: ByteSize,
    /// Turns of a session that the next one is told.
    pub history_turns: usize,
    /// Bytes of text in those turns.
    pub history: ByteSize,
}

/// What the command line says before everything else.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Overrides {
    /// `--listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// `--data-dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// `--plugins-dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins_dir: Option<PathBuf>,
}

/// A configuration that can't be used. The text names the setting and where it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("no configuration file {0}")]
    NoFile(PathBuf),
    /// A setting is unknown, missing or of the wrong type.
    #[error("{0}")]
    Setting(String),
}

impl Config {
    /// Reads the configuration: defaults, file, the specifications' names in the environment, the gateway's own names,
    /// the command line; the later wins.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Toml::string(DEFAULTS));
        match file {
            Some(path) if !path.is_file() => return Err(ConfigError::NoFile(path.to_owned())),
            Some(path) => figment = figment.merge(Toml::file_exact(path)),
            None if Path::new(USUAL_FILE).is_file() => figment = figment.merge(Toml::file_exact(USUAL_FILE)),
            None => {}
        }
        let listen: String = figment.extract_inner("listen").map_err(|error| setting(&error))?;
        let own = Figment::from(Env::prefixed(PREFIX).split("__"));
        figment = aliases::merge(figment, &own, &listen, &|name| std::env::var(name).ok())?;
        figment = figment.merge(own).merge(Serialized::defaults(overrides));
        let config: Self = figment.extract().map_err(|error| setting(&error))?;
        config.check()?;
        Ok(config)
    }

    /// What no type can say.
    fn check(&self) -> Result<(), ConfigError> {
        self.plugin_defaults
            .check()
            .map_err(|(key, reason)| ConfigError::Setting(format!("plugin_defaults.{key}: {reason}")))?;
        self.engine
            .check()
            .map_err(|(key, reason)| ConfigError::Setting(format!("engine.{key}: {reason}")))?;
        self.feed.check().map_err(|(key, reason)| ConfigError::Setting(format!("feed.{key}: {reason}")))?;
        let positive = [
            ("workers.count", self.workers.count as u64),
            ("workers.queue", self.workers.queue),
            ("limits.connections", self.limits.connections as u64),
            ("limits.body", self.limits.body.as_u64()),
            ("stream.ring_events", self.stream.ring_events as u64),
            ("store.log_events", self.store.log_events),
            ("store.pending", self.store.pending.as_u64()),
            ("store.notices", self.store.notices.as_u64()),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(ConfigError::Setting(format!("{name}: must be at least 1")));
            }
        }
        if self.workers.count > MOST_WORKERS {
            let count = self.workers.count;
            return Err(ConfigError::Setting(format!("workers.count: {count} is more than {MOST_WORKERS}")));
        }
        let durations = [
            ("auth.ticket_ttl", self.auth.ticket_ttl),
            ("stream.heartbeat", self.stream.heartbeat),
            ("stream.write_timeout", self.stream.write_timeout),
            ("workers.lease", self.workers.lease),
            ("store.sweep_every", self.store.sweep_every),
            ("workers.task_deadline", self.workers.task_deadline),
            ("store.timeout", self.store.timeout),
        ];
        for (name, value) in durations {
            if value.is_zero() {
                return Err(ConfigError::Setting(format!("{name}: must be longer than nothing")));
            }
        }
        let prefix = &self.store.prefix;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if prefix.is_empty() || !prefix.chars().all(is_plain) {
            return Err(ConfigError::Setting(
                "store.prefix: needs letters, digits, `-`, `_`, `.` or `:`, and nothing else".into(),
            ));
        }
        Ok(())
    }
}

/// One line that names the setting, what is wrong with it, and where it stands.
fn setting(error: &figment::Error) -> ConfigError {
    let lines = error.clone().into_iter().map(|error| {
        let key = error.path.join(".");
        let source =
            error.metadata.as_ref().and_then(|metadata| metadata.source.as_ref()).map(ToString::to_string);
        let place = match (&error.metadata, source) {
            (Some(metadata), _) if metadata.name.contains("Overrides") => " (on the command line)".to_owned(),
            (Some(_), Some(source)) if source.contains(".rs:") => " (in the environment)".to_owned(),
            (Some(_), Some(source)) => format!(" (in {source})"),
            (Some(metadata), None) if metadata.name.contains("environment") => {
                format!(" (in the environment: {PREFIX}{})", key.to_uppercase().replace('.', "__"))
            }
            _ => String::new(),
        };
        let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
        format!("{key}{}{place}", error.kind)
    });
    ConfigError::Setting(lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_whole_configuration() {
        let config: Config = Figment::from(Toml::string(DEFAULTS)).extract().unwrap();
        config.check().unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert!(config.agents.contains_key("echo"));
    }

    /// Agents are there as comments, for they have no name before the operator gives them one.
    #[test]
    fn the_reference_has_every_setting_of_every_agent_with_its_default() {
        let begin = DEFAULTS.find("[agents.echo]").unwrap();
        let end = DEFAULTS.find("[telemetry]").unwrap();
        let uncommented: Vec<_> =
            DEFAULTS[begin..end].lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
        let shown: toml::Table = toml::from_str(&uncommented.join("\n")).unwrap();
        let shown = shown["agents"].as_table().unwrap();
        let needed = ["kind", "url", "base_url", "model"];
        let kinds: Vec<_> = shown.values().map(|agent| agent["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["echo", "openai", "redis", "http"]);
        for (name, agent) in shown {
            let agent = agent.as_table().unwrap();
            let read = |table: &toml::Table| {
                let read: AgentConfig = table.clone().try_into().unwrap();
                toml::Table::try_from(&read).unwrap()
            };
            let mut bare = agent.clone();
            bare.retain(|key, _| needed.contains(&key));
            let any = shown["echo"].as_table().unwrap();
            for (key, default) in &read(&bare) {
                let known = agent.get(key).or_else(|| any.get(key));
                assert!(known.is_some(), "{name}.{key} is missing");
                if !bare.contains_key(key) && agent.contains_key(key) {
                    assert_eq!(&read(agent)[key], default, "{name}.{key} has another default");
                }
            }
            // What has no default is not written out.
            let others: &[&str] = match agent["kind"].as_str().unwrap() {
                "echo" => &["summary", "max_attempts"],
                "openai" => &["api_key", "instructions"],
                "http" => &["internal_api_key"],
                _ => &["url", "channels"],
            };
            assert!(others.iter().all(|key| agent.contains_key(*key)), "{name}: {others:?}");
        }
    }

    #[test]
    fn a_setting_that_is_not_understood_is_named() {
        let read = |text: &str| {
            let figment = Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(text));
            setting(&figment.extract::<Config>().unwrap_err()).to_string()
        };
        let from_arguments = Overrides { listen: Some("127.0.0.1:80000".into()), ..Overrides::default() };
        let error = Config::load(None, &from_arguments).unwrap_err().to_string();
        assert!(error.contains("listen") && error.contains("on the command line"), "{error}");
        assert!(read("[workers]\ncuont = 3").contains("cuont"));
        assert!(read("[workers]\ncount = \"many\"").contains("workers.count"));
        assert!(read("listen = \"nowhere\"").contains("listen"));
        assert!(read("[agents.x]\nkind = \"parrot\"").contains("agents.x"));
        assert!(read("[plugins.x.limits]\nmemory = \"lots\"").contains("plugins.x.limits.memory"));
    }

    #[test]
    fn a_prefix_that_would_break_its_hash_tag_is_refused() {
        let mut config: Config = Figment::from(Toml::string(DEFAULTS)).extract().unwrap();
        for prefix in ["", "a}b", "a b", "{a"] {
            config.store.prefix = prefix.into();
            assert!(config.check().unwrap_err().to_string().contains("store.prefix"), "{prefix}");
        }
    }

    #[test]
    fn the_password_of_redis_is_not_written_out() {
        let url = "[store]\nkind = \"redis\"\nurl = \"redis://:hunter2@localhost\"";
        let config: Config =
            Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(url)).extract().unwrap();
        assert_eq!(config.store.kind, StoreKind::Redis);
        assert!(!toml::to_string(&config).unwrap().contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
