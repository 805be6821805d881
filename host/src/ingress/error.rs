//! The one shape of the host's own errors: `{"error":{"message","type","code","param"}}`.

use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::store::StoreError;

/// An error as the caller gets it.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Answer>);

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    kind: &'static str,
    message: String,
    code: Option<&'static str>,
    param: Option<String>,
    retry_after: Option<Duration>,
    allow: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Answer {
            status,
            kind,
            message,
            code: None,
            param: None,
            retry_after: None,
            allow: None,
        }))
    }

    /// What it will be answered with.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    /// 400: a part of the request is wrong.
    pub(crate) fn bad_request(param: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        error.0.param = Some(param.to_owned());
        error
    }

    /// 401: no key, or a wrong one.
    pub(crate) fn unauthorized() -> Self {
        let mut error = Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "a valid key is required: Authorization: Bearer <key>",
        );
        error.0.code = Some("invalid_api_key");
        error
    }

    /// 401: a ticket that opens nothing, or nothing any more.
    pub(crate) fn bad_ticket(message: &str) -> Self {
        let mut error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        error.0.code = Some("invalid_ticket");
        error.0.param = Some("ticket".to_owned());
        error
    }

    /// 403: the key does not go that far.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// 403: a filter refuses what was sent.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        let mut error = Self::forbidden(message);
        error.0.code = Some("refused");
        error
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::NOT_FOUND, "not_found_error", message);
        error.0.code = Some("not_found");
        error
    }

    /// 405, with the methods that would do where they are known.
    pub(crate) fn method_not_allowed(method: &str, allowed: &[&str]) -> Self {
        let mut error = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            format!("this path does not take {method}"),
        );
        error.0.code = Some("method_not_allowed");
        error.0.allow = (!allowed.is_empty()).then(|| allowed.join(", "));
        error
    }

    /// 409: not in the present state.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_request_error", message)
    }

    /// 408: the body did not come in time.
    pub(crate) fn request_timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    /// 413: larger than allowed.
    pub(crate) fn too_large(param: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message);
        error.0.code = Some("too_large");
        error.0.param = Some(param.to_owned());
        error
    }

    /// 429, with when to try again.
    pub(crate) fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        error.0.code = Some("rate_limit_exceeded");
        error.0.retry_after = Some(retry_after);
        error
    }

    /// 500, without details: they are in the log.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "the gateway could not answer; see its log",
        )
    }

    /// 426: the path is one for WebSockets.
    pub(crate) fn upgrade_required() -> Self {
        let message = "this path speaks WebSocket: ask for `Upgrade: websocket`";
        Self::new(StatusCode::UPGRADE_REQUIRED, "invalid_request_error", message)
    }

    /// 426: a WebSocket of another version than RFC 6455's.
    pub(crate) fn websocket_version() -> Self {
        let message = "sec-websocket-version: must be 13";
        Self::new(StatusCode::UPGRADE_REQUIRED, "invalid_request_error", message)
    }

    /// 503, with when to try again.
    pub(crate) fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message);
        error.0.retry_after = Some(retry_after);
        error
    }

    /// 504: somebody behind the gateway took too long.
    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", message)
    }
}

/// What a parameter of the path is. Asked after the caller was let in: a stranger learns nothing of it.
///
/// # Errors
/// 400: it is not UTF-8, or no number where one is wanted.
pub(super) fn in_path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, ApiError> {
    path.map(|Path(value)| value).map_err(|rejection| ApiError::bad_request("path", rejection.body_text()))
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::unavailable("the store is unavailable", Duration::from_secs(2))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Answer { status, kind, message, code, param, retry_after, allow } = *self.0;
        let body = json!({ "error": { "message": message, "type": kind, "code": code, "param": param } });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if let Some(after) = retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(allow) = allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}
