//! What is remembered, in the plugin's own storage: under one name a document of any length, in pieces that an entry holds.
//!
//! When the quota is full the oldest responses go first: their names begin with the time of their making.

use plugway_sdk::{Error, Result, bounds, kv, warn};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// Responses that make room at a time.
const EVICTED: u32 = 50;
/// What all names of responses begin with.
pub(crate) const RESPONSES: &str = "r/";

/// Reads a document.
///
/// # Errors
/// The store does not answer, or what it has is not what was stored.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> Result<Option<T>> {
    Ok(read_sized(name)?.map(|(document, _)| document))
}

/// Reads a document, and tells how many bytes it takes.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_sized<T: DeserializeOwned>(name: &str) -> Result<Option<(T, u64)>> {
    let Some(head) = kv::get(&piece(name, 0))? else { return Ok(None) };
    let Some((&count, first)) = head.value.split_first() else { return Err(torn(name)) };
    let mut bytes = first.to_vec();
    for number in 1..count {
        let Some(next) = kv::get(&piece(name, number))? else { return Err(torn(name)) };
        bytes.extend_from_slice(&next.value);
    }
    let document =
        serde_json::from_slice(&bytes).map_err(|error| Error::internal(format!("{name}: {error}")))?;
    Ok(Some((document, bytes.len() as u64)))
}

fn torn(name: &str) -> Error {
    Error::internal(format!("{name}: a piece of it is missing"))
}

/// Stores a document, whatever is there: how many bytes it takes. The first piece, which says how many there are, comes
/// last.
///
/// # Errors
/// The store does not answer, or has no room though all responses but this one have gone.
pub(crate) fn write<T: Serialize + ?Sized>(name: &str, document: &T, keep: Duration) -> Result<u64> {
    let bytes = serde_json::to_vec(document)?;
    let (first, rest) = bytes.split_at(bytes.len().min(bounds::KV_VALUE - 1));
    let rest: Vec<_> = rest.chunks(bounds::KV_VALUE).collect();
    let count = u8::try_from(rest.len() + 1)
        .map_err(|_| Error::TooLarge("what has to be stored is larger than 255 MiB".to_owned()))?;
    for (number, bytes) in (1..count).zip(&rest) {
        put(&piece(name, number), bytes, keep)?;
    }
    put(&piece(name, 0), &[&[count], first].concat(), keep)?;
    Ok(bytes.len() as u64)
}

fn put(key: &str, bytes: &[u8], keep: Duration) -> Result<()> {
    loop {
        match kv::put(key, bytes, Some(keep)) {
            Err(kv::Error::TooLarge(what)) => make_room(key, &what)?,
            stored => return Ok(stored.map(|_| ())?),
        }
    }
}

/// Removes the oldest responses, but for the one that room is made for.
///
/// # Errors
/// The store does not answer, or there are no other responses.
pub(crate) fn make_room(key: &str, what: &str) -> Result<()> {
    let oldest = kv::keys(RESPONSES, None, EVICTED)?;
    let mut others = oldest.iter().filter(|oldest| response_of(oldest) != response_of(key)).peekable();
    if others.peek().is_none() {
        let told = "the gateway has no room to store this";
        return Err(Error::unavailable(format!("there is no room: {what}")).with_message(told));
    }
    warn!("the oldest responses make room for new ones: {what}");
    others.try_for_each(|key| Ok(kv::delete(key)?))
}

fn response_of(key: &str) -> Option<&str> {
    key.strip_prefix(RESPONSES)?.split('/').next()
}

/// Removes a document; whether it was there.
///
/// # Errors
/// The store does not answer.
pub(crate) fn remove(name: &str) -> Result<bool> {
    let Some(head) = kv::get(&piece(name, 0))? else { return Ok(false) };
    kv::delete(&piece(name, 0))?;
    for number in 1..head.value.first().copied().unwrap_or_default() {
        kv::delete(&piece(name, number))?;
    }
    Ok(true)
}

fn piece(name: &str, number: u8) -> String {
    format!("{name}/{number}")
}
