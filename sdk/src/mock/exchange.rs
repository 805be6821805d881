//! Exchanges that a test starts: a request, a WebSocket connection, a filter's pass; and what came of them.

use super::state::with;
use crate::{
    bindings::{filter as wit, imports::types::HttpRequest},
    component,
    mailbox::Frame,
    manifest::{Plugin, Route},
    response::Response,
    role::{Admission, Draft, Filter, HttpAdapter, SocketAdapter},
    sys::{millis64, raw},
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{ops::Deref, time::Duration};

/// A request to the plugin, about to be sent.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `handle`"]
pub struct Call {
    raw: HttpRequest,
    leaves_after: Option<usize>,
}

/// What came of a request. It is a [`Response`] with the way in which it came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    response: Response,
    /// The body in the pieces in which it was sent.
    pub pieces: Vec<String>,
    /// Whether the body broke off rather than ended.
    pub cut_off: bool,
    /// What the host would log: why the exchange failed.
    pub error: Option<String>,
}

impl Deref for Answer {
    type Target = Response;

    fn deref(&self) -> &Response {
        &self.response
    }
}

impl Call {
    pub(super) fn new(method: &str, path: &str) -> Self {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let raw = HttpRequest {
            exchange: "exchange_1".to_owned(),
            route: String::new(),
            params: Vec::new(),
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers: Vec::new(),
            body: Vec::new(),
            client: "127.0.0.1".to_owned(),
            caller: None,
        };
        Self { raw, leaves_after: None }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.raw.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.raw.body = body.into();
        self
    }

    /// With a value as its JSON body.
    ///
    /// # Panics
    /// If the value can't be written as JSON.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        let body = serde_json::to_vec(value).expect("the value can be written as JSON");
        self.header("content-type", "application/json").body(body)
    }

    /// Shown with a key of this name.
    pub fn caller(mut self, name: &str) -> Self {
        self.raw.caller = Some(name.to_owned());
        self
    }

    /// The client goes away after so many pieces of the body.
    pub fn leaves_after(mut self, pieces: usize) -> Self {
        self.leaves_after = Some(pieces);
        self
    }

    /// Sends it to the plugin, in an exchange of its own.
    ///
    /// # Panics
    /// If the plugin has no such route.
    pub fn handle<A: HttpAdapter + Plugin>(mut self, adapter: &A) -> Answer {
        route::<A>(&mut self.raw, false);
        with(|state| {
            state.open_exchange::<A>(usize::MAX);
            state.exchange.writes_left = self.leaves_after;
        });
        let outcome = component::handle(adapter, self.raw);
        with(|state| {
            let exchange = &mut state.exchange;
            exchange.origins = None;
            let (status, headers) = exchange.head.take().unwrap_or((500, Vec::new()));
            let pieces = std::mem::take(&mut exchange.pieces);
            let body = pieces.concat();
            Answer {
                response: Response { status, headers, body },
                pieces: pieces.iter().map(|piece| String::from_utf8_lossy(piece).into_owned()).collect(),
                cut_off: !exchange.ended_cleanly,
                error: outcome.err(),
            }
        })
    }
}

/// A WebSocket upgrade to the plugin, and what its peer will send.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `serve`"]
pub struct Upgrade {
    raw: HttpRequest,
    frames: Vec<(Duration, Frame)>,
    leaves: Option<Duration>,
    leaves_after: Option<usize>,
    at: Duration,
}

/// What came of a WebSocket connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// Frames that the plugin sent.
    pub frames: Vec<Frame>,
    /// Code and reason that the plugin closed with.
    pub closed: Option<(u16, String)>,
    /// What the host would log: why the exchange failed.
    pub error: Option<String>,
}

impl Served {
    /// The frames as text; empty in the place of what is none.
    pub fn texts(&self) -> Vec<&str> {
        let texts = self.frames.iter().map(|frame| match frame {
            Frame::Text(text) => text.as_str(),
            Frame::Binary(_) => "",
        });
        texts.collect()
    }

    /// The frames as JSON; null in the place of what is none.
    pub fn json(&self) -> Vec<Value> {
        self.texts().into_iter().map(|text| serde_json::from_str(text).unwrap_or_default()).collect()
    }
}

impl Upgrade {
    pub(super) fn new(path: &str) -> Self {
        Self {
            raw: Call::new("GET", path).raw,
            frames: Vec::new(),
            leaves: None,
            leaves_after: None,
            at: Duration::ZERO,
        }
    }

