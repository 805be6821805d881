//! Event streams: what every one of them has in common, whatever it tells. A first byte at once, heartbeats, writes of
//! bounded size, and an end when the gateway wraps up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use bytes::{BufMut as _, BytesMut};
use http::{HeaderValue, header};

use super::App;
use crate::domain::rfc3339;
use crate::hub::Frame;

/// Largest write.
const WRITE: usize = 64 << 10;

/// What an event stream tells.
pub(super) trait Source: Send + 'static {
    /// Appends the next frames, none of them empty, waiting until there is one; false: the stream has ended. Cancel
    /// safe: what was not appended is not lost. Whatever goes wrong meanwhile is the source's to mend or to tell.
    fn next(&mut self, frames: &mut Vec<Frame>) -> impl Future<Output = bool> + Send;
}

/// Answers a request with an event stream.
pub(super) fn response(app: &Arc<App>, source: impl Source) -> Response {
    let mut response = Response::new(Body::from_stream(pieces(Arc::clone(app), source)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// How long a source leaves alone what has failed so many times in a row: from 50 ms, doubling, up to 2 s.
pub(super) fn back_off(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(2))
}

/// The stream's bytes, piece by piece as they go out.
fn pieces(
    app: Arc<App>,
    mut source: impl Source,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    async_stream::stream! {
        let _open = OpenStream::begin();
        yield Ok(Bytes::from(format!(": plugway\nretry: {}\n\n", app.stream.retry.as_millis())));
        let mut frames: Vec<Frame> = Vec::new();
        let mut heartbeat = tokio::time::interval(app.stream.heartbeat);
        heartbeat.reset();
        loop {
            let more = tokio::select! {
                biased;
                // First, since events that are not shown may come without end.
                _ = heartbeat.tick() => {
                    let now = rfc3339(app.clock.now_ms());
                    yield Ok(Bytes::from(format!("event: heartbeat\ndata: {{\"timestamp\":\"{now}\"}}\n\n")));
                    continue;
                }
                more = source.next(&mut frames) => more,
                () = app.wrap_up.cancelled() => return,
            };
            if !more {
                return;
            }
            for piece in join(&frames) {
                yield Ok(piece);
            }
            frames.clear();
            heartbeat.reset();
        }
    }
}

/// Joins frames into writes of bounded size.
fn join(frames: &[Frame]) -> Vec<Bytes> {
    if let [frame] = frames {
        return vec![frame.payload()];
    }
    let mut writes = Vec::new();
    let mut write = BytesMut::new();
    for frame in frames.iter().map(Frame::payload) {
        if !write.is_empty() && write.len() + frame.len() > WRITE {
            writes.push(write.split().freeze());
        }
        write.put(frame);
    }
    if !write.is_empty() {
        writes.push(write.freeze());
    }
    writes
}

/// Counts open streams.
struct OpenStream;

impl OpenStream {
    fn begin() -> Self {
        metrics::gauge!("plugway_streams_open").increment(1.0);
        Self
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        metrics::gauge!("plugway_streams_open").decrement(1.0);
    }
}
