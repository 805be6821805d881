//! The request that an exchange answers.

use crate::{
    error::{Error, Result, from_json},
    response::find_header,
    sys::raw,
};
use serde::de::DeserializeOwned;
use std::{borrow::Cow, fmt};

/// An HTTP request, or the upgrade request of a WebSocket.
///
/// Its `Debug` form is fit for logs: headers that carry credentials are hidden, and of the body only its size is shown.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Request {
    /// Names this exchange in logs and traces.
    pub exchange: String,
    /// The route that matched, as it stands in `export!`: `/v1/responses/{id}`.
    pub route: String,
    /// The route's parameters, decoded.
    pub params: Vec<(String, String)>,
    /// Upper case, as `POST`.
    pub method: String,
    /// Percent-encoded, without the query.
    pub path: String,
    /// What follows the `?`, as it came.
    pub query: Option<String>,
    /// Lower-case names, and values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// The caller's address.
    pub client: String,
    /// Name of the key that the caller showed; none on routes `by plugin`.
    pub caller: Option<String>,
}

impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): &(String, String)| {
            (name.clone(), if is_credential(name) { "[hidden]".to_owned() } else { value.clone() })
        };
        out.debug_struct("Request")
            .field("exchange", &self.exchange)
            .field("route", &self.route)
            .field("params", &self.params)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("query", &self.query)
            .field("headers", &self.headers.iter().map(shown).collect::<Vec<_>>())
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("client", &self.client)
            .field("caller", &self.caller)
            .finish()
    }
}

/// Whether a header's value may let somebody in.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "cookie", "token", "secret", "key", "signature", "password"]
        .iter()
        .any(|part| name.contains(part))
}

impl Request {
    /// A parameter of the route; none if the route has none of that name.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Name and value of everything in the query, decoded, in order.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.query.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
    }

    /// The first value of that name in the query, decoded.
    ///
    /// ```
    /// # plugway_sdk::mock::Mock::new();
    /// let mut request = plugway_sdk::Request::default();
    /// request.query = Some("stream=true&callback_url=https%3A%2F%2Fa.example%2Fhook".into());
    /// assert_eq!(request.query("callback_url").as_deref(), Some("https://a.example/hook"));
    /// ```
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether the query switches something on: `?name`, `?name=true` or `?name=1`.
    pub fn flag(&self, name: &str) -> bool {
        self.query(name).is_some_and(|value| matches!(&*value, "" | "true" | "1"))
    }

    /// First value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// The body as text.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).map_err(|_| Error::bad_request("the body is not UTF-8"))
    }

    /// The body as a value.
    ///
    /// # Errors
    /// [`Error::BadRequest`] that names the field.
    ///
    /// ```
    /// # use plugway_sdk::{Error, Request};
    /// #[derive(serde::Deserialize)]
    /// struct Update { message: Message }
    /// #[derive(serde::Deserialize)]
    /// struct Message { chat: i64 }
    ///
    /// let mut request = Request::default();
    /// request.body = br#"{"message":{}}"#.to_vec();
    /// let error = request.json::<Update>().map(|update| update.message.chat).unwrap_err();
    /// assert_eq!(error, Error::field("message.chat", "missing field `chat`"));
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        from_json(&self.body).map_err(|(message, param)| Error::BadRequest { message, param })
    }

    pub(crate) fn from_raw(raw: raw::types::HttpRequest) -> Self {
        Self {
            exchange: raw.exchange,
            route: raw.route,
            params: raw.params,
            method: raw.method,
            path: raw.path,
            query: raw.query,
            headers: raw.headers,
            body: raw.body,
            client: raw.client,
            caller: raw.caller,
        }
    }
}

/// Decodes a piece of a query: `+` is a space, `%41` a byte. What is no escape stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| hex(bytes.get(at + 1..at + 3)?)).flatten();
        decoded.push(match (bytes[at], escaped) {
            (_, Some(byte)) => byte,
            (b'+', None) => b' ',
            (other, None) => other,
        });
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(digits[0])? * 16 + digit(digits[1])?) as u8)
}
