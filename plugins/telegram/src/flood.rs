//! Telegram's limits, and the pauses that it asks for. Short ones pass before anybody else comes; long ones are stored, so that
//! a restart does not forget them.

use crate::answer::LONGEST_WAIT;
use plugway_sdk::prelude::*;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// 30 calls a second, over all chats.
const ALL: (&str, u32, Duration) = ("all", 30, SECOND);

/// A turn within the limits: one message a second in a chat, 20 a minute in a group, 30 a second in all. Waits for it so long
/// at most.
pub(crate) fn turn(chat: i64, group: bool, longest: Duration) -> bool {
    let (chat, group_key) = (key(chat), format!("group/{chat}"));
    let mut limits = vec![(chat.as_str(), 1, SECOND)];
    if group {
        limits.push((group_key.as_str(), 20, MINUTE));
    }
    limits.push(ALL);
    acquire(&limits, longest)
}

/// A turn at once for what is no message.
pub(crate) fn turn_outside_of_chats() -> bool {
    acquire(&[ALL], Duration::ZERO)
}

fn acquire(limits: &[(&str, u32, Duration)], longest: Duration) -> bool {
    pacing::acquire_all(limits, longest).unwrap_or_else(|error| {
        warn!("no turn to send something: {error}");
        false
    })
}

/// Nobody gets a turn in the chat before the pause is over.
pub(crate) fn pause(chat: i64, time: Duration) {
    hold(chat, time);
    if time > LONGEST_WAIT
        && let Err(error) = kv::put_json(&stored(chat), &millis(since_epoch(host::now()) + time), Some(time))
    {
        warn!("a pause of {} s in chat {chat} is not stored: {error}", time.as_secs());
    }
}

/// Keeps to a pause that was asked for before a restart.
pub(crate) fn recall(chat: i64) -> Result<(), kv::Error> {
    if let Some(until) = kv::get_json::<u64>(&stored(chat))? {
        hold(chat, Duration::from_millis(until.value).saturating_sub(since_epoch(host::now())));
    }
    Ok(())
}

/// What is longer than the host holds a lane is asked about again.
fn hold(chat: i64, time: Duration) {
    let longest = Duration::from_millis(plugway_sdk::bounds::PACING_PAUSE_MS.into());
    if let Err(error) = pacing::pause(&key(chat), time.min(longest)) {
        warn!("a pause in chat {chat} is not kept: {error}");
    }
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
