//! Rubbish in: a clear 4xx that names what is wrong, a process that lives, and nothing stored.

use http::Method;
use plugway_tests::update::message;
use plugway_tests::{Answer, DEADLINE, Gateway, eventually, within};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn gateway() -> Gateway {
    Gateway::builder().plugin("telegram").set("limits.body", "64KiB").start().await
}

async fn push(gateway: &Gateway, body: impl Into<reqwest::Body>) -> Answer {
    let request = gateway.request(Method::POST, "/webhook").header("content-type", "application/json");
    Answer::read(request.body(body).send().await.expect("an answer")).await.expect("a whole answer")
}

async fn assert_nothing_stored(gateway: &Gateway) {
    assert_eq!(gateway.accepted_tasks().await, 0.0);
    let task = gateway.accept(&message(99, 7, "still there?")).await;
    assert_eq!(gateway.ended(&task).await["state"], "completed");
}

/// Sends bytes as they are, and returns what comes back until the server closes.
async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.host()).await.expect("it accepts connections");
    // A server that has seen enough closes while we still write.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = within("the server closes", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_no_update_is_refused_with_the_field_that_is_wrong() {
    let gateway = gateway().await;
    let valid = message(1, 7, "hello");
    let with = |pointer: &str, value: Value| {
        let mut update = valid.clone();
        *update.pointer_mut(pointer).expect("the field is there") = value;
        update
    };
    let table = [
        (json!({ "message": valid["message"] }), "update_id"),
        (with("/update_id", json!("one")), "update_id"),
        (with("/update_id", json!(null)), "update_id"),
        (with("/update_id", json!(1.5)), "update_id"),
        (with("/message", json!("hello")), "message"),
        (with("/message", json!([1])), "message"),
        (with("/message/chat", json!(7)), "message.chat"),
        (with("/message/chat/id", json!("seven")), "message.chat.id"),
        (with("/message/chat", json!({})), "message.chat.id"),
        (with("/message/message_id", json!({})), "message.message_id"),
        (with("/message/text", json!(["hello"])), "message.text"),
        (with("/message/text", json!(7)), "message.text"),
        (with("/message/from", json!("Ada")), "message.from"),
    ];
    for (update, field) in table {
        let error = push(&gateway, update.to_string()).await.expect(400).error();
        assert_eq!(error["type"], "invalid_request_error", "for {update}");
        assert_eq!(error["param"], field, "for {update}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(field)), "{error} for {update}");
    }
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    let gateway = gateway().await;
    let deep = "[".repeat(30_000);
    let deep_value = format!("{{\"update_id\":1,\"message\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let bodies: [&[u8]; 14] = [
        b"",
        b" ",
        b"{",
        b"}",
        b"null",
        b"[]",
        b"7",
        b"\"hello\"",
        b"{\"update_id\":1,}",
        b"{\"update_id\":1} {\"update_id\":2}",
        b"\xff\xfe\x00",
        b"{\"update_id\":1,\"message\":{\"text\":\"\xc3\x28\"}}",
        deep.as_bytes(),
        deep_value.as_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = push(&gateway, body.to_vec()).await;
        assert_eq!(answer.status, 400, "for {shown:?}: {answer:?}");
        assert_eq!(answer.error()["type"], "invalid_request_error", "for {shown:?}");
    }
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let gateway = gateway().await;
    let large = message(1, 7, &"x".repeat(70_000)).to_string();
    let error = push(&gateway, large.clone()).await.expect(413).error();
    assert!(error["message"].as_str().is_some_and(|text| text.contains("limits.body")), "{error}");

    let pieces: Vec<_> =
        large.into_bytes().chunks(1_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let chunked = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    push(&gateway, chunked).await.expect(413).error();

    let head = "POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    assert!(raw(&gateway, head.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn a_client_that_writes_all_before_it_reads_learns_that_its_body_is_too_large() {
    let gateway = Gateway::builder().plugin("telegram").start().await;
    let body = vec![b'x'; 12 << 20];
    let declared = format!("content-length: {}", body.len());
    for (path, framing, status) in [
        ("/webhook", &*declared, 413),
        ("/webhook", "transfer-encoding: chunked", 413),
        ("/no", &*declared, 404),
    ] {
        let mut stream = TcpStream::connect(gateway.host()).await.expect("it accepts connections");
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("the head is taken");
        let chunked = framing != declared;
        if chunked {
            stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.expect("the size is taken");
        }
        within("the body is taken", stream.write_all(&body)).await.expect("the connection holds");
        if chunked {
            stream.write_all(b"\r\n0\r\n\r\n").await.expect("the end is taken");
        }
        let mut answer = Vec::new();
        within("the server closes", stream.read_to_end(&mut answer)).await.expect("no reset");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}, {framing}: {answer}");
    }
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn bodies_under_way_share_a_budget_and_who_gets_none_is_told_when_to_come_back() {
    let builder =
        Gateway::builder().plugin("telegram").set("limits.body", "128KiB").set("limits.bodies", "160KiB");
    let gateway = builder.start().await;
    let head = "POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: 120000\r\n\r\n";
    let large = message(1, 7, &"x".repeat(80_000)).to_string();
    // Whichever comes first gets in, so that the slow one may have to try again.
    let slow = eventually(DEADLINE, || async {
        let mut slow = TcpStream::connect(gateway.host()).await.expect("it accepts connections");
        slow.write_all(head.as_bytes()).await.expect("sent");
        slow.write_all(&[b' '; 118_000]).await.expect("sent");
        let answer = push(&gateway, large.clone()).await;
        match (answer.status, answer.header("retry-after")) {
            (503, Some(_)) => Ok(slow),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    push(&gateway, message(2, 7, "a small one finds room").to_string()).await.expect(200);
    drop(slow);
    eventually(DEADLINE, || async {
        let answer = push(&gateway, large.clone()).await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_body_within_the_limit_whose_text_is_too_much_for_a_task_is_refused() {
    let gateway = Gateway::builder().plugin("telegram").start().await;
    // A task's input may have 2 MB, a body 10.
    let answer = push(&gateway, message(1, 7, &"x".repeat(3_000_000)).to_string()).await.expect(200).json();
    // A 4xx would make Telegram send it again and again: the user is told instead.
    assert_eq!(
        (&answer["status"], &answer["method"]),
        (&json!("refused"), &json!("sendMessage")),
        "{answer}"
    );
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_told_apart() {
    let gateway = gateway().await;
    for path in [
        "/",
        "/nothing",
        "/webhook/",
        "/webhook/more",
        "/v2",
        "/tasks",
        "/stream",
        "/admin",
        "/%2e%2e/etc/passwd",
    ] {
        let error = gateway.get(path).await.expect(404).error();
        assert_eq!(error["type"], "not_found_error", "for {path}");
    }
    let table = [
        (Method::GET, "/webhook"),
        (Method::DELETE, "/webhook"),
        (Method::POST, "/health"),
        (Method::POST, "/stream/task_1"),
        (Method::PUT, "/tasks/task_1"),
        (Method::GET, "/tasks/task_1/cancel"),
        (Method::DELETE, "/admin/plugins"),
    ];
    for (method, path) in table {
        let response = gateway.request(method.clone(), path).send().await.expect("an answer");
        let answer = Answer::read(response).await.expect("a whole answer");
        assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
        assert!(answer.header("allow").is_some(), "allow for {method} {path}");
        answer.error();
    }
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn the_admin_api_refuses_what_it_does_not_know() {
    let gateway = gateway().await;
    for (name, action) in
        [("nobody", "rollback"), ("nobody", "reload"), ("telegram", "explode"), ("..", "reload")]
    {
        gateway.administer(name, action).await.expect(404).error();
    }
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn callback_urls_that_are_none_are_refused_by_name() {
    let gateway = gateway().await;
    for url in [
        "nonsense",
        "ftp%3A%2F%2Fexample.org",
        "http%3A%2F%2F",
        "file%3A%2F%2F%2Fetc%2Fpasswd",
        "%2Frelative",
    ] {
        let answer = gateway.post(&format!("/webhook?callback_url={url}"), &message(1, 7, "hello")).await;
        assert_eq!(answer.clone().expect(400).error()["param"], "callback_url", "for {url}");
    }
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn what_is_no_http_is_answered_or_dropped_and_the_process_lives() {
    let gateway = gateway().await;
    let bomb = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-bomb: {}\r\n\r\n", "x".repeat(300_000));
    let many: String = (0..5_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let many = format!("GET /health HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(300_000));
    let table: [&[u8]; 9] = [
        b"\x00\x01\x02\x03\x04\x05\x06\x07\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        bomb.as_bytes(),
        many.as_bytes(),
        long.as_bytes(),
    ];
    for bytes in table {
        let answer = raw(&gateway, bytes).await;
        let refused =
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
        assert!(refused, "{shown:?} was answered with {:?}", answer.lines().next());
    }
    assert_nothing_stored(&gateway).await;
}

#[tokio::test]
async fn connections_that_never_finish_a_request_hold_up_nobody() {
    let gateway = gateway().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(gateway.host()).await.expect("it accepts connections");
        stream
            .write_all(b"POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            .await
            .expect("sent");
        silent.push(stream);
    }
    assert_nothing_stored(&gateway).await;
}

/// Any JSON, of a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,12}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A good update with one member replaced by anything.
fn spoiled_update() -> impl Strategy<Value = Value> {
    let places = [
        "/update_id",
        "/message",
        "/message/message_id",
        "/message/date",
        "/message/from",
        "/message/from/id",
        "/message/chat",
        "/message/chat/id",
        "/message/chat/type",
        "/message/text",
    ];
    (prop::sample::select(places.to_vec()), any_json()).prop_map(|(place, value)| {
        let mut update = message(1, 7, "hello");
        *update.pointer_mut(place).expect("the place is there") = value;
        update
    })
}

#[tokio::test]
async fn whatever_comes_in_is_accepted_ignored_or_refused_and_never_breaks_anything() {
    let gateway = gateway().await;
    let mut runner = TestRunner::deterministic();
    let bodies = prop_oneof![
        3 => spoiled_update().prop_map(|update| update.to_string().into_bytes()),
        1 => any_json().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..400),
    ];
    for _ in 0..600 {
        let body = bodies.new_tree(&mut runner).expect("a body can be made").current();
        let answer = push(&gateway, body.clone()).await;
        let shown = String::from_utf8_lossy(&body).into_owned();
        match answer.status {
            200 => {
                let status = answer.json()["status"].clone();
                let known = ["accepted", "ignored", "handled", "refused"];
                assert!(known.iter().any(|known| status == *known), "{status} for {shown}");
            }
            400 => assert_eq!(answer.error()["type"], "invalid_request_error", "for {shown}"),
            other => panic!("{other} for {shown}: {}", answer.text()),
        }
    }
    assert_eq!(
        gateway.metrics().await.sum("plugway_plugin_failures_total", &[]),
        0.0,
        "no plugin broke over it"
    );
}
