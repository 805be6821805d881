//! Keeping a lease while a task runs.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use crate::domain::back_off;
use crate::store::{Lease, Store, StoreError};
use crate::tasks::Run;

/// Renews the lease every third of its length, and passes on the wish to stop that a renewal tells of. Returns when
/// the lease is lost: somebody took it, or it ran out while the store could not be reached.
pub(super) async fn keep(store: &dyn Store, lease: Lease, length: Duration, run: &Run) {
    let mut runs_out = Instant::now() + length;
    let mut failures = 0;
    let mut pause = length / 3;
    loop {
        sleep(pause).await;
        let asked = Instant::now();
        match timeout_at(runs_out, store.renew(lease, length)).await {
            Ok(Ok(wish)) => {
                runs_out = asked + length;
                failures = 0;
                pause = length / 3;
                if let Some(reason) = wish {
                    run.interrupt(&reason);
                }
            }
            Ok(Err(StoreError::LeaseLost)) | Err(_) => return,
            Ok(Err(error)) if Instant::now() < runs_out => {
                if failures == 0 {
                    warn!(%error, "the lease can't be renewed");
                }
                failures += 1;
                pause = back_off(failures).min(runs_out - Instant::now());
            }
            Ok(Err(_)) => return,
        }
    }
}
