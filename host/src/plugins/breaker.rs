//! Puts a plugin aside that traps again and again, for growing pauses, until a call succeeds that began after one.
//!
//! Invariant: only time makes a trap forgotten; a call that began before a pause says nothing of the plugin after it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// First pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Causes that are remembered.
const CAUSES: usize = 64;
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Counts a plugin's traps.
#[derive(Debug)]
pub(crate) struct Breaker {
    traps: usize,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the latest traps were, at most as many as put the plugin aside.
    recent: VecDeque<Instant>,
    /// What the latest traps with a cause of their own were caused by, at most [`CAUSES`].
    causes: VecDeque<(Instant, u64)>,
    /// Pauses since a call last succeeded after one.
    pauses: u32,
    /// End of the last pause.
    until: Option<Instant>,
}

impl Breaker {
    /// Opens after `traps` traps within `window`.
    pub(crate) fn new(traps: u32, window: Duration) -> Self {
        Self { traps: traps.max(1) as usize, window, state: Mutex::default() }
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

    /// Forgets everything: another generation serves.
    pub(crate) fn reset(&self) {
        *self.state() = State::default();
    }

    /// A call ended well. One that began after a pause shows that the plugin works again; traps are forgotten with
    /// time only.
    pub(crate) fn succeeded(&self, began: Instant) {
        let mut state = self.state();
        if state.until.is_some_and(|until| began >= until) {
            state.pauses = 0;
            state.until = None;
        }
    }

    /// A call trapped. Returns the pause that begins with it, if one does. However often one `cause` has it trap, that
    /// counts once within a window: whoever comes again and again with what a plugin can't take is not to take it from
    /// everybody else.
    pub(crate) fn trapped(&self, began: Instant, cause: Option<u64>) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state();
        if state.until.is_some_and(|until| began < until) {
            // It was under way when the pause began.
            return None;
        }
        if let Some(cause) = cause {
            state.causes.retain(|(at, _)| now.duration_since(*at) <= self.window);
            let is_known = state.causes.iter().any(|(_, known)| *known == cause);
            state.causes.retain(|(_, known)| *known != cause);
            state.causes.push_back((now, cause));
            if state.causes.len() > CAUSES {
                state.causes.pop_front();
            }
            if is_known {
                return None;
            }
        }
        state.recent.push_back(now);
        while state.recent.front().is_some_and(|at| now.duration_since(*at) > self.window) {
            state.recent.pop_front();
        }
        // After a pause, the first trap is enough to begin the next.
        let on_probation = state.pauses > 0;
        if !on_probation && state.recent.len() < self.traps {
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

    fn trap(breaker: &Breaker) -> Option<Duration> {
        breaker.trapped(Instant::now(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_a_call_succeeds() {
        let breaker = Breaker::new(3, Duration::from_secs(10));
        assert_eq!(trap(&breaker), None);
        assert_eq!(trap(&breaker), None);
        assert_eq!(trap(&breaker), Some(Duration::from_secs(1)));
        assert!(breaker.aside_for().is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.aside_for(), None);
        assert_eq!(trap(&breaker), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        breaker.succeeded(Instant::now());
        assert_eq!(trap(&breaker), None);
    }

    #[tokio::test(start_paused = true)]
    async fn traps_far_apart_do_not_add_up() {
        let breaker = Breaker::new(2, Duration::from_secs(10));
        for _ in 0..5 {
            assert_eq!(trap(&breaker), None);
            tokio::time::advance(Duration::from_secs(11)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_cause_counts_once() {
        let breaker = Breaker::new(3, Duration::from_secs(10));
        let trap = |cause| breaker.trapped(Instant::now(), Some(cause));
        for _ in 0..100 {
            assert_eq!(trap(7), None);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(trap(8), None);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!((trap(7), trap(8)), (None, None));
        assert_eq!(trap(9), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(trap(7), None, "it is no news behind a pause either");
        assert_eq!(trap(10), Some(Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn successes_between_traps_do_not_make_them_forgotten() {
        let breaker = Breaker::new(3, Duration::from_secs(10));
        for _ in 0..2 {
            assert_eq!(trap(&breaker), None);
            breaker.succeeded(Instant::now());
        }
        assert!(trap(&breaker).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_began_before_the_end_of_a_pause_neither_ends_nor_lengthens_it() {
        let breaker = Breaker::new(1, Duration::from_secs(10));
        let before = Instant::now();
        assert!(trap(&breaker).is_some());
        breaker.succeeded(before);
        assert!(breaker.aside_for().is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.trapped(before, None), None);
        breaker.succeeded(before);
        assert_eq!(trap(&breaker), Some(Duration::from_secs(2)), "still on probation");
    }
}
