//! A filter's instances: reused for any task, recycled after a number of calls, gone after a trap.
//!
//! Invariant: an instance that did not return in good order is never called again; those of a generation go with the last
//! who has a [`super::Filter`] of it; and there are never more than `limits.filter_instances`, busy and idle together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::Store;

use super::FilterRole;
use super::guest::FilterGuest;
use crate::plugins::bindings::filter::FilterComponent;
use crate::plugins::breaker::Breaker;
use crate::plugins::settings::PluginSettings;

/// An instance between or within calls.
pub(super) struct Instance {
    /// What it is made of.
    pub(super) role: Arc<FilterRole>,
    pub(super) store: Store<FilterGuest>,
    pub(super) exports: FilterComponent,
    /// Calls that it has had.
    pub(super) calls: u32,
}

/// The instances of one plugin.
pub(in crate::plugins) struct FilterPool {
    /// One for every call under way.
    permits: Semaphore,
    instances: Mutex<Instances>,
    most: usize,
    most_calls: u32,
    breaker: Breaker,
}

#[derive(Default)]
struct Instances {
    /// Of the generation that serves, and of others that runs still have; the one that was busy last is last.
    idle: Vec<Instance>,
    /// Busy ones, and those that are being made, among them.
    live: usize,
}

impl std::fmt::Debug for FilterPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterPool").field("most", &self.most).finish_non_exhaustive()
    }
}

impl FilterPool {
    /// An empty pool.
    pub(in crate::plugins) fn new(settings: &PluginSettings) -> Self {
        let limits = &settings.limits;
        Self {
            permits: Semaphore::new(limits.filter_instances),
            instances: Mutex::default(),
            most: limits.filter_instances,
            most_calls: limits.filter_calls,
            breaker: Breaker::new(limits.traps, limits.trap_window),
        }
    }

    fn instances(&self) -> MutexGuard<'_, Instances> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody will call the role any more: its idle instances go.
    pub(super) fn forget(&self, role: &Arc<FilterRole>) {
        let mut instances = self.instances();
        let before = instances.idle.len();
        // Under the lock: an instance's place in the engine is free before another one is made.
        instances.idle.retain(|idle| !Arc::ptr_eq(&idle.role, role));
        instances.live -= before - instances.idle.len();
    }

    /// What another generation did is forgotten.
    pub(in crate::plugins) fn renewed(&self) {
        self.breaker.reset();
    }

    /// How long the filter still rests, if it does.
    pub(in crate::plugins) fn aside_for(&self) -> Option<Duration> {
        self.breaker.aside_for()
    }

    /// Whether the filter fails again and again. Fed and asked only where what it can't judge is passed on.
    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// A place for a call of the role, with an instance if one is idle. None: there was no place in time.
    pub(super) async fn take(&self, role: &Arc<FilterRole>, patience: Duration) -> Option<Lease<'_>> {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(patience, self.permits.acquire()).await.ok()?.ok()?,
        };
        let mut instances = self.instances();
        let at = instances.idle.iter().rposition(|idle| Arc::ptr_eq(&idle.role, role));
        let instance = at.map(|at| instances.idle.remove(at));
        if instance.is_none() {
            // Where there are as many as there may be, one is idle, since this call has a permit: it makes room.
            if instances.live >= self.most && !instances.idle.is_empty() {
                drop(instances.idle.remove(0));
            } else {
                instances.live += 1;
            }
        }
        Some(Lease { pool: self, instance, _permit: permit })
    }
}

/// A place for one call. Dropped, its instance is gone.
pub(super) struct Lease<'a> {
    pool: &'a FilterPool,
    pub(super) instance: Option<Instance>,
    /// Given back after the instance is.
    _permit: SemaphorePermit<'a>,
}

impl Lease<'_> {
    /// Keeps the instance for another call, unless it is worn out.
    pub(super) fn give_back(mut self) {
        let Some(instance) = self.instance.take_if(|instance| instance.calls < self.pool.most_calls) else {
            return;
        };
        let mut instances = self.pool.instances();
        instances.idle.push(instance);
        // Its place stays taken.
        instances.live += 1;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        drop(self.instance.take());
        self.pool.instances().live -= 1;
    }
}
