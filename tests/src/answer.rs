//! An HTTP answer that was read to its end.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

/// Status, headers and whole body of an answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Reads the answer to its end.
    ///
    /// # Errors
    ///
    /// When the connection breaks before.
    pub async fn read(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        Ok(Self { status, headers, body: response.bytes().await? })
    }

    /// The same answer.
    ///
    /// # Panics
    ///
    /// When it has another status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status of the answer {:?}", self.text());
        self
    }

    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}) in {:?}", self.text()))
    }

    /// The header's value, if it is there and readable.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `error` member of an error answer, after a check of its shape: message, type, code and param, no other.
    ///
    /// # Panics
    ///
    /// When the shape differs.
    #[track_caller]
    pub fn error(&self) -> Value {
        let body = self.json();
        let error = &body["error"];
        let Some(members) = error.as_object() else { panic!("no error member in {body}") };
        let mut names: Vec<_> = members.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["code", "message", "param", "type"], "members of {body}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "message in {body}");
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "members beside error in {body}");
        error.clone()
    }
}
