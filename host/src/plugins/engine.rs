//! The wasmtime engine: its settings, the ticker behind CPU limits, and the runtime that guests run on.
//!
//! Invariant: a guest never runs on the runtime that serves native routes, and every guest is interrupted once a tick
//! while any guest runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Length of a tick of the CPU limit.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Largest `reserve`, in percent.
const MOST_RESERVED: u32 = 90;
/// Ticks without a guest before the ticker sleeps: waking it costs more than a tick, so it is not done per request.
const LINGER: u32 = 20;
/// Stack that a guest's own calls may use; deeper recursion traps.
const GUEST_STACK: usize = 512 << 10;
/// Core modules a component may be made of. Rust's have three: the module, the shim and its fix-up.
const CORE_INSTANCES_PER_PLUGIN: u32 = 4;

/// Settings of the engine, `[engine]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Exchanges that may live at once, over all plugins. Each needs about seven of the kernel's memory mappings
    /// (`vm.max_map_count`); what it does not allow is taken off, with a warning.
    pub exchanges: u32,
    /// Part of the exchanges, in percent, that only plugins may use that have few.
    pub reserve: u32,
    /// Threads that run guests; 0: as many as the machine has processors.
    pub threads: usize,
    /// Components that are loaded at once; more wait.
    pub loads: u32,
    /// How long the start waits for components before it serves those that are loaded.
    #[serde(with = "humantime_serde")]
    pub first_load: Duration,
    /// Memory that compiling a component may take.
    pub compile_memory: ByteSize,
    /// Time that it may take.
    #[serde(with = "humantime_serde")]
    pub compile_timeout: Duration,
}

impl EngineConfig {
    /// What no type can say.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.reserve > MOST_RESERVED {
            return Err(("reserve", "must be at most 90 percent"));
        }
        let positive = [
            ("exchanges", u64::from(self.exchanges)),
            ("loads", u64::from(self.loads)),
            ("compile_memory", self.compile_memory.as_u64()),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err((key, "must be more than nothing"));
        }
        if self.compile_timeout.is_zero() {
            return Err(("compile_timeout", "must be longer than nothing"));
        }
        Ok(())
    }
}

/// The engine can't be had on this machine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The address space is not to be had.
    #[error(
        "no room for {slots} exchanges of {memory}: {reason}; lower engine.exchanges or the plugins' memory"
    )]
    NoRoom {
        /// Exchanges asked for.
        slots: u32,
        /// Memory of each.
        memory: bytesize::ByteSize,
        /// What the system said.
        reason: String,
    },
    /// A thread can't be started.
    #[error("can't start the threads that run plugins: {0}")]
    Threads(#[source] std::io::Error),
}

/// The engine, and what runs beside it. Cheap to clone; stops with the last clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    engine: wasmtime::Engine,
    largest_memory: usize,
    slots: u32,
    reserve: u32,
    loads: u32,
    guests: tokio::runtime::Handle,
    /// Owned so that it is shut down in the background when the engine goes.
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("slots", &self.inner.slots).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Engine {
    /// Builds the engine.
    ///
    /// # Arguments
    /// `largest_memory`: the largest linear memory that any plugin may be granted, in bytes; `filters`: instances that
    /// filters may have beside the exchanges.
    ///
    /// # Errors
    /// The machine refuses the address space, or a thread.
    pub fn new(config: &EngineConfig, largest_memory: usize, filters: u32) -> Result<Self, EngineError> {
        let slots = affordable_slots(config.exchanges);
        let others = config.loads.saturating_add(filters);
        let engine = wasmtime::Engine::new(&settings(slots.saturating_add(others), largest_memory)).map_err(
            |error| {
                let memory = bytesize::ByteSize(largest_memory as u64);
                EngineError::NoRoom { slots, memory, reason: super::failure::describe(&error) }
            },
        )?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            n => n,
        };
        // Every thread of guests runs until it first has nothing to do.
        let running = Arc::new(AtomicUsize::new(threads));
        let ticker = spawn_ticker(&engine, &running).map_err(EngineError::Threads)?;
        let (parked, unparked, woken) = (running.clone(), running.clone(), ticker.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("plugway-guest")
            .on_thread_park(move || {
                parked.fetch_sub(1, Ordering::AcqRel);
            })
            .on_thread_unpark(move || {
                if unparked.fetch_add(1, Ordering::AcqRel) == 0 {
                    woken.unpark();
                }
            })
            .enable_all()
            .build()
            .map_err(EngineError::Threads)?;
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                largest_memory,
                slots,
                reserve: config.reserve,
                loads: config.loads,
                guests: runtime.handle().clone(),
                runtime: Some(runtime),
            }),
        })
    }

    /// The wasmtime engine itself.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner.engine
    }

    /// Exchanges that may live at once.
    pub fn slots(&self) -> usize {
        self.inner.slots as usize
    }

    /// Those of them that only plugins may use that have few.
    pub fn reserved_slots(&self) -> usize {
        self.slots() * self.inner.reserve as usize / 100
    }

    /// Components that may be loaded at once.
    pub(super) fn loads(&self) -> usize {
        self.inner.loads as usize
    }

    /// The largest linear memory that any plugin may be granted, in bytes.
    pub(super) fn largest_memory(&self) -> usize {
        self.inner.largest_memory
    }

    /// The runtime that guests run on: its threads keep the ticker going while they have anything to do.
    pub fn guests(&self) -> &tokio::runtime::Handle {
        &self.inner.guests
    }
}

