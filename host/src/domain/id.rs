//! Names of things. An id is a type of its own, so that a session is never taken for a task.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::bounds::SESSION_NAME;

use super::Position;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}")]
pub struct InvalidId {
    /// What it should have been, as "task id".
    pub kind: &'static str,
    /// What came, cut to 80 characters.
    pub text: String,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(80).collect() }
    }
}

/// Names a task: `task_` and 32 hexadecimal digits (a version 7 UUID, so ids sort by time of creation).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Uuid);

impl TaskId {
    const PREFIX: &'static str = "task_";

    /// A new id, larger than those this process made before.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The name that who sent a command to the agent feed knows it by: `req-` and the id's digits.
    pub fn request_id(self) -> String {
        format!("req-{}", self.digits())
    }

    /// Its 32 hexadecimal digits.
    pub fn digits(self) -> String {
        self.0.simple().to_string()
    }

    /// Reads what [`TaskId::digits`] wrote.
    pub fn from_digits(digits: &str) -> Option<Self> {
        parse_simple(digits).map(Self)
    }

    /// The 16 bytes that stores keep; they sort as the ids do.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// Reads what [`TaskId::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl Default for TaskId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0.simple())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix(Self::PREFIX)
            .and_then(parse_simple)
            .map(Self)
            .ok_or_else(|| InvalidId::new("task id", text))
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// 32 lower-case hexadecimal digits, the only spelling that an id has.
fn parse_simple(text: &str) -> Option<Uuid> {
    let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| Uuid::try_parse(text).ok()).flatten()
}

/// Names a session: who owns it (a plugin's name, or the empty name for the gateway's own routes) and the owner's
/// name for it. Two owners never share a session, whatever they call it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    key: Arc<str>,
    owner_len: usize,
}

impl SessionId {
    /// The owner's session of that name.
    ///
    /// # Errors
    /// The name is empty or longer than [`SESSION_NAME`].
    pub fn new(owner: &str, name: &str) -> Result<Self, InvalidId> {
        if name.is_empty() || name.len() > SESSION_NAME {
            return Err(InvalidId::new("session name of 1 to 512 bytes", name));
        }
        Ok(Self { key: format!("{owner}/{name}").into(), owner_len: owner.len() })
    }

    /// A session that nobody has used before.
    pub fn fresh(owner: &str) -> Self {
        let name = Uuid::now_v7().simple();
        Self { key: format!("{owner}/session_{name}").into(), owner_len: owner.len() }
    }

    /// Who owns it.
    pub fn owner(&self) -> &str {
        &self.key[..self.owner_len]
    }

    /// The owner's name for it.
    pub fn name(&self) -> &str {
        &self.key[self.owner_len + 1..]
    }

    /// `owner/name`, unique over all owners: the form that stores keep.
    pub fn as_key(&self) -> &str {
        &self.key
    }

    /// Reads what [`SessionId::as_key`] wrote.
    ///
    /// # Errors
    /// There is no `/` in it, or nothing behind it.
    pub fn from_key(key: &str) -> Result<Self, InvalidId> {
        match key.split_once('/') {
            Some((owner, name)) if !name.is_empty() => Ok(Self { key: key.into(), owner_len: owner.len() }),
            _ => Err(InvalidId::new("session key", key)),
        }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

/// A place in a task's events to resume from: which task, which run, which event. Its text is URL-safe, at most 64
/// characters long, and the `id:` of the event on every stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Task whose event it names.
    pub task: TaskId,
    /// The event's place in the task.
    pub position: Position,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.task.0.simple(), self.position.attempt, self.position.seq)
    }
}

impl FromStr for Cursor {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let mut parts = text.split('-');
            let task = TaskId(parse_simple(parts.next()?)?);
            let attempt = parts.next()?.parse().ok()?;
            let seq = parts.next()?.parse().ok()?;
            parts.next().is_none().then_some(Self { task, position: Position { attempt, seq } })
        };
        parse().ok_or_else(|| InvalidId::new("cursor", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_stays_within_64_characters() {
        let cursor = Cursor { task: TaskId::new(), position: Position { attempt: u32::MAX, seq: u64::MAX } };
        let text = cursor.to_string();
        assert!(text.len() <= 64, "{} characters", text.len());
        assert_eq!(text.parse(), Ok(cursor));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "task_", "task_1234567890", "TASK_0193", "task_ZZ93c0de00007000800000000000000f"] {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
        for text in ["", "1", "0193c0de000070008000000000000000-1", "0193c0de000070008000000000000000-1-2-3"]
        {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }

    #[test]
    fn sessions_of_two_owners_differ_though_their_names_agree() {
        let (a, b) = (SessionId::new("a", "x").unwrap(), SessionId::new("b", "x").unwrap());
        assert_ne!(a, b);
        assert_eq!((a.owner(), a.name()), ("a", "x"));
        assert_eq!(SessionId::from_key(a.as_key()), Ok(a));
    }
}
