//! A message's text as it is sent: rendered, or plain where Telegram does not take the rendering.

use crate::{
    chunk::{LIMIT, units},
    markdown::render,
};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Stands at the end of a text that grows.
const CURSOR: &str = " ▌";

#[cfg(test)]
thread_local! {
    /// How many messages were rendered.
    pub(crate) static RENDERED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A message as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) text: String,
    /// Whether `text` is MarkdownV2.
    pub(crate) formatted: bool,
    /// The same without formatting, for when Telegram does not take it.
    plain: String,
    /// Whether that is the case.
    pub(crate) refused: bool,
    pub(crate) mark: Mark,
}

/// Tells what one message says from what another does, by what it is rendered from: so that nothing is rendered to find
/// out that the chat says it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) hash: u64,
    /// Whether the text still grows, and so ends in a cursor.
    pub(crate) grows: bool,
}

impl Mark {
    pub(crate) fn of(source: &str, grows: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        (source, grows).hash(&mut hasher);
        Self { hash: hasher.finish(), grows }
    }
}

impl Said {
    /// A chunk as it is sent, with a cursor if it still grows.
    pub(crate) fn new(source: &str, grows: bool) -> Self {
        #[cfg(test)]
        RENDERED.set(RENDERED.get() + 1);
        let cursor = if grows { CURSOR } else { "" };
        let rendered = render(source);
        debug_assert!(units(&rendered.text) + units(cursor) <= LIMIT, "a chunk fits into a message");
        Self {
            text: rendered.text + cursor,
            formatted: rendered.formatted,
            plain: format!("{source}{cursor}"),
            refused: false,
            mark: Mark::of(source, grows),
        }
    }

    /// Goes without formatting.
    pub(crate) fn unformat(&mut self) {
        self.refused |= self.formatted;
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
}
