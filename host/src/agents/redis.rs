//! The `redis` agent: a pipeline that hears commands on a Redis channel. It answers over the feed's channels, to all who
//! watch the feed; or, with `replies`, to who asked as well.
//!
//! A command is published at least once: where the answer of Redis to a publication was lost it is published again, under
//! the same `request_id`, and so is one that is run as another attempt.

mod replies;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use bytesize::ByteSize;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, ProtocolVersion, RedisResult};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::{Agent, AgentSignal, AgentStream, AgentsError, Turn};
use crate::domain::{AgentEvent, Clock, ErrorType, TaskInput, rfc3339};
use crate::egress::{Secret, SecretRef};
use replies::{Answer, Listener};

/// Time for a connection, and for an answer of Redis.
const ANSWER: Duration = Duration::from_secs(5);
/// First and longest pause between two tries to publish.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Settings of a `redis` agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Where it listens, as `redis://127.0.0.1:6379`. Default: the feed's Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<SecretRef>,
    /// Channel of commands. Default `agent_commands`.
    pub command_channel: String,
    /// How long a command is offered while nobody listens or Redis is out of reach; then the turn fails as
    /// `agent_unreachable`. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub listener_timeout: Duration,
    /// Whether the pipeline says what came of a command: the turn then goes on until it publishes `completed` or `error`
    /// with the command's `request_id`. Else it is completed when the command was published. Default false.
    pub replies: bool,
    /// Channels of the replies. Default: those of the feed, where everybody sees them too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<String>>,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            command_channel: "agent_commands".to_owned(),
            listener_timeout: Duration::from_secs(30),
            replies: false,
            channels: None,
        }
    }
}

/// What `redis` agents take from the feed's settings where they have none of their own.
#[derive(Clone, Debug)]
pub struct Pipelines {
    /// The feed's Redis.
    pub url: Option<Secret>,
    /// The feed's channels.
    pub channels: Vec<String>,
    /// Largest message of a channel.
    pub payload: ByteSize,
}

/// The agent.
#[derive(Debug)]
pub(super) struct Redis {
    pipeline: Arc<Pipeline>,
}

#[derive(Debug)]
struct Pipeline {
    client: Client,
    channel: String,
    listener_timeout: Duration,
    listener: Option<Listener>,
    connection: Mutex<Option<MultiplexedConnection>>,
    clock: Clock,
}

impl Redis {
    /// Checks the settings and looks up the URL. Connects to nothing.
    pub(super) fn new(agent: &str, config: &RedisConfig, defaults: &Pipelines) -> Result<Self, AgentsError> {
        let setting = |field: &str, reason: String| AgentsError::Setting {
            agent: agent.to_owned(),
            field: field.to_owned(),
            reason,
        };
        let own = match &config.url {
            Some(url) => url.resolve(),
            None => Ok(None),
        };
        let own = own.map_err(|source| AgentsError::Secret { agent: agent.to_owned(), source })?;
        let url = own.or_else(|| defaults.url.clone()).ok_or_else(|| {
            setting("url", "is not set, and neither is feed.redis_url: set one of them".to_owned())
        })?;
        let client = client(&url).map_err(|error| {
            let reason = error.to_string().replace(url.expose(), "[hidden]");
            setting("url", format!("is no address of a redis, as redis://127.0.0.1:6379: {reason}"))
        })?;
        if config.command_channel.is_empty() {
            return Err(setting("command_channel", "must not be empty".to_owned()));
        }
        let channels = config.channels.as_ref().unwrap_or(&defaults.channels);
        if config.replies && (channels.is_empty() || channels.iter().any(String::is_empty)) {
            return Err(setting("channels", "must name at least one, and none without a name".to_owned()));
        }
        let payload = usize::try_from(defaults.payload.as_u64()).unwrap_or(usize::MAX);
        let listener =
            config.replies.then(|| Listener::new(agent, client.clone(), channels.clone(), payload));
        Ok(Self {
            pipeline: Arc::new(Pipeline {
                client,
                channel: config.command_channel.clone(),
                listener_timeout: config.listener_timeout,
                listener,
                connection: Mutex::new(None),
                clock: Clock::System,
            }),
        })
    }
}

