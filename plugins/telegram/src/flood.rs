//! Pauses that Telegram asks for. Short ones pass before anybody else comes; long ones are stored, so that a restart does not
//! forget them.

use crate::answer::LONGEST_WAIT;
use plugway_sdk::prelude::*;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nobody gets a turn for `key` before the pause is over.
pub(crate) fn pause(key: &str, time: Duration) {
    pacing::pause(key, time);
    if time > LONGEST_WAIT
        && let Err(error) = kv::put_json(&stored(key), &millis(since_epoch(host::now()) + time), Some(time))
    {
        warn!("a pause of {} s for {key} is not stored: {error}", time.as_secs());
    }
}

/// Keeps to a pause that was asked for before a restart.
pub(crate) fn recall(key: &str) -> Result<(), kv::Error> {
    if let Some(until) = kv::get_json::<u64>(&stored(key))? {
        pacing::pause(key, Duration::from_millis(until.value).saturating_sub(since_epoch(host::now())));
    }
    Ok(())
}

fn stored(key: &str) -> String {
    format!("pause/{key}")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
