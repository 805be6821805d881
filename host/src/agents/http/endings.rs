//! Streams whose answer is known and whose end has still to come: a connection can be used again only when it was read to
//! there. They are waited for a little, and nobody waits with them.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Bytes that may follow an answer's end; a stream that goes on is given up.
const MAX_REST: usize = 64 * 1024;

/// Waits for the ends of streams. Dropping it closes their connections.
#[derive(Debug)]
pub(super) struct Endings {
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
    limit: Duration,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Endings {
    /// Waits for so many at once, for so long.
    pub(super) fn new(count: usize, limit: Duration) -> Self {
        let stop = CancellationToken::new();
        Self {
            tasks: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))),
            limit,
            stop: stop.clone(),
            _stop: stop.drop_guard(),
        }
    }

    /// Reads a stream to its end, if there is one left to read. Where too many wait its connection is closed.
    pub(super) fn wait_for(&self, response: Option<Response>) {
        let Some(mut response) = response else { return };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let (stop, limit) = (self.stop.clone(), self.limit);
        self.tasks.spawn(async move {
            let _permit = permit;
            let rest = async {
                let mut read = 0;
                while let Ok(Some(piece)) = response.chunk().await {
                    read += piece.len();
                    if read > MAX_REST {
                        return;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                _ = timeout(limit, rest) => {}
            }
        });
    }
}

#[cfg(test)]
impl Endings {
    /// Waits until none is waited for.
    pub(super) async fn all(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}
