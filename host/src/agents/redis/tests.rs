//! The agent with a real Redis, and a pipeline that the test plays.

use std::time::Duration;

use futures::StreamExt as _;
use redis::aio::PubSub;

use super::*;
use crate::domain::{SessionId, TaskId};
use crate::store::redis::testing::{DEADLINE, RedisServer, eventually};

fn agent(redis: &RedisServer, config: RedisConfig) -> Redis {
    let channels = ["channel:reasoning", "channel:tool-events", "agent_events"].map(Into::into).into();
    let defaults =
        Pipelines { url: Some(Secret::new(&redis.url()).unwrap()), channels, payload: ByteSize::mib(1) };
    Redis::new("pipeline", &config, &defaults).unwrap()
}

fn replying() -> RedisConfig {
    RedisConfig { replies: true, ..RedisConfig::default() }
}

fn turn(document: &str) -> Turn {
    Turn {
        task: TaskId::new(),
        session: SessionId::new("", "desk").unwrap(),
        attempt: 1,
        input: TaskInput::parse(document).unwrap(),
        document: document.into(),
        history: Vec::new(),
    }
}

const COMMAND: &str = r#"{"kind":"command","query":"What about DOGE?","symbol":"DOGE/USD"}"#;
const MESSAGE: &str = r#"{"kind":"message","text":"hello"}"#;

/// Listens to commands, as a pipeline does.
async fn pipeline(redis: &RedisServer) -> PubSub {
    let client = Client::open(redis.url()).unwrap();
    let mut pipeline = client.get_async_pubsub().await.unwrap();
    pipeline.subscribe("agent_commands").await.unwrap();
    pipeline
}

async fn next_command(pipeline: &mut PubSub) -> Value {
    let message = tokio::time::timeout(DEADLINE, pipeline.on_message().next()).await.unwrap().unwrap();
    serde_json::from_slice(message.get_payload_bytes()).unwrap()
}

async fn events(stream: AgentStream) -> Vec<AgentEvent> {
    let events = stream.filter_map(async |signal| match signal {
        AgentSignal::Event(event) => Some(event),
        AgentSignal::Framed(..) | AgentSignal::Alive => None,
    });
    tokio::time::timeout(DEADLINE, events.collect()).await.expect("it ends")
}

