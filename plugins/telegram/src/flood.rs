//! Telegram's limits, and the pauses that it asks for. Short ones pass before anybody else comes; long ones are stored, so that
//! a restart does not forget them.

use crate::answer::LONGEST_WAIT;
use plugway_sdk::prelude::*;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A turn within the limits: one message a second in a chat, 20 a minute in a group, 30 a second in all. Waits for it so long
/// at most for each.
pub(crate) fn turn(chat: i64, group: bool, longest: Duration) -> bool {
    pacing::acquire(&key(chat), 1, SECOND, longest)
        && (!group || pacing::acquire(&format!("group/{chat}"), 20, MINUTE, longest))
        && pacing::acquire("all", 30, SECOND, longest)
}

/// A turn at once for what is no message.
pub(crate) fn turn_outside_of_chats() -> bool {
    pacing::acquire("all", 30, SECOND, Duration::ZERO)
}

/// Nobody gets a turn in the chat before the pause is over.
pub(crate) fn pause(chat: i64, time: Duration) {
    pacing::pause(&key(chat), time);
    if time > LONGEST_WAIT
        && let Err(error) = kv::put_json(&stored(chat), &millis(since_epoch(host::now()) + time), Some(time))
    {
        warn!("a pause of {} s in chat {chat} is not stored: {error}", time.as_secs());
    }
}

/// Keeps to a pause that was asked for before a restart.
pub(crate) fn recall(chat: i64) -> Result<(), kv::Error> {
    if let Some(until) = kv::get_json::<u64>(&stored(chat))? {
        pacing::pause(
            &key(chat),
            Duration::from_millis(until.value).saturating_sub(since_epoch(host::now())),
        );
    }
    Ok(())
}

fn key(chat: i64) -> String {
    format!("chat/{chat}")
}

fn stored(chat: i64) -> String {
    format!("pause/{}", key(chat))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
