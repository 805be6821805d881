//! Exchanges: one call of a plugin, in an instance of its own, from its admission to its end.
//!
//! Invariant: one exchange, one instance. Whatever a guest does ends this exchange and nothing else, and an instance
//! that trapped is never used again. The permit that bounds exchanges is given back after the instance is gone.

mod bindings;
mod connection;
mod exchange;
mod imports;
mod mailbox;
mod pacing;
mod responder;
mod run;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::delivery::{DeliveryFailure, PluginDelivery, Webhooks};
use crate::domain::Clock;
use crate::egress::Egress;
use crate::hub::Hub;
use crate::plugins::{Catalogue, Endpoint, Engine, Gate, Generation, InUse, Plugin, Refusal, Role};
use crate::store::Store;
use crate::tasks::Tasks;

pub use connection::{Answers, Frames, SocketFrame, SocketPeer, ToPeer};
pub use exchange::Exchange;
pub use responder::ExchangeBody;

use exchange::Services;
use mailbox::Closing;
use responder::Responder;
use run::Outcome;
use slots::{Slot, Slots};

/// What a caller should wait when all plugins together hold the engine's slots.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// A request for a plugin, with what the host has established about it.
#[derive(Debug)]
pub struct HttpCall {
    /// Names the exchange in logs, traces and `x-request-id`.
    pub exchange: String,
    /// Parameters of the route, percent-decoded.
    pub params: Vec<(String, String)>,
    /// Upper case.
    pub method: String,
    /// Percent-encoded path.
    pub path: String,
    /// What follows the `?`.
    pub query: Option<String>,
    /// Lower-case names; values that are not UTF-8 are left out.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
    /// The body's share of the memory for bodies, given back when the exchange ends.
    pub body_permit: Option<OwnedSemaphorePermit>,
    /// The caller's address.
    pub client: String,
    /// Name of the key that the caller showed.
    pub caller: Option<String>,
}

/// A request that got no answer from the plugin.
#[derive(Debug, thiserror::Error)]
pub enum HttpFailure {
    /// It ended without an answer: answer 500, without details.
    #[error("the plugin failed")]
    Failed,
    /// It did not answer within its time: answer 504.
    #[error("the plugin did not answer in time")]
    TimedOut,
}

/// What exchanges need of the rest of the gateway.
#[derive(Debug)]
pub struct Parts {
    /// Submitting and cancelling.
    pub tasks: Tasks,
    /// Following.
    pub hub: Hub,
    /// The plugins' kv.
    pub store: Arc<dyn Store>,
    /// Outgoing requests.
    pub egress: Egress,
    /// Callbacks.
    pub webhooks: Webhooks,
    /// Time stamps.
    pub clock: Clock,
}

/// Runs exchanges. Cheap to clone.
#[derive(Clone)]
pub struct Exchanges {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    catalogue: Catalogue<Exchange>,
    services: Arc<Services>,
    slots: Slots,
    shutdown: CancellationToken,
    /// Exchanges of requests and deliveries.
    running: TaskTracker,
    /// Exchanges of connections, which end when somebody wants them to.
    connected: TaskTracker,
}

impl std::fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchanges")
            .field("running", &self.shared.running.len())
            .field("connected", &self.shared.connected.len())
            .finish_non_exhaustive()
    }
}

/// What must be held while an exchange lives, dropped after its store.
#[derive(Debug)]
pub struct Admission {
    _slot: Slot,
    _permit: OwnedSemaphorePermit,
}

/// Counts a connection that a plugin serves.
struct Open(metrics::Gauge);

