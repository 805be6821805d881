//! When a delivery is tried again, and when it is given up.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::store::Settlement;

/// How often and how long something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Tries that count before it becomes a dead letter. A plugin's wish for another try does not count. Default 20.
    pub attempts: u32,
    /// Bound of the wait after the first try; it doubles from try to try. The wait itself is drawn between nothing and
    /// the bound (full jitter). After a try that does not count the bound is a quarter of the delivery's age, and the
    /// wait at least half of it. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub first_delay: Duration,
    /// Largest bound of the wait. Default 15 min.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
    /// Longest wait that a receiver or a plugin may ask for. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub max_asked_delay: Duration,
    /// A delivery that has failed, or waited for a platform or for a plugin that does not serve, for this long becomes a
    /// dead letter. Counts from its moment, or from its replay. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 20,
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(15 * 60),
            max_asked_delay: Duration::from_secs(3600),
            max_age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What one try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It arrived.
    Delivered,
    /// It did not, and may another time, not before `after`.
    Failed { error: String, after: Duration },
    /// Whoever takes it says that it can't be taken now. Not before `after`, nor before a wait that grows with its age.
    Later { reason: String, after: Duration },
    /// It never will.
    Hopeless { error: String },
    /// There was no real try: whoever takes it is not there. Not before `after`.
    NotNow { reason: String, after: Duration },
    /// There was no try, since the gateway had no time or room for it. Not before `after`.
    PutBack { reason: String, after: Duration },
}

/// A seeded source of jitter.
#[derive(Debug)]
pub(super) struct Jitter(Mutex<SmallRng>);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(SmallRng::seed_from_u64(seed)))
    }

    /// Anything up to the bound.
    fn up_to(&self, bound: Duration) -> Duration {
        let share: f64 = self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.0..=1.0);
        bound.mul_f64(share)
    }

    /// Anything from the bound's half up to the bound.
    fn around(&self, bound: Duration) -> Duration {
        bound / 2 + self.up_to(bound / 2)
    }
}

impl Retry {
    /// Largest wait after that many tries that counted (from 1).
    fn bound(&self, attempts: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_delay.saturating_mul(factor).min(self.max_delay)
    }

    /// Largest wait of a delivery of that age.
    fn bound_at(&self, age: Duration) -> Duration {
        (age / 4).max(self.first_delay).min(self.max_delay)
    }