fn client(url: &Secret) -> RedisResult<Client> {
    let info = url.expose().into_connection_info()?;
    // Pub/Sub is read as it comes over the older protocol.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    Client::open(info.set_redis_settings(settings))
}

/// The command that an input is, or why it is none.
fn command(turn: &Turn, clock: &Clock) -> Result<String, &'static str> {
    let query = turn.input.text();
    let symbol = match &turn.input {
        TaskInput::Command { symbol, .. } => symbol.as_deref(),
        TaskInput::Message(_) => None,
        TaskInput::ToolResult { .. } | TaskInput::Control { .. } | TaskInput::Decision { .. } => {
            return Err("the redis agent takes commands and messages");
        }
    };
    if query.is_empty() {
        return Err("the redis agent takes messages with a text");
    }
    let mut command = json!({
        "request_id": turn.task.request_id(),
        "session_id": turn.session.name(),
        "query": query,
        "timestamp": rfc3339(clock.now_ms()),
    });
    if let Some(symbol) = symbol {
        command["symbol"] = symbol.into();
    }
    Ok(command.to_string())
}

impl Agent for Redis {
    fn run(&self, turn: Turn) -> AgentStream {
        let pipeline = Arc::clone(&self.pipeline);
        let command = match command(&turn, &pipeline.clock) {
            Ok(command) => command,
            Err(why) => {
                let failed = AgentEvent::failed(ErrorType::InvalidInput, why);
                return Box::pin(futures::stream::iter([AgentSignal::Event(failed)]));
            }
        };
        Box::pin(stream! {
            let until = Instant::now() + pipeline.listener_timeout;
            // From before the publication, so that no reply comes too early.
            let mut replies = pipeline.listener.as_ref().map(|listener| listener.expect(turn.task.request_id()));
            let mut pause = PAUSE.0;
            loop {
                let listening = match &mut replies {
                    Some(replies) => replies.listening(until).await,
                    None => true,
                };
                let why = if listening {
                    match pipeline.publish(&command).await {
                        Ok(0) => format!("nobody listens on the channel {:?} of redis: start the pipeline", pipeline.channel),
                        Ok(_) => break,
                        Err(error) => format!("redis is out of reach: {error}"),
                    }
                } else {
                    "redis is out of reach".to_owned()
                };
                if Instant::now() + pause >= until {
                    yield AgentSignal::Event(unreachable(why));
                    return;
                }
                // It is being tried, though it does not say anything.
                yield AgentSignal::Alive;
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            let Some(mut replies) = replies else {
                yield AgentSignal::Event(published());
                return;
            };
            yield AgentSignal::Alive;
            let mut answer = Answer::default();
            loop {
                let Some(reply) = replies.next().await else {
                    yield AgentSignal::Event(unreachable("replies came faster than they could be taken".to_owned()));
                    return;
                };
                for event in answer.events(reply) {
                    let last = event.kind().is_terminal();
                    yield AgentSignal::Event(event);
                    if last {
                        return;
                    }
                }
            }
        })
    }
}

/// The end of a turn whose events come over the feed.
fn published() -> AgentEvent {
    AgentEvent::Completed {
        text: String::new(),
        messages: json!([]),
        usage: Value::Null,
        finish_reason: "published".to_owned(),
    }
}

fn unreachable(error: String) -> AgentEvent {
    AgentEvent::Failed {
        error,
        error_type: ErrorType::AgentUnreachable,
        status: None,
        recoverable: true,
        retry_count: 0,
    }
}

impl Pipeline {
    /// Publishes a command: how many heard it.
    async fn publish(&self, command: &str) -> RedisResult<u64> {
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(ANSWER))
                    .set_response_timeout(Some(ANSWER));
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        *kept = Some(connection.clone());
        drop(kept);
        let result = redis::cmd("PUBLISH").arg(&self.channel).arg(command).query_async(&mut connection).await;
        if result
            .as_ref()
            .is_err_and(|error: &redis::RedisError| error.is_io_error() || error.is_unrecoverable_error())
        {
            *self.connection.lock().await = None;
        }
        result
    }
}
