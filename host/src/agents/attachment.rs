//! Attachments of a message, as agents are told of them: a picture that can be fetched is shown, of anything else it is
//! said that it is there.

use serde_json::{Value, json};

/// Longest address that is told, in bytes.
const MAX_URL: usize = 2048;

/// As a content part of the chat-completions API.
pub(super) fn part(attachment: &Value) -> Value {
    let media_type = media_type(attachment);
    let is_picture = media_type.is_some_and(|media_type| media_type.starts_with("image/"))
        || matches!(kind(attachment), Some("image" | "photo"));
    let fetchable =
        |url: &&str| ["https://", "http://", "data:image/"].iter().any(|scheme| url.starts_with(scheme));
    if let Some(url) = url(attachment).filter(fetchable).filter(|_| is_picture) {
        return json!({"type": "image_url", "image_url": {"url": url}});
    }
    json!({"type": "text", "text": line(attachment)})
}

/// As a line of text.
pub(super) fn line(attachment: &Value) -> String {
    let name = first(attachment, &["name", "file_name", "filename", "title"]);
    let mut words = vec![name.unwrap_or("unnamed").to_owned()];
    words.extend(kind(attachment).map(str::to_owned));
    words.extend(media_type(attachment).map(str::to_owned));
    let size = ["size", "file_size"].iter().find_map(|name| attachment.get(name).and_then(Value::as_u64));
    words.extend(size.map(|size| format!("{size} bytes")));
    words.extend(url(attachment).filter(|url| url.len() <= MAX_URL).map(str::to_owned));
    format!("[attachment: {}]", words.join(", "))
}

fn kind(attachment: &Value) -> Option<&str> {
    first(attachment, &["type", "kind"])
}

fn media_type(attachment: &Value) -> Option<&str> {
    first(attachment, &["mime_type", "media_type", "content_type"])
}

fn url(attachment: &Value) -> Option<&str> {
    first(attachment, &["url", "file_url"]).or(attachment.as_str())
}

fn first<'a>(attachment: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| attachment.get(name).and_then(Value::as_str))
}
