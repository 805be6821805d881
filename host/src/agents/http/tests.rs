//! The agent against a server over TCP that streams, stalls, breaks and lies; and its reading of every framing.

mod faults;

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::{RawFrame, SessionId, TaskInput};
use crate::egress::Redactor;
use crate::egress::testing::{Seen, Server, Step, answer};

const KEY: &str = "key-that-nobody-may-see";

fn agent(base: &str, more: Value) -> Http {
    let mut config = json!({"url": format!("{base}/base/"), "internal_api_key": KEY, "retry_delay": "1ms"});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    made(config, Duration::from_secs(60)).unwrap()
}

fn made(config: Value, silence: Duration) -> Result<Http, AgentsError> {
    Http::new("runtime", &serde_json::from_value(config).unwrap(), silence, Tls::default())
}

fn turn(document: &str) -> Turn {
    Turn {
        task: TaskId::new(),
        session: SessionId::new("ide", "s-1").unwrap(),
        attempt: 1,
        input: TaskInput::parse(document).unwrap(),
        document: document.into(),
        history: Vec::new(),
    }
}

fn hello() -> Turn {
    turn(r#"{"kind":"message","text":"hello"}"#)
}

/// Kind, data and frame of each event of a turn.
async fn run(agent: &Http, turn: Turn) -> Vec<(String, Value)> {
    let signals: Vec<AgentSignal> = agent.run(turn).collect().await;
    signals.iter().filter_map(shown).collect()
}

fn shown(signal: &AgentSignal) -> Option<(String, Value)> {
    let (event, data) = match signal {
        AgentSignal::Event(event) => (event, event.data()),
        AgentSignal::Framed(event, frame) => (event, event.data_with(frame)),
        AgentSignal::Alive => return None,
    };
    Some((event.kind().to_string(), serde_json::from_str(&data).unwrap()))
}

fn kinds(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(kind, _)| kind.as_str()).collect()
}

