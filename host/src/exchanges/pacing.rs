//! Rates that hold over all exchanges of a plugin: sliding windows by key, and pauses that a platform asked for. Where
//! nodes share a store they share them too, as long as the store can be reached; each node keeps to them by itself as well.
//!
//! Invariant: within any window of a key's length lie no more grants than were asked for, and none lies in a pause.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::bounds::PACING_KEYS;
use crate::store::{Pace, Rate, Room, Store, StoreError};

/// Between two looks for idle keys, when there are too many.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// The plugin has as many keys in use as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyKeys;

/// The lanes of all plugins.
#[derive(Debug)]
pub(crate) struct Pacer {
    store: Arc<dyn Store>,
    plugins: Mutex<HashMap<Arc<str>, Arc<Lanes>>>,
}

impl Pacer {
    /// No lanes yet, shared with the other nodes of the store.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, plugins: Mutex::default() }
    }

    /// The lanes of a plugin.
    pub(crate) fn of(&self, plugin: &Arc<str>) -> Arc<Lanes> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = || Arc::new(Lanes::new(plugin, &self.store));
        plugins.entry(plugin.clone()).or_insert_with(lanes).clone()
    }
}

/// One plugin's lanes, by key.
#[derive(Debug)]
pub(crate) struct Lanes {
    plugin: Arc<str>,
    store: Arc<dyn Store>,
    state: Mutex<LanesState>,
    /// The store failed when it was asked last.
    alone: AtomicBool,
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

    fn room(&mut self, now: Instant, rate: &Rate) -> Room {
        let next = self.earliest(now, rate);
        let used = self.grants.iter().filter(|at| **at + rate.per > now).count();
        let free = self.grants.back().map_or(now, |last| *last + rate.per);
        Room {
            remaining: if next > now { 0 } else { rate.count - used },
            next: next - now,
            reset: free.max(next) - now,
        }
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
    fn new(plugin: &Arc<str>, store: &Arc<dyn Store>) -> Self {
        let (plugin, store) = (Arc::clone(plugin), Arc::clone(store));
        Self { plugin, store, state: Mutex::default(), alone: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, LanesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a grant of every rate. False at once, and nothing taken, if it would come later than `max_wait` from now.
    ///
    /// # Errors
    /// Too many keys are in use.
    pub(crate) async fn acquire(&self, rates: &[Rate], max_wait: Duration) -> Result<bool, TooManyKeys> {
        let begun = Instant::now();
        if let Some(pace) = self.store.pace() {
            for rate in rates {
                self.state().lane(&rate.key)?;
            }
            if !self.acquire_of_all(pace, rates, begun + max_wait).await {
                return Ok(false);
            }
        }
        // What fits the windows of all nodes fits this one's, unless a pause has begun.
        self.acquire_here(rates, max_wait.saturating_sub(begun.elapsed())).await
    }

    /// Waits for a grant over all nodes. A store that can't be reached grants everything: this node's lanes are left.
    async fn acquire_of_all(&self, pace: &dyn Pace, rates: &[Rate], latest: Instant) -> bool {
        loop {
            let max_wait = latest.saturating_duration_since(Instant::now());
            let wait = match self.told(pace.reserve(&self.plugin, rates, max_wait).await) {
                Some(Some(Duration::ZERO)) | None => return true,
                Some(Some(wait)) => wait,
                Some(None) => return false,
            };
            tokio::time::sleep(wait).await;
            // A pause may have been asked for in the meantime.
            if !self.told(pace.is_paused(&self.plugin, rates).await).unwrap_or(false) {
                return true;
            }
        }
    }

    /// What the store says, if it does.
    fn told<T>(&self, answer: Result<T, StoreError>) -> Option<T> {
        let was_alone = self.alone.swap(answer.is_err(), Ordering::Relaxed);
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                if !was_alone {
                    tracing::warn!(plugin = %self.plugin, %error, "rates hold on this node alone for now");
                }
                None
            }
        }
    }

    /// What is left of a rate over all nodes, or on this one while the others can't be asked.
    ///
    /// # Errors
    /// Too many keys are in use.
    pub(crate) async fn peek(&self, rate: &Rate) -> Result<Room, TooManyKeys> {
        if let Some(pace) = self.store.pace()
            && let Some(room) = self.told(pace.peek(&self.plugin, rate).await)
        {
            return Ok(room);
        }
        Ok(self.state().lane(&rate.key)?.room(Instant::now(), rate))
    }

    async fn acquire_here(&self, rates: &[Rate], max_wait: Duration) -> Result<bool, TooManyKeys> {
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

    /// Nobody gets a grant for the key before the time is over; on other nodes as soon as they hear of it.
    ///
    /// # Errors
    /// Too many keys are in use: the pause is not kept.
    pub(crate) fn pause(self: &Arc<Self>, key: &str, length: Duration) -> Result<(), TooManyKeys> {
        self.pause_here(key, length)?;
        if self.store.pace().is_some() {
            let (lanes, key) = (Arc::clone(self), key.to_owned());
            tokio::spawn(async move {
                if let Some(pace) = lanes.store.pace() {
                    lanes.told(pace.pause(&lanes.plugin, &key, length).await);
                }
            });
        }
        Ok(())
    }

    fn pause_here(&self, key: &str, length: Duration) -> Result<(), TooManyKeys> {
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
    use crate::store::sqlite::{Options, SqliteStore};

    /// Lanes of a node that has no others.
    fn lanes() -> Arc<Lanes> {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path(), Options::default()).unwrap();
        Arc::new(Lanes::new(&"plug".into(), &(Arc::new(store) as Arc<dyn Store>)))
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(key: &str, count: usize, per: Duration) -> Rate {
        Rate { key: key.to_owned(), count, per }
    }

    async fn acquire(lanes: &Lanes, key: &str, count: usize, max_wait: Duration) -> bool {
        lanes.acquire(&[rate(key, count, SECOND)], max_wait).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_holds_more_grants_than_asked_for() {
        let lanes = lanes();
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
        let lanes = lanes();
        assert!(acquire(&lanes, "k", 1, Duration::ZERO).await);
        assert!(!acquire(&lanes, "k", 1, SECOND / 2).await);
        tokio::time::advance(SECOND).await;
        assert!(acquire(&lanes, "k", 1, Duration::ZERO).await);
        assert!(acquire(&lanes, "other", 1, Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn several_rates_are_waited_for_together_and_taken_together_or_not_at_all() {
        let lanes = lanes();
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
    async fn what_is_left_is_what_would_be_granted() {
        let lanes = lanes();
        let rate = rate("k", 3, SECOND * 60);
        let room = |remaining, next, reset| Room { remaining, next: SECOND * next, reset: SECOND * reset };
        assert_eq!(lanes.peek(&rate).await, Ok(room(3, 0, 0)));
        for left in [2, 1, 0] {
            assert!(lanes.acquire(std::slice::from_ref(&rate), Duration::ZERO).await.unwrap());
            let told = lanes.peek(&rate).await.unwrap();
            assert_eq!((told.remaining, told.reset), (left, SECOND * 60));
            tokio::time::advance(SECOND * 10).await;
        }
        assert_eq!(lanes.peek(&rate).await, Ok(room(0, 30, 50)));
        tokio::time::advance(SECOND * 40).await;
        assert_eq!(lanes.peek(&rate).await, Ok(room(2, 0, 10)));
        lanes.pause("k", SECOND * 20).unwrap();
        assert_eq!(lanes.peek(&rate).await, Ok(room(0, 20, 20)));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_in_use_are_bounded_and_idle_ones_make_room() {
        let lanes = lanes();
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
        let lanes = lanes();
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
