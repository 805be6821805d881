//! A plugin as it lives on over its generations: settings, admission, and what its calls came to.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::breaker::Breaker;
use super::failure::FailureKind;
use super::filter::FilterPool;
use super::settings::PluginSettings;

/// What a caller that is turned away should wait before it tries again.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// A plugin.
#[derive(Debug)]
pub struct Plugin {
    /// The operator's word on it.
    pub settings: Arc<PluginSettings>,
    /// The way in for requests.
    pub requests: Gate,
    /// The way in for WebSocket connections.
    pub sockets: Gate,
    /// The way in for deliveries.
    pub deliveries: Gate,
    /// Its instances as a filter.
    pub(super) filtering: FilterPool,
    /// Linear memory of all its exchanges, in bytes.
    pub(crate) memory: Arc<AtomicU64>,
    /// Slots of the engine that its exchanges hold or wait for.
    pub(crate) slots: Arc<AtomicUsize>,
}

/// The way in for one role's calls: how many at once, whether the role rests, and where its calls are counted. A role
/// whose calls fail does not keep the other's from running, nor does the other's success clear it.
#[derive(Debug)]
pub struct Gate {
    plugin: Arc<str>,
    role: &'static str,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    breaker: Breaker,
    /// Made with the first call: a name that never was called leaves no figures behind.
    meters: OnceLock<Meters>,
}

/// Where a role's calls are counted; looked up once, since looking up costs more than counting.
#[derive(Clone)]
struct Meters {
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

    fn record(&self, lasted: Duration, peak_memory: u64) {
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
    /// A plugin with its gates open.
    pub fn new(settings: Arc<PluginSettings>) -> Self {
        let requests = Gate::new(&settings, "http", settings.limits.waiting);
        let sockets = Gate::new(&settings, "socket", settings.limits.waiting);
        // The outbox bounds the deliveries that wait.
        let deliveries = Gate::new(&settings, "delivery", usize::MAX);
        let filtering = FilterPool::new(&settings);
        let (memory, slots) = Default::default();
        Self { requests, sockets, deliveries, filtering, memory, slots, settings }
    }

    /// Its name to the operator.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// How long one of its roles still rests, if one does.
    pub fn aside_for(&self) -> Option<Duration> {
        let gates = [&self.requests, &self.sockets, &self.deliveries];
        gates.into_iter().filter_map(Gate::aside_for).max().max(self.filtering.aside_for())
    }

    /// Another generation serves: what the one before did is forgotten.
    pub fn renewed(&self) {
        self.requests.breaker.reset();
        self.sockets.breaker.reset();
        self.deliveries.breaker.reset();
        self.filtering.renewed();
    }
}

/// Whether a failure is the plugin's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It is not.
    None,
    /// It is.
    Plugin,
    /// It is, and may come again and again from the same place.
    On(u64),
}

impl Gate {
    fn new(settings: &PluginSettings, role: &'static str, most_waiting: usize) -> Self {
        let limits = &settings.limits;
        Self {
            plugin: settings.name.clone(),
            role,
            permits: Arc::new(Semaphore::new(limits.exchanges.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            most_waiting,
            breaker: Breaker::new(limits.traps, limits.trap_window),
            meters: OnceLock::new(),
        }
    }

    /// Lets a call in, waiting until the deadline for another to end where too many run. The permit must outlive the
    /// instance.
    ///
    /// # Errors
    /// [`Refusal`]: answer 503 with `Retry-After`; a delivery stays in the outbox.
    pub async fn admit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        self.rested()?;
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let busy = Refusal::Busy(BUSY_RETRY);
        let _waiting = Waiting::begin(&self.waiting, self.most_waiting).ok_or(busy)?;
        let permit = tokio::time::timeout_at(deadline, self.permits.clone().acquire_owned()).await;
        permit.map_err(|_| busy)?.map_err(|_| busy)
    }

    /// Whether the role does not rest. To be asked again by whoever waited.
    ///
    /// # Errors
    /// [`Refusal::Aside`].
    pub fn rested(&self) -> Result<(), Refusal> {
        self.aside_for().map_or(Ok(()), |left| Err(Refusal::Aside(left)))
    }

    /// The role's name, as in metrics and logs.
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// How long the role still rests, if it does.
    pub fn aside_for(&self) -> Option<Duration> {
        self.breaker.aside_for()
    }

    /// Counts a call that ended.
    pub fn record(&self, lasted: Duration, peak_memory: u64) {
        self.meters.get_or_init(|| Meters::of(&self.plugin, self.role)).record(lasted, peak_memory);
    }

    /// A call of the serving generation returned.
    pub fn succeeded(&self, began: Instant) {
        self.breaker.succeeded(began);
    }

    /// A call ended in a trap or at a limit. `blame`: it is the serving generation's fault, and counts towards the plugin's
    /// rest.
    pub fn failed(&self, kind: FailureKind, began: Instant, blame: Blame) {
        let (plugin, role) = (self.plugin.to_string(), self.role);
        metrics::counter!("plugway_plugin_failures_total", "plugin" => plugin, "role" => role, "kind" => kind.label())
            .increment(1);
        let cause = match blame {
            Blame::None => return,
            Blame::Plugin => None,
            Blame::On(cause) => Some(cause),
        };
        if let Some(pause) = self.breaker.trapped(began, cause) {
            tracing::error!(
                plugin = %self.plugin,
                role = self.role,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::settings::tests::settings;

    fn gate(exchanges: usize) -> Gate {
        let mut settings = settings("plug");
        settings.limits.exchanges = exchanges;
        settings.limits.traps = 1;
        Gate::new(&settings, "http", 8)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_a_permit_until_its_deadline() {
        let gate = gate(1);
        let soon = || Instant::now() + Duration::from_secs(10);
        let held = gate.admit(soon()).await.unwrap();
        assert_eq!(gate.admit(soon()).await.unwrap_err(), Refusal::Busy(BUSY_RETRY));
        drop(held);
        drop(gate.admit(soon()).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waited_hears_that_the_plugin_rests_by_now() {
        let gate = gate(1);
        assert_eq!(gate.rested(), Ok(()));
        gate.failed(FailureKind::Trap, Instant::now(), Blame::Plugin);
        assert!(matches!(gate.rested(), Err(Refusal::Aside(_))));
    }
}
