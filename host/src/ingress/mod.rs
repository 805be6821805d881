//! The north side: routes, keys, the event stream, dispatch to plugins, and errors as HTTP. Only this module knows axum.

mod admin;
mod auth;
mod body;
mod client;
mod deadline;
mod dispatch;
mod error;
mod feed;
mod handover;
mod heartbeat;
mod multicast;
mod native;
mod per_address;
mod server;
mod socket;
mod sse;
mod stream;
mod ticket;
mod wire;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use bytesize::ByteSize;
use http::{HeaderValue, Method};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};
use tower_http::cors::{AllowHeaders, CorsLayer, ExposeHeaders};

use crate::domain::Clock;
use crate::exchanges::Exchanges;
use crate::feed::Feed;
use crate::hub::Hub;
use crate::store::Store;
use crate::tasks::Tasks;

pub use auth::{AuthConfig, AuthError};
pub use socket::WebSocketLimits;
pub use stream::StreamConfig;

/// Bodies smaller than this are not worth compressing.
const COMPRESS_ABOVE: u64 = 1_024;
/// Smallest bound on a request's head: the HTTP library's least buffer.
const LEAST_HEADER: ByteSize = ByteSize::kib(8);

/// `[limits]`: what one connection or request may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpLimits {
    /// Body of a request.
    pub body: ByteSize,
    /// Bodies of all requests under way together.
    pub bodies: ByteSize,
    /// How long a body may take to arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// Head of a request, at least 8 KiB.
    pub header: ByteSize,
    /// How long a head may take to arrive.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Open connections; others wait in the kernel's queue.
    pub connections: usize,
    /// Networks (CIDR) of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `[cors]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins whose pages may call, as "https://chat.example.org". None: no page may.
    pub origins: Vec<String>,
}

/// All settings of this module.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the gateway listens.
    pub listen: SocketAddr,
    /// Keys.
    pub auth: AuthConfig,
    /// Bounds.
    pub limits: HttpLimits,
    /// Connections of plugins.
    pub websocket: WebSocketLimits,
    /// Pages that may call.
    pub cors: CorsConfig,
    /// The event stream.
    pub stream: StreamConfig,
}

/// What the routes need of the rest of the gateway.
#[derive(Debug)]
pub struct Parts {
    /// Plugins and their exchanges.
    pub exchanges: Exchanges,
    /// Tasks.
    pub tasks: Tasks,
    /// Live events.
    pub hub: Hub,
    /// The agent feed.
    pub feed: Feed,
    /// For readiness and dead letters.
    pub store: Arc<dyn Store>,
    /// For `/metrics`.
    pub metrics: crate::telemetry::Metrics,
    /// Time stamps.
    pub clock: Clock,
}

/// The north side can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// The keys.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The address.
    #[error("can't listen on {address}: {error}; choose another address with --listen or `listen`")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// A bound that can't be kept.
    #[error("{0}: {1}")]
    Limit(String, String),
    /// An origin.
    #[error("cors.origins: {0:?} is no origin, as \"https://chat.example.org\"")]
    Origin(String),
}

/// State of the routes.
struct App {
    exchanges: Exchanges,
    tasks: Tasks,
    hub: Hub,
    feed: Feed,
    store: Arc<dyn Store>,
    metrics: crate::telemetry::Metrics,
    clock: Clock,
    auth: auth::Auth,
    tickets: ticket::Tickets,
    per_address: Arc<per_address::PerAddress>,
    bodies: body::Bodies,
    limits: Arc<HttpLimits>,
    websocket: WebSocketLimits,
    stream: StreamConfig,
    heartbeats: heartbeat::Heartbeats,
    task_groups: multicast::Groups<stream::TaskStream>,
    feed_groups: multicast::Groups<crate::feed::Broadcast>,
    stop: CancellationToken,
    started: Instant,
}

/// Names a request, and the exchange that it becomes.
#[derive(Clone, Debug)]
struct RequestId(Arc<str>);

impl RequestId {
    fn new() -> Self {
        Self(format!("req_{}", uuid::Uuid::now_v7().simple()).into())
    }
}

/// The north side, bound to its address and not yet serving.
pub struct Ingress {
    listener: TcpListener,
    router: Router,
    limits: Arc<HttpLimits>,
    /// How long a client may take nothing, and what waits in the kernel for it.
    writes: (Duration, u32),
    heartbeats: heartbeat::Timer,
    stop: CancellationToken,
    wrap_up: CancellationToken,
}

