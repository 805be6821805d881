//! The IDE WebSocket before an agent runtime: the packages `websockets` and `ws` as scripted IDEs, and what their suites can't
//! do to the gateway: end it and start it again, interrupt turns, reload the plugin, redact what is said.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use plugway_tests::{
    Builder, DEADLINE, Gateway, INTERNAL_KEY, Runtime, eventually, overwrite_bytes, plugin, salted, within,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const KEY: &str = "conformance-key-0001";

fn builder() -> Builder {
    Gateway::builder().plugin("ide")
}

/// Before a runtime, as tests/python/ide/gateway.toml has it.
fn before(runtime: &Runtime) -> Builder {
    builder()
        .set("default_agent", "runtime")
        .set("agents.runtime.kind", "http")
        .set("agents.runtime.url", runtime.url())
        .set("agents.runtime.internal_api_key", INTERNAL_KEY)
        .set("agents.runtime.stream_timeout", "3s")
}

async fn succeeds(mut command: Command) {
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it does not panic");
    let output = output.expect("the suite starts: run ./tests/run, which installs what it needs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}

fn suite(program: &str, directory: &str, gateway: &Gateway, runtime: &Runtime) -> Command {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let program = if program.contains('/') { directory.join(program) } else { program.into() };
    let mut command = Command::new(program);
    command.current_dir(directory).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PLUGWAY_URL", gateway.url("")).env("PLUGWAY_KEY", KEY).env("PLUGWAY_RUNTIME", runtime.url());
    command
}

#[tokio::test]
async fn an_ide_in_python_finds_all_that_it_needs() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).set("auth.keys", vec![KEY]).start().await;
    let mut python = suite(".venv/bin/python", "python", &gateway, &runtime);
    python.args(["-m", "unittest", "discover", "-s", "ide"]);
    succeeds(python).await;
}

#[tokio::test]
async fn an_ide_in_node_finds_all_that_it_needs() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).set("auth.keys", vec![KEY]).start().await;
    let mut node = suite("node", "node", &gateway, &runtime);
    // The other suite waits a minute for a tool; one is enough.
    node.args(["--test", "ide.test.mjs"]).env("PLUGWAY_TOOL_SECONDS", "3");
    succeeds(node).await;
}

async fn connect(gateway: &Gateway, path: &str) -> Socket {
    let url = gateway.url(path).replacen("http", "ws", 1);
    within("a connection", connect_async(url)).await.expect("it is accepted").0
}

async fn say(socket: &mut Socket, text: &str) {
    let frame = json!({"type": "user_message", "content": text}).to_string();
    socket.send(Message::text(frame)).await.expect("it is sent");
}

/// The next frame; none if the connection has ended.
async fn hear(socket: &mut Socket) -> Option<Value> {
    loop {
        match within("a frame", socket.next()).await {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return None,
        }
    }
}

#[tokio::test]
async fn a_gateway_that_is_killed_under_a_connection_loses_and_doubles_no_frame() {
    let mut gateway = builder().same_port().set("agents.echo.chunk_delay", "2ms").start().await;
    let mut socket = connect(&gateway, "/ws/s?cursors=true").await;
    for turn in 0..4 {
        say(&mut socket, &format!("/words 2{turn}")).await;
    }
    let (mut tokens, mut ends, mut cursor) = (Vec::new(), 0, String::new());
    let mut kills = 0;
    while ends < 4 {
        let Some(frame) = hear(&mut socket).await else {
            gateway.start_again().await;
            socket = connect(&gateway, &format!("/ws/s?cursors=true&after={cursor}")).await;
            continue;
        };
        cursor = frame["cursor"].as_str().expect("a cursor").to_owned();
        tokens.extend(frame["token"].as_str().map(|token| token.trim().to_owned()));
        let is_end = frame["type"] == "done";
        ends += usize::from(is_end);
        // Between two turns, so that none is begun anew.
        if is_end && kills < 3 {
            kills += 1;
            gateway.kill();
        }
    }
    let expected: Vec<_> = (20..24).flat_map(|count| (1..=count).map(|word| format!("w{word}"))).collect();
    assert_eq!(tokens, expected);
}

#[tokio::test]
async fn a_second_message_interrupts_the_first_which_keeps_what_was_written() {
    let gateway =
        builder().set("workers.on_busy", "interrupt").set("agents.echo.chunk_delay", "50ms").start().await;
    let mut socket = connect(&gateway, "/ws/s").await;
    say(&mut socket, "/words 1000").await;
    let mut heard = Vec::new();
    while heard.len() < 5 {
        heard.push(hear(&mut socket).await.expect("it is open"));
    }
    say(&mut socket, "stop it").await;
    let mut ends = 0;
    while ends < 2 {
        let frame = hear(&mut socket).await.expect("it is open");
        ends += usize::from(frame["type"] == "done");
        heard.push(frame);
    }
    assert!(heard.len() < 100, "the first one went on: {heard:#?}");
    let cancelled = gateway.metrics().await.sum("plugway_tasks_ended_total", &["state=\"cancelled\""]);
    assert!((cancelled - 1.0).abs() < f64::EPSILON, "{cancelled} were cancelled");
    let text: String = heard.iter().filter_map(|frame| frame["token"].as_str()).collect();
    assert!(text.starts_with("w1 w2") && text.contains("stop it"), "{text}");
}

