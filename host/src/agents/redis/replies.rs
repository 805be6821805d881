//! Replies of a pipeline: one subscription for all turns of an agent, and what the replies mean.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use redis::{Client, RedisResult};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::domain::{AgentEvent, ErrorType};

/// Replies that may wait for a turn to take them.
const WAITING: usize = 1_024;
/// Time for a connection and its subscription.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two signs of life asked for.
const PING: Duration = Duration::from_secs(10);
/// First and longest pause between two tries to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Turns that wait for replies, by their request's name.
type Turns = Arc<Mutex<HashMap<String, mpsc::Sender<Reply>>>>;

/// What a pipeline told about a request.
#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    kind: String,
    data: Map<String, Value>,
}

/// Hears replies for all turns of an agent. Connects when the first turn asks for it.
#[derive(Debug)]
pub(super) struct Listener {
    shared: Shared,
    listening: watch::Sender<bool>,
    /// The subscriber, once there is one; it ends with this.
    task: Mutex<JoinSet<()>>,
}

#[derive(Clone, Debug)]
struct Shared {
    agent: Arc<str>,
    client: Client,
    channels: Arc<[String]>,
    payload: usize,
    turns: Turns,
}

/// The replies to one request. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Replies {
    request: String,
    turns: Turns,
    listening: watch::Receiver<bool>,
    receiver: mpsc::Receiver<Reply>,
}

impl Listener {
    pub(super) fn new(agent: &str, client: Client, channels: Vec<String>, payload: usize) -> Self {
        let shared = Shared {
            agent: agent.into(),
            client,
            channels: channels.into(),
            payload,
            turns: Turns::default(),
        };
        Self { shared, listening: watch::Sender::new(false), task: Mutex::default() }
    }

    /// From now on, replies to this request are kept.
    pub(super) fn expect(&self, request: String) -> Replies {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_empty() {
            task.spawn(self.shared.clone().listen(self.listening.clone()));
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let turns = Arc::clone(&self.shared.turns);
        lock(&turns).insert(request.clone(), sender);
        Replies { request, turns, listening: self.listening.subscribe(), receiver }
    }
}

#[cfg(test)]
impl Listener {
    /// Whether no turn waits for replies.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.shared.turns).is_empty()
    }
}

#[cfg(test)]
impl Reply {
    pub(super) fn new(kind: &str, data: Value) -> Self {
        let Value::Object(data) = data else { panic!("no object: {data}") };
        Self { kind: kind.to_owned(), data }
    }
}

impl Replies {
    /// Waits until the channels are listened to. False: they are not at that time.
    pub(super) async fn listening(&mut self, until: Instant) -> bool {
        timeout_at(until, self.listening.wait_for(|listening| *listening))
            .await
            .is_ok_and(|ended| ended.is_ok())
    }

    /// The next reply; none: too many were not taken in time.
    pub(super) async fn next(&mut self) -> Option<Reply> {
        self.receiver.recv().await
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        lock(&self.turns).remove(&self.request);
    }
}

fn lock(turns: &Turns) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Reply>>> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Listens for ever, whatever becomes of Redis. What is told while it is away is lost: the turns' own time bounds the
    /// wait for it.
    async fn listen(self, listening: watch::Sender<bool>) {
        let mut pause = PAUSE.0;
        loop {
            let result = self.subscription(&listening).await;
            if listening.send_replace(false) {
                pause = PAUSE.0;
            }
            if let Err(error) = result
                && pause == PAUSE.0
            {
                tracing::warn!(agent = %self.agent, %error, "redis is out of reach: replies may be lost");
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn subscription(&self, listening: &watch::Sender<bool>) -> RedisResult<()> {
        let late = || redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let subscribe = async {
            let (mut sink, messages) = self.client.get_async_pubsub().await?.split();
            sink.subscribe(&*self.channels).await?;
            RedisResult::Ok((sink, messages))
        };
        let (mut sink, mut messages) =
            tokio::time::timeout(CONNECT, subscribe).await.map_err(|_| late())??;
        listening.send_replace(true);
        let mut pings = tokio::time::interval(PING);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return Ok(()) };
                    self.pass_on(message.get_channel_name(), message.get_payload_bytes());
                }
                _ = pings.tick() => {
                    let answer: RedisResult<redis::Value> =
                        tokio::time::timeout(CONNECT, sink.ping()).await.map_err(|_| late())?;
                    answer?;
                }
            }
        }
    }

    /// Gives a message to the turn that waits for it. What is no reply is the feed's business.
    fn pass_on(&self, channel: &str, payload: &[u8]) {
        // Most messages are nobody's here.
        if payload.len() > self.payload || lock(&self.turns).is_empty() {
            return;
        }
        let Some((request, reply)) = read(channel, payload) else { return };
        let mut turns = lock(&self.turns);
        if let Some(turn) = turns.get(&request)
            && turn.try_send(reply).is_err()
        {
            turns.remove(&request);
        }
    }
}

