//! The proxy's listening side: a port that can be closed for a while, and connections that can be cut.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::proxy::{Proxy, Reply};
use crate::ports::Port;

/// Until when connections are refused; none if they are accepted.
type Closed = Option<Option<Instant>>;

/// The port that bots connect to.
#[derive(Debug)]
pub(super) struct Door {
    port: Port,
    address: String,
    closed: Arc<watch::Sender<Closed>>,
}

impl Door {
    pub(super) async fn open(proxy: Arc<Proxy>, tasks: &mut JoinSet<()>) -> Self {
        let port = Port::lease();
        let address = format!("http://127.0.0.1:{}", port.number());
        let closed = Arc::new(watch::Sender::new(None));
        let listener = listen(port.number()).await;
        tasks.spawn(serve(listener, port.number(), proxy, Arc::clone(&closed)));
        Self { port, address, closed }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether somebody listens.
    pub(super) async fn connects(&self) -> std::io::Result<()> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number())).await.map(drop)
    }

    /// Refuses connections for so long; calls under way are still answered.
    pub(super) fn close(&self, time: Duration) {
        close(&self.closed, time);
    }

    pub(super) fn reopen(&self) {
        self.closed.send_replace(None);
    }
}

fn close(closed: &watch::Sender<Closed>, time: Duration) {
    closed.send_replace(Some(Instant::now().checked_add(time)));
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the leased port can be bound")
}

async fn serve(mut listener: TcpListener, port: u16, proxy: Arc<Proxy>, closed: Arc<watch::Sender<Closed>>) {
    let mut state = closed.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, Arc::clone(&proxy), Arc::clone(&closed)));
                }
            }
            () = refused(&mut state) => {
                drop(listener);
                reopened(&mut state).await;
                closed.send_replace(None);
                listener = listen(port).await;
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Waits until connections are to be refused.
async fn refused(state: &mut watch::Receiver<Closed>) {
    state.wait_for(Option::is_some).await.expect("the sender lives as long as its listener");
}

/// Waits until connections are to be accepted again.
async fn reopened(state: &mut watch::Receiver<Closed>) {
    loop {
        let closed = *state.borrow_and_update();
        match closed {
            None => return,
            Some(Some(until)) if until <= Instant::now() => return,
            Some(Some(until)) => drop(tokio::time::timeout_at(until, state.changed()).await),
            Some(None) => drop(state.changed().await),
        }
    }
}

/// Cuts the connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Cut {}

async fn connection(stream: TcpStream, proxy: Arc<Proxy>, closed: Arc<watch::Sender<Closed>>) {
    let mut state = closed.subscribe();
    let service = service_fn(|request: Request<Incoming>| {
        let (proxy, closed) = (Arc::clone(&proxy), Arc::clone(&closed));
        async move {
            match proxy.handle(request).await {
                Reply::Answer(answer) => Ok(answer),
                Reply::Cut => Err(Cut),
                Reply::LastAnswer(answer, time) => {
                    close(&closed, time);
                    Ok::<Response<Full<Bytes>>, Cut>(answer)
                }
            }
        }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    // Both ends are a failed connection at worst, which is what the other side is to cope with.
    tokio::select! {
        _ = served.as_mut() => return,
        () = refused(&mut state) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}
