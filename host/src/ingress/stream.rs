//! `GET /stream/{task_id}`: a task's events as Server-Sent Events, replayed and then live from one cursor.
//!
//! Merging and dropping for a reader that lags happens here and nowhere else, and never to a replay.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::{ApiError, in_path};
use super::multicast::Shared;
use super::sse::{self, Source};
use super::{App, ticket};
use crate::domain::{Cursor, Event, Kind, Position, TaskId, back_off, rfc3339};
use crate::hub::{Entry, FRAME_OVERHEAD, Follower, Frame, Step};

/// Events taken from the topic for one write.
const BATCH: usize = 256;
/// A reader that has this many events to catch up with lags.
const LAGS: usize = 64;

/// `[stream]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Whether `GET /stream/{task_id}` is served.
    pub enabled: bool,
    /// Time between the heartbeats of a stream, at least 10 ms.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// What a client should wait before it reconnects.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// How long a client may take nothing before its connection is closed.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// Bytes that wait in the kernel for a client that does not take them.
    pub unsent: bytesize::ByteSize,
    /// Events kept in memory per topic for those who follow it live.
    pub ring_events: usize,
    /// Bytes kept in memory per topic, the encoded events among them.
    pub ring_bytes: bytesize::ByteSize,
}

/// Serves one stream.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let right = ticket::right(&app, &headers, query.as_deref())?;
    let task = in_path(path)?;
    if !app.stream.enabled {
        return Err(ApiError::not_found("streams are turned off (stream.enabled, ENABLE_SSE)"));
    }
    let unknown = || ApiError::not_found(format!("no task {task:?}"));
    let id: TaskId = task.parse().map_err(|_| unknown())?;
    let status = app.tasks.status(id).await?.filter(|status| right.covers(&status.session));
    let status = status.ok_or_else(unknown)?;
    let after = match headers.get("last-event-id").map(HeaderValue::to_str) {
        None => Position::START,
        Some(Ok("")) => Position::START,
        Some(cursor) => cursor
            .ok()
            .and_then(|cursor| cursor.parse::<Cursor>().ok())
            .filter(|cursor| cursor.task == id)
            .map(|cursor| cursor.position)
            .ok_or_else(|| ApiError::bad_request("Last-Event-ID", "Last-Event-ID is no id of this stream"))?,
    };
    if status.end.is_some_and(|end| after >= end) {
        // It has everything: "no content" makes an EventSource stop coming back.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let stream = TaskStream::new(app.hub.follow(id, after));
    Ok(sse::response(&app, &app.task_groups, stream))
}

/// A task's events as frames. All streams of a task tell the same.
pub(super) struct TaskStream {
    follower: Follower,
    batch: Vec<Entry>,
    failures: u32,
}

impl TaskStream {
    fn new(follower: Follower) -> Self {
        Self { follower, batch: Vec::new(), failures: 0 }
    }
}

impl Source for TaskStream {
    type Shared = Self;

    async fn next(&mut self, frames: &mut Vec<Frame>) -> bool {
        Shared::next(self, frames).await
    }

    fn key(&self) -> TaskId {
        self.follower.task()
    }

    fn place(&self) -> Option<Position> {
        Some(self.follower.position())
    }

    fn shared(&self) -> Self {
        Self::new(self.follower.another())
    }

    async fn own(&mut self) {
        std::future::pending().await
    }

    fn move_to(&mut self, place: Position) {
        self.follower.move_to(place);
    }
}

impl Shared for TaskStream {
    type Key = TaskId;
    type Place = Position;

    fn place(&self) -> Position {
        self.follower.position()
    }

    async fn next(&mut self, frames: &mut Vec<Frame>) -> bool {
        loop {
            match self.follower.next(&mut self.batch, BATCH).await {
                Ok(Step::Events { replayed, behind }) => {
                    self.failures = 0;
                    let lags = !replayed && self.batch.len() + behind > LAGS;
                    if lags {
                        merged(&self.batch, frames);
                    } else {
                        frames.extend(self.batch.iter().map(|entry| entry.frame(frame).clone()));
                    }
                    self.batch.clear();
                    frames.retain(|frame| !frame.is_empty());
                    if !frames.is_empty() {
                        return true;
                    }
                }
                Ok(Step::Gap { attempt, first, last }) => {
                    frames.push(Frame::text(&format!(
                        "event: gap\ndata: {{\"attempt\":{attempt},\"first\":{first},\"last\":{last}}}\n\n"
                    )));
                    return true;
                }
                Ok(Step::Ended) => return false,
                Err(error) => {
                    // The connection stays, with its heartbeats: the store will be back, or the client goes.
                    if self.failures == 0 {
                        tracing::warn!(task = %self.follower.task(), %error, "the log can't be read, the stream waits");
                    }
                    self.failures = self.failures.saturating_add(1);
                    tokio::time::sleep(back_off(self.failures)).await;
                }
            }
        }
    }
}

