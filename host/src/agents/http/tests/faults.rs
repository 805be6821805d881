//! What runtimes do wrong, and what is told of it.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt as _;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// How a turn against a server of these steps ended.
async fn failed(steps: Vec<Step>) -> Value {
    let server = always(steps).await;
    let mut events = run(&agent(&server.origin(), json!({})), hello()).await;
    let (kind, data) = events.pop().unwrap();
    assert_eq!((kind.as_str(), events.len()), ("failed", 0), "{events:?} {data}");
    data
}

fn text(data: &Value) -> &str {
    data["error"].as_str().unwrap()
}

/// A whole answer.
fn whole(status: u16, headers: &str, body: &str) -> Vec<Step> {
    vec![Step::Send(answer(status, headers, body))]
}

#[tokio::test]
async fn no_part_of_the_key_is_told_wherever_an_error_is_cut() {
    for before in (900..1000).step_by(7) {
        let said = format!("{}{KEY}", "p".repeat(before));
        let page = format!("{}{KEY}", "p".repeat(before - 800));
        for steps in [
            whole(500, "", &said),
            whole(400, "content-type: application/json\r\n", &json!({"detail": said}).to_string()),
            vec![sse(), frame(&json!({"type": "error", "error": said})), Step::Close],
            vec![sse(), frame(&json!({"error": said})), Step::Close],
            vec![sse(), send(&format!("event: error\ndata: {said}\n\n")), Step::Close],
            vec![sse(), send(&format!("data: {page}\n\n")), Step::Hang],
            vec![sse(), send(&page), Step::Close],
            whole(307, &format!("location: /{page}\r\n"), ""),
        ] {
            let data = failed(steps).await;
            assert!(!data.to_string().contains("key-t"), "{data}");
        }
    }
}

