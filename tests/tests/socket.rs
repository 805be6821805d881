//! Plugins that serve WebSocket connections: messages both ways, bounds, ends of every kind, and reloads.

use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use http::Method;
use plugway_tests::{
    Answer, Builder, DEADLINE, Gateway, eventually, fixture, overwrite_bytes, salted, within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest as _};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const UPGRADE: &str = "GET /parrot/s HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn builder() -> Builder {
    Gateway::builder()
        .component("parrot", &fixture("parrot"))
        .component("steady", &fixture("steady"))
        .set("plugins.parrot.limits.cpu_per_step", "100ms")
        .set("plugins.parrot.limits.traps", 1_000)
}

fn url(gateway: &Gateway, path: &str) -> String {
    gateway.url(path).replacen("http", "ws", 1)
}

async fn connect(gateway: &Gateway, session: &str) -> Socket {
    let url = url(gateway, &format!("/parrot/{session}"));
    within("a connection", connect_async(url)).await.expect("it is accepted").0
}

async fn say(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.expect("it is sent");
}

/// The next message that is no ping.
async fn hear(socket: &mut Socket) -> Message {
    loop {
        match within("a message", socket.next()).await.expect("it is open").expect("a message") {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

async fn hear_text(socket: &mut Socket) -> String {
    match hear(socket).await {
        Message::Text(text) => text.to_string(),
        other => panic!("no text: {other:?}"),
    }
}

/// What the connection was closed with, whatever came before.
async fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        match within("a close", socket.next()).await {
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                return (code.into(), reason.to_string());
            }
            Some(Ok(_)) => {}
            other => panic!("no close: {other:?}"),
        }
    }
}

async fn assert_serves(gateway: &Gateway) {
    let mut socket = connect(gateway, "another").await;
    say(&mut socket, "still here").await;
    assert_eq!(hear_text(&mut socket).await, "still here");
}

#[tokio::test]
async fn messages_go_both_ways_whole_and_in_order() {
    let gateway = builder().start().await;
    let mut socket = connect(&gateway, "s%20%C3%A9").await;
    let sizes = [0, 1, 125, 126, 65_535, 65_536, 900_000];
    for size in sizes {
        let text = "é".repeat(size / 2);
        say(&mut socket, &text).await;
        assert!(hear_text(&mut socket).await == text, "{size} bytes");
        let bytes: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
        socket.send(Message::binary(bytes.clone())).await.expect("it is sent");
        assert!(hear(&mut socket).await == Message::binary(bytes), "{size} bytes");
    }
    let (mut sink, mut stream) = socket.split();
    let sending = async {
        for number in 0..5_000 {
            sink.send(Message::text(number.to_string())).await.expect("it is sent");
        }
    };
    let hearing = async {
        for number in 0..5_000 {
            let heard = within("a message", stream.next()).await.expect("it is open").expect("a message");
            assert_eq!(heard, Message::text(number.to_string()));
        }
    };
    tokio::join!(sending, hearing);
    let mut socket = sink.reunite(stream).expect("they belong together");
    say(&mut socket, "/upgrade sec-websocket-version").await;
    assert_eq!(hear_text(&mut socket).await, "/parrot/s%20%C3%A9 Some(\"13\")");
    socket.close(None).await.expect("it closes");
    within("the end", async { while socket.next().await.is_some_and(|message| message.is_ok()) {} }).await;
    gateway.logged(&["told to end"]).await;
}

#[tokio::test]
async fn all_connections_of_a_session_see_its_events() {
    let gateway = builder().set("agents.echo.chunk_delay", "1ms").start().await;
    let (mut one, mut two) = (connect(&gateway, "table").await, connect(&gateway, "table").await);
    // Both follow by now: each has answered.
    for socket in [&mut one, &mut two] {
        say(socket, "here").await;
        assert_eq!(hear_text(socket).await, "here");
    }
    say(&mut one, "/ask two words").await;
    for socket in [&mut one, &mut two] {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "event: completed") {
            heard.push(hear_text(socket).await);
        }
        assert_eq!(
            heard,
            ["event: started", "event: thinking", "chunk: two ", "chunk: words", "event: completed"]
        );
    }
}