/// What a lagging reader gets: adjacent pieces of the answer as one, with the last one's id; no thoughts.
fn merged(batch: &[Entry], frames: &mut Vec<Frame>) {
    #[derive(Deserialize)]
    struct Chunk {
        text: String,
    }
    let mut text = String::new();
    let mut entries = batch
        .iter()
        .filter(|entry| !matches!(entry.event().kind, Kind::Thinking | Kind::Progress))
        .peekable();
    while let Some(entry) = entries.next() {
        let event = entry.event();
        let next_is_chunk = entries.peek().is_some_and(|next| next.event().kind == Kind::ResponseChunk);
        match (&event.kind, serde_json::from_str::<Chunk>(&event.data)) {
            (Kind::ResponseChunk, Ok(chunk)) if next_is_chunk || !text.is_empty() => {
                text.push_str(&chunk.text);
                if !next_is_chunk {
                    let data = serde_json::json!({ "text": std::mem::take(&mut text) }).to_string();
                    frames.push(frame(&Event { data: data.into(), ..Event::clone(event) }));
                }
            }
            _ => frames.push(entry.frame(frame).clone()),
        }
    }
}

/// One event in the task stream's dialect; empty for kinds that it does not show.
fn frame(event: &Event) -> Frame {
    #[derive(Serialize)]
    struct Progress<'a> {
        task_id: TaskId,
        progress_type: &'a str,
        data: Option<&'a RawValue>,
        timestamp: String,
    }
    let rewritten;
    let (progress_type, data) = match &event.kind {
        Kind::Cancelled => {
            let reason = serde_json::from_str::<serde_json::Value>(&event.data)
                .ok()
                .and_then(|data| data.get("reason").and_then(|reason| reason.as_str().map(str::to_owned)));
            rewritten = serde_json::json!({
                "error": reason.unwrap_or_else(|| "cancelled".into()),
                "error_type": "cancelled",
            })
            .to_string();
            ("failed", rewritten.as_str())
        }
        Kind::Started
        | Kind::Thinking
        | Kind::ToolStarted
        | Kind::ToolCompleted
        | Kind::ResponseChunk
        | Kind::Completed
        | Kind::Failed => (event.kind.as_str(), &*event.data),
        Kind::Progress | Kind::Other(_) => return Frame::empty(),
    };
    // In JSON a line break is only ever white space between tokens; on this wire it would end the field.
    let data: Cow<'_, str> =
        if data.contains(['\n', '\r']) { data.replace(['\n', '\r'], " ").into() } else { data.into() };
    let data = serde_json::from_str::<&RawValue>(&data).ok().filter(|data| data.get() != "{}");
    let data_len = data.map_or(0, |data| data.get().len());
    let timestamp = rfc3339(event.at_ms);
    let progress = Progress { task_id: event.task, progress_type, data, timestamp };
    Frame::write(data_len + FRAME_OVERHEAD, |bytes| {
        // Writing into memory does not fail, and a number, a name and a JSON text always serialize.
        let _ = write!(bytes, "id: {}\nevent: progress\ndata: ", event.cursor());
        let _ = serde_json::to_writer(&mut *bytes, &progress);
        bytes.extend_from_slice(b"\n\n");
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SessionId;

    #[test]
    fn a_frame_takes_no_more_than_a_ring_counts_it_with() {
        let kinds = [
            Kind::Started,
            Kind::Thinking,
            Kind::ToolStarted,
            Kind::ToolCompleted,
            Kind::Progress,
            Kind::ResponseChunk,
            Kind::Completed,
            Kind::Failed,
            Kind::Cancelled,
            Kind::Other("invented".into()),
        ];
        for data in [r#"{"reason":""}"#, r#"{"reason":"\n\u0001\"\\"}"#] {
            for kind in kinds.clone() {
                let event = Event {
                    task: TaskId::new(),
                    session: SessionId::fresh(""),
                    position: Position { attempt: u32::MAX, seq: u64::MAX },
                    kind,
                    at_ms: 1_700_000_000_000,
                    data: data.into(),
                };
                let frame = frame(&event);
                assert!(frame.chunk().len() <= data.len() + FRAME_OVERHEAD, "{}: {frame:?}", event.kind);
            }
        }
    }

    #[test]
    fn line_breaks_in_data_do_not_break_the_frame() {
        let event = Event {
            task: TaskId::new(),
            session: SessionId::fresh(""),
            position: Position { attempt: 1, seq: 2 },
            kind: Kind::Thinking,
            at_ms: 0,
            data: "{\r\n  \"thought\": \"one\\ntwo\",\n  \"step\": 12345678901234567890123\n}\r".into(),
        };
        let frame = frame(&event);
        let text = std::str::from_utf8(frame.payload()).unwrap();
        let lines: Vec<&str> = text.split(['\n', '\r']).collect();
        assert_eq!(lines.len(), 5, "{text:?}");
        assert!(lines[2].starts_with("data: {") && lines[3..] == ["", ""], "{text:?}");
        assert!(lines[2].contains("12345678901234567890123") && lines[2].contains("one\\ntwo"), "{text:?}");
        serde_json::from_str::<serde_json::Value>(&lines[2][6..]).unwrap();
    }
}
