//! The data of a filter's store, and the one interface that is linked for it.

use wasmtime::component::{HasSelf, InstancePre, Linker};
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::domain::Clock;
use crate::domain::bounds::RANDOM;
use crate::plugins::bindings::filter::plugway::gateway::host;
use crate::plugins::bindings::filter::{FilterComponent, FilterComponentIndices};
use crate::plugins::generation::Role;
use crate::plugins::sandbox::{Guest, Sandbox};

/// Data of a filter's store.
pub(in crate::plugins) struct FilterGuest {
    sandbox: Sandbox,
}

impl FilterGuest {
    pub(super) fn new(sandbox: Sandbox) -> Self {
        Self { sandbox }
    }
}

impl WasiView for FilterGuest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.sandbox.wasi()
    }
}

impl Guest for FilterGuest {
    type Roles = Option<Indices>;

    fn link(linker: &mut Linker<Self>) -> wasmtime::Result<()> {
        FilterComponent::add_to_linker::<_, HasSelf<Self>>(linker, |guest| guest)
    }

    fn roles(pre: &InstancePre<Self>, exported: &[Role]) -> wasmtime::Result<Self::Roles> {
        exported.contains(&Role::Filter).then(|| FilterComponentIndices::new(pre).map(Indices)).transpose()
    }

    fn probe(sandbox: Sandbox) -> Self {
        Self { sandbox }
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.sandbox
    }
}

/// The role's exports, looked up.
pub(in crate::plugins) struct Indices(pub(super) FilterComponentIndices);

impl std::fmt::Debug for Indices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Indices")
    }
}

impl host::Host for FilterGuest {
    fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            host::Level::Debug => tracing::Level::DEBUG,
            host::Level::Info => tracing::Level::INFO,
            host::Level::Warn => tracing::Level::WARN,
            host::Level::Error => tracing::Level::ERROR,
        };
        Ok(self.sandbox.log.write(level, &message)?)
    }

    fn config(&mut self) -> wasmtime::Result<String> {
        Ok(self.sandbox.settings.config_json.to_string())
    }

    fn has_secret(&mut self, name: String) -> wasmtime::Result<bool> {
        Ok(self.sandbox.has_secret(&name))
    }

    fn secret_equals(&mut self, name: String, candidate: String) -> wasmtime::Result<bool> {
        Ok(self.sandbox.secret_equals(&name, &candidate))
    }

    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(Clock::System.now_ms())
    }

    fn random(&mut self, bytes: u32) -> wasmtime::Result<Vec<u8>> {
        if bytes > RANDOM {
            return Err(wasmtime::Error::msg(format!(
                "asked for {bytes} random bytes; at most {RANDOM} a call"
            )));
        }
        let mut random = vec![0; bytes as usize];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut random);
        Ok(random)
    }
}