#[tokio::test]
async fn every_end_has_its_code_and_ends_one_connection() {
    let gateway = builder().start().await;
    let mut bystander = connect(&gateway, "bystander").await;
    for (command, code, reason) in [
        ("/close 1000", 1000, "as told"),
        ("/close 4321", 4321, "as told"),
        ("/close 1006", 1011, "internal error"),
        ("/return", 1000, ""),
        ("/error", 1011, "internal error"),
        ("/trap", 1011, "internal error"),
        ("/spin", 1011, "internal error"),
    ] {
        let mut socket = connect(&gateway, "s").await;
        say(&mut socket, "a word before").await;
        say(&mut socket, command).await;
        assert_eq!(hear_text(&mut socket).await, "a word before", "{command}");
        assert_eq!(closed(&mut socket).await, (code, reason.to_owned()), "{command}");
        say(&mut bystander, command.trim_start_matches('/')).await;
        assert_eq!(hear_text(&mut bystander).await, command.trim_start_matches('/'));
    }
    gateway.logged(&["parrot", "details that nobody is told"]).await;
    let failures = gateway.metrics().await.sum("plugway_plugin_failures_total", &["role=\"socket\""]);
    assert!((failures - 2.0).abs() < f64::EPSILON, "{failures} failures");
}

#[tokio::test]
async fn what_is_no_websocket_is_refused_in_words() {
    let gateway = builder().start().await;
    let get = |path: &str| gateway.request(Method::GET, path);
    let plain = Answer::read(get("/parrot/s").send().await.expect("an answer")).await.expect("all of it");
    assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")));
    let asks = |request: reqwest::RequestBuilder| {
        request.header("connection", "keep-alive, Upgrade").header("upgrade", "websocket")
    };
    let old = asks(get("/parrot/s")).header("sec-websocket-version", "8").header("sec-websocket-key", "eA==");
    let old = Answer::read(old.send().await.expect("an answer")).await.expect("all of it").expect(426);
    assert_eq!(old.header("sec-websocket-version"), Some("13"));
    let keyless = asks(get("/parrot/s")).header("sec-websocket-version", "13");
    let keyless =
        Answer::read(keyless.send().await.expect("an answer")).await.expect("all of it").expect(400);
    assert_eq!(keyless.error()["param"], "sec-websocket-key");
    let short =
        asks(get("/parrot/s")).header("sec-websocket-version", "13").header("sec-websocket-key", "eA==");
    let short = Answer::read(short.send().await.expect("an answer")).await.expect("all of it").expect(400);
    assert_eq!(short.error()["param"], "sec-websocket-key");
    let post = gateway.request(Method::POST, "/parrot/s").send().await.expect("an answer");
    assert_eq!(post.status(), 405);
    // A page that is not listed may not connect, though browsers let it try.
    let mut request = url(&gateway, "/parrot/s").into_client_request().expect("a request");
    request.headers_mut().insert("origin", "https://evil.example".parse().expect("a value"));
    match connect_async(request).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("it was let in: {other:?}"),
    }
}

