//! The agent feed's routes: its stream, commands, tickets and health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::multicast::Shared;
use super::per_address::Permit;
use super::sse::{self, Source};
use super::ticket::{self, Right};
use super::{App, client};
use crate::domain::bounds::SESSION_NAME;
use crate::domain::{SessionId, rfc3339};
use crate::feed::{Broadcast, Feed, Filter, Follower, OpenError, Place, RedisState, Standing, Type, Wish};
use crate::hub::Frame;
use crate::tasks::{SubmitError, SubmitRequest};

/// What a caller should wait who was refused for a reason that passes.
const RETRY: Duration = Duration::from_secs(2);
/// Names of agents that a client may ask for.
const AGENTS: usize = 64;
/// What a session's name must be like.
const NO_CONTROL: &str = "must have no control characters";

/// `GET /api/agent/stream`.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    axum::Extension(peer): axum::Extension<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let right = ticket::right(&app, &headers, query.as_deref())?;
    if !app.stream.enabled {
        return Err(ApiError::not_found("streams are turned off (stream.enabled, ENABLE_SSE)"));
    }
    let address = client::address(peer, &headers, &app.limits.trusted_proxies);
    app.per_address.request(address, Instant::now())?;
    let permit = app.per_address.stream(address)?;
    let mut wish = wish(query.as_deref().unwrap_or_default(), &headers)?;
    if let Right::Session(own) = right {
        if wish.session.as_ref().is_some_and(|session| *session != own) {
            return Err(ApiError::forbidden("the ticket is for another session than session_id"));
        }
        wish.session = Some(own);
        wish.bound = true;
    }
    let follower = app.feed.open(wish).await.map_err(|error| match error {
        OpenError::OtherStream => ApiError::bad_request("Last-Event-ID", error.to_string()),
        OpenError::Store(error) => error.into(),
    })?;
    Ok(sse::response(&app, &app.feed_groups, FeedStream { follower, _permit: permit }))
}

/// A client of the feed.
struct FeedStream {
    follower: Follower,
    _permit: Option<Permit>,
}

impl Source for FeedStream {
    type Shared = Broadcast;

    async fn next(&mut self, frames: &mut Vec<Frame>) -> bool {
        self.follower.next(frames).await;
        true
    }

    fn key(&self) -> Option<Arc<Filter>> {
        self.follower.filter().cloned()
    }

    fn place(&self) -> Option<Standing> {
        self.follower.standing()
    }

    fn shared(&self) -> Broadcast {
        self.follower.broadcast()
    }

    async fn own(&mut self) {
        self.follower.called().await;
    }

    fn move_to(&mut self, place: Standing) {
        self.follower.move_to(place);
    }
}

impl Shared for Broadcast {
    /// None: everything is shown.
    type Key = Option<Arc<Filter>>;
    type Place = Standing;

    fn place(&self) -> Standing {
        self.standing()
    }

    async fn next(&mut self, frames: &mut Vec<Frame>) -> bool {
        Self::next(self, frames).await;
        true
    }
}

/// What a client asks for.
fn wish(query: &str, headers: &HeaderMap) -> Result<Wish, ApiError> {
    let mut wish = Wish::default();
    let mut place = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let listed = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        match &*name {
            "event_type" => {
                for item in listed {
                    let kind = Type::named(item).ok_or_else(|| unknown_type(item))?;
                    if !wish.filter.types.contains(&kind) {
                        wish.filter.types.push(kind);
                    }
                }
            }
            "agent_name" => wish.filter.agents.extend(listed.map(Into::into)),
            "session_id" if !value.is_empty() => {
                if value.contains(char::is_control) {
                    return Err(ApiError::bad_request("session_id", format!("session_id: {NO_CONTROL}")));
                }
                let session = SessionId::new("", &value).map_err(|_| {
                    let message = format!("session_id: must have at most {SESSION_NAME} bytes");
                    ApiError::bad_request("session_id", message)
                })?;
                if wish.session.replace(session).is_some() {
                    return Err(ApiError::bad_request("session_id", "session_id: is given more than once"));
                }
            }
            "last_event_id" if !value.is_empty() => place = Some(value.into_owned()),
            _ => {}
        }
    }
    if wish.filter.agents.len() > AGENTS {
        return Err(ApiError::bad_request(
            "agent_name",
            format!("agent_name: names more than {AGENTS} agents"),
        ));
    }
    let no_id = || ApiError::bad_request("Last-Event-ID", "Last-Event-ID is no id of this stream");
    // The header is the newer one: a browser comes back to the URL that it came to first.
    match headers.get("last-event-id").map(HeaderValue::to_str) {
        None | Some(Ok("")) => {}
        Some(Ok(id)) => place = Some(id.to_owned()),
        Some(Err(_)) => return Err(no_id()),
    }
    wish.place = place.map(|id| id.parse::<Place>().map_err(|_| no_id())).transpose()?;
    Ok(wish)
}

