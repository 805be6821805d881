//! The listener: a permit before every accept, one task a connection, and an orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::deadline::WriteDeadline;
use super::{HttpLimits, RequestId};

/// Most header fields of a request.
const HEADERS: usize = 128;
/// What connections get to take their last bytes.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Accepts connections. From `stop` on each serves one more request, so that whoever asks hears that the gateway
/// drains; at `wrap_up` nothing more is accepted, and what is left ends at once.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Arc<HttpLimits>,
    write_timeout: Duration,
    stop: CancellationToken,
    wrap_up: CancellationToken,
) {
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(limits.connections));
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
        let io = WriteDeadline::new(stream, write_timeout);
        connections.spawn(connection(io, peer, router.clone(), limits.clone(), stop.clone(), permit));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(LAST_BYTES, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "connections did not end in time and are closed");
    }
}

async fn connection(
    io: WriteDeadline,
    peer: SocketAddr,
    router: Router,
    limits: Arc<HttpLimits>,
    stop: CancellationToken,
    permit: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request: Request<Incoming>| answer(router.clone(), request, peer));
    let late = stop.is_cancelled();
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(!late)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS)
        .max_buf_size(usize::try_from(limits.header.as_u64()).unwrap_or(usize::MAX));
    let connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled(), if !late => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended badly");
    }
    drop(permit);
}

/// Counts an answer by the class of its status.
fn count(status: http::StatusCode) {
    let class = match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    metrics::counter!("plugway_http_responses_total", "class" => class).increment(1);
}

/// Names the request, lets the routes answer, and tells the name.
async fn answer(
    mut router: Router,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response<Body>, Infallible> {
    let id = RequestId::new();
    let mut request = request.map(Body::new);
    let value = HeaderValue::from_str(&id.0);
    request.extensions_mut().insert(id);
    request.extensions_mut().insert(peer);
    let mut response = router.call(request).await?;
    count(response.status());
    if let Ok(value) = value {
        response.headers_mut().insert("x-request-id", value);
    }
    Ok(response)
}
