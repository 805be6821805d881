//! A whole HTTP answer: what an adapter sends, and what its own requests get.

use crate::{
    error::{Error, Result, from_json},
    http,
    sys::raw,
};
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;

/// Status, headers and body.
///
/// ```
/// # use plugway_sdk::Response;
/// let answer = Response::json(201, &["a", "b"]).with_header("location", "/things/1");
/// assert_eq!(answer.header("Content-Type"), Some("application/json"));
/// assert_eq!(answer.text(), r#"["a","b"]"#);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Three digits.
    pub status: u16,
    /// Lower-case names, and values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Plain text in UTF-8.
    pub fn text_body(status: u16, text: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: text.into().into_bytes() }
            .with_header("content-type", "text/plain; charset=utf-8")
    }

    /// A value as JSON. One that can't be written as JSON (a map with keys that are no text) becomes a 500.
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => {
                Self { status, headers: Vec::new(), body }.with_header("content-type", "application/json")
            }
            Err(error) => Error::internal(error).response(),
        }
    }

    /// Adds a header. A `content-type` takes the place of the one before.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        put_header(&mut self.headers, name, value.into());
        self
    }

    /// The answer if it is a success: for answers of other servers, of which any status is an answer.
    ///
    /// # Errors
    /// [`http::Error::Status`](crate::http::Error::Status). By `?`, what another try may mend (408, 425, 429, 5xx) is
    /// [`Error::Unavailable`], with the server's `Retry-After`; everything else is [`Error::Internal`].
    ///
    /// ```
    /// # use plugway_sdk::{Error, Failure, Response, http};
    /// # use std::time::Duration;
    /// let error = Response::text_body(429, "slow down").with_header("retry-after", "7").ok().unwrap_err();
    /// assert_eq!(error.to_string(), "the server answered with status 429: slow down");
    /// assert_eq!(Failure::from(error), Failure::retry(Duration::from_secs(7), "the server answered with status 429: slow down"));
    /// assert!(matches!(Response::empty(403).ok().map_err(Failure::from), Err(Failure::Permanent(_))));
    /// assert!(Response::empty(204).ok().is_ok());
    /// ```
    pub fn ok(self) -> Result<Self, http::Error> {
        if self.is_success() { Ok(self) } else { Err(http::Error::Status(Box::new(self))) }
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// First value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// The body as text; what is not UTF-8 in it is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as a value.
    ///
    /// # Errors
    /// [`Error::Internal`] that names the field: somebody else's answer is not the caller's fault.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        from_json(&self.body).map_err(|(message, _)| Error::internal(message))
    }

    pub(crate) fn into_raw(self) -> raw::types::HttpResponse {
        raw::types::HttpResponse { status: self.status, headers: self.headers, body: self.body }
    }

    pub(crate) fn from_raw(raw: raw::types::HttpResponse) -> Self {
        Self { status: raw.status, headers: raw.headers, body: raw.body }
    }
}

/// Adds a header; one that can be there once only takes the place of the one before.
pub(crate) fn put_header(headers: &mut Vec<(String, String)>, name: &str, value: String) {
    let name = name.to_ascii_lowercase();
    if matches!(&*name, "content-type" | "location" | "retry-after" | "etag") {
        headers.retain(|(other, _)| *other != name);
    }
    headers.push((name, value));
}

/// Adds a header unless there is one of that name.
pub(crate) fn default_header(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    if find_header(headers, name).is_none() {
        headers.push((name.to_owned(), value.to_owned()));
    }
}

pub(crate) fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
