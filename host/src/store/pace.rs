//! Rates that hold over all nodes that share a store.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;

/// So many grants for a key within any stretch of that length.
#[derive(Clone, Debug)]
pub struct Rate {
    /// The owner's name for what is bounded.
    pub key: String,
    /// At least 1.
    pub count: usize,
    /// Length of the stretch.
    pub per: Duration,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Grants that would be given at once.
    pub remaining: usize,
    /// How long until one would be.
    pub next: Duration,
    /// How long until all of them would be.
    pub reset: Duration,
}

/// Grants by owner and key: within any window of a key's length lie no more than were asked for, and none lies in a pause.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Takes a grant of every rate at the earliest time that fits them all, and tells how long that is from now; none, and
    /// nothing taken, if it is longer than `max_wait`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn reserve(
        &self,
        owner: &str,
        rates: &[Rate],
        max_wait: Duration,
    ) -> Result<Option<Duration>, StoreError>;

    /// What is left of a rate. Nothing is taken.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn peek(&self, owner: &str, rate: &Rate) -> Result<Room, StoreError>;

    /// Nobody gets a grant for the key before the time is over; a longer pause stays.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn pause(&self, owner: &str, key: &str, length: Duration) -> Result<(), StoreError>;

    /// Whether one of the keys is paused now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn is_paused(&self, owner: &str, rates: &[Rate]) -> Result<bool, StoreError>;
}
