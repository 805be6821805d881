//! One exchange from instance to end: within its wall clock, and with an outcome that is logged and counted.

use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::Instance;

use super::HttpCall;
use super::bindings::delivery::exports::plugway::gateway::delivery::Failure;
use super::bindings::mailbox::Reason;
use super::bindings::types;
use super::connection::{Inbox, Outlet};
use super::exchange::{Exchange, Live, Services};
use super::mailbox::{Closing, Mailbox};
use super::responder::Responder;
use crate::delivery::{DeliveryFailure, PluginDelivery};
use crate::domain::TaskId;
use crate::plugins::{
    Blame, Engine, FailureKind, Gate, Generation, HostFault, LimitExceeded, Plugin, Sandbox, classify,
    describe, new_store, shorten,
};

/// Longest that a guest gets between being told to end and its end.
const GRACE: Duration = Duration::from_secs(5);
/// How long a connection has to live to show that its plugin works.
const PROOF: Duration = Duration::from_secs(10);
/// How much of what a guest says of a failure is kept.
const SAID: usize = 2_048;

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The guest returned.
    Returned,
    /// It trapped, or broke a limit.
    Failed,
    /// Its time was up.
    TimedOut,
}

/// When a guest is told that its time is up: before it is, so that it can end by itself.
pub(super) fn told_after(timeout: Duration) -> Duration {
    timeout - (timeout / 10).min(GRACE)
}

/// Answers a request.
#[expect(
    clippy::too_many_arguments,
    reason = "each is moved to another runtime; a struct would only rename them"
)]
pub(super) async fn http(
    engine: &Engine,
    services: Arc<Services>,
    plugin: Arc<Plugin>,
    generation: &Generation<Exchange>,
    route: Arc<str>,
    call: HttpCall,
    closing: Closing,
    responder: Responder,
) -> Outcome {
    let Some(role) = &generation.roles.http else { return Outcome::Failed };
    let id: Arc<str> = call.exchange.as_str().into();
    let peer_gone = closing.peer_gone.clone();
    let mailbox = Mailbox::new(closing, None);
    let mut run = Run::begin(engine, services, plugin, mailbox, id, Caller::Request(responder));
    let request = request(call, &route);
    let timeout = run.plugin.settings.limits.exchange_timeout;
    let store = &mut run.store;
    let handled = bounded(timeout, async {
        let instance = instantiate(generation, store).await?;
        let exports = role.load(&mut *store, &instance)?;
        exports.plugway_gateway_http().call_handle(&mut *store, &request).await
    })
    .await;
    let answered = run.is_answered();
    let outcome = run.end(&run.plugin.requests, generation, peer_gone.is_cancelled(), handled.as_ref().err());
    if let Ok(Err(reason)) = &handled {
        tracing::warn!(plugin = %run.plugin.name(), exchange = %run.id, answered, "the plugin returned an error: {}", run.said(reason));
    } else if handled.is_ok() && !answered {
        tracing::warn!(plugin = %run.plugin.name(), exchange = %run.id, "the plugin returned without an answer");
    }
    outcome
}

