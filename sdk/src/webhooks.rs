//! Callbacks to somebody's URL, which the host carries out on its own: signed, retried, dead-lettered. They have no order:
//! one that waits for another try holds up no other.

use crate::{
    error::Error as Answer,
    sys::{self, raw::webhooks as wit},
};
use serde::Serialize;
use std::fmt;

/// Whether a URL would be taken, as far as its text tells: for whoever accepts one now and posts later.
///
/// # Errors
/// [`Error::UnacceptableUrl`], which says why not.
///
/// ```
/// # use plugway_sdk::{mock::Mock, webhooks};
/// # let _mock = Mock::new();
/// assert!(webhooks::check("https://a.example/done").is_ok());
/// assert!(webhooks::check("ftp://a.example/").is_err());
/// ```
pub fn check(url: &str) -> Result<(), Error> {
    sys::webhooks::check(url).map_err(Error::UnacceptableUrl)
}

/// Puts one POST into the outbox; the same key is sent once. Without a URL it goes to the operator's
/// `callbacks.result_url`; false if there is none.
///
/// # Errors
/// See [`Error`]: nothing was taken.
///
/// ```
/// # use plugway_sdk::{mock::Mock, webhooks};
/// # let mock = Mock::new();
/// let body = serde_json::json!({"task_id": "t", "success": true});
/// assert!(webhooks::post(Some("https://a.example/done"), &body, "t")?);
/// assert!(!webhooks::post(None, &body, "u")?, "the operator has configured no URL");
/// # assert_eq!(mock.webhooks().len(), 1);
/// # Ok::<(), plugway_sdk::Error>(())
/// ```
pub fn post<T: Serialize + ?Sized>(url: Option<&str>, body: &T, key: &str) -> Result<bool, Error> {
    let body = serde_json::to_string(body).map_err(|error| Error::Invalid(error.to_string()))?;
    sys::webhooks::post(url, &body, key).map_err(|error| match error {
        wit::Error::UnacceptableUrl(why) => Error::UnacceptableUrl(why),
        wit::Error::TooLarge(what) => Error::TooLarge(what),
        wit::Error::Invalid(why) => Error::Invalid(why),
        wit::Error::Unavailable(why) => Error::Unavailable(why),
    })
}

/// Why a callback was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The host will not call this URL: why. 400 by `?`.
    UnacceptableUrl(String),
    /// URL, key or body: which, and its bound.
    TooLarge(String),
    /// The key is empty, or the body is no JSON.
    Invalid(String),
    /// The outbox can't take it now: try again. 503 by `?`, and another try in a delivery.
    Unavailable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnacceptableUrl(why) | Self::TooLarge(why) | Self::Invalid(why) => out.write_str(why),
            Self::Unavailable(why) => write!(out, "the outbox is unavailable: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        match error {
            Error::UnacceptableUrl(why) => Self::bad_request(why),
            Error::Unavailable(_) => Self::unavailable(error),
            other => Self::internal(format!("callback: {other}")),
        }
    }
}
