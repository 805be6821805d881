//! What every guest's store holds whatever its role: WASI with nothing granted, the limits, and the plugin's log.
//!
//! Invariant: a guest that exceeds a limit traps with a sentence that names the limit; it never takes from others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytesize::ByteSize;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::engine::{Engine, TICK};
use super::generation::Role;
use super::log::GuestLog;
use super::settings::PluginSettings;

/// Resources (streams, bodies) that one guest may hold.
const RESOURCES: usize = 1_000;
/// Bytes that one call may hand to the host: the largest body that a request may have, and room for the rest.
const CALL: usize = 34 << 20;
/// Random bytes that one call of WASI may ask for.
const RANDOM: u64 = 64 << 10;

/// Data of a guest's store. What an exchange adds to it is its own.
pub trait Guest: WasiView + Sized + Send + 'static {
    /// The roles of a component, looked up once when it is loaded.
    type Roles: std::fmt::Debug + Send + Sync + 'static;

    /// Links the contract's imports (WASI is linked already).
    ///
    /// # Errors
    /// A name is defined twice.
    fn link(linker: &mut wasmtime::component::Linker<Self>) -> wasmtime::Result<()>;

    /// Looks up the exports of the roles that the component has.
    ///
    /// # Errors
    /// An export has another type than the contract gives it.
    fn roles(
        pre: &wasmtime::component::InstancePre<Self>,
        exported: &[Role],
    ) -> wasmtime::Result<Self::Roles>;

    /// Data for a guest that belongs to no exchange, for `describe` and `check`.
    fn probe(sandbox: Sandbox) -> Self;

    /// The common part.
    fn sandbox(&mut self) -> &mut Sandbox;
}

/// What a first step may cost, in steps.
pub(super) const FIRST_STEP: u32 = 5;

/// The common part of a guest's store.
pub struct Sandbox {
    /// WASI, with nothing granted; made when the guest first asks, since few do.
    wasi: Option<Box<WasiCtx>>,
    /// The guest's resources.
    pub table: ResourceTable,
    /// Where its log lines go.
    pub log: Arc<GuestLog>,
    /// The operator's word on the plugin.
    pub settings: Arc<PluginSettings>,
    limiter: Limiter,
    ticks: u64,
    max_ticks: u64,
    /// Its step is the first of many, in which it makes what it keeps.
    is_first_step: bool,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("ticks", &self.ticks).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// A sandbox with the plugin's limits, whose standard output and error go to its log, named by the exchange.
    pub fn new(settings: Arc<PluginSettings>, memory: Arc<AtomicU64>, exchange: Arc<str>) -> Self {
        let limits = &settings.limits;
        let log = GuestLog::new(settings.grant.clone(), settings.name.clone(), exchange, limits.log);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self {
            wasi: None,
            table,
            log,
            limiter: Limiter {
                memory: limits.memory,
                used: 0,
                together: memory,
                memory_total: limits.memory_total,
            },
            ticks: 0,
            is_first_step: false,
            max_ticks: u64::try_from(limits.cpu_per_step.as_nanos().div_ceil(TICK.as_nanos()))
                .unwrap_or(u64::MAX),
            settings,
        }
    }

    /// The same for a guest that lives on between calls, or is called to see whether it does: in its first step it reads
    /// its configuration, and has [`FIRST_STEP`] times the CPU.
    pub(super) fn with_first_step(mut self) -> Self {
        self.is_first_step = true;
        self
    }

    fn most_ticks(&self) -> u64 {
        self.max_ticks.saturating_mul(if self.is_first_step { FIRST_STEP.into() } else { 1 })
    }

    /// Whether the operator granted this secret.
    pub(super) fn has_secret(&self, name: &str) -> bool {
        self.settings.grant.secret(name).is_some()
    }

    /// Whether the candidate is the secret, compared in constant time.
    pub(super) fn secret_equals(&self, name: &str, candidate: &str) -> bool {
        self.settings.grant.secret(name).is_some_and(|secret| secret.matches(candidate))
    }

