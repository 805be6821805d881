//! The engine's slots, shared among plugins: one that is busy can't take the last ones from the others.
//!
//! Invariant: a part of the slots is a reserve, and only plugins that hold few slots may take from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How many plugins share the reserve: who holds this part of it or more takes from the common slots only.
const SHARES: usize = 8;

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    common: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    /// Slots that a plugin may hold and still take from the reserve.
    few: usize,
}

/// A slot, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    _held: Held,
}

/// Counts a slot that a plugin holds or waits for.
#[derive(Debug)]
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Slots {
    /// So many slots, `reserved` of them the reserve.
    pub(super) fn new(slots: usize, reserved: usize) -> Self {
        Self {
            common: Arc::new(Semaphore::new(slots - reserved)),
            reserve: Arc::new(Semaphore::new(reserved)),
            few: reserved.div_ceil(SHARES),
        }
    }

    /// A slot for a plugin that holds `held`; none if there is none until the deadline.
    pub(super) async fn take(&self, held: &Arc<AtomicUsize>, deadline: Instant) -> Option<Slot> {
        let has_few = held.fetch_add(1, Ordering::AcqRel) < self.few;
        let held = Held(held.clone());
        let permit = tokio::time::timeout_at(deadline, async {
            tokio::select! {
                biased;
                permit = self.common.clone().acquire_owned() => permit,
                permit = self.reserve.clone().acquire_owned(), if has_few => permit,
            }
        });
        let permit = permit.await.ok()?.ok()?;
        Some(Slot { _permit: permit, _held: held })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn plugins_that_hold_many_slots_leave_some_to_those_that_hold_few() {
        let slots = Slots::new(20, 8);
        let soon = || Instant::now() + Duration::from_secs(1);
        let greedy: [Arc<AtomicUsize>; 2] = Default::default();
        let mut taken = Vec::new();
        for round in 0..30 {
            taken.extend(slots.take(&greedy[round % 2], soon()).await);
        }
        assert_eq!(taken.len(), 12, "all but the reserve");
        let modest = Arc::default();
        let slot = slots.take(&modest, soon()).await.expect("one that holds few gets one");
        assert!(slots.take(&modest, soon()).await.is_none(), "and then holds its share");
        drop(slot);
        taken.pop();
        assert!(slots.take(&greedy[0], soon()).await.is_some());
        drop(taken);
        assert_eq!(greedy[0].load(Ordering::Acquire), 0);
    }
}