/// Serves a WebSocket connection. The guest's time is not bounded before it is told to end.
#[expect(
    clippy::too_many_arguments,
    reason = "each is moved to another runtime; a struct would only rename them"
)]
pub(super) async fn socket(
    engine: &Engine,
    services: Arc<Services>,
    plugin: Arc<Plugin>,
    generation: &Generation<Exchange>,
    route: Arc<str>,
    call: HttpCall,
    closing: Closing,
    (outlet, inbox): (Outlet, Inbox),
) -> Outcome {
    let Some(role) = &generation.roles.socket else { return Outcome::Failed };
    let id: Arc<str> = call.exchange.as_str().into();
    let mailbox = Mailbox::new(closing.clone(), Some(inbox));
    let mut run = Run::begin(engine, services, plugin, mailbox, id, Caller::Connection(outlet));
    // What a session's log has makes a plugin fail as often as somebody asks for that session. A path without parameters
    // is everybody's.
    if !call.params.is_empty() {
        let mut place = DefaultHasher::new();
        call.path.hash(&mut place);
        run.blame = Blame::On(place.finish());
    }
    let upgrade = request(call, &route);
    let drain_timeout = run.plugin.settings.limits.drain_timeout;
    let (plugin, began) = (run.plugin.clone(), run.began);
    let store = &mut run.store;
    let serve = async {
        let instance = instantiate(generation, store).await?;
        let exports = role.load(&mut *store, &instance)?;
        exports.plugway_gateway_socket().call_serve(&mut *store, &upgrade).await
    };
    let drained = async {
        generation.replaced.cancelled().await;
        tokio::time::sleep(drain_timeout).await;
        closing.replaced.cancel();
        std::future::pending::<()>().await;
    };
    let overdue = async {
        closing.closed().await;
        tokio::time::sleep(GRACE).await;
    };
    let proven = async {
        tokio::time::sleep(PROOF).await;
        if !generation.is_replaced() {
            plugin.sockets.succeeded(began);
        }
        std::future::pending::<()>().await;
    };
    let served = tokio::select! {
        served = serve => served,
        () = drained => Err(HostFault("an endless wait ended".into()).into()),
        () = proven => Err(HostFault("an endless wait ended".into()).into()),
        () = overdue => Err(LimitExceeded::Farewell(GRACE).into()),
    };
    let reason = closing.reason();
    let outcome = run.end(&run.plugin.sockets, generation, reason.is_some(), served.as_ref().err());
    if let Ok(Err(reason)) = &served {
        tracing::warn!(plugin = %run.plugin.name(), exchange = %run.id, "the plugin returned an error: {}", run.said(reason));
    }
    let (code, why) = match (&served, reason) {
        (_, Some(Reason::Draining)) if closing.shutdown.is_cancelled() => (1001, "going away"),
        (_, Some(Reason::Draining)) => (1012, "service restart"),
        (Ok(Ok(())), _) => (1000, ""),
        (Err(error), _) if classify(error) == FailureKind::Host => (1013, "try again later"),
        _ => (1011, "internal error"),
    };
    if let Some(outlet) = run.store.data_mut().outlet() {
        outlet.end(code, why.into());
    }
    outcome
}

/// A request as the guest sees it.
fn request(call: HttpCall, route: &str) -> types::HttpRequest {
    types::HttpRequest {
        exchange: call.exchange,
        route: route.to_owned(),
        params: call.params,
        method: call.method,
        path: call.path,
        query: call.query,
        headers: call.headers,
        body: call.body.into(),
        client: call.client,
        caller: call.caller,
    }
}

/// Carries a task's outcome to a platform, or tells that this was given up.
pub(super) async fn deliver(
    engine: &Engine,
    services: Arc<Services>,
    plugin: Arc<Plugin>,
    generation: &Generation<Exchange>,
    delivery: PluginDelivery,
    closing: Closing,
) -> Result<(), DeliveryFailure> {
    let PluginDelivery { task, address, given_up, .. } = delivery;
    let Some(role) = &generation.roles.delivery else {
        return Err(DeliveryFailure::Broken("the plugin has no delivery role".into()));
    };
    let closed = closing.clone();
    let id: Arc<str> = task.to_string().into();
    let mailbox = Mailbox::new(closing, None);
    let mut run = Run::begin(engine, services, plugin, mailbox, id, Caller::Outbox(task));
    let timeout = run.plugin.settings.limits.exchange_timeout;
    let store = &mut run.store;
    let delivered = bounded(timeout, async {
        let instance = instantiate(generation, store).await?;
        let exports = role.load(&mut *store, &instance)?;
        let (guest, task) = (exports.plugway_gateway_delivery(), task.to_string());
        match given_up {
            None => guest.call_deliver(&mut *store, &task, &address).await,
            Some(reason) => {
                let told = guest.call_given_up(&mut *store, &task, &address, &reason).await?;
                Ok(told.map_err(Failure::Permanent))
            }
        }
    })
    .await;
    run.end(&run.plugin.deliveries, generation, false, delivered.as_ref().err());
    match delivered {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failure::Retry(_))) if closed.shutdown.is_cancelled() || closed.replaced.is_cancelled() => {
            // It was asked to stop: not its fault, and no reason to wait.
            Err(DeliveryFailure::NotNow { after: Duration::ZERO, reason: "its generation was closed".into() })
        }
        Ok(Err(Failure::Retry(retry))) => Err(DeliveryFailure::Retry {
            after: Duration::from_millis(retry.after_ms),
            reason: run.said(&retry.reason),
        }),
        Ok(Err(Failure::Permanent(why))) => Err(DeliveryFailure::Permanent(run.said(&why))),
        Err(error) => Err(DeliveryFailure::Broken(describe(&error))),
    }
}

