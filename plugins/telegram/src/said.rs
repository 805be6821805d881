//! A message's text as it is sent: rendered, or plain where Telegram does not take the rendering.

use crate::{
    chunk::{LIMIT, units},
    markdown::render,
};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Stands at the end of a text that grows.
const CURSOR: &str = " ▌";

/// A message as it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) text: String,
    /// Whether `text` is MarkdownV2.
    pub(crate) formatted: bool,
    /// The same without formatting, for when Telegram does not take it.
    pub(crate) plain: String,
}

impl Said {
    /// A chunk as it is sent, with a cursor if it still grows.
    pub(crate) fn new(source: &str, grows: bool) -> Self {
        let cursor = if grows { CURSOR } else { "" };
        let rendered = render(source);
        debug_assert!(units(&rendered.text) + units(cursor) <= LIMIT, "a chunk fits into a message");
        Self {
            text: rendered.text + cursor,
            formatted: rendered.formatted,
            plain: format!("{source}{cursor}"),
        }
    }

    /// Goes without formatting.
    pub(crate) fn unformat(&mut self) {
        self.text.clone_from(&self.plain);
        self.formatted = false;
    }

    /// Puts it into a call.
    pub(crate) fn put_into(&self, body: &mut Value) {
        body["text"] = self.text.as_str().into();
        if self.formatted {
            body["parse_mode"] = "MarkdownV2".into();
        }
    }

    /// Tells one text from another.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.text, self.formatted).hash(&mut hasher);
        hasher.finish()
    }
}
