//! Rates that hold over all exchanges of a plugin: sliding windows by key, and pauses that a platform asked for.
//!
//! Invariant: within any window of a key's length lie no more grants than were asked for, and none lies in a pause.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Keys of all plugins together before idle ones are forgotten.
const KEYS: usize = 100_000;

/// A plugin, and its own name for what it paces.
type LaneKey = (Box<str>, Box<str>);

/// All pacing keys.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    lanes: Mutex<HashMap<LaneKey, Lane>>,
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

impl Pacer {
    fn with_lane<R>(&self, plugin: &str, key: &str, act: impl FnOnce(&mut Lane) -> R) -> R {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= KEYS {
            let now = Instant::now();
            lanes.retain(|_, lane| lane.idle_after.is_some_and(|after| after > now));
        }
        act(lanes.entry((plugin.into(), key.into())).or_default())
    }

    /// Waits for a grant. False at once if it would come later than `max_wait` from now.
    pub(crate) async fn acquire(
        &self,
        plugin: &str,
        key: &str,
        count: u32,
        per: Duration,
        max_wait: Duration,
    ) -> bool {
        if count == 0 {
            return false;
        }
        let mut now = Instant::now();
        let latest = now + max_wait;
        loop {
            let at = self.with_lane(plugin, key, |lane| lane.reserve(now, count as usize, per, latest));
            let Some(at) = at else { return false };
            if at <= now {
                return true;
            }
            tokio::time::sleep_until(at).await;
            // A pause may have been asked for in the meantime.
            let paused = self
                .with_lane(plugin, key, |lane| lane.paused_until.is_some_and(|until| until > Instant::now()));
            if !paused {
                return true;
            }
            now = Instant::now();
        }
    }

    /// Nobody gets a grant for the key before the time is over.
    pub(crate) fn pause(&self, plugin: &str, key: &str, length: Duration) {
        let until = Instant::now() + length;
        self.with_lane(plugin, key, |lane| {
            lane.paused_until = Some(lane.paused_until.map_or(until, |before| before.max(until)));
            lane.idle_after = Some(lane.idle_after.map_or(until, |before| before.max(until)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn no_window_holds_more_grants_than_asked_for() {
        let pacer = Pacer::default();
        let mut times = Vec::new();
        for _ in 0..20 {
            assert!(pacer.acquire("p", "chat", 3, SECOND, SECOND * 60).await);
            times.push(Instant::now());
        }
        for (first, fourth) in times.iter().zip(times.iter().skip(3)) {
            assert!(fourth.duration_since(*first) >= SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_too_long_is_told_at_once_and_takes_nobodys_place() {
        let pacer = Pacer::default();
        assert!(pacer.acquire("p", "k", 1, SECOND, Duration::ZERO).await);
        assert!(!pacer.acquire("p", "k", 1, SECOND, SECOND / 2).await);
        tokio::time::advance(SECOND).await;
        assert!(pacer.acquire("p", "k", 1, SECOND, Duration::ZERO).await);
        assert!(pacer.acquire("p", "other", 1, SECOND, Duration::ZERO).await);
        assert!(pacer.acquire("q", "k", 1, SECOND, Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_back_those_who_wait_already() {
        let pacer = std::sync::Arc::new(Pacer::default());
        assert!(pacer.acquire("p", "k", 1, SECOND, Duration::ZERO).await);
        let waiting = tokio::spawn({
            let pacer = pacer.clone();
            async move {
                let granted = pacer.acquire("p", "k", 1, SECOND, SECOND * 60).await;
                (granted, Instant::now())
            }
        });
        tokio::task::yield_now().await;
        let paused = Instant::now();
        pacer.pause("p", "k", SECOND * 30);
        let (granted, at) = waiting.await.unwrap();
        assert!(granted && at.duration_since(paused) >= SECOND * 30);
    }
}
