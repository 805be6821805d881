//! Rates that hold over all exchanges of a plugin: sliding windows by key, and pauses that a platform asked for.
//!
//! Invariant: within any window of a key's length lie no more grants than were asked for, and none lies in a pause.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Keys that one plugin may have in use; what is idle does not count.
const KEYS: usize = 10_000;
/// Between two looks for idle keys, when there are too many.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

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
    /// The earliest time at which another grant fits, and takes it if it comes soon enough.
    fn reserve(&mut self, now: Instant, count: usize, per: Duration, latest: Instant) -> Option<Instant> {
        while self.grants.len() > count {
            self.grants.pop_front();
        }
        let window =
            if self.grants.len() < count { None } else { self.grants.front().map(|first| *first + per) };
        // A grant is never before one that was given: first come, first served.
        let last = self.grants.back().copied();
        let at = [Some(now), window, last, self.paused_until].into_iter().flatten().max().unwrap_or(now);
        if at > latest {
            return None;
        }
        self.grants.push_back(at);
        self.idle_after = Some((at + per).max(self.idle_after.unwrap_or(now)));
        Some(at)
    }
}

impl Lanes {
    /// Does something to a lane; not if the plugin has too many in use.
    fn with_lane<R>(&self, key: &str, act: impl FnOnce(&mut Lane) -> R) -> Option<R> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = state.lanes.get_mut(key) {
            return Some(act(lane));
        }
        if state.lanes.len() >= KEYS {
            let now = Instant::now();
            if state.pruned.is_some_and(|at| now < at + PRUNE_EVERY) {
                return None;
            }
            state.pruned = Some(now);
            state.lanes.retain(|_, lane| lane.idle_after.is_some_and(|after| after > now));
            if state.lanes.len() >= KEYS {
                return None;
            }
        }
        Some(act(state.lanes.entry(key.into()).or_default()))
    }

    /// Waits for a grant. False at once if it would come later than `max_wait` from now, or too many keys are in use.
    pub(crate) async fn acquire(&self, key: &str, count: u32, per: Duration, max_wait: Duration) -> bool {
        if count == 0 {
            return false;
        }
        let mut now = Instant::now();
        let latest = now + max_wait;
        loop {
            let at = self.with_lane(key, |lane| lane.reserve(now, count as usize, per, latest)).flatten();
            let Some(at) = at else { return false };
            if at <= now {
                return true;
            }
            tokio::time::sleep_until(at).await;
            now = Instant::now();
            // A pause may have been asked for in the meantime.
            let paused = self.with_lane(key, |lane| lane.paused_until.is_some_and(|until| until > now));
            if paused != Some(true) {
                return true;
            }
        }
    }

    /// Nobody gets a grant for the key before the time is over.
    pub(crate) fn pause(&self, key: &str, length: Duration) {
        let until = Instant::now() + length;
        let paused = self.with_lane(key, |lane| {
            lane.paused_until = Some(lane.paused_until.map_or(until, |before| before.max(until)));
            lane.idle_after = Some(lane.idle_after.map_or(until, |before| before.max(until)));
        });
        if paused.is_none() {
            tracing::warn!("a plugin has too many pacing keys in use; a pause is not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn no_window_holds_more_grants_than_asked_for() {
        let pacer = Lanes::default();
        let mut times = Vec::new();
        for _ in 0..20 {
            assert!(pacer.acquire("chat", 3, SECOND, SECOND * 60).await);
            times.push(Instant::now());
        }
        for (first, fourth) in times.iter().zip(times.iter().skip(3)) {
            assert!(fourth.duration_since(*first) >= SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_too_long_is_told_at_once_and_takes_nobodys_place() {
        let pacer = Lanes::default();
        assert!(pacer.acquire("k", 1, SECOND, Duration::ZERO).await);
        assert!(!pacer.acquire("k", 1, SECOND, SECOND / 2).await);
        tokio::time::advance(SECOND).await;
        assert!(pacer.acquire("k", 1, SECOND, Duration::ZERO).await);
        assert!(pacer.acquire("other", 1, SECOND, Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_in_use_are_bounded_and_idle_ones_make_room() {
        let lanes = Lanes::default();
        for key in 0..KEYS {
            assert!(lanes.acquire(&key.to_string(), 1, SECOND, Duration::ZERO).await);
        }
        assert!(!lanes.acquire("one more", 1, SECOND, Duration::ZERO).await);
        tokio::time::advance(SECOND * 2).await;
        assert!(lanes.acquire("one more", 1, SECOND, Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_back_those_who_wait_already() {
        let pacer = Arc::new(Lanes::default());
        assert!(pacer.acquire("k", 1, SECOND, Duration::ZERO).await);
        let waiting = tokio::spawn({
            let pacer = pacer.clone();
            async move {
                let granted = pacer.acquire("k", 1, SECOND, SECOND * 60).await;
                (granted, Instant::now())
            }
        });
        tokio::task::yield_now().await;
        let paused = Instant::now();
        pacer.pause("k", SECOND * 30);
        let (granted, at) = waiting.await.unwrap();
        assert!(granted && at.duration_since(paused) >= SECOND * 30);
    }
}
