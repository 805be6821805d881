//! What Telegram sends, as far as it is of use here. Fields that are not are skipped; a field of the wrong type is an error
//! that names it.

use serde::Deserialize;
use serde_json::{Value, json};

/// One update of a bot's webhook. Everything else that may happen (edited messages and channel posts among it: a question
/// that was answered is not asked again) leaves both kinds empty.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a Telegram update")]
pub(crate) struct Update {
    pub(crate) update_id: i64,
    pub(crate) message: Option<Message>,
    pub(crate) stopped_message_generation: Option<Stopped>,
}

/// A message to the bot.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a message")]
pub(crate) struct Message {
    pub(crate) message_id: i64,
    pub(crate) message_thread_id: Option<i64>,
    #[serde(default)]
    pub(crate) is_topic_message: bool,
    pub(crate) from: Option<User>,
    pub(crate) chat: Chat,
    pub(crate) text: Option<String>,
    pub(crate) caption: Option<String>,
    pub(crate) photo: Option<Vec<File>>,
    pub(crate) document: Option<File>,
    pub(crate) audio: Option<File>,
    pub(crate) voice: Option<File>,
    pub(crate) video: Option<File>,
    pub(crate) reply_to_message: Option<Replied>,
}

/// A user or a bot.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a user")]
pub(crate) struct User {
    pub(crate) id: i64,
    #[serde(default)]
    pub(crate) is_bot: bool,
    pub(crate) username: Option<String>,
    pub(crate) language_code: Option<String>,
}

/// Where it was said.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a chat")]
pub(crate) struct Chat {
    pub(crate) id: i64,
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// Name of the user, in private chats.
    pub(crate) username: Option<String>,
}

impl Chat {
    pub(crate) fn is_group(&self) -> bool {
        matches!(self.kind.as_str(), "group" | "supergroup")
    }
}

/// A file on Telegram's servers; a photo is several of them, the last being the largest.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a file")]
pub(crate) struct File {
    pub(crate) file_id: String,
    pub(crate) file_unique_id: Option<String>,
    pub(crate) file_name: Option<String>,
    pub(crate) mime_type: Option<String>,
    pub(crate) file_size: Option<i64>,
}

/// The message that this one replies to.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a message")]
pub(crate) struct Replied {
    pub(crate) message_id: i64,
    pub(crate) from: Option<User>,
    pub(crate) text: Option<String>,
}

/// The user has pressed the stop button of a draft.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a stopped generation")]
pub(crate) struct Stopped {
    pub(crate) chat: Chat,
    pub(crate) message_thread_id: Option<i64>,
}

impl Message {
    /// What was said, in words.
    pub(crate) fn words(&self) -> &str {
        self.text.as_deref().or(self.caption.as_deref()).unwrap_or_default()
    }

    /// Topic of a forum. In other groups Telegram puts a thread number on replies too, which is no line of talk of its own.
    pub(crate) fn topic(&self) -> Option<i64> {
        self.message_thread_id.filter(|_| self.is_topic_message)
    }

    /// Files that came with it, by reference: an agent with the bot's token can fetch them.
    pub(crate) fn attachments(&self) -> Vec<Value> {
        let photo = self.photo.as_ref().and_then(|sizes| sizes.last());
        let files = [
            ("photo", photo, Some("image/jpeg")),
            ("document", self.document.as_ref(), None),
            ("audio", self.audio.as_ref(), None),
            ("voice", self.voice.as_ref(), Some("audio/ogg")),
            ("video", self.video.as_ref(), None),
        ];
        let present = files.into_iter().filter_map(|(kind, file, mime)| Some((kind, file?, mime)));
        present.map(|(kind, file, mime)| file.reference(kind, mime)).collect()
    }
}

impl File {
    fn reference(&self, kind: &str, mime: Option<&str>) -> Value {
        let mut reference = json!({"source": "telegram", "kind": kind, "file_id": self.file_id});
        let mut add = |name: &str, value: Option<Value>| {
            if let (Some(value), Some(fields)) = (value, reference.as_object_mut()) {
                fields.insert(name.to_owned(), value);
            }
        };
        add("file_unique_id", self.file_unique_id.as_deref().map(Value::from));
        add("mime_type", self.mime_type.as_deref().or(mime).map(Value::from));
        add("name", self.file_name.as_deref().map(Value::from));
        add("size", self.file_size.map(Value::from));
        reference
    }
}
