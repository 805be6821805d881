//! A small server of OpenAI's chat completions, streamed in the official shapes, that fails by script, and refuses
//! conversations that OpenAI refuses.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/streaming>.

use std::collections::{HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::eventually::{DEADLINE, eventually};

/// How one request is answered.
#[derive(Debug, Clone)]
pub enum Turn {
    /// These pieces of text, the usage, and the end.
    Says(Vec<&'static str>),
    /// A call of a tool: its name, and its arguments in pieces.
    Calls(&'static str, Vec<&'static str>),
    /// The same, with a pause before each piece.
    CallsSlowly(&'static str, Vec<&'static str>, Duration),
    /// This status with OpenAI's shape of an error.
    Fails(u16, &'static str),
    /// These pieces of text, then the connection is cut: at once if there are none, else by [`Model::cut`].
    Cuts(Vec<&'static str>),
    /// These pieces of text, then nothing more.
    Hangs(Vec<&'static str>),
}

/// A request that the server got.
#[derive(Debug, Clone)]
pub struct Asked {
    pub headers: HeaderMap,
    pub body: Value,
    gone: Arc<AtomicBool>,
}

impl Asked {
    /// Messages of the request.
    pub fn messages(&self) -> &Vec<Value> {
        self.body["messages"].as_array().expect("a request has messages")
    }

    /// Whether the answer's connection has ended, by whomever.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<VecDeque<Turn>>,
    cut: Notify,
    asked: Mutex<Vec<Asked>>,
}

/// The running server. Without a script it says "hello".
#[derive(Debug)]
pub struct Model {
    port: u16,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

impl Model {
    /// Starts one on the loopback interface.
    pub async fn start(script: impl IntoIterator<Item = Turn>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("the listener is bound").port();
        let shared =
            Arc::new(Shared { script: Mutex::new(script.into_iter().collect()), ..Shared::default() });
        let router =
            Router::new().route("/v1/chat/completions", post(complete)).with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("the model serves") });
        Self { port, shared, _server: server }
    }

    /// Its `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Cuts the connection of a [`Turn::Cuts`] that has said its pieces.
    pub fn cut(&self) {
        self.shared.cut.notify_one();
    }

    /// Requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no handler panicked").clone()
    }

    /// Waits until it got `count` requests, and returns the last of them.
    pub async fn asked_at_least(&self, count: usize) -> Asked {
        eventually(DEADLINE, || async {
            let asked = self.asked();
            let last = asked.last().filter(|_| asked.len() >= count).cloned();
            last.ok_or_else(|| format!("asked {} times", asked.len()))
        })
        .await
    }
}

async fn complete(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("a request is JSON");
    let gone = Arc::new(AtomicBool::new(false));
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    let refusal = refusal(&body["messages"]);
    shared.asked.lock().expect("no handler panicked").push(Asked { headers, body, gone: Arc::clone(&gone) });
    if let Some(message) = refusal {
        return failure(400, message);
    }
    let turn = shared.script.lock().expect("no handler panicked").pop_front();
    let mut pause = Duration::ZERO;
    let (pieces, end) = match turn.unwrap_or(Turn::Says(vec!["hello"])) {
        Turn::Fails(status, message) => return failure(status, message),
        Turn::Says(texts) => (said(&texts), End::Whole("stop")),
        Turn::Calls(name, arguments) => (called(name, &arguments), End::Whole("tool_calls")),
        Turn::CallsSlowly(name, arguments, time) => {
            pause = time;
            (called(name, &arguments), End::Whole("tool_calls"))
        }
        Turn::Cuts(texts) => (said(&texts), if texts.is_empty() { End::Cut } else { End::CutLater }),
        Turn::Hangs(texts) => (said(&texts), End::Never),
    };
    let mut frames = vec![frame(&model, json!({ "role": "assistant", "content": "" }), None)];
    frames.extend(pieces.into_iter().map(|delta| frame(&model, delta, None)));
    if let End::Whole(reason) = end {
        frames.push(frame(&model, json!({}), Some(reason)));
        frames.push(usage(&model));
        frames.push("data: [DONE]\n\n".to_owned());
    }
    let guard = Guard(gone);
    let frames = stream::iter(frames).then(move |frame| async move {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok::<_, std::io::Error>(Bytes::from(frame))
    });
    let frames = match end {
        End::Whole(_) => frames.boxed(),
        End::Cut => {
            let cut = stream::once(async { Err(std::io::Error::other("cut on purpose")) });
            frames.chain(cut).boxed()
        }
        End::CutLater => {
            let cut = stream::once(async move {
                shared.cut.notified().await;
                Err(std::io::Error::other("cut on purpose"))
            });
            frames.chain(cut).boxed()
        }
        End::Never => frames.chain(stream::pending()).boxed(),
    };
    let frames = frames.inspect(move |_| {
        let _held = &guard;
    });
    ([("content-type", "text/event-stream")], Body::from_stream(frames)).into_response()
}

/// What OpenAI says against messages of tools that are not in its order.
fn refusal(messages: &Value) -> Option<&'static str> {
    let mut due = HashSet::new();
    for message in messages.as_array().into_iter().flatten() {
        if message["role"] == "tool" {
            if !due.remove(message["tool_call_id"].as_str().unwrap_or_default()) {
                return Some(
                    "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'",
                );
            }
            continue;
        }
        if !due.is_empty() {
            break;
        }
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        due.extend(calls.filter_map(|call| call["id"].as_str()));
    }
    let is_due = "an assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'";
    (!due.is_empty()).then_some(is_due)
}

#[derive(Clone, Copy)]
enum End {
    Whole(&'static str),
    Cut,
    CutLater,
    Never,
}

/// Tells when the answer's body is dropped.
struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn said(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| json!({ "content": text })).collect()
}

fn called(name: &str, arguments: &[&str]) -> Vec<Value> {
    let function = json!({ "name": name, "arguments": "" });
    let first = json!({ "index": 0, "id": "call_1", "type": "function", "function": function });
    let rest = arguments.iter().map(|piece| json!({ "index": 0, "function": { "arguments": piece } }));
    std::iter::once(first).chain(rest).map(|call| json!({ "tool_calls": [call] })).collect()
}

fn chunk(model: &str, choices: Value, usage: Value) -> String {
    let chunk = json!({
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": model,
        "choices": choices,
        "usage": usage
    });
    format!("data: {chunk}\n\n")
}

fn frame(model: &str, delta: Value, finish_reason: Option<&str>) -> String {
    let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason });
    chunk(model, json!([choice]), Value::Null)
}

fn usage(model: &str) -> String {
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10 });
    chunk(model, json!([]), usage)
}

fn failure(status: u16, message: &str) -> Response {
    let error =
        json!({ "error": { "message": message, "type": "server_error", "param": null, "code": null } });
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(error.to_string()))
        .expect("a status of a script is valid")
}