impl Open {
    fn begin(plugin: &str) -> Self {
        let gauge = metrics::gauge!("plugway_sockets_open", "plugin" => plugin.to_owned());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Exchanges {
    /// Runs exchanges of the catalogue's plugins. `shutdown` tells guests that the host is going down.
    pub fn new(
        engine: Engine,
        catalogue: Catalogue<Exchange>,
        parts: Parts,
        shutdown: CancellationToken,
    ) -> Self {
        let Parts { tasks, hub, store, egress, webhooks, clock } = parts;
        let services =
            Services { tasks, hub, pacer: pacing::Pacer::new(store.clone()), store, egress, webhooks, clock };
        let slots = Slots::new(engine.slots(), engine.reserved_slots());
        let shared = Shared {
            engine,
            catalogue,
            services: Arc::new(services),
            slots,
            shutdown,
            running: TaskTracker::new(),
            connected: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The plugins.
    pub fn catalogue(&self) -> &Catalogue<Exchange> {
        &self.shared.catalogue
    }

    /// Waits until no exchange of a request or delivery runs; new ones may still begin.
    pub async fn idle(&self) {
        while !self.shared.running.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until no exchange runs any more, or the time is over. Returns how many were left.
    pub async fn drain(&self, patience: Duration) -> usize {
        let Shared { running, connected, .. } = &*self.shared;
        running.close();
        connected.close();
        let _ =
            tokio::time::timeout(patience, async { tokio::join!(running.wait(), connected.wait()) }).await;
        running.len() + connected.len()
    }

    /// Waits until the plugin may have another exchange. What serves may have changed meanwhile: look it up afterwards.
    async fn admit(&self, plugin: &Plugin, gate: &Gate) -> Result<Admission, Refusal> {
        let deadline = Instant::now() + plugin.settings.limits.waiting_timeout;
        let permit = gate.admit(deadline).await?;
        let slot = self.shared.slots.take(&plugin.slots, deadline).await;
        let slot = slot.ok_or(Refusal::Busy(BUSY_RETRY))?;
        gate.rested()?;
        Ok(Admission { _permit: permit, _slot: slot })
    }

    /// Waits until the plugin may answer another request. What serves may have changed meanwhile, so the endpoint for
    /// [`Exchanges::http`] is to be looked up afterwards.
    ///
    /// # Errors
    /// [`Refusal`]: answer 503 with `Retry-After`.
    pub async fn admit_request(&self, plugin: &Plugin) -> Result<Admission, Refusal> {
        self.admit(plugin, &plugin.requests).await
    }

    /// The same for a WebSocket connection and [`Exchanges::socket`].
    ///
    /// # Errors
    /// As there.
    pub async fn admit_connection(&self, plugin: &Plugin) -> Result<Admission, Refusal> {
        self.admit(plugin, &plugin.sockets).await
    }

    fn closing(
        &self,
        plugin: &Plugin,
        generation: &Generation<Exchange>,
        peer_gone: CancellationToken,
    ) -> Closing {
        Closing {
            peer_gone,
            shutdown: self.shared.shutdown.clone(),
            replaced: generation.closing.clone(),
            deadline: Some(Instant::now() + run::told_after(plugin.settings.limits.exchange_timeout)),
        }
    }

    /// Lets a plugin answer a request. Returns as soon as it has begun to; the exchange may go on after that. Dropped
    /// before that, the exchange is told that its client is gone.
    ///
    /// # Errors
    /// [`HttpFailure`]: there is no answer.
    pub async fn http(
        &self,
        admission: Admission,
        endpoint: &Endpoint<Exchange>,
        call: HttpCall,
    ) -> Result<Response<ExchangeBody>, HttpFailure> {
        let plugin = endpoint.plugin.clone();
        let generation = InUse::begin(endpoint.generation.clone());
        let peer_gone = CancellationToken::new();
        let guard = peer_gone.clone().drop_guard();
        let (responder, head) = Responder::new(peer_gone.clone());
        let closing = self.closing(&plugin, &generation, peer_gone);
        let (engine, services) = (self.shared.engine.clone(), self.shared.services.clone());
        let route = endpoint.route.clone();
        let run = async move {
            let outcome =
                run::http(&engine, services, plugin, &generation, route, call, closing, responder).await;
            drop(admission);
            outcome
        };
        let run = self.shared.running.spawn_on(run, self.shared.engine.guests());
        match head.await {
            Ok(response) => {
                // From here on the body tells when the client goes.
                guard.disarm();
                Ok(response)
            }
            Err(_) => match run.await {
                Ok(Outcome::TimedOut) => Err(HttpFailure::TimedOut),
                Ok(_) => Err(HttpFailure::Failed),
                Err(error) => {
                    tracing::error!(plugin = %endpoint.plugin.name(), %error, "the host failed in an exchange");
                    Err(HttpFailure::Failed)
                }
            },
        }
    }

    /// Lets a plugin serve a WebSocket connection that is open. `room` bytes of messages may wait in each direction. The
    /// exchange ends some time after the returned side was dropped.
    pub fn socket(
        &self,
        admission: Admission,
        endpoint: &Endpoint<Exchange>,
        call: HttpCall,
        room: usize,
    ) -> SocketPeer {
        let plugin = endpoint.plugin.clone();
        let generation = InUse::begin(endpoint.generation.clone());
        let peer_gone = CancellationToken::new();
        let (outlet, inbox, peer) = connection::connection(room, peer_gone.clone());
        let closing = Closing {
            peer_gone,
            shutdown: self.shared.shutdown.clone(),
            // Cancelled with the generation's, or by itself when that has drained for long enough.
            replaced: generation.closing.child_token(),
            deadline: None,
        };
        let (engine, services) = (self.shared.engine.clone(), self.shared.services.clone());
        let route = endpoint.route.clone();
        let open = Open::begin(plugin.name());
        let run = async move {
            let (ends, _open) = ((outlet, inbox), open);
            run::socket(&engine, services, plugin, &generation, route, call, closing, ends).await;
            drop(admission);
        };
        self.shared.connected.spawn_on(run, self.shared.engine.guests());
        peer
    }

    /// Lets a plugin carry a task's outcome to its platform, or tell that this was given up, and returns when it is done.
    /// Dropping the future ends the exchange.
    ///
    /// # Errors
    /// [`DeliveryFailure`]: what is to become of the delivery.
    pub async fn deliver(&self, delivery: PluginDelivery) -> Result<(), DeliveryFailure> {
        let plugin = delivery.plugin.as_str();
        let not_now = |after: Duration, reason: String| DeliveryFailure::NotNow { after, reason };
        let serving = || {
            let snapshot = self.shared.catalogue.snapshot();
            let entry = snapshot.plugins.get(plugin).filter(|entry| !entry.disabled);
            let serving = entry.and_then(|entry| Some((entry.plugin.clone(), entry.serving.clone()?)));
            serving.ok_or_else(|| {
                not_now(Duration::from_secs(2), format!("no generation of the plugin `{plugin}` serves"))
            })
        };
        let (waiting_for, _) = serving()?;
        let admission = self
            .admit(&waiting_for, &waiting_for.deliveries)
            .await
            .map_err(|refusal| not_now(refusal.retry_after(), "the plugin is busy or resting".into()))?;
        // Another generation may serve by now, or none.
        let (plugin, generation) = serving()?;
        let generation = InUse::begin(generation);
        if !generation.has(Role::Delivery) {
            // A later build may have it again.
            let reason = format!("the plugin `{}` has no delivery role", plugin.name());
            return Err(not_now(Duration::from_secs(2), reason));
        }
        let closing = self.closing(&plugin, &generation, CancellationToken::new());
        let (engine, services) = (self.shared.engine.clone(), self.shared.services.clone());
        let run = async move {
            let result = run::deliver(&engine, services, plugin, &generation, delivery, closing).await;
            drop(admission);
            result
        };
        // Whoever abandons the delivery may have lost its lease: the guest must not go on beside another try.
        let run = AbortOnDropHandle::new(self.shared.running.spawn_on(run, self.shared.engine.guests()));
        run.await.unwrap_or_else(|error| Err(DeliveryFailure::Broken(format!("the host failed: {error}"))))
    }
}