#[tokio::test]
async fn an_answer_of_which_nothing_can_be_read_is_no_success() {
    let lines = "{\"type\":\"assistant_message\",\"token\":\"hi\"}\n{\"type\":\"done\"}\n";
    for content_type in
        ["content-type: text/event-stream\r\n", "", "content-type: text/plain; charset=utf-8\r\n"]
    {
        for body in [lines, "Internal server error", "{\n  \"answer\": 1\n}"] {
            let data = failed(whole(200, content_type, body)).await;
            let begins = body.lines().next().unwrap();
            assert!(text(&data).starts_with("no `data:` line in the agent's answer, "), "{data}");
            assert!(text(&data).contains(&format!("; it begins with: {begins}")), "{data}");
            assert_eq!((&data["error_type"], &data["recoverable"]), (&"agent_error".into(), &false.into()));
        }
    }
    let json = "content-type: application/json\r\n";
    for (body, error) in [
        (r#"{"error":"boom"}"#, "the agent reported an error: boom"),
        (r#"{"detail":"boom"}"#, "the agent reported an error: boom"),
        (
            r#"{"detail":[{"loc":["x"],"msg":"m"}]}"#,
            r#"the agent reported an error: [{"loc":["x"],"msg":"m"}]"#,
        ),
    ] {
        for steps in [whole(200, json, body), vec![sse(), send(&format!("data: {body}\n\n")), Step::Hang]] {
            let server = always(steps).await;
            let events = run(&agent(&server.origin(), json!({"end_timeout": "20ms"})), hello()).await;
            assert_eq!((kinds(&events), text(&events[0].1)), (vec!["failed"], error));
            let raw = body.replacen('{', "{\"type\":\"error\",", 1);
            assert_eq!(events[0].1["raw"], serde_json::from_str::<Value>(&raw).unwrap());
        }
    }
    for body in ["[]", "null", lines] {
        let data = failed(whole(200, json, body)).await;
        assert!(text(&data).starts_with("the agent sent something that is no chunk: "), "{data}");
    }
    // What keeps a connection open says nothing, and is no foreign language.
    let server = always(vec![sse(), send(": ping\n\nid: 1\n\n"), Step::Close]).await;
    assert_eq!(kinds(&run(&agent(&server.origin(), json!({})), hello()).await), ["completed"]);
}

#[tokio::test]
async fn an_event_named_done_is_taken_and_is_the_end() {
    for (data, kinds_told, last) in [
        (
            r#"{"type":"assistant_message","content":"bye"}"#,
            &["response_chunk", "response_chunk", "completed"][..],
            None,
        ),
        (
            r#"{"usage":{"total_tokens":5}}"#,
            &["response_chunk", "completed"],
            Some(r#"{"type":"done","usage":{"total_tokens":5}}"#),
        ),
        (
            r#"{"status":"completed","is_final":true}"#,
            &["response_chunk", "completed"],
            Some(r#"{"type":"done","status":"completed","is_final":true}"#),
        ),
        (r#"{"error":"boom"}"#, &["response_chunk", "failed"], Some(r#"{"type":"error","error":"boom"}"#)),
    ] {
        let server =
            always(vec![sse(), token("a"), send(&format!("event: done\ndata: {data}\n\n")), Step::Hang])
                .await;
        let events = run(&agent(&server.origin(), json!({})), hello()).await;
        assert_eq!(kinds(&events), kinds_told, "{data}");
        let raw = last.map(|last| serde_json::from_str::<Value>(last).unwrap());
        assert_eq!(events.last().unwrap().1.get("raw"), raw.as_ref(), "{data}");
    }
    let said = "event: done\ndata: {\"content\":\"all\",\"usage\":{\"total_tokens\":5}}\n\n";
    let server = always(vec![sse(), send(said), Step::Hang]).await;
    let events = run(&agent(&server.origin(), json!({})), hello()).await;
    assert_eq!(kinds(&events), ["response_chunk", "completed"]);
    assert_eq!((&events[1].1["text"], &events[1].1["usage"]["total_tokens"]), (&"all".into(), &5.into()));
}

#[tokio::test]
async fn an_error_is_told_soon_though_the_stream_goes_on() {
    let error = json!({"type": "error", "error": "no model"});
    let soon = json!({"error_timeout": "10ms", "end_timeout": "60ms"});
    let server = always(vec![sse(), frame(&error), Step::Hang]).await;
    let events = run(&agent(&server.origin(), soon), hello()).await;
    assert_eq!(kinds(&events), ["agent_error", "failed"]);
    assert_eq!((&events[0].1["raw"], events[1].1.get("raw")), (&error, None));
    for (_, data) in &events {
        assert_eq!(text(data), "the agent reported an error: no model");
    }
    // Who stops the turn then has heard of it.
    let patient = agent(&server.origin(), json!({"error_timeout": "10ms", "end_timeout": "1h"}));
    let mut stream = patient.run(hello());
    let mut heard = Vec::new();
    while heard.is_empty() {
        heard.extend(shown(&stream.next().await.unwrap()));
    }
    assert_eq!(kinds(&heard), ["agent_error"]);
    // It may go on after that.
    let steps =
        vec![sse(), frame(&error), Step::Wait(Duration::from_millis(80)), token("a"), done(), Step::Hang];
    let server = always(steps).await;
    let patient = agent(&server.origin(), json!({"error_timeout": "10ms", "end_timeout": "1h"}));
    assert_eq!(kinds(&run(&patient, hello()).await), ["agent_error", "response_chunk", "completed"]);
    // Silence, after which the turn is given up, does not come first.
    let server = always(vec![sse(), frame(&error), Step::Hang]).await;
    let config = json!({"url": server.origin(), "error_timeout": "1h", "end_timeout": "1h"});
    let impatient = made(config, Duration::from_millis(50)).unwrap();
    let events = run(&impatient, hello()).await;
    assert_eq!((kinds(&events), &events[0].1["raw"]), (vec!["failed"], &error));
}

#[tokio::test]
async fn streams_whose_end_is_waited_for_have_a_bound_of_their_own() {
    let server = always(vec![sse(), done(), Step::Hang]).await;
    let settings = json!({"end_timeout": "1h", "idle_connections": 0, "ending_streams": 2});
    let agent = agent(&server.origin(), settings);
    for _ in 0..3 {
        assert_eq!(kinds(&run(&agent, hello()).await), ["completed"]);
    }
    server.ended_at_least(1).await;
    assert_eq!(server.ended(), 1);
}

#[tokio::test]
async fn an_answer_that_is_elsewhere_is_not_followed_there() {
    for (location, todo) in [
        (
            "https://runtime.example/v1/agent/message/stream",
            "set agents.runtime.url to https://runtime.example/v1",
        ),
        (
            "/base/agent/message/stream/",
            "set agents.runtime.url to where it is, or answer at /base/agent/message/stream",
        ),
    ] {
        let data = failed(whole(307, &format!("location: {location}\r\n"), "moved")).await;
        let told = "the agent answered with status 307: moved";
        let expected = format!("{told}; {todo}: it refers to {location}, and no redirect is followed");
        assert_eq!(
            (text(&data), &data["status"], &data["recoverable"]),
            (&*expected, &307.into(), &false.into())
        );
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_and_read_without_compression() {
    let gzip = "content-encoding: gzip\r\ncontent-type: text/event-stream\r\n";
    let server = Server::answering(answer(200, gzip, "\u{1f}\u{8}…")).await;
    let events = run(&agent(&server.origin(), json!({})), hello()).await;
    let error = text(&events[0].1);
    assert!(error.starts_with("the agent's answer is compressed: its content-encoding is gzip; "), "{error}");
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
    let data = failed(whole(500, gzip, "\u{1f}\u{8}…")).await;
    assert_eq!(text(&data), "the agent answered with status 500");
    let identity = "content-encoding: identity\r\ncontent-type: text/event-stream\r\n";
    let server = Server::answering(answer(200, identity, "data: [DONE]\n\n")).await;
    assert_eq!(kinds(&run(&agent(&server.origin(), json!({})), hello()).await), ["completed"]);
}

/// A server that speaks TLS, and one that speaks HTTP to whatever comes.
#[tokio::test]
async fn a_url_that_begins_wrongly_is_recognised() {
    let pem = include_bytes!("../../../egress/testdata/secure.example.pem");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem).unwrap()],
            PrivateKeyDer::from_pem_slice(pem).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = listener.local_addr().unwrap();
    let _tls = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    let _plain = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let whole = answer(400, "connection: close\r\n", "Invalid HTTP request received.");
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, whole.as_bytes()).await;
        }
    }));
    for (url, advice) in [(format!("http://{tls}"), "https://"), (format!("https://{plain}"), "http://")] {
        let events = run(&agent(&url, json!({})), hello()).await;
        assert!(text(&events[0].1).ends_with(&format!("its URL begins with {advice}")), "{events:?}");
    }
}