    /// What to tell the store. `attempts` counts the tries before this one.
    pub(super) fn settle(
        &self,
        outcome: Outcome,
        attempts: u32,
        age: Duration,
        jitter: &Jitter,
    ) -> Settlement {
        let too_old = |error: String| {
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            Settlement::Dead { error: format!("given up after {age}: {error}") }
        };
        match outcome {
            Outcome::Delivered => Settlement::Done,
            Outcome::Hopeless { error } => Settlement::Dead { error },
            Outcome::NotNow { reason, .. } if age >= self.max_age => too_old(reason),
            // This node leaves the plugin alone for a while; another may have it, and time for it.
            Outcome::NotNow { reason, .. } => {
                Settlement::Retry { after: Duration::ZERO, counts: false, error: reason }
            }
            Outcome::PutBack { reason, after } => {
                Settlement::Retry { after: after.min(self.max_asked_delay), counts: false, error: reason }
            }
            Outcome::Later { reason, .. } if age >= self.max_age => too_old(reason),
            Outcome::Later { reason, after } => {
                let wait = jitter.around(self.bound_at(age)).max(after.min(self.max_asked_delay));
                Settlement::Retry { after: wait, counts: false, error: reason }
            }
            Outcome::Failed { error, after } => {
                let made = attempts.saturating_add(1);
                if made >= self.attempts {
                    return Settlement::Dead { error: format!("given up after {made} tries: {error}") };
                }
                if age >= self.max_age {
                    return too_old(error);
                }
                let after = jitter.up_to(self.bound(made)).max(after.min(self.max_asked_delay));
                Settlement::Retry { after, counts: true, error }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Retry = Retry {
        attempts: 5,
        first_delay: Duration::from_secs(2),
        max_delay: Duration::from_secs(10),
        max_asked_delay: Duration::from_secs(60),
        max_age: Duration::from_secs(100),
    };

    fn failed(after: u64) -> Outcome {
        Outcome::Failed { error: "no".to_owned(), after: Duration::from_secs(after) }
    }

    fn wait(outcome: Outcome, attempts: u32, jitter: &Jitter) -> Duration {
        match POLICY.settle(outcome, attempts, Duration::ZERO, jitter) {
            Settlement::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waits_are_drawn_below_a_bound_that_doubles() {
        let jitter = Jitter::new(7);
        for (attempts, bound) in [(0, 2), (1, 4), (2, 8), (3, 10)] {
            let bound = Duration::from_secs(bound);
            let waits: Vec<_> = (0..200).map(|_| wait(failed(0), attempts, &jitter)).collect();
            assert!(waits.iter().all(|wait| *wait <= bound), "{waits:?}");
            assert!(
                waits.iter().any(|wait| *wait > bound * 9 / 10)
                    && waits.iter().any(|wait| *wait < bound / 10)
            );
        }
        assert_eq!(wait(failed(0), 1, &Jitter::new(1)), wait(failed(0), 1, &Jitter::new(1)));
        assert_eq!(Retry::default().bound(u32::MAX), Retry::default().max_delay);
    }

    #[test]
    fn what_a_receiver_asks_for_is_kept_up_to_a_bound() {
        let jitter = Jitter::new(7);
        assert_eq!(wait(failed(30), 0, &jitter), Duration::from_secs(30));
        assert_eq!(wait(failed(3600), 0, &jitter), Duration::from_secs(60));
    }

    #[test]
    fn tries_and_time_run_out() {
        let settle = |attempts, seconds| {
            POLICY.settle(failed(0), attempts, Duration::from_secs(seconds), &Jitter::new(1))
        };
        assert!(matches!(settle(3, 0), Settlement::Retry { counts: true, .. }));
        assert!(matches!(settle(4, 0), Settlement::Dead { error } if error.contains("after 5 tries: no")));
        assert!(matches!(settle(0, 100), Settlement::Dead { error } if error.contains("1m 40s")));
    }

    #[test]
    fn what_the_platform_can_not_take_waits_longer_the_older_it_is_and_only_age_ends_it() {
        let jitter = Jitter::new(7);
        let later = |after: u64| Outcome::Later {
            reason: "502 Bad Gateway".to_owned(),
            after: Duration::from_secs(after),
        };
        let seconds = Duration::from_secs;
        let wait = |after, age| match POLICY.settle(later(after), 10_000, seconds(age), &jitter) {
            Settlement::Retry { after, counts: false, error } if error == "502 Bad Gateway" => after,
            other => panic!("{other:?}"),
        };
        for (age, bound) in [(0, 2), (8, 2), (20, 5), (99, 10)] {
            let bound = seconds(bound);
            let waits: Vec<_> = (0..200).map(|_| wait(0, age)).collect();
            assert!(waits.iter().all(|wait| (bound / 2..=bound).contains(wait)), "{age}: {waits:?}");
        }
        assert_eq!(wait(30, 99), seconds(30));
        assert_eq!(wait(3600, 99), seconds(60));
        let end = POLICY.settle(later(0), 0, seconds(100), &jitter);
        assert!(matches!(end, Settlement::Dead { error } if error.contains("1m 40s: 502 Bad Gateway")));
    }

    #[test]
    fn a_try_that_was_none_does_not_count() {
        let (reason, after) = ("absent".to_owned(), Duration::from_secs(5));
        let later = Settlement::Retry { after, counts: false, error: reason.clone() };
        let settle =
            |outcome, seconds| POLICY.settle(outcome, 100, Duration::from_secs(seconds), &Jitter::new(1));
        let not_now = Outcome::NotNow { reason: reason.clone(), after };
        let at_once = Settlement::Retry { after: Duration::ZERO, counts: false, error: reason.clone() };
        assert_eq!(settle(not_now.clone(), 99), at_once);
        assert!(
            matches!(settle(not_now, 100), Settlement::Dead { error } if error.contains("1m 40s: absent"))
        );
        assert_eq!(settle(Outcome::PutBack { reason: reason.clone(), after }, 100), later);
    }
}
