//! How long a stream has said nothing: what is on the way takes one for dead that says nothing for long.

use plugway_sdk::host;
use std::time::{Duration, SystemTime};

/// The time that a stream may still say nothing.
#[derive(Debug)]
pub(crate) struct Silence {
    longest: Duration,
    since: SystemTime,
    /// Something was just said, at `since` or somewhat later.
    broken: bool,
}

impl Silence {
    /// One that begins now.
    pub(crate) fn begin(longest: Duration) -> Self {
        Self { longest, since: host::now(), broken: false }
    }

    /// How long it may go on.
    pub(crate) fn left(&mut self) -> Duration {
        let now = host::now();
        if std::mem::take(&mut self.broken) {
            self.since = now;
        }
        self.longest.saturating_sub(now.duration_since(self.since).unwrap_or_default())
    }

    /// Something is said.
    pub(crate) fn broken(&mut self) {
        self.broken = true;
    }
}
