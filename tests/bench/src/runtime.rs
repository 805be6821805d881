//! An agent runtime that says what it is told to, as `POST /agent/message/stream` has it: `/words 100 20ms` is a hundred
//! chunks with 20 ms between two, and `/words 100` has no pauses. Every chunk carries a [`Mark`].

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use plugway_figures::mark::Mark;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Chunks that go out together where there are no pauses.
const BATCH: u32 = 64;
/// Batches that wait for a slow reader.
const AHEAD: usize = 4;

/// Where it listens, for as long as the process lives. Its marks tell the time since `clock`.
pub(crate) async fn serve(clock: Instant) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answer = move |Json(asked): Json<Value>| async move {
        match Order::read(&asked) {
            Ok(order) => order.answer(clock),
            Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")).into_response(),
        }
    };
    let router = axum::Router::new().route("/agent/message/stream", post(answer));
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok(address)
}

struct Order {
    chunks: u32,
    pause: Duration,
}

impl Order {
    fn read(asked: &Value) -> anyhow::Result<Self> {
        let mut words = asked["message"]["content"].as_str().context("no content")?.split_whitespace();
        anyhow::ensure!(words.next() == Some("/words"), "no order as /words 100 20ms");
        let chunks = words.next().context("no number of chunks")?.parse()?;
        let pause = words.next().unwrap_or("0ms").strip_suffix("ms").context("a pause is in ms")?.parse()?;
        Ok(Self { chunks, pause: Duration::from_millis(pause) })
    }

    fn answer(self, clock: Instant) -> Response {
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let batch = if self.pause.is_zero() { BATCH } else { 1 };
            let mut next = tokio::time::Instant::now();
            for first in (0..self.chunks).step_by(batch as usize) {
                let mut text = String::new();
                for number in first..(first + batch).min(self.chunks) {
                    let token = Mark { number, made: clock.elapsed() }.text(0);
                    let chunk =
                        format!(r#"{{"type":"assistant_message","token":"{token}","is_final":false}}"#);
                    // A string takes everything.
                    let _ = write!(text, "data: {chunk}\n\n");
                }
                if sender.send(text).await.is_err() {
                    return;
                }
                if !self.pause.is_zero() {
                    next += self.pause;
                    tokio::time::sleep_until(next).await;
                }
            }
            // Who asked may have gone.
            let _ = sender.send("data: {\"type\":\"done\",\"is_final\":true}\n\n".to_owned()).await;
        });
        let pieces = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        let pieces = futures::StreamExt::map(pieces, |piece| Ok::<_, Infallible>(Bytes::from(piece)));
        ([("content-type", "text/event-stream")], Body::from_stream(pieces)).into_response()
    }
}