#[tokio::test]
async fn a_runtime_that_is_interrupted_sees_its_caller_go_and_is_told_all_results() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).set("workers.on_busy", "interrupt").start().await;
    let mut socket = connect(&gateway, "/ws/s").await;
    say(&mut socket, "/say working\n/silent").await;
    runtime.last_is("streaming").await;
    // What the agent has asked for interrupts nothing, and is not lost to what does.
    let result = json!({"type": "tool_result", "call_id": "c1", "result": 1}).to_string();
    socket.send(Message::text(result)).await.expect("it is sent");
    eventually(DEADLINE, || async {
        let waiting = gateway.metrics().await.sum("plugway_tasks_submitted_total", &[]);
        if waiting >= 2.0 { Ok(()) } else { Err(format!("{waiting} were submitted")) }
    })
    .await;
    say(&mut socket, "go on").await;
    let mut ends = Vec::new();
    while ends.len() < 3 {
        let frame = hear(&mut socket).await.expect("it is open");
        if frame["type"] == "done" {
            ends.push(frame["metadata"]["finish_reason"].as_str().unwrap_or("stop").to_owned());
        }
    }
    assert_eq!(ends[0], "cancelled");
    let asked = runtime.asked().await;
    let seen: Vec<_> =
        asked.iter().map(|asked| (asked["message"]["type"].as_str(), asked["state"].as_str())).collect();
    let expected = [("user_message", "gone"), ("tool_result", "ended"), ("user_message", "ended")];
    assert_eq!(seen, expected.map(|(kind, state)| (Some(kind), Some(state))));
}

#[tokio::test]
async fn what_a_filter_keeps_in_is_in_no_frame_and_in_no_log() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).plugin("redact").set("filters", vec!["redact"]).start().await;
    let mut socket = connect(&gateway, "/ws/s").await;
    let token = |token: &str| json!({"type": "assistant_message", "token": token, "is_final": false});
    // The input, which passes as it is, has the number in pieces only.
    let pieces = ["my card is 4111", " 1111 11", "11 1111 for", " good"];
    let steps: Vec<_> = pieces.iter().map(|piece| format!("/send {}", token(piece))).collect();
    let whole = json!({"type": "assistant_message", "content": null, "is_final": true});
    let call = json!({"type": "tool_call", "call_id": "c", "tool_name": "pay", "arguments": {"mail": "ann@example.org"}});
    say(&mut socket, &format!("{}\n/send {whole}\n/send {call}\n/done", steps.join("\n"))).await;
    let mut frames = Vec::new();
    while frames.last().is_none_or(|frame: &Value| frame["type"] != "done") {
        frames.push(hear(&mut socket).await.expect("it is open"));
    }
    let said = Value::from(frames.clone()).to_string();
    let text: String = frames.iter().filter_map(|frame| frame["token"].as_str()).collect();
    assert_eq!(text, "my card is [CARD] for good", "{said}");
    let called = frames.iter().find(|frame| frame["type"] == "tool_call").expect("it is called");
    assert_eq!(called["arguments"], json!({"mail": "[EMAIL]"}));
    assert!(
        frames.iter().any(|frame| frame["is_final"] == true && frame["type"] == "assistant_message"),
        "{said}"
    );
    let mut written = String::new();
    for file in std::fs::read_dir(gateway.directory().join("data")).expect("its data") {
        let file = file.expect("a file").path();
        if file.is_file() {
            written.push_str(&String::from_utf8_lossy(&std::fs::read(file).expect("it can be read")));
        }
    }
    // With the other store it is on another server.
    let is_here = written.contains("SQLite format 3");
    assert_eq!(written.contains("[CARD]"), is_here, "the log is there");
    for kept in ["4111 1", "1111 1111"] {
        assert!(!said.contains(kept) && !written.contains(kept), "{kept} got out");
        assert!(!gateway.log().iter().any(|line| line.contains(kept)), "{kept} is in the log");
    }
}

#[tokio::test]
async fn a_call_with_very_many_arguments_arrives_as_it_was_written() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).set("agents.runtime.max_frame", "4MiB").start().await;
    let mut socket = connect(&gateway, "/ws/s").await;
    let rows: Vec<_> = (0..60_000).map(|_| json!({"a": 0})).collect();
    let call = json!({"type": "tool_call", "call_id": "c", "tool_name": "t", "arguments": {"rows": rows}});
    say(&mut socket, &format!("/send {call}\n/done")).await;
    assert_eq!(hear(&mut socket).await, Some(call));
}

#[tokio::test]
async fn a_reload_of_the_plugin_drops_no_connection_before_it_has_drained() {
    let gateway = builder().set("plugins.ide.limits.drain_timeout", "5s").start().await;
    let mut socket = connect(&gateway, "/ws/s").await;
    overwrite_bytes(&gateway.plugins_dir(), "ide", &salted(&plugin("ide"), 1));
    gateway.plugin_when("ide", |plugin| plugin["generation"] == 2).await;
    say(&mut socket, "still here").await;
    let mut text = String::new();
    while !text.contains("still here") {
        let frame = hear(&mut socket).await.expect("it is open");
        text.push_str(frame["token"].as_str().unwrap_or_default());
    }
    tokio::time::timeout(Duration::from_secs(15), async { while hear(&mut socket).await.is_some() {} })
        .await
        .expect("it is closed once it has drained");
}
