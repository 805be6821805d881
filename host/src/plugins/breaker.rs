//! Puts a plugin aside that traps again and again, for growing pauses, until a call succeeds.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// First pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Counts a plugin's traps.
#[derive(Debug)]
pub(crate) struct Breaker {
    traps: u32,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<Instant>,
    pauses: u32,
    until: Option<Instant>,
}

impl Breaker {
    /// Opens after `traps` traps within `window`.
    pub(crate) fn new(traps: u32, window: Duration) -> Self {
        Self { traps: traps.max(1), window, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the plugin still is aside, if it is.
    pub(crate) fn aside_for(&self) -> Option<Duration> {
        let until = self.state().until?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// A call ended well: forgets everything.
    pub(crate) fn succeeded(&self) {
        let mut state = self.state();
        if state.pauses > 0 || !state.recent.is_empty() {
            *state = State::default();
        }
    }

    /// A call trapped. Returns the pause that begins with it, if one does.
    pub(crate) fn trapped(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state();
        state.recent.push_back(now);
        while state.recent.front().is_some_and(|at| now.duration_since(*at) > self.window) {
            state.recent.pop_front();
        }
        // After a pause, the first trap is enough to begin the next.
        let on_probation = state.pauses > 0 && state.until.is_some_and(|until| until <= now);
        if state.until.is_some_and(|until| until > now)
            || (!on_probation && state.recent.len() < self.traps as usize)
        {
            return None;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << state.pauses.min(16)).min(LONGEST_PAUSE);
        state.pauses += 1;
        state.recent.clear();
        state.until = Some(now + pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_a_call_succeeds() {
        let breaker = Breaker::new(3, Duration::from_secs(10));
        assert_eq!(breaker.trapped(), None);
        assert_eq!(breaker.trapped(), None);
        assert_eq!(breaker.trapped(), Some(Duration::from_secs(1)));
        assert!(breaker.aside_for().is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.aside_for(), None);
        assert_eq!(breaker.trapped(), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        breaker.succeeded();
        assert_eq!(breaker.trapped(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn traps_far_apart_do_not_add_up() {
        let breaker = Breaker::new(2, Duration::from_secs(10));
        for _ in 0..5 {
            assert_eq!(breaker.trapped(), None);
            tokio::time::advance(Duration::from_secs(11)).await;
        }
    }
}
