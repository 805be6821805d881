//! The role `filter`: judging one event or one input with an instance from the plugin's pool, within its limits.
//!
//! Invariant: whatever a guest does, a call ends within its limits with a step or a fault, and a fault costs its
//! instance. What becomes of the event then is not decided here.

mod directory;
mod guest;
mod pool;

use std::mem::take;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;
use wasmtime::component::InstancePre;

use super::bindings::filter::exports::plugway::gateway::filter as wit;
use super::config::{Limits, Policy};
use super::engine::Engine;
use super::failure::{FailureKind, HostFault, classify, describe};
use super::plugin::Plugin;
use super::sandbox::{FIRST_STEP, Guest as _, LimitExceeded, Sandbox, new_store};
use super::settings::PluginSettings;
use guest::Indices;
use pool::Instance;

pub use directory::{Absent, FilterDirectory};
pub(super) use guest::FilterGuest;
pub(super) use pool::FilterPool;

/// What the engine's stores may take in beside what the limits name.
const SLACK: usize = 1 << 20;

/// A component's role `filter`, ready for instances.
pub(super) struct FilterRole {
    engine: Engine,
    pre: InstancePre<FilterGuest>,
    indices: Indices,
}

/// An event on its way to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Canonical kind.
    pub kind: String,
    /// JSON object.
    pub data: String,
}

/// What a filter made of an event.
#[derive(Debug)]
pub struct Step {
    /// For the next call for this task.
    pub state: Vec<u8>,
    /// What goes on in place of the event.
    pub events: Vec<Draft>,
}

/// What a filter says to a task's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// As it is.
    Pass,
    /// This document in its place.
    Replace(String),
    /// Not at all: why.
    Refuse(String),
}

/// A filter did not judge what it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FilterFault {
    /// For metrics.
    pub kind: &'static str,
    /// For people; holds nothing of what it was given.
    pub reason: String,
}

impl FilterFault {
    /// A fault that is neither a trap nor a limit of the engine's.
    pub fn new(kind: &'static str, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

/// A filter as it serves now, or did when it was looked up. Its idle instances live as long as anybody has one.
#[derive(Clone)]
pub struct Filter(Arc<Held>);

struct Held {
    plugin: Arc<Plugin>,
    role: Arc<FilterRole>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.plugin.filtering.forget(&self.role);
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Filter").field(self.name()).finish()
    }
}

impl Filter {
    fn new(plugin: Arc<Plugin>, role: Arc<FilterRole>) -> Self {
        Self(Arc::new(Held { plugin, role }))
    }

    /// Whether it is this role of this plugin.
    fn is(&self, plugin: &Arc<Plugin>, role: &Arc<FilterRole>) -> bool {
        Arc::ptr_eq(&self.0.plugin, plugin) && Arc::ptr_eq(&self.0.role, role)
    }

    /// The plugin's name.
    pub fn name(&self) -> &Arc<str> {
        self.0.plugin.name()
    }

    /// What becomes of what it can't judge.
    pub fn policy(&self) -> Policy {
        self.0.plugin.settings.policy
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.0.plugin.settings.limits
    }

    /// The runtime that it is to be called on.
    pub fn guests(&self) -> &tokio::runtime::Handle {
        self.0.role.engine.guests()
    }

    /// Whether it rests because it failed again and again. Only of a filter whose faults are passed over: another one's
    /// are each somebody's own.
    pub fn is_aside(&self) -> bool {
        self.policy() == Policy::Skip && self.0.plugin.filtering.aside_for().is_some()
    }

    /// What it makes of an event of the task, which stays as it is. To be called on [`Filter::guests`]; dropping the call
    /// costs the instance.
    ///
    /// # Errors
    /// It trapped, broke a limit or took too long.
    pub async fn apply(
        &self,
        task: &Arc<str>,
        state: &[u8],
        event: &mut Draft,
        began: Instant,
    ) -> Result<Step, FilterFault> {
        self.fits(event.kind.len() + event.data.len())?;
        let mut lease = self.lease(task).await?;
        let Some(Instance { store, exports, calls, .. }) = &mut lease.instance else { return Err(lost()) };
        let is_first = *calls == 1;
        let filter = exports.plugway_gateway_filter();
        // Moved into the contract's own type and back, since copying is what a call costs most for.
        let draft = wit::Draft { kind: take(&mut event.kind), data: take(&mut event.data) };
        let step = self.bounded(is_first, filter.call_apply(store, task, state, &draft)).await;
        (event.kind, event.data) = (draft.kind, draft.data);
        match step {
            Ok(wit::Step { state, events }) => {
                lease.give_back();
                self.succeeded(began);
                let events = events.into_iter().map(|event| Draft { kind: event.kind, data: event.data });
                Ok(Step { state, events: events.collect() })
            }
            Err(error) => Err(fault(&error)),
        }
    }

    /// What it says to a task's input. Where and how, as [`Filter::apply`].
    ///
    /// # Errors
    /// As there.
    pub async fn admit(
        &self,
        exchange: &Arc<str>,
        input: &str,
        began: Instant,
    ) -> Result<Admission, FilterFault> {
        self.fits(input.len())?;
        let mut lease = self.lease(exchange).await?;
        let Some(Instance { store, exports, calls, .. }) = &mut lease.instance else { return Err(lost()) };
        let is_first = *calls == 1;
        let filter = exports.plugway_gateway_filter();
        let admission = self.bounded(is_first, filter.call_admit(store, input)).await;
        match admission {
            Ok(admission) => {
                lease.give_back();
                self.succeeded(began);
                Ok(match admission {
                    wit::Admission::Pass => Admission::Pass,
                    wit::Admission::Replace(input) => Admission::Replace(input),
                    wit::Admission::Refuse(why) => Admission::Refuse(why),
                })
            }
            Err(error) => Err(fault(&error)),
        }
    }

