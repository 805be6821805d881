//! From a request that no native route took to the plugin that has its path, and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, header};
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::server::Place;
use super::socket::Upgrade;
use super::{App, RequestId, client};
use crate::exchanges::{Exchange, HttpCall, HttpFailure};
use crate::plugins::{Access, Endpoint, Found, RouteKind, is_reserved};

/// How long a request waits for plugins that load while the gateway starts.
const LOADING: Duration = Duration::from_secs(2);

/// What a caller should wait whose path another plugin took while it waited.
const ANOTHER_PLUGIN: Duration = Duration::from_secs(1);

/// Parameters of a route, decoded.
type Params = Vec<(String, String)>;

/// Answers whatever is not the host's own.
pub(super) async fn dispatch(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (mut parts, mut body) = request.into_parts();
    match answer(&app, &mut parts, &mut body).await {
        Ok(response) => response,
        Err(error) => {
            app.bodies.linger(&parts.headers, body);
            error.into_response()
        }
    }
}

async fn answer(app: &Arc<App>, parts: &mut Parts, body: &mut Body) -> Result<Response, ApiError> {
    let waited_for = find(app, parts).await?.0;
    caller(app, parts, &waited_for)?;
    if waited_for.kind == RouteKind::Websocket {
        return connect(app, parts, &waited_for).await;
    }
    if let Some(left) = waited_for.plugin.requests.aside_for() {
        return Err(busy(left));
    }
    let body = app.bodies.read(&parts.headers, body).await?;
    let admission = app.exchanges.admit_request(&waited_for.plugin).await;
    let admission = admission.map_err(|refusal| busy(refusal.retry_after()))?;
    let (endpoint, mut call) = call(app, parts, &waited_for)?;
    (call.body, call.body_permit) = (body.bytes, body.permit);
    match app.exchanges.http(admission, &endpoint, call).await {
        Ok(response) => Ok(response.map(Body::new)),
        Err(HttpFailure::TimedOut) => Err(ApiError::timed_out("no answer within the time limit")),
        Err(HttpFailure::Failed) => Err(ApiError::internal()),
    }
}

/// Opens a WebSocket for a plugin.
async fn connect(
    app: &App,
    parts: &mut Parts,
    waited_for: &Endpoint<Exchange>,
) -> Result<Response, ApiError> {
    let upgrade = Upgrade::read(parts)?;
    let place = parts.extensions.remove::<Place>();
    let admission = app.exchanges.admit_connection(&waited_for.plugin).await;
    let admission = admission.map_err(|refusal| busy(refusal.retry_after()))?;
    let (endpoint, call) = call(app, parts, waited_for)?;
    let (exchanges, room) = (app.exchanges.clone(), app.websocket.room());
    let begin = move || exchanges.socket(admission, &endpoint, call, room);
    Ok(upgrade.accept(app.websocket.clone(), place, begin))
}

/// What a caller is told that has to come back.
fn busy(after: Duration) -> ApiError {
    ApiError::unavailable("busy; try again later", after)
}

/// The endpoint as it is by now, and what the plugin is told of the request, but for its body.
fn call(
    app: &App,
    parts: &Parts,
    waited_for: &Endpoint<Exchange>,
) -> Result<(Endpoint<Exchange>, HttpCall), ApiError> {
    // While the body came in and the request waited, another generation may have begun to serve, or the plugin may have
    // been taken out.
    let (endpoint, params) = look_up(app, parts)?.ok_or_else(|| nothing(parts))?;
    if !Arc::ptr_eq(&endpoint.plugin, &waited_for.plugin) {
        return Err(busy(ANOTHER_PLUGIN));
    }
    let caller = caller(app, parts, &endpoint)?;
    let exchange = parts.extensions.get::<RequestId>().map(|id| id.0.to_string()).unwrap_or_default();
    let peer = parts.extensions.get::<SocketAddr>();
    let client = peer.map(|peer| client::address(*peer, &parts.headers, &app.limits.trusted_proxies));
    let call = HttpCall {
        exchange,
        params,
        method: method(parts, &endpoint).to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        client: client.map(|client| client.to_string()).unwrap_or_default(),
        headers: shown_headers(app, endpoint.access, &parts.headers),
        body: Bytes::new(),
        body_permit: None,
        caller,
    };
    Ok((endpoint, call))
}

/// Lets the caller in, as the route has it.
fn caller(app: &App, parts: &Parts, endpoint: &Endpoint<Exchange>) -> Result<Option<String>, ApiError> {
    match endpoint.access {
        Access::Key => app.auth.caller(&parts.headers),
        Access::Plugin => app.auth.platform(&parts.headers).map(|()| None),
    }
}

/// The method that the plugin is told: whoever asks for a head alone asks as for the whole, and hyper leaves the body out.
fn method<'a>(parts: &'a Parts, endpoint: &Endpoint<Exchange>) -> &'a str {
    if parts.method == Method::HEAD && endpoint.method == "GET" { "GET" } else { parts.method.as_str() }
}

fn nothing(parts: &Parts) -> ApiError {
    ApiError::not_found(format!("nothing is served at {}", parts.uri.path()))
}

/// Who answers the request. While plugins load for the first time, it waits for them a little.
async fn find(app: &App, parts: &Parts) -> Result<(Endpoint<Exchange>, Params), ApiError> {
    // A plugin's `/{anything}` does not reach what is the host's own, served or not.
    if is_reserved(parts.uri.path()) {
        return Err(nothing(parts));
    }
    let catalogue = app.exchanges.catalogue();
    // Asked before looking, so that what was looked at is known to be all.
    let loaded = catalogue.is_loaded();
    if let Some(found) = look_up(app, parts)? {
        return Ok(found);
    }
    if loaded {
        return Err(nothing(parts));
    }
    if tokio::time::timeout(LOADING, catalogue.wait_loaded()).await.is_ok() {
        return look_up(app, parts)?.ok_or_else(|| nothing(parts));
    }
    let message = "plugins are still being loaded; try again later";
    look_up(app, parts)?.ok_or_else(|| ApiError::unavailable(message, LOADING))
}

fn look_up(app: &App, parts: &Parts) -> Result<Option<(Endpoint<Exchange>, Params)>, ApiError> {
    let method = parts.method.as_str();
    let snapshot = app.exchanges.catalogue().snapshot();
    match snapshot.routes.find(method, parts.uri.path()) {
        Found::Endpoint(endpoint, params) => Ok(Some((endpoint.clone(), decode(params)?))),
        Found::MethodNotAllowed(methods) => Err(ApiError::method_not_allowed(method, &methods)),
        Found::None => Ok(None),
    }
}

fn decode(params: Vec<(String, &str)>) -> Result<Params, ApiError> {
    let decoded = params.into_iter().map(|(name, value)| {
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| ApiError::bad_request(&name, format!("{name}: is not UTF-8")))?;
        Ok((name, value.into_owned()))
    });
    decoded.collect()
}

/// Headers that a plugin may see: those that are text, without the gateway's own keys.
fn shown_headers(app: &App, access: Access, headers: &HeaderMap) -> Vec<(String, String)> {
    let shown = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        if name == header::AUTHORIZATION && app.auth.is_own(access, value) {
            return None;
        }
        Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    };
    headers.iter().filter_map(shown).collect()
}
