//! A plugin as it lives on over its generations: settings, admission, and what its calls came to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::breaker::Breaker;
use super::failure::FailureKind;
use super::settings::PluginSettings;

/// What a caller that is turned away should wait before it tries again.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// A plugin.
#[derive(Debug)]
pub struct Plugin {
    /// The operator's word on it.
    pub settings: Arc<PluginSettings>,
    requests: Arc<Semaphore>,
    deliveries: Arc<Semaphore>,
    waiting: AtomicUsize,
    breaker: Breaker,
    http: Meters,
    delivery: Meters,
}

/// Where a role's calls are counted; looked up once, since looking up costs more than counting.
#[derive(Clone)]
pub struct Meters {
    seconds: metrics::Histogram,
    memory: metrics::Histogram,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

impl Meters {
    fn of(plugin: &str, role: &'static str) -> Self {
        Self {
            seconds: metrics::histogram!("plugway_plugin_exchange_seconds", "plugin" => plugin.to_owned(), "role" => role),
            memory: metrics::histogram!("plugway_plugin_memory_bytes", "plugin" => plugin.to_owned(), "role" => role),
        }
    }

    /// Counts an exchange that ended.
    pub fn record(&self, lasted: Duration, peak_memory: u64) {
        self.seconds.record(lasted.as_secs_f64());
        self.memory.record(peak_memory as f64);
    }
}

/// Why a call was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many exchanges run, and as many wait, as its limits allow.
    Busy(Duration),
    /// It trapped again and again and is put aside.
    Aside(Duration),
}

impl Refusal {
    /// What to wait before another try.
    pub fn retry_after(self) -> Duration {
        match self {
            Self::Busy(after) | Self::Aside(after) => after,
        }
    }
}

impl Plugin {
    /// A plugin with its admission open.
    pub fn new(settings: Arc<PluginSettings>) -> Self {
        let limits = &settings.limits;
        Self {
            requests: Arc::new(Semaphore::new(limits.exchanges.min(Semaphore::MAX_PERMITS))),
            deliveries: Arc::new(Semaphore::new(limits.exchanges.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            breaker: Breaker::new(limits.traps, limits.trap_window),
            http: Meters::of(&settings.name, "http"),
            delivery: Meters::of(&settings.name, "delivery"),
            settings,
        }
    }

    /// Its name to the operator.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Lets a request in, waiting for another to end where too many run. The permit must outlive the instance.
    ///
    /// # Errors
    /// [`Refusal`]: answer 503 with `Retry-After`.
    pub async fn admit_request(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Some(left) = self.breaker.aside_for() {
            return Err(Refusal::Aside(left));
        }
        if let Ok(permit) = self.requests.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting =
            Waiting::begin(&self.waiting, self.settings.limits.waiting).ok_or(Refusal::Busy(BUSY_RETRY))?;
        self.requests.clone().acquire_owned().await.map_err(|_| Refusal::Busy(BUSY_RETRY))
    }

    /// Lets a delivery in, waiting for another to end where too many run.
    ///
    /// # Errors
    /// [`Refusal::Aside`]: the delivery stays in the outbox.
    pub async fn admit_delivery(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Some(left) = self.breaker.aside_for() {
            return Err(Refusal::Aside(left));
        }
        self.deliveries.clone().acquire_owned().await.map_err(|_| Refusal::Busy(BUSY_RETRY))
    }

    /// How long it still is put aside, if it is.
    pub fn aside_for(&self) -> Option<Duration> {
        self.breaker.aside_for()
    }

    /// Where calls of a role are counted.
    pub fn meters(&self, role: &'static str) -> &Meters {
        if role == "delivery" { &self.delivery } else { &self.http }
    }

    /// A call returned.
    pub fn succeeded(&self) {
        self.breaker.succeeded();
    }

    /// A call ended in a trap or at a limit.
    pub fn failed(&self, kind: FailureKind) {
        metrics::counter!("plugway_plugin_failures_total", "plugin" => self.name().to_string(), "kind" => kind.label())
            .increment(1);
        if let Some(pause) = self.breaker.trapped() {
            tracing::error!(
                plugin = %self.name(),
                pause = %humantime::format_duration(pause),
                "the plugin failed too often and is put aside: its routes answer 503, its deliveries wait"
            );
        }
    }
}

/// A place in the line before a plugin.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, bound: usize) -> Option<Self> {
        let taken =
            count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < bound).then_some(now + 1));
        taken.ok().map(|_| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
