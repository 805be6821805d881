//! A relay between WebSockets and an agent runtime without a gateway: what there is to compare with. It reads each frame and
//! each chunk as JSON to know what it is, passes it on as it was written, and nothing else: no log, nothing to come back to,
//! one turn at a time.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

#[derive(Deserialize)]
struct Typed<'a> {
    r#type: &'a str,
}

/// Serves until standard input ends.
pub(crate) fn serve(runtime: SocketAddr) -> anyhow::Result<()> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = threads.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    threads.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Err(error) = connection(stream, runtime).await {
                    eprintln!("a connection ended: {error:#}");
                }
            });
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

async fn connection(stream: TcpStream, runtime: SocketAddr) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    // As the gateway has them.
    let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(32 << 10);
    let socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    let (mut sink, mut stream) = socket.split();
    let mut agent = None;
    while let Some(message) = stream.next().await {
        let Message::Text(text) = message? else { continue };
        let frame: &RawValue = serde_json::from_str(&text)?;
        let typed: Typed<'_> = serde_json::from_str(frame.get())?;
        ensure!(typed.r#type == "user_message", "not a message");
        let sender = match &mut agent {
            Some(sender) => sender,
            None => agent.insert(connect(runtime).await?),
        };
        let body = format!(r#"{{"session_id":"s","message":{frame}}}"#);
        let request = Request::builder()
            .method(Method::POST)
            .uri("/agent/message/stream")
            .header(header::HOST, runtime.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == StatusCode::OK, "the runtime answers {}", response.status());
        let mut body = response.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            pending.extend_from_slice(&data);
            let mut from = 0;
            while let Some(end) = pending[from..].windows(2).position(|two| two == b"\n\n") {
                let event = std::str::from_utf8(&pending[from..from + end])?;
                from += end + 2;
                let chunk = event.strip_prefix("data: ").context("an event without data")?;
                let _: Typed<'_> = serde_json::from_str(chunk)?;
                sink.feed(Message::text(chunk)).await?;
            }
            pending.drain(..from);
            sink.flush().await?;
        }
    }
    Ok(())
}

async fn connect(runtime: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(runtime).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
