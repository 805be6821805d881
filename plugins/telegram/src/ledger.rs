//! What of an answer is in the chat already, in the plugin's storage. Written before and after every send, so that whoever
//! comes after a crash knows what is there, or at least what nobody can know.

use plugway_sdk::{TaskId, kv, mailbox, prelude::*};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// As long as a finished task is kept: after that nobody asks to deliver it again.
const AGE: Duration = Duration::from_secs(8 * 24 * 3600);

/// One delivery's messages.
#[derive(Debug)]
pub(crate) struct Ledger {
    key: String,
    pub(crate) page: Page,
}

/// What is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// The answer's messages, in order.
    pub(crate) sent: Vec<Sent>,
    /// A message is on its way; its id is not known yet.
    #[serde(default)]
    pub(crate) sending: bool,
    /// How often a message was sent again since nobody could know whether it had arrived.
    #[serde(default)]
    pub(crate) maybe_twice: u32,
    /// How often Telegram took a message and its reply could not be read, so that its id is not known.
    #[serde(default)]
    pub(crate) unread: u32,
    /// All is in the chat.
    #[serde(default)]
    pub(crate) done: bool,
}

/// A message in the chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) id: i64,
    /// Hash of what it says (see `Mark`), if that is its last word and no edit is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<u64>,
    /// Telegram did not take its formatting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) plain: bool,
}

impl Ledger {
    /// Opens the page of a task. A send that was under way when somebody died is told, counted, and forgotten.
    pub(crate) fn open(task: &TaskId) -> Result<Self, kv::Error> {
        let key = format!("delivery/{task}");
        let page = kv::get_json(&key)?.map_or_else(Page::default, |entry| entry.value);
        let mut ledger = Self { key, page };
        if ledger.page.sending {
            ledger.page.sending = false;
            ledger.maybe_twice("the gateway stopped while a message was on its way");
        }
        Ok(ledger)
    }

    /// Notes that a message may be in the chat twice.
    pub(crate) fn maybe_twice(&mut self, why: &str) {
        self.page.maybe_twice += 1;
        warn!("a message may arrive twice ({}): {why}", self.key);
    }

    /// Notes that a message was sent, as far as one can tell.
    pub(crate) fn unread(&mut self, why: &str) {
        self.page.unread += 1;
        warn!("a message is taken for sent ({}): {why}", self.key);
    }

    /// Stores it. What could not be written is tried again for a while, since what is not known will be sent again.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        for pause in [100, 500, 2000] {
            match kv::put_json(&self.key, &self.page, Some(AGE)) {
                Err(kv::Error::Unavailable(_)) => mailbox::wait(Duration::from_millis(pause))?,
                other => return other.map(drop).map_err(Failure::from),
            }
        }
        kv::put_json(&self.key, &self.page, Some(AGE)).map(drop).map_err(Failure::from)
    }
}