/// The request that a message is about, and what it says.
fn read(channel: &str, payload: &[u8]) -> Option<(String, Reply)> {
    let Value::Object(mut object) = serde_json::from_slice(payload).ok()? else { return None };
    let text = |object: &Map<String, Value>, name: &str| object.get(name)?.as_str().map(str::to_owned);
    let said = text(&object, "type").or_else(|| text(&object, "event_type"));
    let request = text(&object, "request_id");
    let data = match object.get("data") {
        Some(Value::Object(_)) if said.is_some() => match object.remove("data") {
            Some(Value::Object(data)) => data,
            _ => return None,
        },
        _ => object,
    };
    let request = request.or_else(|| text(&data, "request_id"))?;
    let kind = said.or_else(|| {
        let is_result = data.contains_key("result") || data.contains_key("latency_ms");
        let kind = match channel.rsplit(':').next()? {
            "signals" => "signal",
            "reasoning" => "reasoning",
            "tool-events" if is_result => "tool_result",
            "tool-events" => "tool_call",
            _ => return None,
        };
        Some(kind.to_owned())
    })?;
    Some((request, Reply { kind, data }))
}

/// What the replies to a request come to, one after the other.
#[derive(Debug, Default)]
pub(super) struct Answer {
    text: String,
    /// Tool calls without a result: the name of the call, and of the tool.
    calls: Vec<(String, String)>,
    count: u32,
}

impl Answer {
    /// The events that a reply means.
    pub(super) fn events(&mut self, reply: Reply) -> Vec<AgentEvent> {
        let Reply { kind, data } = reply;
        let text = |names: &[&str]| {
            names.iter().find_map(|name| data.get(*name)?.as_str().map(str::to_owned)).unwrap_or_default()
        };
        match kind.as_str() {
            "reasoning" => {
                let step = data.get("step").and_then(Value::as_u64).and_then(|step| step.try_into().ok());
                vec![AgentEvent::Thinking { thought: text(&["content", "thought", "text"]), step }]
            }
            "tool_call" => {
                self.count += 1;
                let tool_name = text(&["tool_name"]);
                let named = text(&["call_id"]);
                let call_id = if named.is_empty() { format!("call_{}", self.count) } else { named };
                self.calls.push((call_id.clone(), tool_name.clone()));
                let parameters = data.get("parameters").cloned().unwrap_or_else(|| json!({}));
                let arguments = parameters.to_string();
                vec![AgentEvent::ToolStarted {
                    call_id,
                    tool_name,
                    parameters,
                    arguments,
                    executor: "agent",
                    requires_approval: false,
                }]
            }
            "tool_result" => {
                let tool_name = text(&["tool_name"]);
                let named = text(&["call_id"]);
                let call = self.calls.iter().position(|(call, tool)| {
                    if named.is_empty() { *tool == tool_name } else { *call == named }
                });
                let call_id = call.map(|at| self.calls.remove(at).0).unwrap_or(named);
                let failed = data.get("error").is_some_and(|error| !error.is_null());
                vec![AgentEvent::ToolCompleted {
                    call_id,
                    tool_name,
                    result: data.get("result").cloned().unwrap_or_default(),
                    success: data.get("success").and_then(Value::as_bool).unwrap_or(!failed),
                    duration_ms: data.get("latency_ms").and_then(Value::as_u64).unwrap_or_default(),
                }]
            }
            "response_chunk" => {
                let text = text(&["text", "content", "chunk"]);
                self.text.push_str(&text);
                vec![AgentEvent::ResponseChunk { text }]
            }
            "error" => {
                let message = text(&["message", "error"]);
                let code = text(&["error_code"]);
                let error = match (message.is_empty(), code.is_empty()) {
                    (true, true) => "the pipeline failed".to_owned(),
                    (true, false) => code,
                    (false, _) => message,
                };
                vec![AgentEvent::failed(ErrorType::AgentError, error)]
            }
            "completed" => {
                let said = text(&["text", "response", "summary"]);
                let told = std::mem::take(&mut self.text);
                let mut events = Vec::new();
                if told.is_empty() && !said.is_empty() {
                    events.push(AgentEvent::ResponseChunk { text: said.clone() });
                }
                let text = if said.is_empty() { told } else { said };
                events.push(AgentEvent::Completed {
                    messages: json!([{ "role": "assistant", "content": text }]),
                    text,
                    usage: data.get("usage").cloned().unwrap_or_default(),
                    finish_reason: "stop".to_owned(),
                });
                events
            }
            "heartbeat" => Vec::new(),
            _ => vec![AgentEvent::Other { kind: kind.into(), data }],
        }
    }
}
