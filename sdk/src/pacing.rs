//! Rates that hold across all exchanges of the plugin, as a platform's limit per chat.
//!
//! What can't be kept is refused: a key over 512 bytes, a count over 1000, a stretch or wait over an hour, a pause over a
//! day, more than 8 rates at once, more than 10,000 keys in use (see [`bounds`](crate::bounds)).

use crate::{
    error::Error as Answer,
    sys::{self, millis32, raw::pacing as wit},
};
use std::{fmt, time::Duration};

/// Waits until `key` has had fewer than `count` grants within `per`. False if that would take longer than `max_wait`: then
/// nothing was taken, and nothing may be sent.
///
/// # Errors
/// See [`Error`]: nothing was taken.
///
/// ```
/// # use plugway_sdk::{mock::Mock, pacing};
/// # use std::time::Duration;
/// # let _mock = Mock::new();
/// let second = Duration::from_secs(1);
/// assert!(pacing::acquire("chat/7", 1, second, Duration::ZERO)?);
/// assert!(!pacing::acquire("chat/7", 1, second, Duration::ZERO)?, "once a second, and no waiting");
/// assert!(pacing::acquire("chat/7", 1, second, second)?, "it waited");
/// assert!(pacing::acquire("chat/7", 1, 7200 * second, second).is_err(), "nobody remembers for so long");
/// # Ok::<(), pacing::Error>(())
/// ```
pub fn acquire(key: &str, count: u32, per: Duration, max_wait: Duration) -> Result<bool, Error> {
    acquire_all(&[(key, count, per)], max_wait)
}

/// The same for several rates, each a key, a count and a stretch of time: one wait for all of them, and all are taken or
/// none.
///
/// # Errors
/// As [`acquire`].
pub fn acquire_all(rates: &[(&str, u32, Duration)], max_wait: Duration) -> Result<bool, Error> {
    let rate = |(key, count, per): &(&str, u32, Duration)| wit::Rate {
        key: (*key).to_owned(),
        count: *count,
        per_ms: millis32(*per),
    };
    let rates: Vec<_> = rates.iter().map(rate).collect();
    sys::pacing::acquire(&rates, millis32(max_wait)).map_err(Error::from_raw)
}

/// What is left of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Grants that would be given at once.
    pub remaining: u32,
    /// How long until one would be; zero while any is left.
    pub next: Duration,
    /// How long until all of them would be.
    pub reset: Duration,
}

/// What is left of a rate, over all nodes, to tell a caller. Nothing is taken: others may take it meanwhile.
///
/// # Errors
/// As [`acquire`].
///
/// ```
/// # use plugway_sdk::{mock::Mock, pacing};
/// # use std::time::Duration;
/// # let _mock = Mock::new();
/// let minute = Duration::from_secs(60);
/// assert!(pacing::acquire("caller/ann", 10, minute, Duration::ZERO)?);
/// let room = pacing::peek("caller/ann", 10, minute)?;
/// assert_eq!((room.remaining, room.next, room.reset), (9, Duration::ZERO, minute));
/// # Ok::<(), pacing::Error>(())
/// ```
pub fn peek(key: &str, count: u32, per: Duration) -> Result<Room, Error> {
    let rate = wit::Rate { key: key.to_owned(), count, per_ms: millis32(per) };
    let wit::Room { remaining, next_ms, reset_ms } = sys::pacing::peek(&rate).map_err(Error::from_raw)?;
    let [next, reset] = [next_ms, reset_ms].map(|ms| Duration::from_millis(ms.into()));
    Ok(Room { remaining, next, reset })
}

/// The platform asked for a pause: nobody gets a grant for `key` before it is over.
///
/// # Errors
/// See [`Error`]: the pause is not kept.
pub fn pause(key: &str, time: Duration) -> Result<(), Error> {
    sys::pacing::pause(key, millis32(time)).map_err(Error::from_raw)
}

/// Why a rate or a pause is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// It can't be: what is over which bound.
    Invalid(String),
    /// The plugin has too many keys in use.
    TooManyKeys,
}

impl Error {
    fn from_raw(raw: wit::Error) -> Self {
        match raw {
            wit::Error::Invalid(what) => Self::Invalid(what),
            wit::Error::TooManyKeys => Self::TooManyKeys,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(out, "pacing: {what}"),
            Self::TooManyKeys => out.write_str("pacing: too many keys are in use"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(_) => Self::internal(error),
            Error::TooManyKeys => Self::unavailable(error),
        }
    }
}
