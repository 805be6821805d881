//! The agent feed with the real gateway and a real Redis: what is published is streamed as specified, whatever goes away.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::Method;
use plugway_tests::{Answer, Builder, DEADLINE, Event, Gateway, RedisServer, Sse, eventually};
use serde_json::{Value, json};
use tokio::time::timeout;

const KEY: &str = "a-key-of-callers-0123456789";
const OTHER_KEY: &str = "another-key-of-callers-9876543210";
const STREAM: &str = "/api/agent/stream";

fn builder(redis: &RedisServer) -> Builder {
    Gateway::builder().set("feed.redis_url", redis.url()).set("feed.lease", "600ms")
}

async fn healthy(gateway: &Gateway) {
    health(gateway, 200, "connected").await;
}

/// Waits for the health answer with this status and state of Redis.
async fn health(gateway: &Gateway, status: u16, redis: &str) -> Value {
    eventually(DEADLINE, || async {
        let answer = gateway.get("/api/agent/health").await;
        let body = answer.json();
        if answer.status == status && body["redis"] == redis { Ok(body) } else { Err(format!("{answer:?}")) }
    })
    .await
}

async fn signals(redis: &RedisServer, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        redis.publish("channel:signals", &json!({ "n": n }).to_string()).await;
    }
}

/// The numbers of the signals up to the given one, and its id. Nothing but heartbeats may come between them.
async fn signals_to(stream: &mut Sse, last: u64) -> (Vec<u64>, String) {
    let mut numbers = Vec::new();
    loop {
        let event = stream.next().await.unwrap_or_else(|| panic!("the stream ended after {numbers:?}"));
        match event.name.as_str() {
            "heartbeat" | "session_start" => {}
            "signal" => numbers.push(event.json()["n"].as_u64().expect("a number")),
            other => panic!("{other} after {numbers:?}"),
        }
        if numbers.last() == Some(&last) {
            return (numbers, event.id.expect("events have ids"));
        }
    }
}

async fn start(stream: &mut Sse) -> (String, String) {
    let event = stream.next().await.expect("an event");
    assert_eq!(event.name, "session_start", "{event:?}");
    let session = event.json()["session_id"].as_str().expect("a session").to_owned();
    (session, event.id.expect("it has an id"))
}

async fn send(request: reqwest::RequestBuilder) -> Answer {
    Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer")
}

async fn command(gateway: &Gateway, body: Value) -> (String, String) {
    let answer = gateway.post("/api/agent/command", &body).await.expect(200).json();
    assert_eq!(answer["status"], "processing", "{answer}");
    let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}")).to_owned();
    (text("request_id"), text("session_id"))
}

fn task_of(request: &str) -> String {
    request.replace("req-", "task_")
}