#[tokio::test]
async fn keys_are_asked_for_before_the_upgrade() {
    const KEY: &str = "a-key-of-the-test";
    let gateway = builder().set("auth.keys", vec![KEY]).start().await;
    let request = |key: &str| {
        let mut request = url(&gateway, "/parrot/s").into_client_request().expect("a request");
        let value = format!("Bearer {key}").parse().expect("a value");
        request.headers_mut().insert("authorization", value);
        request
    };
    match connect_async(request("wrong")).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 401),
        other => panic!("it was let in: {other:?}"),
    }
    let (mut socket, _) = connect_async(request(KEY)).await.expect("it is accepted");
    say(&mut socket, "/upgrade authorization").await;
    assert_eq!(hear_text(&mut socket).await, "/parrot/s None", "the plugin is not shown the key");
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_told_which() {
    let gateway = builder().set("websocket.message", "10KB").start().await;
    let mut socket = connect(&gateway, "s").await;
    say(&mut socket, &"x".repeat(10_000)).await;
    assert_eq!(hear_text(&mut socket).await.len(), 10_000);
    say(&mut socket, &"x".repeat(10_001)).await;
    assert_eq!(closed(&mut socket).await.0, 1009);
    // One that is still being sent when that is known.
    let mut socket = connect(&gateway, "s").await;
    say(&mut socket, &"x".repeat(20 << 20)).await;
    assert_eq!(closed(&mut socket).await.0, 1009);

    // Frames that no library sends: unmasked; reserved bits; text that is not UTF-8; a close with half a code.
    for (frame, code) in [
        (&[0x81, 0x01, b'x'][..], 1002),
        (&[0xf1, 0x81, 0, 0, 0, 0, b'x'], 1002),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
    ] {
        let mut stream = TcpStream::connect(gateway.host()).await.expect("it listens");
        stream.write_all(UPGRADE.as_bytes()).await.expect("it is sent");
        stream.write_all(frame).await.expect("it is sent");
        let mut answer = Vec::new();
        within("the end", stream.read_to_end(&mut answer)).await.expect("it is closed");
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        let close = &answer[end..];
        assert_eq!(
            (close[0], u16::from_be_bytes([close[2], close[3]])),
            (0x88, code),
            "{frame:02x?}: {close:02x?}"
        );
    }
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn whoever_is_too_fast_waits_and_is_not_kept_in_memory() {
    let gateway = builder().set("websocket.buffer", "256KiB").set("stream.write_timeout", "5m").start().await;
    // A plugin that sends 64 MiB to a client that does not read.
    let mut silent = connect(&gateway, "silent").await;
    let before = gateway.memory();
    say(&mut silent, "/flood 1024").await;
    // A client that sends as much to a plugin that does not take it.
    let mut busy = connect(&gateway, "busy").await;
    say(&mut busy, "/sleep 4000").await;
    let message = Message::text("y".repeat(64 << 10));
    let mut sent = 0;
    let flood = async {
        while sent < 1_024 {
            busy.send(message.clone()).await.expect("it is sent");
            sent += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err(), "all of it was taken");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes more");
    assert_serves(&gateway).await;
    for _ in 0..1_024 {
        assert_eq!(hear_text(&mut silent).await.len(), 64 << 10, "nothing is lost");
    }
}

#[tokio::test]
async fn a_client_that_gives_no_sign_of_life_is_dropped_and_one_that_answers_pings_is_not() {
    let gateway = builder().set("websocket.ping", "200ms").set("websocket.idle_timeout", "1s").start().await;
    let mut alive = connect(&gateway, "alive").await;
    // This one never reads, and so never answers a ping.
    let dead = connect(&gateway, "dead").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let next = tokio::time::timeout(Duration::from_millis(100), alive.next()).await;
        assert!(next.is_err() || matches!(next, Ok(Some(Ok(Message::Ping(_))))), "{next:?}");
    }
    say(&mut alive, "still here").await;
    assert_eq!(hear_text(&mut alive).await, "still here");
    gateway.logged(&["told to end", "gone"]).await;
    assert!(gateway.metrics().await.sum("plugway_sockets_idle_total", &[]) >= 1.0);
    drop(dead);
}

#[tokio::test]
async fn whoever_pings_without_reading_is_not_kept_in_memory() {
    let gateway = builder().set("stream.write_timeout", "5m").start().await;
    let mut stream = TcpStream::connect(gateway.host()).await.expect("it listens");
    stream.write_all(UPGRADE.as_bytes()).await.expect("it is sent");
    let before = gateway.memory();
    // Masked with zeros, 125 bytes each.
    let ping = [&[0x89, 0xfd, 0, 0, 0, 0][..], &[b'p'; 125]].concat();
    let pings = ping.repeat(1_000);
    let mut sent = 0;
    let flood = async {
        while sent < 2_000 {
            stream.write_all(&pings).await.expect("it is sent");
            sent += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(4), flood).await.is_err(), "all of it was taken");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes more after {sent} thousand pings");
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn a_slow_line_is_no_idle_one() {
    let gateway = builder().set("websocket.ping", "200ms").set("websocket.idle_timeout", "2s").start().await;
    // One that reads all the time, and never all that there is.
    let line = TcpSocket::new_v4().expect("a socket");
    line.set_recv_buffer_size(16 << 10).expect("a small buffer");
    let line = line.connect(gateway.host().parse().expect("an address")).await.expect("it listens");
    let (mut slow, _) = client_async(url(&gateway, "/parrot/s"), line).await.expect("it is accepted");
    slow.send(Message::text("/flood 100")).await.expect("it is sent");
    let mut heard = 0;
    while heard < 100 {
        match within("a message", slow.next()).await.expect("it is open").expect("a message") {
            Message::Text(text) => {
                assert_eq!(text.len(), 64 << 10);
                heard += 1;
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            other => assert!(other.is_ping(), "{other:?}"),
        }
    }
    // One whose message takes longer than a client may be silent, and who answers no ping meanwhile.
    let mut stream = TcpStream::connect(gateway.host()).await.expect("it listens");
    stream.write_all(UPGRADE.as_bytes()).await.expect("it is sent");
    stream.write_all(&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0]).await.expect("it is sent");
    for _ in 0..64 {
        stream.write_all(&[b'x'; 64]).await.expect("it is sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut answer = Vec::new();
    let echoed = async {
        while !answer.windows(4_096).any(|window| window.iter().all(|byte| *byte == b'x')) {
            assert!(stream.read_buf(&mut answer).await.expect("it is open") > 0, "it was closed");
        }
    };
    within("the echo", echoed).await;
}

#[tokio::test]
async fn a_session_that_a_plugin_can_not_take_is_nobody_elses() {
    let gateway = builder().set("plugins.parrot.limits.traps", 3).start().await;
    let trap = async |session: &str| {
        let mut socket = connect(&gateway, session).await;
        say(&mut socket, "/trap").await;
        assert_eq!(closed(&mut socket).await.0, 1011);
    };
    for _ in 0..10 {
        trap("poisoned").await;
    }
    assert_serves(&gateway).await;
    // A plugin that fails for one after the other is put aside all the same.
    trap("one").await;
    trap("two").await;
    match connect_async(url(&gateway, "/parrot/another")).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("it was let in: {other:?}"),
    }
}

#[tokio::test]
async fn a_plugin_that_is_taken_out_ends_its_connections_in_the_time_of_a_reload() {
    let gateway = builder().set("plugins.parrot.limits.drain_timeout", "1s").start().await;
    let mut socket = connect(&gateway, "s").await;
    gateway.administer("parrot", "disable").await.expect(200);
    say(&mut socket, "still here").await;
    assert_eq!(hear_text(&mut socket).await, "still here");
    assert_eq!(closed(&mut socket).await, (1012, "service restart".to_owned()));
    gateway.administer("parrot", "enable").await.expect(200);
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn what_is_said_before_a_farewell_is_heard() {
    const CLIENTS: usize = 200;
    let gateway = builder().start().await;
    let visits = futures::stream::iter(0..CLIENTS).map(|client| {
        let gateway = &gateway;
        async move {
            let mut socket = connect(gateway, &client.to_string()).await;
            say(&mut socket, "/ask hello").await;
            socket.close(None).await.expect("it closes");
        }
    });
    visits.buffer_unordered(16).collect::<Vec<_>>().await;
    eventually(DEADLINE, || async {
        let asked = gateway.accepted_tasks().await;
        if asked >= CLIENTS as f64 { Ok(()) } else { Err(format!("{asked} were asked")) }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_frees_what_it_held() {
    let gateway = builder().set("plugins.parrot.limits.exchanges", 2).start().await;
    for _ in 0..20 {
        // With and without a farewell; the second one's plugin does not listen to reason.
        let mut polite = connect(&gateway, "polite").await;
        polite.close(None).await.expect("it closes");
        drop(connect(&gateway, "rude").await);
    }
    let open = async || match gateway.metrics().await.sum("plugway_sockets_open", &[]) {
        0.0 => Ok(()),
        open => Err(format!("{open} are open")),
    };
    eventually(DEADLINE, open).await;
    let mut deaf = connect(&gateway, "deaf").await;
    say(&mut deaf, "/ignore").await;
    assert_eq!(hear_text(&mut deaf).await, "deaf now");
    drop(deaf);
    gateway.logged(&["parrot", "was ended"]).await;
    eventually(DEADLINE, open).await;
}

#[tokio::test]
async fn connections_keep_their_generation_until_it_has_drained() {
    let gateway = builder().set("plugins.parrot.limits.drain_timeout", "3s").start().await;
    let mut old = connect(&gateway, "s").await;
    let plugins = gateway.plugins_dir();
    let replaced = Instant::now();
    overwrite_bytes(&plugins, "parrot", &salted(&fixture("parrot"), 1));
    gateway.plugin_when("parrot", |plugin| plugin["generation"] == 2).await;
    let mut new = connect(&gateway, "s").await;
    for round in 0.. {
        say(&mut old, &round.to_string()).await;
        let heard = hear_text(&mut old).await;
        if heard.starts_with("told to end") {
            break;
        }
        assert_eq!(heard, round.to_string());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(replaced.elapsed() >= Duration::from_secs(3), "it had {:?}", replaced.elapsed());
    assert_eq!(closed(&mut old).await, (1012, "service restart".to_owned()));
    say(&mut new, "the new one").await;
    assert_eq!(hear_text(&mut new).await, "the new one");
}

#[tokio::test]
async fn a_gateway_that_stops_says_so_and_waits_for_no_connection() {
    let mut gateway = builder().start().await;
    let mut socket = connect(&gateway, "s").await;
    let mut deaf = connect(&gateway, "deaf").await;
    say(&mut deaf, "/ignore").await;
    assert_eq!(hear_text(&mut deaf).await, "deaf now");
    let began = Instant::now();
    let (_, told) = tokio::join!(gateway.stop(), async { closed(&mut socket).await });
    assert_eq!(told, (1001, "going away".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
}