fn unknown_type(name: &str) -> ApiError {
    let name: String = name.chars().take(80).collect();
    let known = Type::ALL.map(Type::as_str).join(", ");
    ApiError::bad_request("event_type", format!("event_type: there is no type {name:?}; there are {known}"))
}

/// `POST /api/agent/command`.
pub(super) async fn command(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, mut body) = request.into_parts();
    match accept(&app, &parts, &mut body).await {
        Ok(answer) => answer.into_response(),
        Err(error) => {
            metrics::counter!("agent_gateway_errors_total", "type" => "command").increment(1);
            app.bodies.linger(&parts.headers, body);
            error.into_response()
        }
    }
}

async fn accept(app: &App, parts: &http::request::Parts, body: &mut Body) -> Result<Json<Value>, ApiError> {
    app.auth.caller(&parts.headers)?;
    if let Some(peer) = parts.extensions.get::<SocketAddr>() {
        let address = client::address(*peer, &parts.headers, &app.limits.trusted_proxies);
        app.per_address.request(address, Instant::now())?;
    }
    let body = app.bodies.read(&parts.headers, body).await?;
    let object = object(&body.bytes)?;
    let mut faults = Faults::default();
    let config = app.feed.config();
    let most = usize::try_from(config.query.as_u64()).unwrap_or(usize::MAX);
    let session = faults.session(&object);
    let query = faults.text(&object, "query", most);
    let symbol = faults.text(&object, "symbol", most);
    if query.is_none() {
        faults.add("query", "is missing");
    }
    if query.as_deref().is_some_and(|query| query.trim().is_empty()) {
        faults.add("query", "must not be blank");
    }
    faults.none()?;
    let idempotency_key = match parts.headers.get("idempotency-key").map(HeaderValue::to_str) {
        None => None,
        Some(Ok(key)) => Some(key.to_owned()),
        Some(Err(_)) => return Err(ApiError::bad_request("Idempotency-Key", "Idempotency-Key: is no text")),
    };
    let mut input = json!({ "kind": "command", "query": query });
    if let Some(symbol) = symbol {
        input["symbol"] = symbol.into();
    }
    let session = session.unwrap_or_else(|| Feed::fresh_session().name().to_owned());
    let request = SubmitRequest {
        agent: (!config.agent.is_empty()).then(|| config.agent.clone()),
        session: Some(session),
        input: input.to_string(),
        deliver: None,
        idempotency_key,
    };
    let submitted = app.tasks.submit("", request).await.map_err(refused)?;
    app.feed.commanded(&submitted.session, !submitted.duplicate);
    Ok(Json(json!({
        "request_id": submitted.task.request_id(),
        "session_id": submitted.session.name(),
        "status": "processing",
        "message": "Query submitted. Events will stream on /api/agent/stream",
    })))
}

fn refused(error: SubmitError) -> ApiError {
    match error {
        SubmitError::Busy { retry_after } => ApiError::unavailable(error.to_string(), retry_after),
        SubmitError::Refused(_) => ApiError::refused(error.to_string()),
        SubmitError::Unavailable(_) => ApiError::unavailable(error.to_string(), RETRY),
        SubmitError::TooLarge { .. } => ApiError::too_large("query", error.to_string()),
        SubmitError::Invalid(invalid) if invalid.field.as_deref() == Some("idempotency_key") => {
            ApiError::bad_request("Idempotency-Key", format!("Idempotency-Key: {}", invalid.reason))
        }
        SubmitError::Invalid(_) => ApiError::bad_request("query", error.to_string()),
        SubmitError::UnknownAgent(_) => {
            tracing::error!(%error, "commands can't be run: set feed.agent or default_agent");
            ApiError::internal()
        }
    }
}

/// `POST /api/agent/ticket`.
pub(super) async fn ticket(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, mut body) = request.into_parts();
    match give(&app, &parts, &mut body).await {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], answer).into_response(),
        Err(error) => {
            app.bodies.linger(&parts.headers, body);
            error.into_response()
        }
    }
}

async fn give(app: &App, parts: &http::request::Parts, body: &mut Body) -> Result<Json<Value>, ApiError> {
    app.auth.caller(&parts.headers)?;
    let body = app.bodies.read(&parts.headers, body).await?;
    let object = if body.bytes.is_empty() { Map::new() } else { object(&body.bytes)? };
    let mut faults = Faults::default();
    let session = faults.session(&object);
    faults.none()?;
    let session = match session {
        Some(name) => SessionId::new("", &name)
            .map_err(|error| ApiError::bad_request("session_id", format!("session_id: {error}")))?,
        None => Feed::fresh_session(),
    };
    let (ticket, expires_ms) = app.tickets.issue(&session, app.clock.now_ms());
    let expires_at = rfc3339(expires_ms);
    Ok(Json(json!({ "ticket": ticket, "session_id": session.name(), "expires_at": expires_at })))
}

