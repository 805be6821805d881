//! Rates that hold across all exchanges of the plugin, as a platform's limit per chat.

use crate::sys::{self, millis32};
use std::time::Duration;

/// Waits until `key` has had fewer than `count` grants within `per`. False if that would take longer than `max_wait`: then
/// nothing was taken, and nothing may be sent.
///
/// ```
/// # use plugway_sdk::{mock::Mock, pacing};
/// # use std::time::Duration;
/// # let _mock = Mock::new();
/// let second = Duration::from_secs(1);
/// assert!(pacing::acquire("chat/7", 1, second, Duration::ZERO));
/// assert!(!pacing::acquire("chat/7", 1, second, Duration::ZERO), "once a second, and no waiting");
/// assert!(pacing::acquire("chat/7", 1, second, second), "it waited");
/// ```
pub fn acquire(key: &str, count: u32, per: Duration, max_wait: Duration) -> bool {
    sys::pacing::acquire(key, count, millis32(per), millis32(max_wait))
}

/// The platform asked for a pause: nobody gets a grant for `key` before it is over.
pub fn pause(key: &str, time: Duration) {
    sys::pacing::pause(key, millis32(time));
}