#[tokio::test]
async fn what_is_published_arrives_as_specified() {
    let redis = RedisServer::start().await;
    let gateway = builder(&redis).start().await;
    healthy(&gateway).await;
    let response =
        gateway.request(Method::GET, &format!("{STREAM}?session_id=sess-1")).send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let mut bytes = response.bytes_stream();
    let mut text = String::new();
    for (channel, payload) in [
        ("channel:signals", r#"{"signal_id":"abc123","symbol":"ETH/USD","action":"BUY","confidence":0.82}"#),
        ("channel:reasoning", r#"{"signal_id":"abc123","step":1,"content":"Analyzing top strategies..."}"#),
        (
            "channel:tool-events",
            r#"{"signal_id":"abc123","tool_name":"get_top_strategies","parameters":{"symbol":"ETH/USD"}}"#,
        ),
        (
            "channel:tool-events",
            "{\"type\":\"tool_result\",\"data\":{\"signal_id\":\"abc123\",\n\"result\":[],\"latency_ms\":45}}",
        ),
        ("channel:signals", r#"{"event_type":"error","error_code":"E1","message":"m"}"#),
    ] {
        assert_eq!(redis.publish(channel, payload).await, 1);
    }
    while !text.contains("event: error") || !text.ends_with("\n\n") {
        let piece: Bytes =
            timeout(DEADLINE, bytes.next()).await.expect("in time").expect("more").expect("whole");
        text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
    }
    insta::assert_snapshot!(without_times(&text));
}

/// The text with ids and times in place of their values.
fn without_times(text: &str) -> String {
    let line = |line: &str| {
        let fields = line.strip_prefix("id: ").map(|id| match id.split_once('~') {
            Some((_, session)) => format!("id: [feed]~{session}"),
            None => "id: [feed]".to_owned(),
        });
        let line = fields.unwrap_or_else(|| line.to_owned());
        match line.split_once("\"timestamp\":\"") {
            Some((before, after)) => {
                let rest = after.split_once('"').map_or("", |(_, rest)| rest);
                format!("{before}\"timestamp\":\"[time]\"{rest}")
            }
            None => line,
        }
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_client_comes_back_where_it_was_also_to_another_gateway() {
    let redis = RedisServer::start().await;
    let gateways = [builder(&redis).start().await, builder(&redis).start().await];
    for gateway in &gateways {
        healthy(gateway).await;
    }
    let mut stream = gateways[0].stream(STREAM).await;
    let mut witness = gateways[1].stream(STREAM).await;
    start(&mut stream).await;
    start(&mut witness).await;
    signals(&redis, 1..=5).await;
    let (numbers, mut id) = signals_to(&mut stream, 5).await;
    assert_eq!((numbers, id.clone()), signals_to(&mut witness, 5).await);
    for round in 0..8 {
        let gateway = &gateways[(round % 2) as usize];
        let from = 6 + round * 5;
        signals(&redis, from..=from + 2).await;
        let mut stream = match round % 3 {
            0 => gateway.stream(&format!("{STREAM}?last_event_id={id}")).await,
            _ => gateway.stream_after(STREAM, &id).await,
        };
        signals(&redis, from + 3..=from + 4).await;
        let (numbers, last) = signals_to(&mut stream, from + 4).await;
        assert_eq!(numbers, (from..=from + 4).collect::<Vec<_>>());
        id = last;
    }
    for wrong in ["nonsense", "1", "1-1~x", "0198c0de000070008000000000000000-1-1"] {
        let request = gateways[0].request(Method::GET, STREAM).header("last-event-id", wrong);
        assert_eq!(send(request).await.expect(400).error()["param"], "Last-Event-ID", "{wrong}");
    }
}

#[tokio::test]
async fn when_the_gateway_that_writes_the_log_is_killed_nothing_is_lost() {
    let redis = RedisServer::start().await;
    let mut writer = builder(&redis).start().await;
    let mut stream = writer.stream(STREAM).await;
    healthy(&writer).await;
    signals(&redis, 0..=0).await;
    signals_to(&mut stream, 0).await;
    let others = [builder(&redis).start().await, builder(&redis).start().await];
    let mut streams = Vec::new();
    for gateway in &others {
        healthy(gateway).await;
        let mut stream = gateway.stream(STREAM).await;
        start(&mut stream).await;
        streams.push(stream);
    }
    let holder: String = redis.command(&["GET", "{plugway}:feed:lease"]).await;
    signals(&redis, 1..=100).await;
    let publish = signals(&redis, 101..=600);
    let shoot = async {
        redis.publish("nowhere", "").await;
        writer.shoot();
    };
    tokio::join!(publish, shoot);
    writer.kill();
    let mut seen = Vec::new();
    for stream in &mut streams {
        seen.push(signals_to(stream, 600).await);
    }
    assert_eq!(seen[0].0, (1..=600).collect::<Vec<_>>());
    assert_eq!(seen[0], seen[1]);
    assert_ne!(holder, redis.command::<String>(&["GET", "{plugway}:feed:lease"]).await);
}

#[tokio::test]
async fn while_redis_is_stopped_connections_stay_and_newcomers_get_the_last_signals() {
    let mut redis = RedisServer::start().await;
    let gateway =
        builder(&redis).set("feed.cached_signals", 3).set("stream.heartbeat", "200ms").start().await;
    healthy(&gateway).await;
    let mut stays = gateway.stream(STREAM).await;
    start(&mut stays).await;
    signals(&redis, 1..=5).await;
    let (_, id) = signals_to(&mut stays, 5).await;
    redis.stop().await;
    let body = health(&gateway, 503, "disconnected").await;
    assert_eq!(body["status"], "degraded", "{body}");
    stays.until(|event| event.name == "heartbeat").await;

    let mut new = gateway.stream(STREAM).await;
    assert_eq!(signals_to(&mut new, 5).await.0, [3, 4, 5]);
    let mut back = gateway.stream_after(STREAM, &id).await;
    start(&mut back).await;
    assert_eq!(gateway.log().iter().filter(|line| line.contains("redis is out of reach")).count(), 1);

    redis.start_again().await;
    let body = health(&gateway, 200, "connected").await;
    assert_eq!(body["connections"], 3, "{body}");
    signals(&redis, 6..=8).await;
    for stream in [&mut stays, &mut new, &mut back] {
        assert_eq!(signals_to(stream, 8).await.0, [6, 7, 8]);
    }
    gateway.logged(&["the feed is linked to redis", "back=true"]).await;
}

#[tokio::test]
async fn filters_rubbish_and_figures() {
    let redis = RedisServer::start().await;
    let gateway = builder(&redis)
        .set("feed.payload", "1KiB")
        .set("feed.channels", vec!["channel:signals", "channel:reasoning", "agent_events"])
        .set("feed.session_timeout", "500ms")
        .start()
        .await;
    healthy(&gateway).await;
    let mut all = gateway.stream(STREAM).await;
    let mut some = gateway.stream(&format!("{STREAM}?event_type=reasoning,error&agent_name=alpha")).await;
    start(&mut all).await;
    start(&mut some).await;
    for payload in
        ["no JSON", "[]", "{", r#"{"type":"dance"}"#, &json!({ "x": "x".repeat(2_000) }).to_string()]
    {
        redis.publish("channel:signals", payload).await;
    }
    redis.publish("agent_events", "{}").await;
    redis.publish("agent_events", r#"{"event_type":"error","message":"m","agent_name":"beta"}"#).await;
    redis.publish("channel:reasoning", r#"{"step":1,"agent_name":"alpha"}"#).await;
    redis.publish("channel:signals", r#"{"n":1,"agent_name":"alpha"}"#).await;
    redis.publish("agent_events", r#"{"type":"error","data":{"agent_name":"alpha"}}"#).await;
    let names = async |stream: &mut Sse, count: usize| {
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(stream.next().await.expect("an event").name);
        }
        names
    };
    assert_eq!(names(&mut all, 4).await, ["error", "reasoning", "signal", "error"]);
    assert_eq!(names(&mut some, 2).await, ["reasoning", "error"]);
    let error = gateway.get(&format!("{STREAM}?event_type=signal,tweet")).await.expect(400).error();
    assert_eq!(error["param"], "event_type");
    let message = error["message"].as_str().expect("a text");
    assert!(message.contains("tweet") && message.contains("tool_result"), "{message}");

    gateway.post("/api/agent/command", &json!({})).await.expect(400);
    let (request, _) = command(&gateway, json!({ "query": "hi" })).await;
    gateway.ended(&task_of(&request)).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("agent_gateway_connections_active", &[]), 2.0);
    assert_eq!(metrics.sum("agent_gateway_errors_total", &["type=\"payload\""]), 6.0);
    assert_eq!(metrics.sum("agent_gateway_errors_total", &["type=\"command\""]), 1.0);
    assert_eq!(metrics.sum("agent_gateway_events_published_total", &["type=\"error\""]), 2.0);
    assert_eq!(metrics.sum("agent_gateway_events_published_total", &[]), 4.0);
    assert_eq!(metrics.sum("agent_gateway_commands_total", &[]), 1.0);
    assert_eq!(metrics.sum("agent_gateway_event_latency_ms_count", &[]), 4.0);
    drop((all, some));
    eventually(DEADLINE, || async {
        let metrics = gateway.metrics().await;
        let (open, known) =
            (metrics.sum("agent_gateway_connections_active", &[]), metrics.sum("plugway_feed_sessions", &[]));
        if (open, known) == (0.0, 0.0) {
            Ok(())
        } else {
            Err(format!("{open} connections, {known} sessions"))
        }
    })
    .await;
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

#[tokio::test]
async fn a_command_is_a_task_whose_events_its_session_sees() {
    let redis = RedisServer::start().await;
    let gateway = builder(&redis).start().await;
    healthy(&gateway).await;
    let mut stream = gateway.stream(STREAM).await;
    let (session, _) = start(&mut stream).await;
    let mut stranger = gateway.stream(STREAM).await;
    start(&mut stranger).await;
    let query = r#"/tool prices {"symbol":"DOGE/USD"}"#;
    let (request, named) =
        command(&gateway, json!({ "session_id": session, "query": query, "symbol": "DOGE/USD", "more": 1 }))
            .await;
    assert_eq!(named, session);
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(stream.next().await.expect("an event"));
    }
    assert_eq!(names(&events), ["reasoning", "tool_call", "tool_result"]);
    for event in &events {
        assert_eq!(event.json()["signal_id"], request, "{event:?}");
        assert!(event.id.as_ref().is_some_and(|id| id.contains('~')), "{event:?}");
    }
    assert_eq!(events[1].json()["parameters"]["symbol"], "DOGE/USD");
    assert_eq!(events[2].json()["result"]["symbol"], "DOGE/USD");
    let task = gateway.ended(&task_of(&request)).await;
    assert_eq!((&task["session_id"], &task["state"]), (&json!(session), &json!("completed")));

    // Whoever reconnects knowing nothing but its last id is in its session again.
    let id = events[0].id.clone().expect("an id");
    drop(stream);
    let mut stream = gateway.stream_after(STREAM, &id).await;
    assert_eq!(start(&mut stream).await.0, session);
    let (failing, _) = command(&gateway, json!({ "session_id": session, "query": "/fail no luck" })).await;
    let mut again = Vec::new();
    while names(&again).last() != Some(&"error") {
        again.push(stream.next().await.expect("an event"));
    }
    assert_eq!(again[..2], events[1..]);
    let error = again.last().expect("an event").json();
    assert_eq!((&error["signal_id"], &error["message"]), (&json!(failing), &json!("no luck")));
    signals(&redis, 1..=1).await;
    signals_to(&mut stranger, 1).await;

    // Who opens a session after its command was run gets what it missed.
    let (_, fresh) = command(&gateway, json!({ "query": "/fail early" })).await;
    assert!(fresh.starts_with("sess-"), "{fresh}");
    let mut late = gateway.stream(&format!("{STREAM}?session_id={fresh}")).await;
    assert_eq!(late.until(|event| event.name == "error").await.json()["message"], "early");
}

#[tokio::test]
async fn a_command_that_is_wrong_is_refused_with_all_faulty_fields() {
    let gateway = Gateway::builder().set("feed.query", "20B").start().await;
    let long = "x".repeat(21);
    let table = [
        (json!({}), "query"),
        (json!({ "query": "" }), "query"),
        (json!({ "query": 7, "symbol": [], "session_id": "" }), "session_id, query, symbol"),
        (json!({ "query": long, "symbol": long }), "query, symbol"),
        (json!({ "query": "q", "session_id": "s".repeat(513) }), "session_id"),
        (json!([]), "body"),
    ];
    for (body, param) in table {
        let error = gateway.post("/api/agent/command", &body).await.expect(400).error();
        assert_eq!(error["param"], param, "{body}");
        let message = error["message"].as_str().expect("a text");
        assert!(param.split(", ").all(|field| message.contains(field)), "{message}");
    }
    let request = gateway.request(Method::POST, "/api/agent/command").body("{");
    assert_eq!(send(request).await.expect(400).error()["param"], "body");
    assert_eq!(gateway.accepted_tasks().await, 0.0);
    assert_eq!(gateway.get("/api/agent/command").await.status, 405);

    let keyed = |key: &str| {
        let request =
            gateway.request(Method::POST, "/api/agent/command").header("idempotency-key", key.to_owned());
        request.json(&json!({ "query": "once", "symbol": null, "session_id": null }))
    };
    let first = send(keyed("k")).await.expect(200).json();
    assert_eq!(send(keyed("k")).await.expect(200).json(), first);
    assert_ne!(send(keyed("other")).await.expect(200).json()["request_id"], first["request_id"]);
    assert_eq!(send(keyed(&"k".repeat(513))).await.expect(400).error()["param"], "Idempotency-Key");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let gateway = Gateway::builder().set("workers.queue", 1).set("workers.count", 1).start().await;
    let (running, _) = command(&gateway, json!({ "query": "/silent" })).await;
    eventually(DEADLINE, || async {
        let task = gateway.get(&format!("/tasks/{}", task_of(&running))).await.json();
        if task["state"] == "running" { Ok(()) } else { Err(task.to_string()) }
    })
    .await;
    command(&gateway, json!({ "query": "waits" })).await;
    let answer = gateway.post("/api/agent/command", &json!({ "query": "too many" })).await.expect(503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

#[tokio::test]
async fn without_redis_in_the_configuration_the_routes_work() {
    let gateway = Gateway::builder().set("store.kind", "sqlite").start().await;
    let body = health(&gateway, 200, "not_configured").await;
    assert_eq!((&body["status"], &body["connections"]), (&json!("healthy"), &json!(0)));
    assert!(body["uptime_seconds"].is_u64(), "{body}");
    let mut stream = gateway.stream(STREAM).await;
    let (session, _) = start(&mut stream).await;
    let (request, _) = command(&gateway, json!({ "session_id": session, "query": "hi" })).await;
    let reasoning = stream.next().await.expect("an event");
    assert_eq!((&*reasoning.name, &reasoning.json()["signal_id"]), ("reasoning", &json!(request)));
    assert_eq!(health(&gateway, 200, "not_configured").await["connections"], 1);
}

#[tokio::test]
async fn what_is_turned_off_is_not_there() {
    let gateway = Gateway::builder().env("ENABLE_SSE", "false").start().await;
    gateway.get(STREAM).await.expect(404).error();
    command(&gateway, json!({ "query": "hi" })).await;
}

fn keyed(builder: Builder) -> Builder {
    builder.set("auth.keys", vec![KEY])
}

fn with_key(gateway: &Gateway, method: Method, path: &str) -> reqwest::RequestBuilder {
    gateway.request(method, path).bearer_auth(KEY)
}

async fn ticket(gateway: &Gateway, body: &Value) -> (String, String) {
    let answer =
        send(with_key(gateway, Method::POST, "/api/agent/ticket").json(body)).await.expect(200).json();
    assert!(answer["expires_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{answer}");
    let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}")).to_owned();
    (text("ticket"), text("session_id"))
}

async fn keyed_command(gateway: &Gateway, session: &str, query: &str) -> String {
    let body = json!({ "session_id": session, "query": query });
    let answer =
        send(with_key(gateway, Method::POST, "/api/agent/command").json(&body)).await.expect(200).json();
    answer["request_id"].as_str().expect("a request").to_owned()
}

#[tokio::test]
async fn a_ticket_opens_the_streams_of_its_session_and_nothing_else() {
    let gateway = keyed(Gateway::builder()).set("telemetry.level", "info,plugway=debug").start().await;
    let (mine, session) = ticket(&gateway, &json!({ "session_id": "desk 1" })).await;
    assert_eq!(session, "desk 1");
    let own = keyed_command(&gateway, "desk 1", "/fail mine").await;
    let theirs = keyed_command(&gateway, "theirs", "/fail secret").await;

    let mut stream = gateway.stream(&format!("{STREAM}?ticket={mine}")).await;
    assert_eq!(start(&mut stream).await.0, "desk 1");
    let error = stream.until(|event| event.name == "error").await;
    assert_eq!(error.json()["signal_id"], own);
    gateway.stream(&format!("{STREAM}?ticket={mine}&session_id=desk%201")).await;
    let events = gateway.stream(&format!("/stream/{}?ticket={mine}", task_of(&own))).await.rest().await;
    assert!(
        events.iter().any(|event| event.name == "progress" && event.progress() == "failed"),
        "{events:?}"
    );

    gateway.get(&format!("{STREAM}?ticket={mine}&session_id=theirs")).await.expect(403).error();
    let foreign =
        gateway.get(&format!("/stream/{}?ticket={mine}", task_of(&theirs))).await.expect(404).error();
    let nobodys = "task_0198c0de000070008000000000000000";
    let unknown = gateway.get(&format!("/stream/{nobodys}?ticket={mine}")).await.expect(404).error();
    assert_eq!(
        foreign["message"].to_string().replace(&task_of(&theirs), nobodys),
        unknown["message"].to_string()
    );
    // A key beside it does not make it more.
    let both = with_key(&gateway, Method::GET, &format!("/stream/{}?ticket={mine}", task_of(&theirs)));
    send(both).await.expect(404);
    // Neither another session's place, nor its name in one, opens it; nor does it tell whether there is such a place.
    let digits = task_of(&theirs).replace("task_", "");
    let path = format!("{STREAM}?ticket={mine}");
    for task in [digits, nobodys.replace("task_", "")] {
        let mut own = gateway.stream_after(&path, &format!("0~{task}-1-1")).await;
        assert_eq!(start(&mut own).await.0, "desk 1");
        assert_eq!(own.next().await.expect("an event").name, "gap", "{task}");
        // It goes on with turns of its own, and none of theirs.
        let next = keyed_command(&gateway, "desk 1", "/fail again").await;
        let mut said = None;
        while said.as_ref() != Some(&json!(next)) {
            let event = own.next().await.expect("an event");
            assert!(!event.data.contains("secret"), "{event:?}");
            said = (event.name == "error").then(|| event.json()["signal_id"].clone());
        }
    }
    let named = gateway.request(Method::GET, &path).header("last-event-id", "0~.dGhlaXJz");
    send(named).await.expect(400).error();

    for path in [format!("/tasks/{}", task_of(&own)), "/metrics".to_owned()] {
        gateway.get(&format!("{path}?ticket={mine}")).await.expect(401);
    }
    for path in ["/api/agent/command", "/api/agent/ticket"] {
        gateway.post(&format!("{path}?ticket={mine}"), &json!({ "query": "q" })).await.expect(401);
    }
    for opened in [STREAM.to_owned(), format!("{STREAM}?key={KEY}"), format!("{STREAM}?token={KEY}")] {
        gateway.get(&opened).await.expect(401).error();
    }
    for wrong in ["", "x", &mine[..mine.len() - 2], &mine.replacen('1', "2", 1)] {
        let error = gateway.get(&format!("{STREAM}?ticket={wrong}")).await.expect(401).error();
        assert_eq!((&error["code"], &error["param"]), (&json!("invalid_ticket"), &json!("ticket")));
    }
    let health = gateway.get("/api/agent/health").await;
    assert!([200, 503].contains(&health.status), "it needs no key: {health:?}");
    assert!(gateway.log().iter().all(|line| !line.contains(&mine)));
}

#[tokio::test]
async fn a_ticket_expires_and_what_it_opened_goes_on() {
    let gateway = keyed(Gateway::builder()).set("auth.ticket_ttl", "1s").start().await;
    let (ticket, session) = ticket(&gateway, &json!({})).await;
    assert!(session.starts_with("sess-"), "{session}");
    let mut stream = gateway.stream(&format!("{STREAM}?ticket={ticket}")).await;
    start(&mut stream).await;
    eventually(DEADLINE, || async {
        let request = gateway.request(Method::GET, &format!("{STREAM}?ticket={ticket}"));
        match Sse::try_open(request).await {
            Err(Some(401)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let error = gateway.get(&format!("{STREAM}?ticket={ticket}")).await.expect(401).error();
    assert!(error["message"].as_str().is_some_and(|text| text.contains("/api/agent/ticket")), "{error}");
    keyed_command(&gateway, &session, "hello").await;
    assert_eq!(stream.next().await.expect("an event").name, "reasoning");
}

#[tokio::test]
async fn every_gateway_with_the_key_takes_the_ticket() {
    let first = Gateway::builder().set("auth.keys", vec![KEY, OTHER_KEY]).start().await;
    let second = Gateway::builder().set("auth.keys", vec![OTHER_KEY, KEY]).start().await;
    let stranger = Gateway::builder().set("auth.keys", vec![OTHER_KEY]).start().await;
    let (ticket, session) = ticket(&first, &json!({})).await;
    let mut stream = second.stream(&format!("{STREAM}?ticket={ticket}")).await;
    assert_eq!(start(&mut stream).await.0, session);
    stranger.get(&format!("{STREAM}?ticket={ticket}")).await.expect(401);
}

#[tokio::test]
async fn an_address_has_its_limits() {
    let gateway = Gateway::builder()
        .set("feed.connections_per_address", 2)
        .set("limits.trusted_proxies", vec!["127.0.0.0/8"])
        .set("auth.keys", vec![KEY])
        .start()
        .await;
    let from =
        |address: &str| with_key(&gateway, Method::GET, STREAM).header("x-forwarded-for", address.to_owned());
    let streams = [Sse::open(from("192.0.2.1")).await, Sse::open(from("192.0.2.1")).await];
    let refused = send(from("192.0.2.1")).await.expect(429);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(refused.error()["type"], "rate_limit_error");
    Sse::open(from("192.0.2.2")).await;
    drop(streams);
    eventually(DEADLINE, || async {
        Sse::try_open(from("192.0.2.1")).await.map(drop).map_err(|status| format!("{status:?}"))
    })
    .await;

    let gateway = Gateway::builder().set("feed.requests_per_minute", 3).start().await;
    command(&gateway, json!({ "query": "one" })).await;
    gateway.stream(STREAM).await;
    command(&gateway, json!({ "query": "two" })).await;
    gateway.get(STREAM).await.expect(429);
    let refused = gateway.post("/api/agent/command", &json!({ "query": "three" })).await.expect(429);
    let wait: u64 = refused.header("retry-after").and_then(|wait| wait.parse().ok()).expect("a time");
    assert!((1..=20).contains(&wait), "{wait}");
    gateway.get("/api/agent/health").await.expect(200);
}

#[tokio::test]
async fn pages_of_known_origins_may_come_in() {
    let page = "https://dashboard.example.org";
    let gateway = keyed(Gateway::builder()).set("cors.origins", vec![page]).start().await;
    for (path, method) in [(STREAM, "GET"), ("/api/agent/command", "POST"), ("/api/agent/ticket", "POST")] {
        let preflight = gateway
            .request(Method::OPTIONS, path)
            .header("origin", page)
            .header("access-control-request-method", method)
            .header("access-control-request-headers", "content-type,authorization,last-event-id");
        let answer = send(preflight).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(page), "{path}");
        assert!(
            answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains(method))
        );
        let headers = answer.header("access-control-allow-headers").expect("headers");
        assert!(headers.contains("last-event-id") && headers.contains("content-type"), "{headers}");
    }
    let (ticket, _) = ticket(&gateway, &json!({})).await;
    let path = format!("{STREAM}?ticket={ticket}");
    let stream = Sse::open(gateway.request(Method::GET, &path).header("origin", page)).await;
    assert_eq!(stream.headers["access-control-allow-origin"], page);
    let elsewhere =
        Sse::open(gateway.request(Method::GET, &path).header("origin", "https://evil.example")).await;
    assert!(!elsewhere.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_pipeline_behind_redis_gets_commands_and_its_replies_end_the_turn() {
    let redis = RedisServer::start().await;
    let gateway = builder(&redis)
        .set("agents.pipeline.kind", "redis")
        .set("agents.pipeline.replies", true)
        .set("agents.pipeline.channels", vec!["agent_replies"])
        .set("feed.agent", "pipeline")
        .start()
        .await;
    healthy(&gateway).await;
    let mut pipeline =
        redis::Client::open(redis.url()).expect("a URL").get_async_pubsub().await.expect("a connection");
    pipeline.subscribe("agent_commands").await.expect("a subscription");
    let mut stream = gateway.stream(STREAM).await;
    let (session, _) = start(&mut stream).await;
    let body = json!({ "session_id": session, "query": "What about DOGE right now?", "symbol": "DOGE/USD" });
    let (request, _) = command(&gateway, body).await;
    let heard = timeout(DEADLINE, pipeline.on_message().next()).await.expect("in time").expect("a command");
    let heard: Value = serde_json::from_slice(heard.get_payload_bytes()).expect("JSON");
    assert_eq!(
        (&heard["request_id"], &heard["session_id"], &heard["query"], &heard["symbol"]),
        (&json!(request), &json!(session), &json!("What about DOGE right now?"), &json!("DOGE/USD"))
    );
    for reply in [
        json!({ "type": "reasoning", "request_id": request, "content": "let me see", "step": 1 }),
        json!({ "type": "completed", "request_id": request, "summary": "Hold it." }),
    ] {
        redis.publish("agent_replies", &reply.to_string()).await;
    }
    let reasoning = stream.next().await.expect("an event");
    assert_eq!((&*reasoning.name, &reasoning.json()["content"]), ("reasoning", &json!("let me see")));
    let task = gateway.ended(&task_of(&request)).await;
    assert_eq!(task["result"]["text"], "Hold it.", "{task}");
}

#[tokio::test]
async fn settings_that_cannot_be_kept_are_refused_by_name() {
    let table: [(&str, toml::Value, &str); 6] = [
        ("feed.redis_url", "http://user:s3cret-word@host".into(), "feed.redis_url"),
        ("feed.agent", "nobody".into(), "feed.agent"),
        ("feed.lease", "1ms".into(), "feed.lease"),
        ("feed.channels", toml::Value::Array(Vec::new()), "feed.channels"),
        ("auth.ticket_ttl", "0s".into(), "auth.ticket_ttl"),
        ("agents.pipeline.kind", "redis".into(), "agents.pipeline.url"),
    ];
    for (key, value, named) in table {
        let failure = Gateway::builder()
            .set("store.kind", "sqlite")
            .set(key, value)
            .try_start()
            .await
            .expect_err("it ends");
        assert!(failure.output.contains(named), "{key}: {failure:?}");
        assert!(!failure.output.contains("s3cret-word"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_gateway_starts_while_redis_is_away_and_begins_when_it_is_there() {
    let mut redis = RedisServer::start().await;
    redis.stop().await;
    let gateway = builder(&redis).start().await;
    health(&gateway, 503, "disconnected").await;
    let mut stream = gateway.stream(STREAM).await;
    start(&mut stream).await;
    redis.start_again().await;
    healthy(&gateway).await;
    signals(&redis, 1..=2).await;
    assert_eq!(signals_to(&mut stream, 2).await.0, [1, 2]);
    assert!(stream.retry.is_some_and(|retry| retry <= Duration::from_secs(5)));
}