/// `GET /api/agent/health`.
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    let redis = app.feed.redis();
    let (status, word) = match redis {
        RedisState::Disconnected => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
        RedisState::Connected | RedisState::NotConfigured => (StatusCode::OK, "healthy"),
    };
    let body = json!({
        "status": word,
        "connections": app.feed.connections(),
        "redis": redis,
        "uptime_seconds": app.started.elapsed().as_secs(),
    });
    (status, Json(body)).into_response()
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request("body", format!("the body is not JSON: {error}")))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(ApiError::bad_request("body", "the body must be a JSON object")),
    }
}

/// Fields that are wrong, all of them.
#[derive(Debug, Default)]
struct Faults(Vec<(&'static str, String)>);

impl Faults {
    fn add(&mut self, field: &'static str, reason: impl Into<String>) {
        if self.0.iter().all(|(known, _)| *known != field) {
            self.0.push((field, reason.into()));
        }
    }

    /// A text of 1 to `most` bytes; none if it is not there, or null, or wrong.
    fn text(&mut self, object: &Map<String, Value>, field: &'static str, most: usize) -> Option<String> {
        match object.get(field)? {
            Value::Null => None,
            Value::String(text) if (1..=most).contains(&text.len()) => Some(text.clone()),
            Value::String(_) => {
                self.add(field, format!("must have 1 to {most} bytes"));
                None
            }
            _ => {
                self.add(field, "must be a string");
                None
            }
        }
    }

    /// The name of a session, if there is one and it is right.
    fn session(&mut self, object: &Map<String, Value>) -> Option<String> {
        let name = self.text(object, "session_id", SESSION_NAME)?;
        if name.contains(char::is_control) {
            self.add("session_id", NO_CONTROL);
            return None;
        }
        Some(name)
    }

    fn none(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.0.iter().map(|(field, _)| *field).collect();
        let reasons: Vec<_> = self.0.iter().map(|(field, reason)| format!("{field}: {reason}")).collect();
        Err(ApiError::bad_request(&names.join(", "), reasons.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str) -> Result<Wish, String> {
        wish(query, &HeaderMap::new()).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn filters_are_repeatable_or_comma_separated() {
        let filter = asked("event_type=signal,reasoning&event_type=signal&agent_name=a,b&agent_name=c%20d")
            .unwrap()
            .filter;
        assert_eq!(filter.types, [Type::Signal, Type::Reasoning]);
        assert_eq!(filter.agents, ["a", "b", "c d"].map(Box::<str>::from));
        assert_eq!(asked("event_type=&agent_name=,").unwrap().filter, Filter::default());
        let error = asked("event_type=signal,heartbeat").unwrap_err();
        assert!(
            error.contains("heartbeat") && error.contains("signal, reasoning, tool_call, tool_result, error")
        );
    }

    #[test]
    fn the_header_is_newer_than_the_url() {
        let mut headers = HeaderMap::new();
        headers.insert("last-event-id", HeaderValue::from_static("2-0"));
        let place = wish("last_event_id=1-0", &headers).unwrap().place.unwrap();
        assert_eq!(place.to_string(), "2-0");
        assert_eq!(asked("last_event_id=1-0").unwrap().place.unwrap().to_string(), "1-0");
        assert!(asked("last_event_id=").unwrap().place.is_none());
        assert!(asked("last_event_id=nonsense").is_err());
    }

    #[test]
    fn a_session_has_no_control_characters_in_its_name() {
        for name in ["a\nb", "\u{0}", "a\u{7f}"] {
            let encoded: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            let error = asked(&format!("session_id={encoded}")).unwrap_err();
            assert!(error.contains("control characters"), "{error}");
            let mut faults = Faults::default();
            let object = json!({ "session_id": name }).as_object().unwrap().clone();
            assert_eq!(faults.session(&object), None);
            assert!(format!("{:?}", faults.none().unwrap_err()).contains("control characters"));
        }
        assert!(asked("session_id=desk%201").unwrap().session.is_some());
    }

    #[test]
    fn all_faulty_fields_are_named() {
        let mut faults = Faults::default();
        let object = object(br#"{"session_id":"","query":7,"symbol":"x"}"#).unwrap();
        assert_eq!(faults.text(&object, "session_id", 9), None);
        assert_eq!(faults.text(&object, "query", 9), None);
        faults.add("query", "is missing");
        assert_eq!(faults.text(&object, "symbol", 9).as_deref(), Some("x"));
        let error = format!("{:?}", faults.none().unwrap_err());
        assert!(error.contains("session_id, query"), "{error}");
        assert!(error.contains("session_id: must have 1 to 9 bytes; query: must be a string"), "{error}");
    }
}