/// The head of an answer that ends with its connection.
fn head(content_type: &str) -> Step {
    Step::Send(format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n"))
}

fn sse() -> Step {
    head("text/event-stream; charset=utf-8")
}

/// The head of an answer whose connection can be used again, and a piece of one.
fn chunked() -> Step {
    Step::Send(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
    )
}

fn piece(text: &str) -> Step {
    Step::Send(format!("{:x}\r\n{text}\r\n", text.len()))
}

fn send(text: &str) -> Step {
    Step::Send(text.to_owned())
}

fn frame(chunk: &Value) -> Step {
    Step::Send(format!("data: {chunk}\n\n"))
}

fn token(text: &str) -> Step {
    frame(&json!({"type": "assistant_message", "token": text}))
}

fn done() -> Step {
    frame(&json!({"type": "done"}))
}

async fn always(steps: Vec<Step>) -> Server {
    Server::start(move |_, _| steps.clone()).await
}

#[tokio::test]
async fn a_frame_is_sent_and_its_answer_streamed() {
    let steps = vec![sse(), send(": hi\r\n\r\n"), token("Sal"), token("ve"), done(), Step::Hang];
    let server = always(steps).await;
    let agent = agent(
        &format!("{}/?v=1", server.origin()),
        json!({"url": format!("{}/base/?v=1", server.origin()), "headers": {"x-title": "Plugway"}}),
    );
    let events =
        run(&agent, turn(r#"{"kind":"message","text":"a","forward":{"type":"user_message", "n":1.0}}"#))
            .await;
    assert_eq!(kinds(&events), ["response_chunk", "response_chunk", "completed"]);
    assert_eq!(events[1].1, json!({"text": "ve", "raw": {"type": "assistant_message", "token": "ve"}}));
    assert_eq!(
        events[2].1,
        json!({
            "text": "Salve", "messages": [{"role": "assistant", "content": "Salve"}], "usage": null,
            "finish_reason": "stop", "raw": {"type": "done"}
        })
    );
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("POST /base/agent/message/stream?v=1 HTTP/1.1"), "{}", seen.head);
    assert_eq!((seen.header("x-internal-auth"), seen.header("x-title")), (Some(KEY), Some("Plugway")));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.body, r#"{"session_id":"s-1","message":{"type":"user_message", "n":1.0}}"#);
}

#[tokio::test]
async fn an_answer_may_end_in_any_of_the_ways() {
    let told = json!({"type": "assistant_message", "token": "a", "content": null});
    let last = format!("data: {told}");
    for end in [
        vec![send(&format!("{last}\n\n")), Step::Close],
        vec![send(&last), Step::Close],
        vec![send(&format!("{last}\n\ndata: [DONE]\n\n")), Step::Hang],
        vec![send(&format!("{last}\r\n\r\nevent: done\r\n\r\n")), Step::Hang],
        vec![
            send(&format!("event: message\n{last}\n\nevent: done\ndata: {{\"status\":\"completed\"}}\n\n")),
            Step::Hang,
        ],
        vec![send(&format!("id: 1\nretry: 5\n{last}\n\n: ping\n\nevent: done\n")), Step::Close],
    ] {
        let server = always([vec![sse()], end.clone()].concat()).await;
        let events = run(&agent(&server.origin(), json!({})), hello()).await;
        assert_eq!(kinds(&events), ["response_chunk", "completed"], "{end:?}");
        assert_eq!(events[0].1, json!({"text": "a", "raw": told}), "{end:?}");
        assert_eq!((&events[1].1["text"], events[1].1.get("raw")), (&"a".into(), None), "{end:?}");
    }
    let server = always(vec![sse(), Step::Close]).await;
    let events = run(&agent(&server.origin(), json!({})), hello()).await;
    assert_eq!((kinds(&events), &events[0].1["text"]), (vec!["completed"], &"".into()));
}

#[tokio::test]
async fn an_answer_need_not_be_streamed_but_must_be_an_answer() {
    let body = json!({"type": "assistant_message", "content": "whole", "is_final": true}).to_string();
    let server = Server::answering(answer(200, "content-type: application/json\r\n", &body)).await;
    let events = run(&agent(&server.origin(), json!({})), hello()).await;
    assert_eq!(kinds(&events), ["response_chunk", "completed"]);
    let page = Server::answering(answer(200, "content-type: text/html\r\n", "<h1>Log in</h1>")).await;
    let events = run(&agent(&page.origin(), json!({})), hello()).await;
    let error = events[0].1["error"].as_str().unwrap();
    assert!(error.contains("\"text/html\" in the place of text/event-stream"), "{error}");
    assert_eq!(events[0].1["recoverable"], false);
}

#[tokio::test]
async fn what_breaks_off_or_is_no_frame_fails() {
    let begun = || vec![chunked(), piece("data: {\"type\":\"assistant_message\",\"token\":\"a\"}\n\n")];
    let ping = "data: \u{1}\n".repeat(50_000);
    for (end, error) in [
        (vec![Step::Close], "the connection to the agent broke"),
        (vec![Step::Wait(Duration::from_millis(30)), Step::Reset], "the connection to the agent broke"),
        (vec![piece("data: {\"type\": \"don"), Step::Send("0\r\n\r\n".into())], "broke off in the middle"),
        (vec![piece("data: {\"type\": \"done\n\n"), Step::Hang], "no chunk"),
        (vec![piece("data: [1]\n\n"), Step::Hang], "no chunk"),
        (vec![piece(&ping), Step::Hang], "larger than 65536 bytes"),
        (vec![piece(&format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(150_000))), Step::Hang], "larger than"),
    ] {
        let server = always([begun(), end.clone()].concat()).await;
        let limits = json!({"max_frame": "64KiB", "max_answer": "100KiB"});
        let events = run(&agent(&server.origin(), limits), hello()).await;
        assert_eq!(kinds(&events), ["response_chunk", "failed"], "{events:?}");
        let failed = &events[1].1;
        assert_eq!((&failed["error_type"], &failed["retry_count"]), (&"agent_error".into(), &0.into()));
        assert!(failed["error"].as_str().unwrap().contains(error), "{failed}");
        assert_eq!((failed.get("raw"), server.seen().len()), (None, 1));
    }
}

#[tokio::test]
async fn an_error_that_the_runtime_reports_is_the_end() {
    let error = json!({"type": "error", "error": "no model", "content": null, "is_final": true});
    for end in
        [vec![Step::Close], vec![Step::Reset], vec![Step::Hang], vec![send("data: [DONE]\n\n"), Step::Hang]]
    {
        // Time for the frame to be read before a reset takes it away.
        let wait = Step::Wait(Duration::from_millis(30));
        let server = always([vec![sse(), frame(&error), wait], end].concat()).await;
        let events = run(&agent(&server.origin(), json!({"end_timeout": "50ms"})), hello()).await;
        assert_eq!(kinds(&events), ["failed"]);
        let expected = json!({
            "error": "the agent reported an error: no model", "error_type": "agent_error", "recoverable": true,
            "retry_count": 0, "raw": error
        });
        assert_eq!(events[0].1, expected);
    }
}

#[tokio::test]
async fn statuses_are_told_and_the_key_is_not() {
    let echo = format!("{{\"detail\":\"Bad key {KEY}\"}}");
    for (status, tries, recoverable) in [
        (500, 1, true),
        (502, 1, true),
        (503, 3, true),
        (429, 3, true),
        (400, 1, false),
        (401, 1, false),
        (403, 1, false),
        (404, 1, false),
        (307, 1, false),
    ] {
        let server = Server::answering(answer(status, "location: http://127.0.0.1:1/\r\n", &echo)).await;
        let events = run(&agent(&server.origin(), json!({})), hello()).await;
        let failed = &events[0].1;
        assert_eq!((events.len(), server.seen().len()), (1, tries), "{status}");
        assert_eq!((&failed["status"], &failed["error_type"]), (&status.into(), &"agent_error".into()));
        assert_eq!(
            (&failed["recoverable"], &failed["retry_count"]),
            (&recoverable.into(), &(tries - 1).into())
        );
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains(&format!("status {status}: Bad key [secret:internal_api_key]")), "{error}");
        let told = error.contains("; set agents.runtime.internal_api_key to the runtime's key");
        assert_eq!(told, matches!(status, 401 | 403), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_an_error_repeats_is_taken_out_of_its_frame() {
    let error = json!({"type": "error", "error": format!("header {KEY} is wrong")});
    let server = always(vec![sse(), frame(&error), Step::Close]).await;
    let events = run(&agent(&server.origin(), json!({})), hello()).await;
    assert_eq!(events[0].1["raw"]["error"], "header [secret:internal_api_key] is wrong");
    assert!(!events[0].1.to_string().contains(KEY));
}

#[tokio::test]
async fn a_runtime_that_did_nothing_is_asked_again() {
    let script = |_: &Seen, before: usize| match before {
        0 | 1 => vec![send(&answer(503, "retry-after: 0\r\n", "starting"))],
        _ => vec![sse(), token("a"), done(), Step::Close],
    };
    let server = Server::start(script).await;
    let signals: Vec<_> = agent(&server.origin(), json!({})).run(hello()).collect().await;
    assert_eq!(signals[..2], [AgentSignal::Alive, AgentSignal::Alive]);
    assert_eq!((signals.len(), server.seen().len()), (4, 3));

    let events = run(&agent("http://127.0.0.1:1", json!({})), hello()).await;
    assert_eq!(
        (&events[0].1["error_type"], &events[0].1["retry_count"]),
        (&"agent_unreachable".into(), &2.into())
    );
    // What it got and did not answer may have been done.
    let server = always(vec![Step::Close]).await;
    let events = run(&agent(&server.origin(), json!({})), hello()).await;
    assert_eq!((&events[0].1["error_type"], server.seen().len()), (&"agent_error".into(), 1));
    let server = Server::answering(answer(503, "retry-after: 3600\r\n", "")).await;
    run(&agent(&server.origin(), json!({})), hello()).await;
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn the_head_of_an_answer_is_waited_for_no_longer_than_was_said() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{";
    for steps in [vec![Step::Hang], vec![send(whole), Step::Hang]] {
        let server = always(steps).await;
        let events = run(&agent(&server.origin(), json!({"request_timeout": "50ms"})), hello()).await;
        assert_eq!((events.len(), &events[0].1["error_type"]), (1, &"agent_silent".into()));
        let error = events[0].1["error"].as_str().unwrap();
        assert_eq!((error, server.seen().len()), ("the agent did not begin to answer within 50ms", 1));
    }
    // An error's text may stall, its status is told.
    let stalled = "HTTP/1.1 500 X\r\ncontent-length: 50\r\n\r\nbro";
    let server = always(vec![send(stalled), Step::Hang]).await;
    let events = run(&agent(&server.origin(), json!({"request_timeout": "50ms"})), hello()).await;
    assert_eq!(events[0].1["status"], 500);
    // Once there is a head, a stream takes its time.
    let slow = vec![sse(), Step::Wait(Duration::from_millis(200)), token("a"), Step::Close];
    let server = always(slow).await;
    let events = run(&agent(&server.origin(), json!({"request_timeout": "50ms"})), hello()).await;
    assert_eq!(kinds(&events), ["response_chunk", "completed"]);
}

#[tokio::test]
async fn each_tool_result_is_a_request_and_the_turn_ends_with_the_last() {
    let script = |_: &Seen, before: usize| match before {
        0 => vec![chunked(), piece("data: {\"type\":\"done\"}\n\n"), send("0\r\n\r\n")],
        1 => vec![chunked(), piece("data: {\"type\":\"session_info\"}\n\n"), send("0\r\n\r\n")],
        _ => vec![
            chunked(),
            piece("data: {\"type\":\"assistant_message\",\"token\":\"a\"}\n\ndata: {\"type\":\"done\"}\n\n"),
            Step::Hang,
        ],
    };
    let results = r#"{"kind":"tool_result","results":[{"call_id":"a","result":1},{"call_id":"b","error":"x"},{"call_id":"c","result":null}]}"#;
    let server = Server::start(script).await;
    let events = run(&agent(&server.origin(), json!({})), turn(results)).await;
    assert_eq!(kinds(&events), ["done", "session_info", "response_chunk", "completed"]);
    let sent: Vec<Value> =
        server.seen().iter().map(|seen| serde_json::from_str(&seen.body).unwrap()).collect();
    let calls: Vec<_> = sent.iter().map(|body| &body["message"]["call_id"]).collect();
    assert_eq!(calls, ["a", "b", "c"]);
    // What fails is not followed by the others.
    let server = always(vec![sse(), frame(&json!({"type": "error", "error": "no"})), Step::Close]).await;
    let events = run(&agent(&server.origin(), json!({})), turn(results)).await;
    assert_eq!((kinds(&events), server.seen().len()), (vec!["failed"], 1));
}

#[tokio::test]
async fn connections_are_used_again() {
    let ends = [
        vec![
            piece("data: {\"type\":\"done\"}\n\n"),
            Step::Wait(Duration::from_millis(20)),
            send("0\r\n\r\n"),
        ],
        vec![piece("data: [DONE]\n\n: and more\n\n"), send("0\r\n\r\n")],
        vec![send("0\r\n\r\n")],
    ];
    for end in ends {
        let steps = [vec![chunked()], end].concat();
        let server = always(steps).await;
        let agent = agent(&server.origin(), json!({}));
        let (mut turns, mut connections) = (0, HashSet::new());
        // The end of a stream is read behind the turn's back.
        while turns == connections.len() {
            assert!(turns < 20, "each turn had a connection of its own");
            assert_eq!(kinds(&run(&agent, hello()).await), ["completed"]);
            agent.runtime.endings.all().await;
            turns = server.seen().len();
            connections = server.seen().iter().map(|seen| seen.connection).collect();
        }
    }
}

#[tokio::test]
async fn a_stream_without_an_end_is_left_alone_after_the_answers() {
    let server = always(vec![sse(), done(), Step::Hang]).await;
    let agent = agent(&server.origin(), json!({"end_timeout": "20ms"}));
    assert_eq!(kinds(&run(&agent, hello()).await), ["completed"]);
    server.ended_at_least(1).await;
}

#[tokio::test]
async fn dropping_the_turn_drops_its_connection() {
    let server = always(vec![sse(), token("a"), Step::Hang]).await;
    let agent = agent(&server.origin(), json!({}));
    let mut stream = agent.run(hello());
    assert!(server.seen().is_empty());
    assert!(stream.next().await.is_some());
    assert_eq!(server.ended(), 0);
    drop(stream);
    server.ended_at_least(1).await;
}

#[test]
fn settings_that_make_no_sense_are_told() {
    let told = |more: Value| {
        let mut config = json!({"url": "http://127.0.0.1"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        made(config, Duration::from_secs(60)).unwrap_err().to_string()
    };
    assert!(told(json!({"url": "ftp://x"})).starts_with("agents.runtime.url: "));
    assert!(told(json!({"url": "http://u:p@x"})).contains("headers"));
    assert!(told(json!({"request_timeout": "0s"})).starts_with("agents.runtime.request_timeout: "));
    let key = told(json!({"internal_api_key": "a\nb"}));
    assert!(key.starts_with("agents.runtime.internal_api_key: ") && !key.contains("a\nb"));
    for size in ["max_frame", "max_answer"] {
        assert_eq!(told(json!({size: "0B"})), format!("agents.runtime.{size}: must be at least 1B"));
    }
}

/// Every framing that the contract knows, with what must not matter.
const STREAM: &str = "\u{feff}: hello\r\n\r\ndata: {\"type\": \"assistant_message\", \"token\": \"ü\"}\n\n\
    event: message\rdata:{\"type\":\"assistant_message\",\rdata:\"token\":\"b\"}\r\r\
    id: 7\nretry: 10\nevent: session_info\ndata: {\"session_id\":\"s\"}\n\n: ping\n\n\
    data: {\"type\":\"tool_call\",\"call_id\":\"c\",\"tool_name\":\"f\",\"arguments\":{\"x\":1.50}}\r\n\r\n\
    event: ping\n\ndata: {\"type\":\"error\",\"error\":\"oh\"}\n\nevent: done\ndata: {\"type\":\"done\"}\n\n";

fn read(pieces: &[&[u8]]) -> Vec<(AgentEvent, Option<RawFrame>)> {
    let redactor = Redactor::new([]);
    let (mut reader, mut answer, mut told) =
        (SseReader::new(200), Answer::new(10_000, &redactor), Vec::new());
    let mut take = |event: SseEvent| {
        if let Frame::Chunk(chunk) = Frame::read(&event).unwrap() {
            told.extend(answer.take(*chunk).unwrap());
        }
    };
    for piece in pieces {
        reader.push(&Bytes::copy_from_slice(piece));
        while let Some(event) = reader.next().unwrap() {
            take(event);
        }
    }
    while let Some(event) = reader.finish().unwrap() {
        take(event);
    }
    told
}

#[test]
fn every_framing_is_read() {
    let told = read(&[STREAM.as_bytes()]);
    let frames: Vec<_> =
        told.iter().map(|(event, raw)| (event.kind().to_string(), raw.as_ref().unwrap().as_str())).collect();
    let expected = [
        ("response_chunk", r#"{"type": "assistant_message", "token": "ü"}"#),
        ("response_chunk", r#"{"type":"assistant_message", "token":"b"}"#),
        ("session_info", r#"{"type":"session_info","session_id":"s"}"#),
        ("tool_started", r#"{"type":"tool_call","call_id":"c","tool_name":"f","arguments":{"x":1.50}}"#),
        ("ping", r#"{"content":"","type":"ping"}"#),
        ("agent_error", r#"{"type":"error","error":"oh"}"#),
        ("failed", r#"{"type":"done"}"#),
    ];
    assert_eq!(frames, expected.map(|(kind, frame)| (kind.to_owned(), frame)));
}

proptest! {
    #[test]
    fn where_a_stream_is_cut_into_pieces_does_not_matter(cuts in prop::collection::vec(0..STREAM.len(), 0..16)) {
        let mut cuts = cuts;
        cuts.extend([0, STREAM.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|pair| &STREAM.as_bytes()[pair[0]..pair[1]]).collect();
        prop_assert_eq!(read(&pieces), read(&[STREAM.as_bytes()]));
    }
}
