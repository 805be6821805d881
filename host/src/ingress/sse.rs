//! Event streams: what every one of them has in common, whatever it tells. A first byte at once, and then a connection
//! of its own, on which `writer` writes what the source tells.

use std::sync::Arc;

use axum::body::Bytes;
use axum::response::Response;
use http::{HeaderValue, header};

use super::multicast::{Groups, Shared};
use super::wire::Bounds;
use super::{App, handover, writer};
use crate::hub::Frame;

/// What an event stream tells.
pub(super) trait Source: Send + 'static {
    /// What it tells as long as it has nothing of its own to tell.
    type Shared: Shared;

    /// Appends the next frames, none of them empty, waiting until there is one; false: the stream has ended. Cancel
    /// safe: what was not appended is not lost. Whatever goes wrong meanwhile is the source's to mend or to tell.
    fn next(&mut self, frames: &mut Vec<Frame>) -> impl Future<Output = bool> + Send;

    /// Names all streams that tell the same when they stand at the same place.
    fn key(&self) -> <Self::Shared as Shared>::Key;

    /// Where it stands among them; none: what it tells next is its own.
    fn place(&self) -> Option<<Self::Shared as Shared>::Place>;

    /// What is told from there on.
    fn shared(&self) -> Self::Shared;

    /// Completes when it has something of its own to tell. Cancel safe.
    fn own(&mut self) -> impl Future<Output = ()> + Send;

    /// Goes on by itself from a place to which others have told the same.
    fn move_to(&mut self, place: <Self::Shared as Shared>::Place);
}

/// Answers a request with an event stream.
pub(super) fn response<S: Source>(app: &Arc<App>, groups: &Groups<S::Shared>, source: S) -> Response {
    let first = Bytes::from(format!(": plugway\nretry: {}\n\n", app.stream.retry.as_millis()));
    let app = Arc::clone(app);
    let relative = groups.enter(&source.key());
    let mut response = handover::response(first, move |connection, tracker| {
        let bounds = Bounds {
            write_timeout: app.stream.write_timeout,
            received: usize::try_from(app.limits.header.as_u64()).unwrap_or(usize::MAX),
        };
        let heartbeat = app.heartbeats.join();
        tracker.spawn(writer::write(connection, bounds, source, heartbeat, relative));
    });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