    /// WASI and the guest's resources.
    pub fn wasi(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| {
            let ctx = WasiCtx::builder()
                .stdout(self.log.stream(tracing::Level::INFO))
                .stderr(self.log.stream(tracing::Level::WARN))
                .max_random_size(RANDOM)
                .build();
            Box::new(ctx)
        });
        WasiCtxView { ctx, table: &mut self.table }
    }

    /// Gives the guest a fresh CPU budget: it really waited, or received an event.
    pub fn new_step(&mut self) {
        self.ticks = 0;
        self.is_first_step = false;
    }

    /// Linear memory that it has, in bytes: it never shrinks.
    pub fn memory(&self) -> u64 {
        self.limiter.used
    }
}

/// A store for the guest, with its limits armed.
pub fn new_store<T: Guest>(engine: &Engine, data: T) -> Store<T> {
    let mut store = Store::new(engine.wasmtime(), data);
    store.limiter(|data| &mut data.sandbox().limiter);
    store.set_hostcall_fuel(CALL);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(on_tick);
    store
}

/// A tick passed while the guest computed: it lets others run, or has used its budget up.
fn on_tick<T: Guest>(mut store: StoreContextMut<'_, T>) -> wasmtime::Result<UpdateDeadline> {
    let sandbox = store.data_mut().sandbox();
    sandbox.ticks += 1;
    let most = sandbox.most_ticks();
    if sandbox.ticks > most {
        let budget = TICK * u32::try_from(most).unwrap_or(u32::MAX);
        return Err(LimitExceeded::Cpu(budget).into());
    }
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// A guest asked for more than it has.
#[derive(Debug, thiserror::Error)]
pub enum LimitExceeded {
    /// It computed too long without waiting.
    #[error("computed for more than {} between two waits (limits.cpu_per_step)", humantime::format_duration(*.0))]
    Cpu(std::time::Duration),
    /// Its linear memory would have grown too large.
    #[error("wanted {wanted} of memory, over its {limit} (limits.memory)")]
    Memory {
        /// Bytes that it would then have had.
        wanted: ByteSize,
        /// Bytes that it may have.
        limit: ByteSize,
    },
    /// All exchanges of the plugin together have too much.
    #[error("all exchanges of the plugin together wanted more than {0} of memory (limits.memory_total)")]
    MemoryTotal(ByteSize),
    /// It wrote too many log lines.
    #[error("wrote more than {0} to its log (limits.log)")]
    Log(ByteSize),
    /// It lived too long.
    #[error("did not end within {} (limits.exchange_timeout)", humantime::format_duration(*.0))]
    WallClock(std::time::Duration),
    /// It was told to end, and went on for so long.
    #[error("went on for {} after it was told to end", humantime::format_duration(*.0))]
    Farewell(std::time::Duration),
    /// A filter took too long over one call.
    #[error("took longer than {} (limits.filter_timeout)", humantime::format_duration(*.0))]
    FilterTime(std::time::Duration),
    /// It sent too many requests.
    #[error("sent more than {0} requests (limits.requests)")]
    Requests(u32),
}

impl LimitExceeded {
    /// Which limit, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Memory { .. } => "memory",
            Self::MemoryTotal(_) => "memory_total",
            Self::Log(_) => "log",
            Self::WallClock(_) | Self::Farewell(_) | Self::FilterTime(_) => "wall_clock",
            Self::Requests(_) => "requests",
        }
    }
}

#[derive(Debug)]
struct Limiter {
    memory: ByteSize,
    used: u64,
    /// Bytes of all exchanges of the plugin.
    together: Arc<AtomicU64>,
    memory_total: ByteSize,
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.together.fetch_sub(self.used, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = self.used + desired.saturating_sub(current) as u64;
        if after > self.memory.as_u64() {
            return Err(LimitExceeded::Memory { wanted: ByteSize(after), limit: self.memory }.into());
        }
        let more = after - self.used;
        let together = self.together.fetch_add(more, Ordering::Relaxed) + more;
        if together > self.memory_total.as_u64() {
            self.together.fetch_sub(more, Ordering::Relaxed);
            return Err(LimitExceeded::MemoryTotal(self.memory_total).into());
        }
        self.used = after;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        const TABLE_ELEMENTS: usize = 20_000;
        Ok(desired <= TABLE_ELEMENTS)
    }
}
