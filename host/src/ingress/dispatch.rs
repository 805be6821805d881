//! From a request that no native route took to the plugin that has its path, and back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::{App, RequestId};
use crate::exchanges::{HttpCall, HttpFailure};
use crate::plugins::{Access, Found, RouteKind};

/// Answers whatever is not the host's own.
pub(super) async fn dispatch(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    match answer(&app, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(app: &App, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (endpoint, params) = {
        let snapshot = app.exchanges.catalogue().snapshot();
        match snapshot.routes.find(parts.method.as_str(), parts.uri.path()) {
            Found::Endpoint(endpoint, params) => (endpoint.clone(), decode(params)?),
            Found::MethodNotAllowed(methods) => {
                return Err(ApiError::method_not_allowed(parts.method.as_str(), &methods));
            }
            Found::None => {
                return Err(ApiError::not_found(format!("nothing is served at {}", parts.uri.path())));
            }
        }
    };
    let caller = match endpoint.access {
        Access::Key => app.auth.caller(&parts.headers)?,
        Access::Plugin => None,
    };
    if endpoint.kind == RouteKind::Websocket {
        return Err(ApiError::not_implemented("this gateway serves no WebSocket routes of plugins"));
    }
    let body = read_body(app, &parts.headers, body).await?;
    let exchange = parts.extensions.get::<RequestId>().map(|id| id.0.to_string()).unwrap_or_default();
    let peer = parts.extensions.get::<SocketAddr>().copied();
    let call = HttpCall {
        exchange,
        params,
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        client: client_address(app, peer, &parts.headers),
        headers: readable(&parts.headers),
        body,
        caller,
    };
    match app.exchanges.http(&endpoint, call).await {
        Ok(response) => Ok(response.map(Body::new)),
        Err(HttpFailure::Refused(after)) => Err(ApiError::unavailable("busy; try again later", after)),
        Err(HttpFailure::TimedOut) => Err(ApiError::timed_out("no answer within the time limit")),
        Err(HttpFailure::Failed) => Err(ApiError::internal()),
    }
}

/// The whole body, within its bounds of size and time.
async fn read_body(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let bound = usize::try_from(app.limits.body.as_u64()).unwrap_or(usize::MAX);
    let too_large =
        || ApiError::too_large("body", format!("the body is larger than {} (limits.body)", app.limits.body));
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|declared| declared > bound) {
        return Err(too_large());
    }
    if declared == Some(0) || (declared.is_none() && !headers.contains_key(header::TRANSFER_ENCODING)) {
        return Ok(Bytes::new());
    }
    let collected = tokio::time::timeout(app.limits.body_timeout, Limited::new(body, bound).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::bad_request("body", format!("the body can't be read: {error}"))),
        Err(_) => {
            let limit: Duration = app.limits.body_timeout;
            let limit = humantime::format_duration(limit);
            Err(ApiError::request_timeout(format!(
                "the body did not come within {limit} (limits.body_timeout)"
            )))
        }
    }
}

fn decode(params: Vec<(String, &str)>) -> Result<Vec<(String, String)>, ApiError> {
    let decoded = params.into_iter().map(|(name, value)| {
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| ApiError::bad_request(&name, format!("{name}: is not UTF-8")))?;
        Ok((name, value.into_owned()))
    });
    decoded.collect()
}

/// Headers that are text; others can't reach a plugin.
fn readable(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    };
    headers.iter().filter_map(text).collect()
}

/// The peer's address, or what the proxies that the operator trusts say of it.
fn client_address(app: &App, peer: Option<SocketAddr>, headers: &HeaderMap) -> String {
    let Some(peer) = peer.map(|peer| peer.ip().to_canonical()) else { return String::new() };
    let trusted = |ip: &IpAddr| app.limits.trusted_proxies.iter().any(|net| net.contains(ip));
    if !trusted(&peer) {
        return peer.to_string();
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<IpAddr> =
        forwarded.flat_map(|value| value.split(',')).filter_map(|hop| hop.trim().parse().ok()).collect();
    hops.iter().rev().find(|hop| !trusted(hop)).or(hops.first()).unwrap_or(&peer).to_string()
}