impl std::fmt::Debug for Ingress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingress").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Ingress {
    /// Binds the address and builds the routes. `stop` ends acceptance, `wrap_up` the streams that are open.
    ///
    /// # Errors
    /// [`IngressError`]: keys, limits, address or origins that can't be.
    pub async fn bind(
        config: Config,
        parts: Parts,
        stop: CancellationToken,
        wrap_up: CancellationToken,
    ) -> Result<Self, IngressError> {
        let auth = auth::Auth::new(&config.auth, config.listen, &config.cors.origins)?;
        check_limits(&config.limits, &config.websocket)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| IngressError::Listen { address: config.listen, error })?;
        let limits = Arc::new(config.limits);
        let unsent = u32::try_from(config.stream.unsent.as_u64()).unwrap_or(u32::MAX);
        let writes = (config.stream.write_timeout, unsent);
        let (heartbeats, timer) = heartbeat::heartbeats(config.stream.heartbeat, parts.clock.clone());
        let app = App {
            exchanges: parts.exchanges,
            tasks: parts.tasks,
            hub: parts.hub,
            tickets: ticket::Tickets::new(auth.keys(), config.auth.ticket_ttl),
            per_address: per_address::PerAddress::new(
                parts.feed.config().connections_per_address,
                parts.feed.config().requests_per_minute,
            ),
            feed: parts.feed,
            store: parts.store,
            metrics: parts.metrics,
            clock: parts.clock,
            auth,
            bodies: body::Bodies::new(limits.clone(), wrap_up.clone()),
            limits: limits.clone(),
            websocket: config.websocket,
            stream: config.stream,
            heartbeats,
            task_groups: Default::default(),
            feed_groups: Default::default(),
            stop: stop.clone(),
            started: Instant::now(),
        };
        let router = routes(Arc::new(app), &config.cors)?;
        Ok(Self { listener, router, limits, writes, heartbeats: timer, stop, wrap_up })
    }

    /// Where it listens; with port 0 asked for, the port that it got.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop and connections have ended.
    pub async fn serve(self) {
        let Self { listener, router, limits, writes, heartbeats, stop, wrap_up } = self;
        server::serve(listener, router, limits, writes, heartbeats, stop, wrap_up).await;
    }
}

/// Checks without serving what [`Ingress::bind`] would refuse, except for the address.
///
/// # Errors
/// [`IngressError`].
pub fn check(
    auth: &AuthConfig,
    listen: SocketAddr,
    limits: &HttpLimits,
    websocket: &WebSocketLimits,
    cors: &CorsConfig,
) -> Result<(), IngressError> {
    auth::Auth::new(auth, listen, &[])?;
    cors_layer(cors)?;
    check_limits(limits, websocket)
}

fn check_limits(limits: &HttpLimits, websocket: &WebSocketLimits) -> Result<(), IngressError> {
    websocket.check().map_err(|(key, reason)| IngressError::Limit(format!("websocket.{key}"), reason))?;
    if body::room_for_one(limits.bodies) < limits.body {
        let (bodies, body) = (limits.bodies, limits.body);
        let reason = format!(
            "{bodies} leaves no room for a body of {body} (limits.body), since an eighth is kept for small ones; raise the one or lower the other"
        );
        return Err(IngressError::Limit("limits.bodies".into(), reason));
    }
    if limits.header < LEAST_HEADER {
        return Err(IngressError::Limit("limits.header".into(), format!("must be at least {LEAST_HEADER}")));
    }
    if limits.connections > Semaphore::MAX_PERMITS {
        let reason = format!("{} is more than {}", limits.connections, Semaphore::MAX_PERMITS);
        return Err(IngressError::Limit("limits.connections".into(), reason));
    }
    Ok(())
}

fn routes(app: Arc<App>, cors: &CorsConfig) -> Result<Router, IngressError> {
    let compress = SizeAbove::new(COMPRESS_ABOVE)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::GRPC);
    let router = Router::new()
        .route("/health", get(native::health))
        .route("/ready", get(native::ready))
        .route("/metrics", get(native::metrics))
        .route("/stream/{task_id}", get(stream::stream))
        .route("/tasks/{task_id}", get(native::task))
        .route("/tasks/{task_id}/cancel", post(native::cancel))
        .route("/api/agent/stream", get(feed::stream))
        .route("/api/agent/command", post(feed::command))
        .route("/api/agent/ticket", post(feed::ticket))
        .route("/api/agent/health", get(feed::health))
        .route("/admin/plugins", get(admin::plugins))
        .route("/admin/plugins/{name}/{action}", post(admin::act))
        .route("/admin/dead-letters", get(admin::dead_letters))
        .route("/admin/dead-letters/{id}/replay", post(admin::replay))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(dispatch::dispatch)
        .with_state(app)
        .layer(CompressionLayer::new().compress_when(compress));
    Ok(match cors_layer(cors)? {
        Some(layer) => router.layer(layer),
        None => router,
    })
}

/// axum itself adds the header `Allow`.
async fn method_not_allowed(method: Method) -> error::ApiError {
    error::ApiError::method_not_allowed(method.as_str(), &[])
}

fn cors_layer(config: &CorsConfig) -> Result<Option<CorsLayer>, IngressError> {
    if config.origins.is_empty() {
        return Ok(None);
    }
    let origins = config.origins.iter().map(|origin| {
        let is_origin =
            url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
        HeaderValue::from_str(origin)
            .ok()
            .filter(|_| is_origin)
            .ok_or_else(|| IngressError::Origin(origin.clone()))
    });
    let origins = origins.collect::<Result<Vec<_>, _>>()?;
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        // SDKs in browsers send headers of their own (x-stainless-…). The origin decides, not they.
        .allow_headers(AllowHeaders::mirror_request())
        // So do plugins (x-ratelimit-…, x-should-retry), and nothing here depends on cookies.
        .expose_headers(ExposeHeaders::any())
        .max_age(Duration::from_secs(600));
    Ok(Some(layer))
}
