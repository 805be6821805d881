//! Where time stamps come from, so that tests decide what time it is. Waiting is tokio's trade; what
//! it lacks is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Source of wall-clock stamps, in milliseconds since the Unix epoch, and of [`Steady`] time for what runs out.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until a test moves it.
    Manual(Arc<Manual>),
}

/// What a manual clock shows.
#[derive(Debug, Default)]
pub struct Manual {
    wall_ms: AtomicU64,
    passed_ms: AtomicU64,
}

impl Clock {
    /// A clock that shows `ms` until [`Clock::advance`] moves it.
    pub fn manual(ms: u64) -> Self {
        Self::Manual(Arc::new(Manual { wall_ms: AtomicU64::new(ms), passed_ms: AtomicU64::new(0) }))
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                millis(since)
            }
            Self::Manual(manual) => manual.wall_ms.load(Ordering::SeqCst),
        }
    }

    /// Time that only passes, beginning now.
    pub fn steady(&self) -> Steady {
        let since = match self {
            Self::System => Since::Instant(Instant::now()),
            Self::Manual(manual) => {
                let passed_ms = manual.passed_ms.load(Ordering::SeqCst);
                Since::Manual { manual: Arc::clone(manual), passed_ms }
            }
        };
        Steady { began_ms: self.now_ms(), since }
    }

    /// Lets time pass on a manual clock; the machine's clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(manual) = self {
            manual.wall_ms.fetch_add(millis(by), Ordering::SeqCst);
            manual.passed_ms.fetch_add(millis(by), Ordering::SeqCst);
        }
    }

    /// Sets a manual clock, as an operator or a time server does: no time passes. The machine's clock is left alone.
    pub fn set(&self, ms: u64) {
        if let Self::Manual(manual) = self {
            manual.wall_ms.store(ms, Ordering::SeqCst);
        }
    }
}

/// Time that only passes: it began at what the wall clock showed, and hears of nobody who sets that.
#[derive(Clone, Debug)]
pub struct Steady {
    began_ms: u64,
    since: Since,
}

#[derive(Clone, Debug)]
enum Since {
    Instant(Instant),
    Manual { manual: Arc<Manual>, passed_ms: u64 },
}

impl Steady {
    /// Milliseconds since the Unix epoch, as far as the wall clock was right in the beginning.
    pub fn now_ms(&self) -> u64 {
        let passed = match &self.since {
            Since::Instant(began) => millis(began.elapsed()),
            Since::Manual { manual, passed_ms } => manual.passed_ms.load(Ordering::SeqCst) - passed_ms,
        };
        self.began_ms.saturating_add(passed)
    }
}

/// A length of time in milliseconds, as far as they can be counted.
pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// How long to leave a store alone that has failed so many times in a row: from 50 ms, doubling, up to 2 s.
pub(crate) fn back_off(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(2))
}

/// Waits until a time. Never returns without one.
pub async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A stamp as every document of the gateway writes it: RFC 3339, UTC, milliseconds. Stamps beyond the year 9999 stand
/// still at its end.
pub fn rfc3339(ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_999));
    humantime::format_rfc3339_millis(at).to_string()
}
