//! Connecting: names are resolved here, every address is vetted, and the connection goes to the vetted address itself,
//! so that a name which changes its mind in between (DNS rebinding) changes nothing.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tower::Service;

use super::Config;
use super::address::{self, DeniedAddress};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Turns a name into addresses (ports are ignored).
pub(crate) type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The machine's resolver. At most `concurrency` names are looked up at once: a dead name server must not take all
/// blocking threads.
pub(crate) fn system_lookup(concurrency: usize) -> Lookup {
    let permits = Arc::new(Semaphore::new(concurrency.max(1)));
    Arc::new(move |name: String| {
        let permits = Arc::clone(&permits);
        Box::pin(async move {
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            let look_up = move || {
                let _permit = permit;
                (name.as_str(), 0).to_socket_addrs().map(Iterator::collect)
            };
            tokio::task::spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    })
}

/// A pool of connections under one set of allowed networks.
pub(crate) type Pool = Client<Bounded<HttpsConnector<HttpConnector<Vetting>>>, Full<Bytes>>;

/// Builds a pool. HTTP/1.1 only: a connection then carries one request at a time, so it is known of every request
/// whether any of it was written.
pub(crate) fn pool(config: &Config, tls: ClientConfig, lookup: Lookup, allowed: Arc<[IpNet]>) -> Pool {
    let mut http = HttpConnector::new_with_resolver(Vetting { lookup, allowed });
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(Duration::from_secs(60)));
    let https =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(config.idle_connections)
        .http1_max_buf_size(usize::try_from(config.response_headers.as_u64()).unwrap_or(usize::MAX).max(8192))
        // A request that was handed to a kept connection and of which nothing was written when that connection turned
        // out to be closed goes to another connection. hyper gives the request back in exactly this case.
        .retry_canceled_requests(true)
        .build(Bounded { inner: https, limit: config.connect_timeout })
}

/// Resolves a name, and lets through only what may be connected to.
#[derive(Clone)]
pub(crate) struct Vetting {
    lookup: Lookup,
    allowed: Arc<[IpNet]>,
}

impl fmt::Debug for Vetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vetting").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Service<Name> for Vetting {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (found, allowed) = ((self.lookup)(name.as_str().to_owned()), Arc::clone(&self.allowed));
        Box::pin(async move {
            let addresses = found.await.map_err(|error| format!("the name can't be resolved: {error}"))?;
            let mut denied: Option<DeniedAddress> = None;
            let vetted: Vec<_> = addresses
                .into_iter()
                .filter(|socket| match address::check(socket.ip(), &allowed) {
                    Ok(()) => true,
                    Err(why) => {
                        denied.get_or_insert(why);
                        false
                    }
                })
                .collect();
            match denied {
                Some(why) if vetted.is_empty() => Err(why.into()),
                _ if vetted.is_empty() => Err("the name has no addresses".into()),
                _ => Ok(vetted.into_iter()),
            }
        })
    }
}

/// No connection within the limit, from the name's resolution to the end of the TLS handshake.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {}", humantime::format_duration(self.0))]
struct ConnectTimeout(Duration);

/// Bounds the time that connecting takes.
#[derive(Clone, Debug)]
pub(crate) struct Bounded<C> {
    inner: C,
    limit: Duration,
}

impl<C, R> Service<R> for Bounded<C>
where
    C: Service<R>,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
    C::Response: 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let (connecting, limit) = (self.inner.call(target), self.limit);
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(ConnectTimeout(limit).into()),
            }
        })
    }
}