fn error_type(events: &[AgentEvent]) -> ErrorType {
    match events {
        [AgentEvent::Failed { error_type, .. }] => *error_type,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_is_published_and_the_turn_is_over() {
    let redis = RedisServer::start();
    let mut pipeline = pipeline(&redis).await;
    let agent = agent(&redis, RedisConfig::default());
    let asked = turn(COMMAND);
    let name = asked.task.request_id();
    let told = events(agent.run(asked)).await;
    assert!(
        matches!(&told[..], [AgentEvent::Completed { finish_reason, .. }] if finish_reason == "published")
    );
    let command = next_command(&mut pipeline).await;
    assert_eq!(
        (&command["request_id"], &command["session_id"], &command["query"], &command["symbol"]),
        (&json!(name), &json!("desk"), &json!("What about DOGE?"), &json!("DOGE/USD"))
    );
    assert!(command["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{command}");
    events(agent.run(turn(MESSAGE))).await;
    let command = next_command(&mut pipeline).await;
    assert_eq!((&command["query"], command.get("symbol")), (&json!("hello"), None));
}

#[tokio::test]
async fn a_command_waits_for_a_pipeline_that_restarts_but_not_for_ever() {
    let redis = RedisServer::start();
    let patient = agent(&redis, RedisConfig::default());
    let mut waiting = patient.run(turn(COMMAND));
    // It was offered, and nobody was there.
    assert_eq!(waiting.next().await, Some(AgentSignal::Alive));
    let mut pipeline = pipeline(&redis).await;
    assert!(matches!(&events(waiting).await[..], [AgentEvent::Completed { .. }]));
    assert_eq!(next_command(&mut pipeline).await["query"], "What about DOGE?");
    drop(pipeline);

    let impatient = RedisConfig { listener_timeout: Duration::from_millis(10), ..RedisConfig::default() };
    eventually("the pipeline is gone", async || {
        error_type_of(&events(agent(&redis, impatient.clone()).run(turn(COMMAND))).await)
            == Some(ErrorType::AgentUnreachable)
    })
    .await;
}

fn error_type_of(events: &[AgentEvent]) -> Option<ErrorType> {
    match events {
        [AgentEvent::Failed { error_type, .. }] => Some(*error_type),
        _ => None,
    }
}

#[tokio::test]
async fn a_redis_that_is_out_of_reach_is_waited_for_but_not_for_ever() {
    let mut redis = RedisServer::start();
    let agents = [RedisConfig::default(), replying()].map(|config| {
        let config = RedisConfig { listener_timeout: Duration::from_millis(50), ..config };
        agent(&redis, config)
    });
    let patient = agent(&redis, RedisConfig::default());
    let mut connected = pipeline(&redis).await;
    events(patient.run(turn(COMMAND))).await;
    next_command(&mut connected).await;
    redis.stop();
    for agent in agents {
        assert_eq!(error_type(&events(agent.run(turn(COMMAND))).await), ErrorType::AgentUnreachable);
    }
    let mut waiting = patient.run(turn(COMMAND));
    assert_eq!(waiting.next().await, Some(AgentSignal::Alive));
    redis.start_again();
    let mut pipeline = pipeline(&redis).await;
    assert!(matches!(&events(waiting).await[..], [AgentEvent::Completed { .. }]));
    next_command(&mut pipeline).await;
}

#[tokio::test]
async fn replies_become_the_turns_events_and_end_it() {
    let redis = RedisServer::start();
    let mut pipeline = pipeline(&redis).await;
    let agent = agent(&redis, replying());
    let (first, second) = (turn(COMMAND), turn(MESSAGE));
    let (one, two) = (first.task.request_id(), second.task.request_id());
    let running = tokio::spawn(events(agent.run(first)));
    next_command(&mut pipeline).await;
    let other = tokio::spawn(events(agent.run(second)));
    next_command(&mut pipeline).await;
    let tell = async |channel: &str, payload: Value| {
        redis.publish(channel, &payload.to_string()).await;
    };
    tell("agent_events", json!({"type": "response_chunk", "request_id": "req-unknown", "text": "not ours"}))
        .await;
    tell("channel:reasoning", json!({"request_id": one, "step": 2, "content": "let me see"})).await;
    let call = json!({"tool_name": "prices", "parameters": {"symbol": "DOGE/USD"}});
    let envelope = json!({"type": "tool_call", "data": {"request_id": one, "tool_name": "prices", "parameters": call["parameters"]}});
    tell("channel:tool-events", envelope).await;
    tell(
        "channel:tool-events",
        json!({"request_id": one, "tool_name": "prices", "result": [1], "latency_ms": 45}),
    )
    .await;
    tell("agent_events", json!({"event_type": "signal", "request_id": one, "action": "BUY"})).await;
    tell("agent_events", json!({"type": "response_chunk", "request_id": one, "text": "Hold "})).await;
    tell(
        "agent_events",
        json!({"type": "error", "request_id": two, "error_code": "x", "message": "no luck"}),
    )
    .await;
    tell("agent_events", json!({"type": "response_chunk", "request_id": one, "text": "it."})).await;
    tell("agent_events", json!({"type": "completed", "request_id": one})).await;
    let told = running.await.unwrap();
    let data: Vec<_> = told.iter().map(|event| format!("{} {}", event.kind(), event.data())).collect();
    insta::assert_snapshot!(data.join("\n").replace(&one, "[request]"));
    let failed = other.await.unwrap();
    assert!(
        matches!(&failed[..], [AgentEvent::Failed { error, error_type: ErrorType::AgentError, .. }] if error == "no luck")
    );
    assert!(agent.pipeline.listener.as_ref().unwrap().is_idle());
}

#[tokio::test]
async fn an_answer_that_comes_at_once_is_told_as_a_piece_too() {
    let mut answer = Answer::default();
    for member in ["text", "response", "summary"] {
        let reply = replies::Reply::new("completed", json!({ (member): "done" }));
        let told = answer.events(reply);
        assert!(
            matches!(&told[..], [AgentEvent::ResponseChunk { text: piece }, AgentEvent::Completed { text, .. }] if piece == "done" && text == "done"),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_command_is_invalid_input() {
    let redis = RedisServer::start();
    let agent = agent(&redis, RedisConfig::default());
    for document in [r#"{"kind":"control","name":"switch"}"#, r#"{"kind":"message","text":""}"#] {
        assert_eq!(error_type(&events(agent.run(turn(document))).await), ErrorType::InvalidInput);
    }
}

#[test]
fn settings_that_cannot_be_used_are_named_without_the_password() {
    let defaults = Pipelines { url: None, channels: Vec::new(), payload: ByteSize::mib(1) };
    let error = |config: RedisConfig| Redis::new("p", &config, &defaults).unwrap_err().to_string();
    assert!(error(RedisConfig::default()).contains("agents.p.url"));
    let url = Some(SecretRef::parse("http://user:s3cret@host").unwrap());
    let shown = error(RedisConfig { url, ..RedisConfig::default() });
    assert!(shown.contains("agents.p.url") && !shown.contains("s3cret"), "{shown}");
    let url = Some(SecretRef::parse("redis://127.0.0.1").unwrap());
    assert!(error(RedisConfig { url: url.clone(), ..replying() }).contains("agents.p.channels"));
    let no_channel = RedisConfig { url, command_channel: String::new(), ..RedisConfig::default() };
    assert!(error(no_channel).contains("agents.p.command_channel"));
}
