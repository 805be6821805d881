//! A filter's instances: reused for any task, recycled after a number of calls, gone after a trap.
//!
//! Invariant: an instance that did not return in good order is never called again; those of a generation that no longer
//! serves are not kept; and there are never more than `limits.filter_instances`, busy and idle together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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
    /// What serves: idle instances are of it.
    serving: Weak<FilterRole>,
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

    /// Another generation serves, or none: the idle instances of the one before go.
    pub(super) fn serve(&self, role: Option<&Arc<FilterRole>>) {
        let serving = role.map(Arc::downgrade).unwrap_or_default();
        let mut instances = self.instances();
        if instances.serving.ptr_eq(&serving) {
            return;
        }
        instances.serving = serving;
        let gone = std::mem::take(&mut instances.idle);
        instances.live -= gone.len();
        // Under the lock: an instance's place in the engine is free before another one is made.
        drop(gone);
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
        let instance = if std::ptr::eq(instances.serving.as_ptr(), Arc::as_ptr(role)) {
            instances.idle.pop()
        } else {
            None
        };
        if instance.is_none() {
            // Where there are as many as there may be, one is idle, since this call has a permit: it makes room.
            let outworn = if instances.live >= self.most { instances.idle.pop() } else { None };
            if outworn.is_none() {
                instances.live += 1;
            }
            drop(outworn);
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
    /// Keeps the instance for another call, unless it is worn out or its generation serves no longer.
    pub(super) fn give_back(mut self, role: &Arc<FilterRole>) {
        let Some(instance) = self.instance.take_if(|instance| instance.calls < self.pool.most_calls) else {
            return;
        };
        let mut instances = self.pool.instances();
        if std::ptr::eq(instances.serving.as_ptr(), Arc::as_ptr(role)) {
            instances.idle.push(instance);
            // Its place stays taken.
            instances.live += 1;
        } else {
            drop(instances);
            drop(instance);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        drop(self.instance.take());
        self.pool.instances().live -= 1;
    }
}
