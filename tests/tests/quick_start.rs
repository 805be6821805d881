//! The way of the data as a newcomer walks it with curl: an update in, the task's stream out, and what else is native.

use std::collections::BTreeMap;

use http::Method;
use plugway_tests::update::message;
use plugway_tests::{Answer, DEADLINE, Event, Gateway, eventually};
use serde_json::{Value, json};

async fn gateway() -> Gateway {
    Gateway::builder().plugin("telegram").start().await
}

/// One line an event: its name, its type and its details; after a check of everything else that it carries.
fn lines(task: &str, events: &[Event]) -> String {
    let line = |event: &Event| {
        let data = event.json();
        let object = data.as_object().expect("the data is an object");
        let mut names: Vec<_> = object.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["data", "progress_type", "task_id", "timestamp"], "members of {data}");
        assert_eq!(data["task_id"], task);
        assert_timestamp(&data["timestamp"]);
        assert!(event.id.as_ref().is_some_and(|id| !id.is_empty() && id.len() <= 64), "id of {event:?}");
        let details = sorted(&data["data"]);
        format!("{} {} {details}", event.name, event.progress())
    };
    events.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// JSON with the members of objects in order, whatever their order on the wire.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<_, _> = members.iter().collect();
            let member = |(name, value): (&String, &Value)| format!("{}:{}", json!(name), sorted(value));
            format!("{{{}}}", members.into_iter().map(member).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// RFC 3339 in UTC with milliseconds, as "2024-01-15T10:30:00.125Z".
fn assert_timestamp(value: &Value) {
    let text = value.as_str().expect("a timestamp is a string");
    let shape: String = text.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
}

async fn replay(gateway: &Gateway, task: &str) -> Vec<Event> {
    gateway.stream(&format!("/stream/{task}")).await.rest().await
}

#[tokio::test]
async fn an_update_is_accepted_and_its_stream_shows_the_answer_growing() {
    let gateway = gateway().await;
    let answer = gateway.post("/webhook", &message(1, 7, "good  day\nto you")).await.expect(200).json();
    let task = answer["task_id"].as_str().expect("the task is named").to_owned();
    assert_eq!(answer, json!({ "status": "accepted", "task_id": task }));

    let events = replay(&gateway, &task).await;
    insta::assert_snapshot!(lines(&task, &events), @r#"
    progress started {"agent":"echo","attempt":1}
    progress thinking {"thought":"repeating what I was sent"}
    progress response_chunk {"text":"good  "}
    progress response_chunk {"text":"day\n"}
    progress response_chunk {"text":"to "}
    progress response_chunk {"text":"you"}
    progress completed {"finish_reason":"stop","messages":[{"content":"good  day\nto you","role":"assistant"}],"text":"good  day\nto you","usage":{"completion_tokens":4,"prompt_tokens":4,"total_tokens":8}}
    "#);
}

#[tokio::test]
async fn a_stream_that_was_asked_for_is_announced() {
    let gateway = gateway().await;
    let answer = gateway.post("/webhook?stream=true", &message(1, 7, "hello")).await.expect(200).json();
    let task = answer["task_id"].clone();
    assert_eq!(answer, json!({ "status": "accepted", "task_id": task, "streaming": true }));
}

#[tokio::test]
async fn a_tool_call_and_its_result_are_shown() {
    let gateway = gateway().await;
    let task = gateway.accept(&message(1, 7, "/tool weather {\"city\":\"Bern\"}")).await;
    let events = replay(&gateway, &task).await;
    let tools: Vec<_> = events.into_iter().filter(|event| event.progress().starts_with("tool_")).collect();
    insta::assert_snapshot!(lines(&task, &tools), @r#"
    progress tool_started {"arguments":"{\"city\":\"Bern\"}","call_id":"call_1","executor":"agent","parameters":{"city":"Bern"},"tool_name":"weather"}
    progress tool_completed {"call_id":"call_1","duration_ms":2,"result":{"city":"Bern"},"success":true,"tool_name":"weather"}
    "#);
}

#[tokio::test]
async fn a_failure_is_shown_with_its_reason_and_ends_the_stream() {
    let gateway = gateway().await;
    let task = gateway.accept(&message(1, 7, "/fail out of coffee")).await;
    let events = replay(&gateway, &task).await;
    let last = &events[events.len() - 1..];
    insta::assert_snapshot!(lines(&task, last), @r#"progress failed {"error":"out of coffee","error_type":"agent_error","recoverable":false,"retry_count":0}"#);
    assert_eq!(events.iter().filter(|event| event.progress() == "failed").count(), 1);
    assert_eq!(gateway.ended(&task).await["state"], "failed");
}

#[tokio::test]
async fn a_stream_begins_at_once_and_tells_proxies_to_pass_it_on() {
    let gateway = gateway().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    let header = |name: &str| stream.headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(header("content-type"), Some("text/event-stream"));
    assert_eq!(header("cache-control"), Some("no-store"));
    assert_eq!(header("x-accel-buffering"), Some("no"));
    assert_eq!(stream.next().await.map(|event| event.progress()).as_deref(), Some("started"));
    assert!(stream.retry.is_some(), "a hint when to reconnect");
    assert!(!stream.comments.is_empty(), "a first comment");
}

#[tokio::test]
async fn a_silent_task_shows_heartbeats_that_are_no_place_to_resume_from() {
    let gateway = Gateway::builder().plugin("telegram").set("stream.heartbeat", "50ms").start().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    for _ in 0..3 {
        let heartbeat = stream.until(|event| event.name == "heartbeat").await;
        assert_eq!(heartbeat.id, None);
        assert!(heartbeat.json().is_object(), "data of {heartbeat:?}");
    }
}

#[tokio::test]
async fn a_stream_resumes_after_every_event_without_gap_or_duplicate() {
    let gateway = gateway().await;
    let task = gateway.accept(&message(1, 7, "/words 12")).await;
    let path = format!("/stream/{task}");
    let events = replay(&gateway, &task).await;
    let id = |event: &Event| event.id.clone().expect("every event has an id");
    let (end, before) = events.split_last().expect("there are events");
    for (index, event) in before.iter().enumerate() {
        let rest = gateway.stream_after(&path, &id(event)).await.rest().await;
        assert_eq!(rest, events[index + 1..], "after event {index}");
    }
    // An EventSource comes back after every end, unless it is told that there is nothing.
    let request = gateway.request(Method::GET, &path).header("last-event-id", id(end));
    let answer = Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer");
    assert_eq!(answer.expect(204).text(), "");
}

#[tokio::test]
async fn a_client_that_drops_and_resumes_while_events_flow_misses_nothing() {
    let builder = Gateway::builder().plugin("telegram").set("agents.echo.chunk_delay", "10ms");
    let gateway = builder.start().await;
    let task = gateway.accept(&message(1, 7, "/words 60")).await;
    let path = format!("/stream/{task}");
    let mut seen: Vec<Event> = Vec::new();
    while seen.last().is_none_or(|event| event.progress() != "completed") {
        let mut stream = match seen.last().and_then(|event| event.id.as_deref()) {
            Some(id) => gateway.stream_after(&path, id).await,
            None => gateway.stream(&path).await,
        };
        for _ in 0..4 {
            seen.extend(stream.next().await);
        }
    }
    // A reader that lags may get chunks merged, so what they say is compared, and that no place comes twice.
    let text = |events: &[Event]| -> String {
        let chunks = events.iter().filter(|event| event.progress() == "response_chunk");
        chunks
            .map(|event| event.json()["data"]["text"].as_str().expect("a chunk's text").to_owned())
            .collect()
    };
    assert_eq!(text(&seen), text(&replay(&gateway, &task).await));
    let mut ids: Vec<_> = seen.iter().map(|event| event.id.clone()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids are unique");
}

#[tokio::test]
async fn everyone_who_follows_a_task_sees_the_same() {
    let gateway = gateway().await;
    let task = gateway.accept(&message(1, 7, "/words 30")).await;
    let all = futures::future::join_all((0..16).map(|_| replay(&gateway, &task))).await;
    let text = |events: &Vec<Event>| events.last().map(|event| event.data.clone());
    assert!(all.iter().all(|events| text(events) == text(&all[0])), "the last event is the same");
}

#[tokio::test]
async fn a_stream_of_an_unknown_task_is_not_found() {
    let gateway = gateway().await;
    for id in ["task_0198c0de000070008000000000000000", "nonsense", "task_", "%00", "..%2f..%2fetc"] {
        let error = gateway.get(&format!("/stream/{id}")).await.expect(404).error();
        assert_eq!(error["type"], "not_found_error", "for {id}");
    }
}

#[tokio::test]
async fn streams_can_be_turned_off() {
    let gateway = Gateway::builder().plugin("telegram").env("ENABLE_SSE", "false").start().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let error = gateway.get(&format!("/stream/{task}")).await.expect(404).error();
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("stream")),
        "says what is off: {error}"
    );
    assert_eq!(gateway.ended(&task).await["state"], "completed");
}

#[tokio::test]
async fn the_gateway_tells_how_it_is() {
    let gateway = gateway().await;
    assert_eq!(gateway.get("/health").await.expect(200).json()["status"], "ok");
    assert!(gateway.get("/ready").await.expect(200).json().is_object());
    let task = gateway.accept(&message(1, 7, "hello")).await;
    gateway.ended(&task).await;
    assert_eq!(gateway.accepted_tasks().await, 1.0);
    eventually(DEADLINE, || async {
        let metrics = gateway.metrics().await;
        let ended = metrics.sum("plugway_tasks_ended_total", &["state=\"completed\""]);
        if ended == 1.0 { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;
    let content_type = gateway.get("/metrics").await.header("content-type").map(str::to_owned);
    assert!(content_type.is_some_and(|value| value.starts_with("text/plain")));
}

#[test]
fn the_readmes_adapter_is_the_example() {
    let read = |path: &str| {
        let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (readme, example) = (read("README.md"), read("examples/hello/src/lib.rs"));
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    assert!(example.contains(shown.expect("a block of Rust").trim_end()), "{shown:?}");
}
