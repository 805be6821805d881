//! A receiver of webhooks that answers by script and keeps what it got.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::eventually::{DEADLINE, eventually};

/// One request that the receiver got.
#[derive(Debug, Clone)]
pub struct Reception {
    pub at: Instant,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What it was answered with.
    pub status: u16,
}

impl Reception {
    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a webhook's body is JSON")
    }

    /// The header's value.
    ///
    /// # Panics
    ///
    /// When it is missing.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        value.to_str().expect("the header is readable")
    }
}

/// How one request is answered.
#[derive(Debug)]
enum Reply {
    Status(u16),
    Redirect(String),
    Json(Value),
}

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<VecDeque<Reply>>,
    received: Mutex<Vec<Reception>>,
}

/// The running receiver. It answers with 204 once its script is through; on `/echo` it tells what headers it got.
#[derive(Debug)]
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

impl Receiver {
    /// Starts one on the loopback interface.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("the listener is bound").port();
        let shared = Arc::new(Shared::default());
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("the receiver serves") });
        Self { port, shared, _server: server }
    }

    /// Address of `path` on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Answers the next requests with these statuses.
    pub fn answer_with(&self, statuses: &[u16]) {
        self.script().extend(statuses.iter().copied().map(Reply::Status));
    }

    /// Answers the next request with a redirection to `target`.
    pub fn redirect_to(&self, target: &str) {
        self.script().push_back(Reply::Redirect(target.to_owned()));
    }

    /// Answers the next request with 200 and this body.
    pub fn answer_with_json(&self, body: &Value) {
        self.script().push_back(Reply::Json(body.clone()));
    }

    /// What it got so far.
    pub fn received(&self) -> Vec<Reception> {
        self.shared.received.lock().expect("no handler panicked").clone()
    }

    /// Waits until it got `count` requests, and returns what it got.
    pub async fn received_at_least(&self, count: usize) -> Vec<Reception> {
        eventually(DEADLINE, || async {
            let received = self.received();
            if received.len() >= count { Ok(received) } else { Err(format!("received {received:#?}")) }
        })
        .await
    }

    fn script(&self) -> MutexGuard<'_, VecDeque<Reply>> {
        self.shared.script.lock().expect("no handler panicked")
    }
}

async fn receive(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let reply = shared.script.lock().expect("no handler panicked").pop_front();
    let echo = format!("{headers:?}");
    let answer = match reply {
        _ if uri.path() == "/echo" => echo.into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
        Some(Reply::Status(status)) => {
            StatusCode::from_u16(status).expect("a script has valid statuses").into_response()
        }
        Some(Reply::Redirect(target)) => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", target)]).into_response()
        }
        Some(Reply::Json(body)) => axum::Json(body).into_response(),
    };
    let (path, status) = (uri.path().to_owned(), answer.status().as_u16());
    let reception = Reception { at: Instant::now(), path, headers, body, status };
    shared.received.lock().expect("no handler panicked").push(reception);
    answer
}
