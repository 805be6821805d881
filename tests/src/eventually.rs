//! Waiting for something that has to happen, with a deadline instead of a sleep.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Longest that a test waits for one thing. Generous, since it only shows when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

/// Calls `probe` until it succeeds, and returns what it found.
///
/// # Panics
///
/// Once `deadline` has passed, with the reason that `probe` gave last.
pub async fn eventually<T, P, F>(deadline: Duration, mut probe: P) -> T
where
    P: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + deadline;
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(reason) if Instant::now() >= end => panic!("not within {deadline:?}: {reason}"),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Awaits `work`, which `what` names.
///
/// # Panics
///
/// Once [`DEADLINE`] has passed.
pub async fn within<F: Future>(what: &str, work: F) -> F::Output {
    match timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