    /// Adds a header to the upgrade request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.raw.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Adds something to the query of the upgrade request, whatever is in it.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let pair = format!("{}={}", encode(name), encode(value));
        let query = self.raw.query.take().map_or(pair.clone(), |before| format!("{before}&{pair}"));
        self.raw.query = Some(query);
        self
    }

    /// The peer waits before it sends the next frame, or leaves.
    pub fn wait(mut self, time: Duration) -> Self {
        self.at += time;
        self
    }

    /// The peer sends text.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.frame(Frame::Text(text.into()))
    }

    /// The peer sends a value as JSON text.
    ///
    /// # Panics
    /// If the value can't be written as JSON.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.text(serde_json::to_string(value).expect("the value can be written as JSON"))
    }

    /// The peer sends a frame.
    pub fn frame(mut self, frame: Frame) -> Self {
        self.frames.push((self.at, frame));
        self
    }

    /// The peer goes away.
    pub fn leave(mut self) -> Self {
        self.leaves = Some(self.at);
        self
    }

    /// The peer goes away after so many frames that it got.
    pub fn leaves_after(mut self, frames: usize) -> Self {
        self.leaves_after = Some(frames);
        self
    }

    /// Connects, in an exchange of its own.
    ///
    /// # Panics
    /// If the plugin has no such route.
    pub fn serve<A: SocketAdapter + Plugin>(mut self, adapter: &A) -> Served {
        route::<A>(&mut self.raw, true);
        with(|state| {
            state.open_exchange::<A>(usize::MAX);
            let now_ms = state.now_ms;
            let frames = self.frames.into_iter().map(|(at, frame)| {
                let frame = match frame {
                    Frame::Text(text) => raw::types::Frame::Text(text),
                    Frame::Binary(bytes) => raw::types::Frame::Binary(bytes),
                };
                (now_ms + millis64(at), frame)
            });
            state.exchange.frames = frames.collect();
            if let Some(at) = self.leaves {
                state.exchange.peer_goes(now_ms + millis64(at));
            }
            state.exchange.frames_left = self.leaves_after;
            if self.leaves_after == Some(0) {
                state.exchange.peer_goes(now_ms);
            }
        });
        let outcome = component::serve(adapter, self.raw);
        with(|state| {
            state.exchange.origins = None;
            let frames =
                std::mem::take(&mut state.exchange.frames_sent).into_iter().map(|frame| match frame {
                    raw::types::Frame::Text(text) => Frame::Text(text),
                    raw::types::Frame::Binary(bytes) => Frame::Binary(bytes),
                });
            // What the plugin leaves open the host closes.
            let draining = raw::mailbox::Reason::Draining;
            let closed_by_host = match state.exchange.closed {
                Some((_, reason)) if reason == draining && state.exchange.closed_told => {
                    Some((1012, "service restart".to_owned()))
                }
                _ => outcome.is_err().then(|| (1011, "internal error".to_owned())),
            };
            Served {
                frames: frames.collect(),
                closed: state.exchange.close_code.take().or(closed_by_host),
                error: outcome.err(),
            }
        })
    }
}

/// As a piece of a query.
fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Finds the route, as the host would before it calls the plugin.
fn route<A: Plugin>(request: &mut HttpRequest, websocket: bool) {
    let routes = A::manifest().routes;
    let fits = |route: &&Route| {
        route.websocket == websocket
            && (route.method == "*" || route.method == request.method)
            && parameters(&route.path, &request.path).is_some()
    };
    let route = routes.iter().find(fits);
    let route =
        route.unwrap_or_else(|| panic!("no route for {} {} in {routes:#?}", request.method, request.path));
    request.params = parameters(&route.path, &request.path).unwrap_or_default();
    request.route.clone_from(&route.path);
}

fn parameters(route: &str, path: &str) -> Option<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    let (mut pattern, mut segments) = (route.split('/'), path.split('/'));
    loop {
        match (pattern.next(), segments.next()) {
            (None, None) => return Some(parameters),
            (Some(part), Some(segment)) => match part
                .strip_prefix('{')
                .and_then(|part| part.strip_suffix('}'))
            {
                Some(name) if !segment.is_empty() => parameters.push((name.to_owned(), segment.to_owned())),
                None if part == segment => {}
                _ => return None,
            },
            _ => return None,
        }
    }
}

/// A filter at work on one task: each call may go to another instance, so the state travels.
#[derive(Debug)]
pub struct FilterRun<'a, A> {
    adapter: &'a A,
    state: Vec<u8>,
}

impl<'a, A: Filter> FilterRun<'a, A> {
    pub(super) fn new(adapter: &'a A) -> Self {
        Self { adapter, state: Vec::new() }
    }

    /// What it says to a task's input.
    pub fn admit(&self, input: &Value) -> Admission {
        match component::admit(self.adapter, &input.to_string()) {
            wit::Admission::Pass => Admission::Pass,
            wit::Admission::Replace(input) => Admission::Replace(input),
            wit::Admission::Refuse(why) => Admission::Refuse(why),
        }
    }

    /// What it makes of one event, as the gateway passes it on: without the `raw` of what it changed.
    ///
    /// # Panics
    /// If the gateway would not take that.
    pub fn apply(&mut self, kind: &str, data: &Value) -> Vec<Draft> {
        let given = Draft { kind: kind.to_owned(), data: data.to_string() };
        let event = wit::Draft { kind: given.kind.clone(), data: given.data.clone() };
        let step = component::apply(self.adapter, "task_1", std::mem::take(&mut self.state), event);
        self.state = step.state;
        let made = step.events.into_iter().map(|event| Draft { kind: event.kind, data: event.data });
        let mut made: Vec<_> = made.collect();
        lawful(kind, &made);
        for event in made.iter_mut().filter(|event| **event != given) {
            let data: Result<Map<String, Value>, _> = serde_json::from_str(&event.data);
            let mut data = data.unwrap_or_else(|_| panic!("no JSON object: {event:?}"));
            if data.remove("raw").is_some() {
                event.data = Value::Object(data).to_string();
            }
        }
        made
    }

    /// What it makes of a task's events, all in all.
    pub fn run(mut self, events: &[(&str, Value)]) -> Vec<Draft> {
        events.iter().flat_map(|(kind, data)| self.apply(kind, data)).collect()
    }
}

/// The contract's rules for what becomes of an event.
fn lawful(kind: &str, made: &[Draft]) {
    let terminal = |kind: &str| matches!(kind, "completed" | "failed" | "cancelled");
    let mut before = made;
    if terminal(kind) {
        let (last, others) =
            made.split_last().unwrap_or_else(|| panic!("`{kind}` was dropped: it is terminal"));
        let fits = last.kind == kind || (kind == "completed" && last.kind == "failed");
        assert!(fits, "`{kind}` has to stay the last: {made:?}");
        before = others;
    }
    assert!(!before.iter().any(|event| terminal(&event.kind)), "a terminal event too many: {made:?}");
    assert!(!made.iter().any(|event| event.kind == "started"), "`started` is the gateway's own: {made:?}");
}
