//! The listener: a permit before every accept, one task a connection, and an orderly end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::Service as _;

use super::deadline::WriteDeadline;
use super::handover::Handover;
use super::heartbeat::Timer;
use super::{HttpLimits, RequestId};

/// Most header fields of a request.
const HEADERS: usize = 128;
/// What connections get to take their last bytes.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// A connection's place among the open ones: it counts, and the end waits for it, while any clone of this lives.
#[derive(Clone, Debug)]
pub(super) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
    _token: TaskTrackerToken,
}

impl Place {
    /// The only one there is.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned();
        Self { _permit: Arc::new(permit.expect("it is free")), _token: TaskTracker::new().token() }
    }
}

/// What all connections have in common.
struct Server {
    router: Router,
    limits: Arc<HttpLimits>,
    write_timeout: Duration,
    /// Bytes that may wait in the kernel for a client.
    unsent: u32,
    stop: CancellationToken,
    connections: TaskTracker,
}

/// Accepts connections. From `stop` on each serves one more request, so that whoever asks hears that the gateway
/// drains; at `wrap_up` nothing more is accepted, and what is left ends at once.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Arc<HttpLimits>,
    (write_timeout, unsent): (Duration, u32),
    heartbeats: Timer,
    stop: CancellationToken,
    wrap_up: CancellationToken,
) {
    let connections = TaskTracker::new();
    connections.spawn(heartbeats.run(wrap_up.clone()));
    let permits = Arc::new(Semaphore::new(limits.connections));
    let server =
        Arc::new(Server { router, limits, write_timeout, unsent, stop, connections: connections.clone() });
    loop {
        let permit = tokio::select! {
            () = wrap_up.cancelled() => break,
            permit = permits.clone().acquire_owned() => match permit { Ok(permit) => permit, Err(_) => break },
        };
        let (stream, peer) = tokio::select! {
            () = wrap_up.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most often out of file descriptors: it passes when connections close.
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Small writes must not wait for company; a refusal costs latency only.
        let _ = stream.set_nodelay(true);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(server.unsent) {
            tracing::debug!(%error, "the kernel does not bound what waits in it");
        }
        let place = Place { _permit: Arc::new(permit), _token: connections.token() };
        connections.spawn(connection(Arc::clone(&server), stream, peer, place));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(LAST_BYTES, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "connections did not end in time and are closed");
    }
}

/// Serves requests until the connection ends, or one of them takes it over.
async fn connection(server: Arc<Server>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let Server { router, limits, write_timeout, stop, connections, .. } = &*server;
    let handover = Arc::new(Handover::default());
    let io = WriteDeadline::new(stream, *write_timeout, Arc::clone(&handover));
    let service = service_fn({
        let (router, handover, place) = (router.clone(), Arc::clone(&handover), place.clone());
        move |request: Request<Incoming>| answer(router.clone(), request, peer, Arc::clone(&handover), &place)
    });
    let late = stop.is_cancelled();
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(!late)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS)
        .max_buf_size(usize::try_from(limits.header.as_u64()).unwrap_or(usize::MAX));
    let mut connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    // None: it is due to be handed over.
    let result = {
        let mut connection = Pin::new(&mut connection);
        let mut stopping = std::pin::pin!(stop.cancelled());
        let mut told = late;
        poll_fn(|cx| {
            if !told && stopping.as_mut().poll(cx).is_ready() {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            match connection.as_mut().poll(cx) {
                Poll::Pending if handover.is_due() => Poll::Ready(None),
                result => result.map(Some),
            }
        })
        .await
    };
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%peer, %error, "connection ended badly"),
        // What the library has read beyond the request is not answered: the answer said that it would be the last.
        None => {
            if let Some(parts) = connection.into_parts() {
                handover.go_on(parts.io.into_inner().into_inner(), place, connections);
            }
        }
    }
}

/// Counts an answer by the class of its status.
fn count(status: http::StatusCode) {
    let class = match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    metrics::counter!("plugway_http_responses_total", "class" => class).increment(1);
}

/// Names the request, lets the routes answer, and tells the name.
fn answer(
    mut router: Router,
    request: Request<Incoming>,
    peer: SocketAddr,
    handover: Arc<Handover>,
    place: &Place,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let (method, version) = (request.method().clone(), request.version());
    let id = RequestId::new();
    let mut request = request.map(Body::new);
    let value = HeaderValue::from_str(&id.0);
    request.extensions_mut().insert(id);
    request.extensions_mut().insert(peer);
    if request.headers().contains_key(header::UPGRADE) {
        // What the connection becomes keeps its place.
        request.extensions_mut().insert(place.clone());
    }
    async move {
        let mut response = router.call(request).await?;
        count(response.status());
        handover.arrange(&method, version, &mut response);
        if let Ok(value) = value {
            response.headers_mut().insert("x-request-id", value);
        }
        Ok(response)
    }
}