    /// A fault of a filter whose faults are passed over: too many put it aside for a while.
    pub fn passed_over(&self, began: Instant) {
        if let Some(pause) = self.0.plugin.filtering.breaker().trapped(began, None) {
            tracing::error!(
                plugin = %self.name(),
                pause = %humantime::format_duration(pause),
                "the filter failed too often and is put aside: events pass it unfiltered (its policy is skip)"
            );
        }
    }

    fn succeeded(&self, began: Instant) {
        if self.policy() == Policy::Skip {
            self.0.plugin.filtering.breaker().succeeded(began);
        }
    }

    fn fits(&self, bytes: usize) -> Result<(), FilterFault> {
        let most = self.limits().filter_bytes;
        if bytes as u64 > most.as_u64() {
            let reason = format!("what it is to judge has {bytes} bytes, over {most} (limits.filter_bytes)");
            return Err(FilterFault::new("bound", reason));
        }
        Ok(())
    }

    /// An instance with its limits armed anew.
    async fn lease(&self, exchange: &Arc<str>) -> Result<pool::Lease<'_>, FilterFault> {
        let patience = self.limits().filter_timeout;
        let lease = self.0.plugin.filtering.take(&self.0.role, patience).await;
        let mut lease = lease.ok_or_else(|| {
            let time = humantime::format_duration(patience);
            FilterFault::new(
                "busy",
                format!("all its instances were busy for {time} (limits.filter_instances)"),
            )
        })?;
        if lease.instance.is_none() {
            let made = self.0.role.instantiate(&self.0.plugin, exchange).await;
            lease.instance = Some(made.map_err(|error| fault(&error))?);
        }
        if let Some(Instance { store, calls, .. }) = &mut lease.instance {
            store.set_epoch_deadline(1);
            let sandbox = store.data_mut().sandbox();
            // In its first call it reads its configuration.
            if *calls > 0 {
                sandbox.new_step();
            }
            sandbox.log.begin(exchange);
            *calls += 1;
        }
        Ok(lease)
    }

    /// Runs a call until its wall clock is over. Most calls never wait, and pay for no timer.
    async fn bounded<R>(
        &self,
        is_first: bool,
        call: impl Future<Output = wasmtime::Result<R>>,
    ) -> wasmtime::Result<R> {
        let mut call = std::pin::pin!(call);
        if let Poll::Ready(result) = futures::poll!(&mut call) {
            return result;
        }
        let limit = self.limits().filter_timeout * if is_first { FIRST_STEP } else { 1 };
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => Err(LimitExceeded::FilterTime(limit).into()),
        }
    }
}

impl FilterRole {
    pub(super) fn new(engine: Engine, pre: InstancePre<FilterGuest>, indices: Indices) -> Self {
        Self { engine, pre, indices }
    }

    /// Makes one for real, so that what does not fit the contract is found before it serves.
    pub(super) async fn try_out(self: &Arc<Self>, settings: &Arc<PluginSettings>) -> wasmtime::Result<()> {
        self.make(settings, Arc::default(), &"load".into()).await.map(drop)
    }

    async fn instantiate(
        self: &Arc<Self>,
        plugin: &Plugin,
        exchange: &Arc<str>,
    ) -> wasmtime::Result<Instance> {
        let made = self.make(&plugin.settings, plugin.memory.clone(), exchange).await;
        made.map_err(|error| match classify(&error) {
            FailureKind::Limit(_) => error,
            _ => HostFault(format!("no instance to be had: {}", describe(&error))).into(),
        })
    }

    async fn make(
        self: &Arc<Self>,
        settings: &Arc<PluginSettings>,
        memory: Arc<std::sync::atomic::AtomicU64>,
        exchange: &Arc<str>,
    ) -> wasmtime::Result<Instance> {
        let limits = &settings.limits;
        let sandbox = Sandbox::new(settings.clone(), memory, exchange.clone()).with_first_step();
        let mut store = new_store(&self.engine, FilterGuest::new(sandbox));
        let most = limits.filter_bytes.as_u64().saturating_add(limits.filter_state.as_u64());
        store.set_hostcall_fuel(
            usize::try_from(most).unwrap_or(usize::MAX).saturating_mul(2).saturating_add(SLACK),
        );
        let limit = limits.filter_timeout;
        let made = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            self.indices.0.load(&mut store, &instance)
        };
        let made = tokio::time::timeout(limit, made).await;
        let exports = made.map_err(|_| LimitExceeded::FilterTime(limit))??;
        Ok(Instance { role: self.clone(), store, exports, calls: 0 })
    }
}

impl std::fmt::Debug for FilterRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FilterRole")
    }
}

fn fault(error: &wasmtime::Error) -> FilterFault {
    FilterFault::new(classify(error).label(), describe(error))
}

fn lost() -> FilterFault {
    FilterFault::new(FailureKind::Host.label(), "no instance to be had")
}
