//! What each chat shows: its messages with their present text, and the rules of the Bot API that the test server lacks.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::markdown;
use crate::test_api::number;

/// Longest message, in UTF-16 units of what is visible.
const LONGEST: usize = 4096;

/// A message of the bot as the chat shows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: i64,
    pub chat: i64,
    /// What a reader sees.
    pub text: String,
    /// What the bot sent.
    pub source: String,
    pub parse_mode: Option<String>,
    pub reply_to: Option<i64>,
    pub thread: Option<i64>,
    /// What a reader saw before, oldest first.
    pub before: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Chats {
    messages: BTreeMap<(i64, i64), Message>,
    /// Chats under flood control, and until when.
    pub(super) paused: BTreeMap<i64, Instant>,
}

/// Chat of a call, if it has one.
pub(super) fn chat(body: &Value) -> Option<i64> {
    number(&body["chat_id"])
}

impl Chats {
    /// Messages of the chat, oldest first.
    pub(super) fn of(&self, chat: i64) -> Vec<Message> {
        self.messages.range((chat, i64::MIN)..=(chat, i64::MAX)).map(|(_, message)| message.clone()).collect()
    }

    /// All messages: chat, id and text as sent.
    pub(super) fn all(&self) -> Vec<(i64, i64, String)> {
        self.messages.iter().map(|(&(chat, id), message)| (chat, id, message.source.clone())).collect()
    }

    /// What the Bot API has against the call, as the description of a 400.
    pub(super) fn objection(&self, method: &str, body: &Value) -> Result<(), String> {
        if !super::faults::WRITES.contains(&method) {
            return Ok(());
        }
        let chat = chat(body).ok_or("chat_id is empty")?;
        if method != "deleteMessage" {
            let text = seen(body).map_err(|reason| format!("can't parse entities: {reason}"))?;
            if text.trim().is_empty() {
                return Err("message text is empty".to_owned());
            }
            if markdown::length(&text) > LONGEST {
                return Err("message is too long".to_owned());
            }
        }
        if method != "sendMessage" {
            let id = number(&body["message_id"]).ok_or("message identifier is not specified")?;
            let Some(message) = self.messages.get(&(chat, id)) else {
                let verb = if method == "deleteMessage" { "delete" } else { "edit" };
                return Err(format!("message to {verb} not found"));
            };
            let same = (&message.source, &message.parse_mode) == (&source(body), &parse_mode(body));
            if method == "editMessageText" && same {
                return Err(
                    "message is not modified: specified new message content and reply markup are exactly \
                            the same as a current content and reply markup of the message"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    /// Takes in a call that was carried out, and its result.
    pub(super) fn apply(&mut self, method: &str, body: &Value, result: &Value) {
        let Some(chat) = chat(body) else { return };
        match method {
            "sendMessage" => {
                let id = number(&result["message_id"]).expect("what was sent has an id");
                let reply = [&body["reply_parameters"]["message_id"], &body["reply_to_message_id"]];
                let message = Message {
                    id,
                    chat,
                    text: seen(body).expect("it was parsed before"),
                    source: source(body),
                    parse_mode: parse_mode(body),
                    reply_to: reply.into_iter().find_map(number),
                    thread: number(&body["message_thread_id"]),
                    before: Vec::new(),
                };
                self.messages.insert((chat, id), message);
            }
            "editMessageText" => {
                let id = number(&body["message_id"]).expect("it was looked up before");
                let message = self.messages.get_mut(&(chat, id)).expect("it was looked up before");
                let text = seen(body).expect("it was parsed before");
                message.before.push(std::mem::replace(&mut message.text, text));
                message.source = source(body);
                message.parse_mode = parse_mode(body);
            }
            "deleteMessage" => {
                let id = number(&body["message_id"]).expect("it was looked up before");
                self.messages.remove(&(chat, id));
            }
            _ => {}
        }
    }
}

fn source(body: &Value) -> String {
    body["text"].as_str().unwrap_or_default().to_owned()
}

fn parse_mode(body: &Value) -> Option<String> {
    body["parse_mode"].as_str().map(str::to_owned)
}

fn seen(body: &Value) -> Result<String, String> {
    let text = source(body);
    match parse_mode(body).as_deref() {
        None | Some("") => Ok(text),
        Some("MarkdownV2") => markdown::visible(&text),
        Some(other) => Err(format!("unsupported parse_mode {other:?}")),
    }
}
