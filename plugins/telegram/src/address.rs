//! Where an answer goes: what the webhook hands to the delivery.

use crate::config::ReplyTo;
use serde::{Deserialize, Serialize};

/// The message that is answered, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) chat_id: i64,
    /// Group or supergroup, with limits of its own.
    pub(crate) group: bool,
    /// Topic of a forum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thread: Option<i64>,
    pub(crate) message_id: i64,
    pub(crate) reply_to: ReplyTo,
    /// Whether the answer is shown while it grows.
    pub(crate) stream: bool,
    /// Where the result callback goes, instead of the operator's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) callback_url: Option<String>,
}
