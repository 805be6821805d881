//! The plain request's answer without a gateway: what there is to compare with. The same libraries with the same
//! settings as the gateway's north side (`host/src/ingress`: connections, request ids, compression), and a handler
//! that does what the plugin does.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::routing::post;
use axum::{Json, Router};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tower::Service as _;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

use crate::dialogue::{Answer, Question};

#[derive(Clone)]
struct RequestId(Arc<str>);

/// Serves until standard input ends.
pub(crate) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    runtime.spawn(accept(listener));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

async fn accept(listener: TcpListener) {
    let compress = SizeAbove::new(1_024)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::GRPC);
    let router = Router::new()
        .route("/bench/answer", post(answer))
        .layer(CompressionLayer::new().compress_when(compress));
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, router.clone()));
    }
}

async fn connection(stream: TcpStream, router: Router) {
    // A refusal costs latency only.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| named(router.clone(), request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .max_headers(128)
        .max_buf_size(32 << 10);
    // The load closes its connections when it has enough.
    let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// Names the request, lets the route answer, and tells the name.
async fn named(mut router: Router, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let id = RequestId(format!("req_{}", uuid::Uuid::now_v7().simple()).into());
    let mut request = request.map(Body::new);
    let value = HeaderValue::from_str(&id.0);
    request.extensions_mut().insert(id);
    let mut response = router.call(request).await?;
    if let Ok(value) = value {
        response.headers_mut().insert("x-request-id", value);
    }
    Ok(response)
}

async fn answer(Json(question): Json<Question>) -> Json<Answer> {
    Json(question.answer())
}
