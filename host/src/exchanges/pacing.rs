//! Rates that hold over all exchanges of a plugin: sliding windows by key, and pauses that a platform asked for.
//!
//! Invariant: within any window of a key's length lie no more grants than were asked for, and none lies in a pause.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::bounds::PACING_KEYS;

/// Between two looks for idle keys, when there are too many.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// So many grants for a key within any stretch of that length.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    pub(crate) key: String,
    /// At least 1.
    pub(crate) count: usize,
    pub(crate) per: Duration,
}

/// The plugin has as many keys in use as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyKeys;

/// The lanes of all plugins.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    plugins: Mutex<HashMap<Arc<str>, Arc<Lanes>>>,
}

impl Pacer {
    /// The lanes of a plugin.
    pub(crate) fn of(&self, plugin: &Arc<str>) -> Arc<Lanes> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.entry(plugin.clone()).or_default().clone()
    }
}

/// One plugin's lanes, by key.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    state: Mutex<LanesState>,
}

#[derive(Debug, Default)]
struct LanesState {
    lanes: HashMap<Box<str>, Lane>,
    pruned: Option<Instant>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Times of grants, also future ones that somebody waits for, in order.
    grants: VecDeque<Instant>,
    paused_until: Option<Instant>,
    /// Nothing of this lane matters after this.
    idle_after: Option<Instant>,
}

impl Lane {
    /// The earliest time at which another grant fits.
    fn earliest(&mut self, now: Instant, rate: &Rate) -> Instant {
        while self.grants.len() > rate.count {
            self.grants.pop_front();
        }
        let window = if self.grants.len() < rate.count {
            None
        } else {
            self.grants.front().map(|first| *first + rate.per)
        };
        // A grant is never before one that was given: first come, first served.
        let last = self.grants.back().copied();
        [Some(now), window, last, self.paused_until].into_iter().flatten().max().unwrap_or(now)
    }

    fn take(&mut self, at: Instant, per: Duration) {
        self.grants.push_back(at);
        self.idle_after = Some(self.idle_after.map_or(at + per, |before| before.max(at + per)));
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }
}

impl LanesState {
    /// The key's lane.
    ///
    /// # Errors
    /// The plugin has too many in use.
    fn lane(&mut self, key: &str) -> Result<&mut Lane, TooManyKeys> {
        if !self.lanes.contains_key(key) {
            self.make_room()?;
        }
        Ok(self.lanes.entry(key.into()).or_default())
    }

    fn make_room(&mut self) -> Result<(), TooManyKeys> {
        if self.lanes.len() < PACING_KEYS {
            return Ok(());
        }
        let now = Instant::now();
        if self.pruned.is_some_and(|at| now < at + PRUNE_EVERY) {
            return Err(TooManyKeys);
        }
        self.pruned = Some(now);
        self.lanes.retain(|_, lane| lane.idle_after.is_some_and(|after| after > now));
        if self.lanes.len() < PACING_KEYS { Ok(()) } else { Err(TooManyKeys) }
    }

    /// Takes a grant of every rate at the earliest time that fits them all; none if that is after `latest`.
    fn reserve(
        &mut self,
        rates: &[Rate],
        now: Instant,
        latest: Instant,
    ) -> Result<Option<Instant>, TooManyKeys> {
        let mut at = now;
        for rate in rates {
            at = at.max(self.lane(&rate.key)?.earliest(now, rate));
        }
        if at > latest {
            return Ok(None);
        }
        for rate in rates {
            self.lane(&rate.key)?.take(at, rate.per);
        }
        Ok(Some(at))
    }
}

impl Lanes {
    fn state(&self) -> MutexGuard<'_, LanesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a grant of every rate. False at once, and nothing taken, if it would come later than `max_wait` from now.
    ///
    /// # Errors
    /// Too many keys are in use.
    pub(crate) async fn acquire(&self, rates: &[Rate], max_wait: Duration) -> Result<bool, TooManyKeys> {
        let mut now = Instant::now();
        let latest = now + max_wait;
        loop {
            let Some(at) = self.state().reserve(rates, now, latest)? else { return Ok(false) };
            if at <= now {
                return Ok(true);
            }
            tokio::time::sleep_until(at).await;
            now = Instant::now();
            // A pause may have been asked for in the meantime.
            let state = self.state();
            let paused = |rate: &Rate| state.lanes.get(&*rate.key).is_some_and(|lane| lane.is_paused(now));
            if !rates.iter().any(paused) {
                return Ok(true);
            }
        }
    }

