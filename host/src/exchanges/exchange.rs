//! The data of one exchange's store: who it is, what it may use, and where its answer goes.

use std::collections::HashSet;
use std::sync::Arc;

use wasmtime::component::{InstancePre, Linker};
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::bindings::{delivery, http, imports, socket};
use super::connection::Outlet;
use super::mailbox::Mailbox;
use super::pacing::{Lanes, Pacer};
use super::responder::Responder;
use crate::delivery::Webhooks;
use crate::domain::{Clock, TaskId};
use crate::egress::Egress;
use crate::hub::Hub;
use crate::plugins::{Guest, Plugin, Role, Sandbox};
use crate::store::Store;
use crate::tasks::Tasks;

/// Runs an import, and tells whether it really waited: a call that was answered at once earns no CPU time.
pub(crate) async fn waited<F: Future>(import: F) -> (F::Output, bool) {
    let mut import = std::pin::pin!(import);
    let mut pended = false;
    let output = std::future::poll_fn(|cx| {
        let poll = import.as_mut().poll(cx);
        pended |= poll.is_pending();
        poll
    })
    .await;
    (output, pended)
}

/// What all exchanges share.
pub(crate) struct Services {
    pub(crate) tasks: Tasks,
    pub(crate) hub: Hub,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) egress: Egress,
    pub(crate) webhooks: Webhooks,
    pub(crate) pacer: Pacer,
    pub(crate) clock: Clock,
}

/// Data of one exchange's store. `live` is none while a plugin is only asked to describe itself.
#[derive(Debug)]
pub struct Exchange {
    sandbox: Sandbox,
    live: Option<Live>,
}

/// An exchange that serves.
pub(crate) struct Live {
    pub(crate) services: Arc<Services>,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) mailbox: Mailbox,
    /// None where there is no request to answer.
    pub(crate) responder: Option<Responder>,
    /// None where there is no WebSocket.
    pub(crate) connection: Option<Outlet>,
    /// Tasks that are known to be the plugin's own.
    pub(crate) own_tasks: HashSet<TaskId>,
    pub(crate) requests_sent: u32,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("plugin", self.plugin.name()).finish_non_exhaustive()
    }
}

impl Live {
    /// The plugin's pacing lanes.
    pub(crate) fn lanes(&self) -> Arc<Lanes> {
        self.services.pacer.of(self.plugin.name())
    }
}

impl Exchange {
    pub(crate) fn new(sandbox: Sandbox, live: Live) -> Self {
        Self { sandbox, live: Some(live) }
    }

    /// The serving exchange.
    ///
    /// # Errors
    /// Traps a plugin that calls out while it is only asked to describe itself.
    pub(crate) fn live(&mut self) -> wasmtime::Result<&mut Live> {
        self.live
            .as_mut()
            .ok_or_else(|| wasmtime::Error::msg("`describe` and `check` may call nothing but `host`"))
    }

    /// The way out of the exchange's WebSocket.
    pub(crate) fn outlet(&mut self) -> Option<&mut Outlet> {
        self.live.as_mut().and_then(|live| live.connection.as_mut())
    }

    pub(crate) fn live_opt(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    pub(crate) fn new_step(&mut self) {
        self.sandbox.new_step();
    }

    /// Gives the guest a fresh CPU budget if an import really waited.
    pub(crate) fn new_step_if(&mut self, waited: bool) {
        if waited {
            self.sandbox.new_step();
        }
    }

    pub(crate) fn sandbox_ref(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn table(&mut self) -> &mut wasmtime::component::ResourceTable {
        &mut self.sandbox.table
    }
}

impl WasiView for Exchange {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.sandbox.wasi()
    }
}

/// The roles of a component that exchanges serve.
pub struct Roles {
    pub(crate) http: Option<http::HttpExportsIndices>,
    pub(crate) socket: Option<socket::SocketExportsIndices>,
    pub(crate) delivery: Option<delivery::DeliveryExportsIndices>,
}

impl std::fmt::Debug for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roles")
            .field("http", &self.http.is_some())
            .field("socket", &self.socket.is_some())
            .field("delivery", &self.delivery.is_some())
            .finish()
    }
}

impl Guest for Exchange {
    type Roles = Roles;

    fn link(linker: &mut Linker<Self>) -> wasmtime::Result<()> {
        imports::Exchange::add_to_linker::<_, wasmtime::component::HasSelf<Self>>(linker, |exchange| exchange)
    }

    fn roles(pre: &InstancePre<Self>, exported: &[Role]) -> wasmtime::Result<Roles> {
        let has = |role| exported.contains(&role);
        Ok(Roles {
            http: has(Role::Http).then(|| http::HttpExportsIndices::new(pre)).transpose()?,
            socket: has(Role::Socket).then(|| socket::SocketExportsIndices::new(pre)).transpose()?,
            delivery: has(Role::Delivery).then(|| delivery::DeliveryExportsIndices::new(pre)).transpose()?,
        })
    }

    fn probe(sandbox: Sandbox) -> Self {
        Self { sandbox, live: None }
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.sandbox
    }
}
