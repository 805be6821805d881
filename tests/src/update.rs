//! Telegram updates, as the Bot API pushes them.

use serde_json::{Value, json};

/// A text message of a person in a private chat.
pub fn message(update: i64, chat: i64, text: &str) -> Value {
    json!({
        "update_id": update,
        "message": {
            "message_id": 1_000 + update,
            "date": 1_700_000_000,
            "from": { "id": chat, "is_bot": false, "first_name": "Ada" },
            "chat": { "id": chat, "type": "private", "first_name": "Ada" },
            "text": text
        }
    })
}
