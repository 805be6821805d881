//! Where things are kept, and who makes room when the quota is full: what was not used for the longest time, be it a response
//! or a conversation with all its items.

use crate::store;
use plugway_sdk::{Error, Result, kv, warn};
use serde_json::Value;

/// What names of responses begin with; their keys do with the time of their making.
pub(crate) const RESPONSES: &str = "r/";
/// What names of conversations begin with.
pub(crate) const CONVERSATIONS: &str = "c/";
/// What names of conversations' items begin with.
pub(crate) const SEGMENTS: &str = "ci/";
/// What names of marks begin with: empty entries that have conversations in the order of their last use.
const MARKS: &str = "o/";
/// Entries that are looked at for room at a time.
const LOOKED_AT: u32 = 50;

/// The mark of a conversation that was last used at this time, in seconds since the Unix epoch.
pub(crate) fn mark(used: u64, conversation: &str) -> String {
    format!("{MARKS}{used:012}/{conversation}")
}

/// Removes what was not used for the longest time, but for what `key` belongs to.
///
/// # Errors
/// The store does not answer, or there is nothing else.
pub(crate) fn make(key: &str, what: &str) -> Result<()> {
    let responses = kv::keys(RESPONSES, None, LOOKED_AT)?;
    let responses: Vec<_> =
        responses.iter().filter(|found| part(found, RESPONSES) != part(key, RESPONSES)).collect();
    let marks = kv::keys(MARKS, None, LOOKED_AT)?;
    let own = part(key, CONVERSATIONS).or(part(key, SEGMENTS));
    let mut marks = marks.iter().filter_map(|mark| {
        let (used, conversation) = mark.strip_prefix(MARKS)?.split_once('/')?;
        (Some(conversation) != own).then_some((mark, used.parse().unwrap_or(0), conversation))
    });
    match (responses.first(), marks.next()) {
        (None, None) => {
            warn!("there is no room, and nothing to remove: {what}");
            Err(Error::TooLarge("the gateway has no room to store this".to_owned()))
        }
        (Some(first), mark) if mark.is_none_or(|(_, used, _)| made(first) <= used) => {
            warn!("the oldest responses make room: {what}");
            let until = mark.map_or(u64::MAX, |(_, used, _)| used);
            responses.iter().filter(|key| made(key) <= until).try_for_each(|key| Ok(kv::delete(key)?))
        }
        (_, Some((mark, used, conversation))) => remove_conversation(mark, used, conversation, what),
        (Some(_), None) => Ok(()),
    }
}

fn remove_conversation(mark: &str, used: u64, conversation: &str, what: &str) -> Result<()> {
    let key = format!("{CONVERSATIONS}{conversation}");
    let found = kv::get_json::<Value>(&key)?;
    // One that was used since has another mark.
    if found.is_none_or(|found| found.value["used"].as_u64().unwrap_or(0) <= used) {
        warn!("a conversation that was not used for long makes room: {what}");
        kv::delete(&key)?;
        while store::remove(&format!("{SEGMENTS}{conversation}"))? {}
    }
    Ok(kv::delete(mark)?)
}

/// The name behind a prefix, up to the next slash.
fn part<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.split('/').next()
}

/// When a response was made, in seconds since the Unix epoch: its key is a UUID of version 7.
fn made(key: &str) -> u64 {
    let digits = part(key, RESPONSES).and_then(|key| key.get(..12));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).map_or(0, |ms| ms / 1000)
}