/// Runs a guest's call until its wall clock is over. Dropping the call is the only certain end of it.
async fn bounded<R>(
    timeout: Duration,
    call: impl Future<Output = wasmtime::Result<R>>,
) -> wasmtime::Result<R> {
    match tokio::time::timeout(timeout, call).await {
        Ok(result) => result,
        Err(_) => Err(LimitExceeded::WallClock(timeout).into()),
    }
}

/// Who is answered.
enum Caller {
    Request(Responder),
    Connection(Outlet),
    /// Nobody: what became of this task is carried to a platform.
    Outbox(TaskId),
}

/// An exchange that runs.
struct Run {
    store: Store<Exchange>,
    plugin: Arc<Plugin>,
    id: Arc<str>,
    began: Instant,
    /// Whose fault a failure would be.
    blame: Blame,
}

impl Run {
    fn begin(
        engine: &Engine,
        services: Arc<Services>,
        plugin: Arc<Plugin>,
        mailbox: Mailbox,
        id: Arc<str>,
        caller: Caller,
    ) -> Self {
        let (responder, connection, task) = match caller {
            Caller::Request(responder) => (Some(responder), None, None),
            Caller::Connection(outlet) => (None, Some(outlet), None),
            Caller::Outbox(task) => (None, None, Some(task)),
        };
        let sandbox = Sandbox::new(plugin.settings.clone(), plugin.memory.clone(), id.clone());
        let live = Live {
            services,
            plugin: plugin.clone(),
            mailbox,
            responder,
            connection,
            own_tasks: task.into_iter().collect(),
            requests_sent: 0,
        };
        let store = new_store(engine, Exchange::new(sandbox, live));
        Self { store, plugin, id, began: Instant::now(), blame: Blame::Plugin }
    }

    /// What a guest says of a failure, fit for logs and dead letters: shortened, and without secrets.
    fn said(&self, words: &str) -> String {
        shorten(&self.plugin.settings.grant.redactor().text(words), SAID)
    }

    fn is_answered(&self) -> bool {
        let live = self.store.data().live_opt();
        live.and_then(|live| live.responder.as_ref()).is_some_and(Responder::is_answered)
    }

    /// Counts and logs how the guest's call ended.
    fn end(
        &self,
        gate: &Gate,
        generation: &Generation<Exchange>,
        told_to_end: bool,
        error: Option<&wasmtime::Error>,
    ) -> Outcome {
        gate.record(self.began.elapsed(), self.store.data().sandbox_ref().memory());
        let Some(error) = error else {
            if !generation.is_replaced() {
                gate.succeeded(self.began);
            }
            return Outcome::Returned;
        };
        let kind = classify(error);
        let timed_out = kind == FailureKind::Limit("wall_clock");
        // A client that reads too slowly, or has gone, is no fault of the plugin's; what all its exchanges have together is
        // none of this one's, and what an old generation does is none of the one's that serves.
        let excused = match kind {
            FailureKind::Host | FailureKind::Limit("memory_total") => true,
            _ => timed_out && told_to_end || generation.is_replaced(),
        };
        let (plugin, exchange, role, label) = (self.plugin.name(), &self.id, gate.role(), kind.label());
        let why = describe(error);
        if timed_out && told_to_end {
            tracing::warn!(%plugin, %exchange, role, kind = label, "the plugin's exchange was ended: {why}");
        } else {
            tracing::error!(%plugin, %exchange, role, kind = label, "the plugin's exchange was ended: {why}");
        }
        gate.failed(kind, self.began, if excused { Blame::None } else { self.blame });
        if timed_out { Outcome::TimedOut } else { Outcome::Failed }
    }
}

/// An instance of its own. That there is none to be had is no fault of the plugin's.
async fn instantiate(
    generation: &Generation<Exchange>,
    store: &mut Store<Exchange>,
) -> wasmtime::Result<Instance> {
    let instance = generation.pre().instantiate_async(store).await;
    instance.map_err(|error| match classify(&error) {
        FailureKind::Limit(_) => error,
        _ => HostFault(format!("no instance to be had: {}", describe(&error))).into(),
    })
}