/// Advances the epoch once a tick while a guest may run and for a while after, and sleeps otherwise. Ends with the
/// engine.
fn spawn_ticker(engine: &wasmtime::Engine, running: &Arc<AtomicUsize>) -> std::io::Result<Thread> {
    let (engine, running) = (engine.weak(), Arc::downgrade(running));
    let handle = std::thread::Builder::new().name("plugway-ticker".into()).spawn(move || {
        let mut idle_ticks = 0;
        loop {
            let Some(running) = running.upgrade() else { return };
            idle_ticks = if running.load(Ordering::Acquire) == 0 { idle_ticks + 1 } else { 0 };
            if idle_ticks > LINGER {
                drop(running);
                // Woken by the first guest; the timeout only notices that the engine is gone.
                std::thread::park_timeout(Duration::from_secs(5));
                idle_ticks = 0;
                continue;
            }
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
            drop(engine);
            drop(running);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(handle.thread().clone())
}

/// Settings found by prototype; each is worth a factor (see docs/adr/0002-engine-settings.md).
fn settings(slots: u32, largest_memory: usize) -> Config {
    let core = slots.saturating_mul(CORE_INSTANCES_PER_PLUGIN);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(core)
        .total_memories(slots)
        .total_tables(core)
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES_PER_PLUGIN)
        .max_memories_per_component(1)
        .max_tables_per_component(CORE_INSTANCES_PER_PLUGIN)
        .max_memory_size(largest_memory)
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = compile_settings(largest_memory);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// All that an artefact depends on, without the pool: what compiles needs no room for instances.
pub(super) fn compile_settings(largest_memory: usize) -> Config {
    let mut config = Config::new();
    config
        .memory_reservation(largest_memory as u64)
        .max_wasm_stack(GUEST_STACK)
        .async_stack_size(GUEST_STACK + (256 << 10))
        .epoch_interruption(true)
        .concurrency_support(false)
        .wasm_component_model(true);
    config
}

/// As many slots as asked for, or as the kernel's limit on memory mappings carries.
fn affordable_slots(wanted: u32) -> u32 {
    const MAPPINGS_PER_EXCHANGE: u32 = 7;
    const OTHERS: u32 = 4_000;
    let limit =
        std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
    let Some(limit) = limit else { return wanted };
    let carried = u32::saturating_sub(limit, OTHERS) / MAPPINGS_PER_EXCHANGE;
    if carried < wanted {
        tracing::warn!(
            wanted,
            carried,
            "vm.max_map_count is too low for engine.exchanges; raise it with: sysctl -w vm.max_map_count={}",
            u64::from(wanted) * u64::from(MAPPINGS_PER_EXCHANGE) + u64::from(OTHERS)
        );
    }
    wanted.min(carried).max(1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An engine with room for a few instances.
    pub(in crate::plugins) fn small_engine() -> Engine {
        let config = EngineConfig {
            exchanges: 4,
            reserve: 0,
            threads: 1,
            loads: 2,
            first_load: Duration::from_secs(10),
            compile_memory: ByteSize::gib(2),
            compile_timeout: Duration::from_secs(60),
        };
        Engine::new(&config, 16 << 20, 4).unwrap()
    }
}
