//! Callbacks to somebody's URL, which the host carries out on its own: signed, retried, dead-lettered.

use crate::{error::Error, sys};
use serde::Serialize;

/// Puts one POST into the outbox; the same key is sent once. Without a URL it goes to the operator's
/// `callbacks.result_url`; false if there is none.
///
/// # Errors
/// [`Error::BadRequest`] if the URL is not acceptable.
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
    let body = serde_json::to_string(body)?;
    sys::webhooks::post(url, &body, key).map_err(Error::bad_request)
}
