//! A client of server-sent events that records everything on the wire: ids, names, data, comments and the retry hint.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::HeaderMap;
use serde_json::Value;

use crate::answer::Answer;
use crate::eventually::within;

/// One event, as the specification of `EventSource` dispatches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// None if this event carried none.
    pub id: Option<String>,
    /// "message" if it named none.
    pub name: String,
    pub data: String,
}

impl Event {
    /// The data as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data)
            .unwrap_or_else(|error| panic!("no JSON ({error}) in {:?}", self.data))
    }

    /// The `progress_type` of a task stream's event.
    pub fn progress(&self) -> String {
        self.json()["progress_type"].as_str().unwrap_or_default().to_owned()
    }
}

/// An open stream. Dropping it cuts the connection.
pub struct Sse {
    pub status: u16,
    pub headers: HeaderMap,
    /// The last retry hint so far.
    pub retry: Option<Duration>,
    /// Comments so far.
    pub comments: Vec<String>,
    /// Whether the connection broke, instead of the stream ending by itself.
    pub cut: bool,
    chunks: BoxStream<'static, Result<Bytes, reqwest::Error>>,
    buffer: Vec<u8>,
    lines: Vec<String>,
}

impl std::fmt::Debug for Sse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sse")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl Sse {
    /// Sends the request, which has to be answered with 200 and a stream of events.
    ///
    /// # Panics
    ///
    /// When it isn't.
    pub async fn open(request: reqwest::RequestBuilder) -> Self {
        let request = request.header("accept", "text/event-stream");
        let response = within("the stream opens", request.send()).await.expect("the gateway answers");
        Self::of(response).await
    }

    /// The same on a gateway that may be dying.
    ///
    /// # Errors
    ///
    /// The status that it answered with instead of 200; none if it is gone.
    pub async fn try_open(request: reqwest::RequestBuilder) -> Result<Self, Option<u16>> {
        let response = request.header("accept", "text/event-stream").send().await.map_err(|_| None)?;
        match response.status().as_u16() {
            200 => Ok(Self::of(response).await),
            status => Err(Some(status)),
        }
    }

    async fn of(response: reqwest::Response) -> Self {
        let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        if response.status() != 200
            || !content_type.is_some_and(|value| value.starts_with("text/event-stream"))
        {
            let answer = Answer::read(response).await.expect("the answer is whole");
            panic!("no stream of events but {answer:?}");
        }
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            retry: None,
            comments: Vec::new(),
            cut: false,
            chunks: response.bytes_stream().boxed(),
            buffer: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// The next event; none once the stream has ended, or the connection is gone.
    pub async fn next(&mut self) -> Option<Event> {
        within("the stream's next event", self.dispatch()).await
    }

    /// The next event for which `test` holds; those before it are passed over.
    ///
    /// # Panics
    ///
    /// When the stream ends before.
    pub async fn until(&mut self, test: impl Fn(&Event) -> bool) -> Event {
        let mut passed = Vec::new();
        loop {
            match self.next().await {
                Some(event) if test(&event) => return event,
                Some(event) => passed.push(event),
                None => panic!("the stream ended; it had {passed:#?}"),
            }
        }
    }

    /// All events until the stream ends by itself.
    ///
    /// # Panics
    ///
    /// When the connection breaks instead.
    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        assert!(!self.cut, "the stream was cut after {events:#?}");
        events
    }

    async fn dispatch(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8(line).expect("a stream of events is UTF-8");
                let line = line.trim_end_matches('\n').trim_end_matches('\r').to_owned();
                if !line.is_empty() {
                    self.lines.push(line);
                } else if let Some(event) = self.event() {
                    return Some(event);
                }
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(_)) => {
                    self.cut = true;
                    return None;
                }
                None => return None,
            }
        }
    }

    /// What the lines since the last empty one make; none if they carry no data.
    fn event(&mut self) -> Option<Event> {
        let (mut id, mut name, mut data) = (None, String::new(), Vec::new());
        for line in self.lines.drain(..) {
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => self.comments.push(value),
                "id" => id = Some(value),
                "event" => name = value,
                "data" => data.push(value),
                "retry" => self.retry = value.parse().ok().map(Duration::from_millis),
                other => panic!("a stream of events has no field {other:?}"),
            }
        }
        if data.is_empty() {
            return None;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { id, name, data: data.join("\n") })
    }
}
