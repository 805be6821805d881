//! Many who follow one task, some of them badly: what they cost is bounded, and they lose nothing that the log has.

use std::env;
use std::time::Duration;

use futures::future::join_all;
use http::Method;
use plugway_tests::update::message;
use plugway_tests::{Answer, Builder, DEADLINE, Event, Gateway, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

fn builder() -> Builder {
    Gateway::builder().plugin("telegram")
}

fn clients() -> usize {
    env::var("PLUGWAY_FANOUT_CLIENTS")
        .ok()
        .map_or(200, |text| text.parse().expect("PLUGWAY_FANOUT_CLIENTS is a number"))
}

/// A connection that asked for a stream and has not read yet.
async fn asked(gateway: &Gateway, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.host()).await.expect("it accepts connections");
    stream.write_all(request.as_bytes()).await.expect("the request is taken");
    stream
}

fn get(task: &str, version: &str) -> String {
    format!("GET /stream/{task} HTTP/{version}\r\nhost: localhost\r\n\r\n")
}

/// All that comes until the server closes.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends it as well.
    let _ = within("the server closes", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let read = within("more comes", stream.read_buf(&mut bytes)).await.expect("the connection holds");
        assert!(read > 0, "no {text:?} in {:?}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The body of an answer in chunks, as far as it came, and whether it came to its end.
fn dechunked(answer: &str) -> (String, bool) {
    let (_, mut rest) = answer.split_once("\r\n\r\n").expect("a head");
    let mut body = String::new();
    while let Some((line, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(line, 16).expect("the length of a chunk");
        if length == 0 {
            return (body, after == "\r\n");
        }
        let Some(chunk) = after.get(..length) else { break };
        body.push_str(chunk);
        rest = after.get(length + 2..).unwrap_or_default();
    }
    (body, false)
}

/// Ids and texts of the chunks among whole events in a body.
fn chunks(body: &str) -> Vec<(String, String)> {
    let whole = body.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let field =
        |event: &str, name: &str| event.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
    let events = whole.split("\n\n").filter(|event| event.contains("\"progress_type\":\"response_chunk\""));
    events
        .map(|event| {
            let data: serde_json::Value =
                serde_json::from_str(&field(event, "data: ").expect("data")).expect("JSON");
            let text = data["data"]["text"].as_str().expect("a chunk's text").to_owned();
            (field(event, "id: ").expect("an id"), text)
        })
        .collect()
}

fn text(events: &[Event]) -> String {
    let chunks =
        events.iter().filter(|event| event.name == "progress" && event.progress() == "response_chunk");
    chunks.map(|event| event.json()["data"]["text"].as_str().expect("a chunk's text").to_owned()).collect()
}

async fn streams_open(gateway: &Gateway, count: usize) {
    eventually(DEADLINE, || async {
        let open = gateway.metrics().await.sum("plugway_streams_open", &[]);
        if open == count as f64 { Ok(()) } else { Err(format!("{open} streams are open, not {count}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_cost_a_bounded_amount_and_lose_nothing_that_the_log_has() {
    const WORDS: usize = 6_000;
    let gateway = builder()
        // The more there are, the longer this process takes to come to each of those that read.
        .set("stream.write_timeout", format!("{}ms", clients() * 10))
        .set("stream.ring_events", 100)
        .set("agents.echo.chunk_delay", "1ms")
        .start()
        .await;
    let (silent, reading) = (clients() / 10, clients() - clients() / 10);
    let first = gateway.accept(&message(1, 7, "/sleep 2s")).await;
    let task = gateway.accept(&message(2, 7, &format!("/words {WORDS}"))).await;
    let before = gateway.memory();

    let mut mute = Vec::new();
    for _ in 0..silent {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Much smaller than one packet of the loopback, and the kernel drops what it can't hold, again and again.
        socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
        let address = gateway.host().parse().expect("an address");
        let mut stream = socket.connect(address).await.expect("it accepts connections");
        stream.write_all(get(&task, "1.1").as_bytes()).await.expect("the request is taken");
        mute.push(stream);
    }
    let path = format!("/stream/{task}");
    let readers = join_all((0..reading).map(|_| async { text(&gateway.stream(&path).await.rest().await) }));
    let watch = async {
        let mut most = 0;
        while gateway.metrics().await.sum("plugway_connections_stalled_total", &[]) < silent as f64 {
            most = most.max(gateway.memory());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        most
    };
    let watch = within("the silent ones are closed", watch);
    let (texts, most) = futures::join!(readers, watch);
    gateway.ended(&first).await;

    let words: Vec<_> = (1..=WORDS).map(|number| format!("w{number}")).collect();
    let whole = words.join(" ");
    assert!(texts.iter().all(|text| *text == whole), "those who read have all of it");
    let grown = most.saturating_sub(before);
    // A page of the log each, and what a connection takes by itself; the rest is the ring, the agent's text and slack.
    let bound = (silent << 19) as u64 + (clients() << 14) as u64 + (48 << 20);
    assert!(grown < bound, "memory has grown by {grown} bytes, more than {bound}");

    streams_open(&gateway, 0).await;
    for mut stream in mute {
        let (body, ended) = dechunked(&read_to_end(&mut stream).await);
        assert!(!ended, "it was cut off");
        let seen = chunks(&body);
        let mut heard: String = seen.iter().map(|(_, text)| text.as_str()).collect();
        assert!(heard.len() < whole.len(), "it missed something");
        let rest = match seen.last() {
            Some((id, _)) => gateway.stream_after(&path, id).await.rest().await,
            None => gateway.stream(&path).await.rest().await,
        };
        heard.push_str(&text(&rest));
        assert_eq!(heard, whole);
        assert!(rest.iter().all(|event| event.name != "gap"), "the log has all of it");
    }
}

#[tokio::test]
async fn http_1_0_gets_a_stream_that_ends_with_the_connection() {
    let gateway = builder().start().await;
    let task = gateway.accept(&message(1, 7, "/words 9")).await;
    let whole = text(&gateway.stream(&format!("/stream/{task}")).await.rest().await);
    for keep in ["", "connection: keep-alive\r\n"] {
        let request = format!("GET /stream/{task} HTTP/1.0\r\nhost: localhost\r\n{keep}\r\n");
        let answer = read_to_end(&mut asked(&gateway, &request).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.0 200 ") || head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert!(!head.to_lowercase().contains("keep-alive"), "{head}");
        assert!(body.starts_with(": plugway\nretry: "), "{body}");
        let heard: String = chunks(body).into_iter().map(|(_, text)| text).collect();
        assert_eq!(heard, whole);
        assert!(body.ends_with("\n\n"), "{body}");
    }
}

#[tokio::test]
async fn head_gets_the_head_and_keeps_the_connection() {
    let gateway = builder().start().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    let request = get(&task, "1.1").replace("GET", "HEAD");
    let mut stream = asked(&gateway, &request).await;
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("it is kept");
    assert!(read_until(&mut stream, "\"ok\"").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(gateway.metrics().await.sum("plugway_streams_open", &[]), 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_though_nothing_is_sent() {
    let gateway = builder().start().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut stream = asked(&gateway, &get(&task, "1.1")).await;
        read_until(&mut stream, "\"started\"").await;
        open.push(stream);
    }
    streams_open(&gateway, 20).await;
    drop(open.split_off(5));
    streams_open(&gateway, 5).await;
    for stream in &mut open {
        stream.shutdown().await.expect("the connection holds");
    }
    streams_open(&gateway, 0).await;
    // Some never stay to hear anything.
    for _ in 0..20 {
        drop(asked(&gateway, &get(&task, "1.1")).await);
    }
    gateway.get(&format!("/tasks/{task}")).await.expect(200);
    streams_open(&gateway, 0).await;
}

#[tokio::test]
async fn a_stream_is_its_connections_last_answer() {
    let gateway = builder().start().await;
    let task = gateway.accept(&message(1, 7, "/words 3")).await;
    let request = get(&task, "1.1") + "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = read_to_end(&mut asked(&gateway, &request).await).await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let (body, ended) = dechunked(&answer);
    assert!(ended && body.contains("\"completed\""), "{answer}");
}

#[tokio::test]
async fn what_is_sent_on_a_stream_is_thrown_away_and_bounded() {
    let gateway = builder().set("limits.header", "16KiB").start().await;
    let task = gateway.accept(&message(1, 7, "/sleep 2s")).await;
    let mut stream = asked(&gateway, &get(&task, "1.1")).await;
    let mut answer = read_until(&mut stream, "\"started\"").await;
    stream.write_all(&[b'x'; 10_000]).await.expect("it is taken");
    answer.push_str(&read_to_end(&mut stream).await);
    assert!(dechunked(&answer).1, "it goes on to its end: {answer}");

    let task = gateway.accept(&message(2, 8, "/silent")).await;
    let mut stream = asked(&gateway, &get(&task, "1.1")).await;
    read_until(&mut stream, "\"started\"").await;
    streams_open(&gateway, 1).await;
    // It may be reset while this is under way.
    let _ = stream.write_all(&[b'x'; 100_000]).await;
    streams_open(&gateway, 0).await;
}

#[tokio::test]
async fn streams_end_in_order_when_the_gateway_stops() {
    let mut gateway = builder().set("drain", "300ms").start().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = asked(&gateway, &get(&task, "1.1")).await;
        let answer = read_until(&mut stream, "\"started\"").await;
        streams.push((stream, answer));
    }
    assert!(gateway.stop().await.success());
    for (mut stream, mut answer) in streams {
        answer.push_str(&read_to_end(&mut stream).await);
        assert!(dechunked(&answer).1, "cut: {answer}");
    }
}

#[tokio::test]
async fn everybody_hears_heartbeats_while_the_agent_is_silent() {
    let gateway = builder().set("stream.heartbeat", "200ms").start().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    let path = format!("/stream/{task}");
    let listen = |_| async {
        let mut stream = gateway.stream(&path).await;
        for _ in 0..3 {
            let heartbeat = stream.until(|event| event.name == "heartbeat").await;
            assert!(heartbeat.id.is_none() && heartbeat.json()["timestamp"].is_string(), "{heartbeat:?}");
        }
    };
    join_all((0..50).map(listen)).await;
}

#[tokio::test]
async fn events_larger_than_a_write_arrive_whole() {
    let gateway = builder().start().await;
    let long: String = (0..60_000).map(|number| format!("{number},")).collect();
    let sent = format!("before {long} after");
    let task = gateway.accept(&message(1, 7, &sent)).await;
    let path = format!("/stream/{task}");
    // Live, and again from the log.
    for _ in 0..2 {
        let events = gateway.stream(&path).await.rest().await;
        assert!(events.iter().any(|event| event.data.len() > 300_000), "one is large");
        assert_eq!(text(&events), sent);
    }
    let answer = read_to_end(&mut asked(&gateway, &get(&task, "1.0")).await).await;
    let heard: String = chunks(&answer).into_iter().map(|(_, text)| text).collect();
    assert_eq!(heard, sent);
}

#[tokio::test]
async fn pages_and_request_ids_are_as_on_any_answer() {
    let gateway = builder().set("cors.origins", vec!["https://chat.example.org"]).start().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let request = gateway
        .request(Method::GET, &format!("/stream/{task}"))
        .header("origin", "https://chat.example.org")
        .header("accept-encoding", "gzip");
    let answer = Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://chat.example.org"));
    assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
    assert_eq!(answer.header("content-encoding"), None);
    assert!(answer.expect(200).text().contains("\"completed\""));
}