    /// Nobody gets a grant for the key before the time is over.
    ///
    /// # Errors
    /// Too many keys are in use: the pause is not kept.
    pub(crate) fn pause(&self, key: &str, length: Duration) -> Result<(), TooManyKeys> {
        let until = Instant::now() + length;
        let mut state = self.state();
        let lane = state.lane(key)?;
        lane.paused_until = Some(lane.paused_until.map_or(until, |before| before.max(until)));
        lane.idle_after = Some(lane.idle_after.map_or(until, |before| before.max(until)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(key: &str, count: usize, per: Duration) -> Rate {
        Rate { key: key.to_owned(), count, per }
    }

    async fn acquire(lanes: &Lanes, key: &str, count: usize, max_wait: Duration) -> bool {
        lanes.acquire(&[rate(key, count, SECOND)], max_wait).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_holds_more_grants_than_asked_for() {
        let lanes = Lanes::default();
        let mut times = Vec::new();
        for _ in 0..20 {
            assert!(acquire(&lanes, "chat", 3, SECOND * 60).await);
            times.push(Instant::now());
        }
        for (first, fourth) in times.iter().zip(times.iter().skip(3)) {
            assert!(fourth.duration_since(*first) >= SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_too_long_is_told_at_once_and_takes_nobodys_place() {
        let lanes = Lanes::default();
        assert!(acquire(&lanes, "k", 1, Duration::ZERO).await);
        assert!(!acquire(&lanes, "k", 1, SECOND / 2).await);
        tokio::time::advance(SECOND).await;
        assert!(acquire(&lanes, "k", 1, Duration::ZERO).await);
        assert!(acquire(&lanes, "other", 1, Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn several_rates_are_waited_for_together_and_taken_together_or_not_at_all() {
        let lanes = Lanes::default();
        let both = [rate("chat", 1, SECOND), rate("group", 2, SECOND * 60)];
        let begun = Instant::now();
        assert!(lanes.acquire(&both, Duration::ZERO).await.unwrap());
        assert!(lanes.acquire(&both, SECOND * 5).await.unwrap());
        assert_eq!(begun.elapsed(), SECOND);
        assert!(!lanes.acquire(&both, SECOND * 5).await.unwrap(), "the group's minute is full");
        tokio::time::advance(SECOND).await;
        assert!(acquire(&lanes, "chat", 1, Duration::ZERO).await, "nothing of the chat was taken");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_in_use_are_bounded_and_idle_ones_make_room() {
        let lanes = Lanes::default();
        for key in 0..PACING_KEYS {
            assert!(acquire(&lanes, &key.to_string(), 1, Duration::ZERO).await);
        }
        let one_more = [rate("one more", 1, SECOND)];
        assert_eq!(lanes.acquire(&one_more, Duration::ZERO).await, Err(TooManyKeys));
        assert_eq!(lanes.pause("one more", SECOND), Err(TooManyKeys));
        tokio::time::advance(SECOND * 2).await;
        assert_eq!(lanes.acquire(&one_more, Duration::ZERO).await, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_back_those_who_wait_already() {
        let lanes = Arc::new(Lanes::default());
        assert!(acquire(&lanes, "k", 1, Duration::ZERO).await);
        let waiting = tokio::spawn({
            let lanes = lanes.clone();
            async move {
                let granted = acquire(&lanes, "k", 1, SECOND * 60).await;
                (granted, Instant::now())
            }
        });
        tokio::task::yield_now().await;
        let paused = Instant::now();
        lanes.pause("k", SECOND * 30).unwrap();
        let (granted, at) = waiting.await.unwrap();
        assert!(granted && at.duration_since(paused) >= SECOND * 30);
    }
}
