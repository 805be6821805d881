//! One loaded version of a plugin: verified in every way that does not need other plugins. The loading transaction up
//! to the swap, which is the catalogue's.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::Store;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker, ResourceType};

use super::artefacts::{ArtefactCache, ContentHash, Origin, load_artefact};
use super::bindings::PluginExports;
use super::compiler::Compiler;
use super::engine::Engine;
use super::failure::shorten;
use super::filter::{FilterGuest, FilterRole};
use super::manifest::Manifest;
use super::sandbox::{Guest, Sandbox, new_store};
use super::settings::PluginSettings;

/// Contract versions that this host speaks.
pub const CONTRACT: &str = "0.1";
/// What `describe` and `check` together may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// What the names of the contract's interfaces begin with.
const PACKAGE: &str = "plugway:gateway/";
/// How much of a linker's or a trap's message an error quotes.
const QUOTED: usize = 600;

/// A role that a component exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Answers HTTP requests.
    Http,
    /// Serves WebSocket connections.
    Socket,
    /// Carries outcomes to a platform.
    Delivery,
    /// Judges events.
    Filter,
}

/// A loaded component, ready for instances.
pub struct Content<T: Guest> {
    /// Counts up with every load of the plugin, from 1.
    pub number: u64,
    /// SHA-256 of its file.
    pub hash: ContentHash,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Contract version that it was built against.
    pub contract: String,
    /// Roles that it exports.
    pub exported: Vec<Role>,
    /// The roles' exports, looked up.
    pub roles: T::Roles,
    /// The role that needs no exchange.
    pub(super) filter: Option<Arc<FilterRole>>,
    /// Where its component came from.
    pub origin: Origin,
    /// When it was loaded, in milliseconds since the Unix epoch.
    pub loaded_ms: u64,
    pre: InstancePre<T>,
}

/// A component's time of service, from its swap to the next. One that serves again, after a rollback, is another time
/// of the same content.
pub struct Generation<T: Guest> {
    content: Arc<Content<T>>,
    /// Cancelled when its exchanges must come to an end: too many old generations live.
    pub closing: CancellationToken,
    /// Cancelled when another generation serves, or none.
    pub replaced: CancellationToken,
    /// Exchanges that live; see [`super::InUse`].
    pub(crate) in_use: AtomicUsize,
}

impl<T: Guest> std::ops::Deref for Generation<T> {
    type Target = Content<T>;

    fn deref(&self) -> &Content<T> {
        &self.content
    }
}

impl<T: Guest> Generation<T> {
    /// Begins a time of service.
    pub(super) fn new(content: Arc<Content<T>>) -> Self {
        Self {
            content,
            closing: CancellationToken::new(),
            replaced: CancellationToken::new(),
            in_use: AtomicUsize::new(0),
        }
    }

    /// What serves.
    pub(super) fn content(&self) -> &Arc<Content<T>> {
        &self.content
    }

    /// Ends its time of service: exchanges that began on it go on, and what they come to is no longer the plugin's.
    pub(super) fn replace(&self) {
        self.replaced.cancel();
    }

    /// Whether its time of service has ended.
    pub fn is_replaced(&self) -> bool {
        self.replaced.is_cancelled()
    }
}

impl<T: Guest> std::fmt::Debug for Content<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("name", &self.manifest.name)
            .field("number", &self.number)
            .field("exported", &self.exported)
            .finish_non_exhaustive()
    }
}

impl<T: Guest> std::fmt::Debug for Generation<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("content", &self.content)
            .field("replaced", &self.is_replaced())
            .finish_non_exhaustive()
    }
}

impl<T: Guest> Content<T> {
    /// Whether it exports the role.
    pub fn has(&self, role: Role) -> bool {
        self.exported.contains(&role)
    }

    /// The component, linked; instances come from here.
    pub fn pre(&self) -> &InstancePre<T> {
        &self.pre
    }
}

/// What a plugin says to its configuration.
pub type Checked = Result<(), String>;

/// Loads components: everything that loading needs and that all plugins share.
pub struct Loader<T: Guest> {
    engine: Engine,
    linker: Arc<Linker<T>>,
    /// Has what a filter may call, and nothing else.
    filters: Arc<Linker<FilterGuest>>,
    artefacts: ArtefactCache,
    compiler: Compiler,
    /// Loads that may run at once.
    loads: Arc<Semaphore>,
}

impl<T: Guest> std::fmt::Debug for Loader<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("artefacts", &self.artefacts).finish_non_exhaustive()
    }
}

impl<T: Guest> Loader<T> {
    /// Links WASI and the contract's imports once, for all plugins. What is not in the cache is compiled by `compiler`.
    ///
    /// # Errors
    /// The bindings define a name twice: a fault of this build.
    pub fn new(engine: Engine, artefacts: ArtefactCache, compiler: Compiler) -> wasmtime::Result<Self> {
        let (linker, filters) = (linker(&engine)?, linker(&engine)?);
        let loads = Arc::new(Semaphore::new(engine.loads()));
        Ok(Self { engine, linker: Arc::new(linker), filters: Arc::new(filters), artefacts, compiler, loads })
    }

    /// The engine that components are loaded into.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads a component: compiles it or takes its artefact, compares contract versions, links, instantiates for real,
    /// asks it to describe itself and to check its configuration. Dropping the future ends all of that.
    ///
    /// # Errors
    /// A sentence for the plugin's author or operator, naming the step that failed.
    pub async fn load(
        &self,
        settings: &Arc<PluginSettings>,
        number: u64,
        hash: ContentHash,
        bytes: Vec<u8>,
        now_ms: u64,
    ) -> Result<Generation<T>, String> {
        let (generation, checked) = self.examine(settings, number, hash, bytes, now_ms).await?;
        checked.map(|()| generation)
    }

    /// As [`Loader::load`], but what the plugin says to its configuration is told beside what it is: whoever looks for
    /// the schema has not configured it yet.
    ///
    /// # Errors
    /// As there, without the last step.
    pub async fn examine(
        &self,
        settings: &Arc<PluginSettings>,
        number: u64,
        hash: ContentHash,
        bytes: Vec<u8>,
        now_ms: u64,
    ) -> Result<(Generation<T>, Checked), String> {
        refuse_core_module(&bytes)?;
        let _turn = self.loads.acquire().await.map_err(|_| "the gateway is shutting down".to_owned())?;
        let (component, compiled) = self.component(hash, bytes).await?;
        let (contract, exported) = read_contract(&component, self.engine.wasmtime())?;
        let filter = self.filter(&component, &exported)?;
        let pre = self.linker.instantiate_pre(&component).map_err(|error| {
            format!(
                "it imports something that this host does not have: {} (the contract is plugway:gateway {CONTRACT}; plugins get no files, sockets or other worlds)",
                quote(&error)
            )
        })?;
        let roles = T::roles(&pre, &exported).map_err(|error| {
            format!("a role's functions differ from plugway:gateway {CONTRACT}: {}; rebuild it with sdk {CONTRACT}", quote(&error))
        })?;
        let (manifest, checked) = self.probe(settings, pre.clone(), filter.clone()).await?;
        check_roles(&manifest, &exported)?;
        let origin = if compiled.is_some() { Origin::Compiled } else { Origin::Cached };
        if let Some(artefact) = compiled {
            let (engine, artefacts) = (self.engine.wasmtime().clone(), self.artefacts.clone());
            tokio::task::spawn_blocking(move || artefacts.keep(&engine, &hash, &artefact));
        }
        let content = Content {
            number,
            hash,
            manifest,
            contract,
            exported,
            roles,
            filter,
            origin,
            loaded_ms: now_ms,
            pre,
        };
        Ok((Generation::new(Arc::new(content)), checked))
    }

    /// The component, and its artefact where it had to be compiled.
    async fn component(
        &self,
        hash: ContentHash,
        bytes: Vec<u8>,
    ) -> Result<(Component, Option<Vec<u8>>), String> {
        let failed = |error: tokio::task::JoinError| format!("loading its code failed: {error}");
        let (engine, artefacts) = (self.engine.wasmtime().clone(), self.artefacts.clone());
        let found = tokio::task::spawn_blocking(move || artefacts.find(&engine, &hash));
        if let Some(component) = found.await.map_err(failed)? {
            return Ok((component, None));
        }
        let artefact = self.compiler.compile(&self.engine, bytes).await?;
        let engine = self.engine.wasmtime().clone();
        let load = move || (load_artefact(&engine, &artefact), artefact);
        let (component, artefact) = tokio::task::spawn_blocking(load).await.map_err(failed)?;
        let component = component.map_err(|error| format!("loading its code failed: {}", quote(&error)))?;
        Ok((component, Some(artefact)))
    }

    /// The role `filter`, if it has it. What else a component of several roles imports is not there in that one: a call
    /// of it traps.
    fn filter(&self, component: &Component, exported: &[Role]) -> Result<Option<Arc<FilterRole>>, String> {
        let prepare = || {
            let mut linker = Linker::clone(&self.filters);
            deny_others(&mut linker, component, self.engine.wasmtime())?;
            let pre = linker.instantiate_pre(component)?;
            let indices = FilterGuest::roles(&pre, exported)?;
            Ok(indices.map(|indices| Arc::new(FilterRole::new(self.engine.clone(), pre, indices))))
        };
        if !exported.contains(&Role::Filter) {
            return Ok(None);
        }
        prepare().map_err(|error: wasmtime::Error| {
            format!(
                "the role `filter` differs from plugway:gateway {CONTRACT}: {}; rebuild it with sdk {CONTRACT}",
                quote(&error)
            )
        })
    }

    /// Instantiates, describes, checks; on the guests' runtime and within a time limit.
    async fn probe(
        &self,
        settings: &Arc<PluginSettings>,
        pre: InstancePre<T>,
        filter: Option<Arc<FilterRole>>,
    ) -> Result<(Manifest, Checked), String> {
        let sandbox = Sandbox::new(settings.clone(), Arc::default(), "load".into()).with_first_step();
        let store = new_store(&self.engine, T::probe(sandbox));
        let settings = settings.clone();
        let calls = self.engine.guests().spawn(async move {
            let calls = async {
                let described = describe_and_check(store, pre, &settings.config_json).await?;
                if let Some(filter) = filter {
                    let tried = filter.try_out(&settings).await;
                    tried
                        .map_err(|error| format!("instantiating it as a filter failed: {}", quote(&error)))?;
                }
                Ok(described)
            };
            tokio::time::timeout(PROBE_TIMEOUT, calls).await
        });
        match AbortOnDropHandle::new(calls).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                Err(format!("`describe` and `check` took longer than {} s", PROBE_TIMEOUT.as_secs()))
            }
            Err(error) => Err(format!("the host failed while it called `describe`: {error}")),
        }
    }
}

async fn describe_and_check<T: Guest>(
    mut store: Store<T>,
    pre: InstancePre<T>,
    config: &str,
) -> Result<(Manifest, Checked), String> {
    let instance = pre
        .instantiate_async(&mut store)
        .await
        .map_err(|error| format!("instantiating it failed: {}", quote(&error)))?;
    let exports = PluginExports::new(&mut store, &instance).map_err(|error| {
        format!("its `plugin` interface differs from plugway:gateway {CONTRACT}: {}; rebuild it with sdk {CONTRACT}", quote(&error))
    })?;
    let plugin = exports.plugway_gateway_plugin();
    let raw = plugin
        .call_describe(&mut store)
        .await
        .map_err(|error| format!("`describe` trapped: {}", quote(&error)))?;
    let manifest = Manifest::read(raw)?;
    let checked = plugin
        .call_check(&mut store, config)
        .await
        .map_err(|error| format!("`check` trapped: {}", quote(&error)))?
        .map_err(|reason| format!("`check` refused the configuration: {}", shorten(&reason, QUOTED)));
    Ok((manifest, checked))
}

/// WASI, and what the data's kind of guest may call.
fn linker<T: Guest>(engine: &Engine) -> wasmtime::Result<Linker<T>> {
    let mut linker = Linker::new(engine.wasmtime());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    T::link(&mut linker)?;
    Ok(linker)
}

/// Puts functions that trap in place of what a component imports of the contract beside `host`. What else it imports is
/// left alone: wasmtime's own way to do this would hide WASI's, whose versions it finds by compatibility.
fn deny_others(
    linker: &mut Linker<FilterGuest>,
    component: &Component,
    engine: &wasmtime::Engine,
) -> wasmtime::Result<()> {
    let ty = component.component_type();
    for (interface, import) in ty.imports(engine) {
        let Some(rest) = interface.strip_prefix(PACKAGE) else { continue };
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        if rest.starts_with("host@") {
            continue;
        }
        let mut linker = linker.instance(interface)?;
        for (name, export) in instance.exports(engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => {
                    let told =
                        format!("a filter may call nothing but `host`, and it called {interface}#{name}");
                    linker.func_new(name, move |_, _, _, _| Err(wasmtime::Error::msg(told.clone())))?;
                }
                ComponentItem::Resource(_) => {
                    linker.resource(name, ResourceType::host::<()>(), |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A routed plugin must have the role that serves its routes, and the reverse.
fn check_roles(manifest: &Manifest, exported: &[Role]) -> Result<(), String> {
    use super::manifest::RouteKind;
    for (kind, role, name) in
        [(RouteKind::Http, Role::Http, "http"), (RouteKind::Websocket, Role::Socket, "socket")]
    {
        let routed = manifest.routes.iter().any(|route| route.kind == kind);
        let serves = exported.contains(&role);
        if routed && !serves {
            return Err(format!("it declares {kind:?} routes but does not export the role `{name}`"));
        }
    }
    if exported.is_empty() {
        return Err("it exports no role: http, socket, delivery or filter".into());
    }
    Ok(())
}

/// The message that wasm tools give for a core module is no help to somebody who built for the wrong target.
fn refuse_core_module(bytes: &[u8]) -> Result<(), String> {
    match bytes {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            Err("a core WebAssembly module, not a component: build it for wasm32-wasip2".into())
        }
        [b'\0', b'a', b's', b'm', ..] => Ok(()),
        _ => Err("not a WebAssembly file: it does not begin with \"\\0asm\"".into()),
    }
}

/// Reads from the component's own names which contract it was built against and what it exports.
fn read_contract(component: &Component, engine: &wasmtime::Engine) -> Result<(String, Vec<Role>), String> {
    let ty = component.component_type();
    let exports: Vec<&str> = ty.exports(engine).map(|(name, _)| name).collect();
    let imports = ty.imports(engine).map(|(name, _)| name);
    let mut versions: Vec<&str> = exports
        .iter()
        .copied()
        .chain(imports)
        .filter_map(|name| name.strip_prefix(PACKAGE)?.split_once('@').map(|(_, version)| version))
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let Some(version) = versions.first() else {
        return Err("it exports no plugway:gateway/plugin: not built with the plugway sdk".into());
    };
    if let Some(other) = versions.iter().find(|version| !speaks(version)) {
        let wanted = major_minor(other);
        return Err(format!(
            "built against plugway:gateway {wanted}, this host speaks {CONTRACT}: rebuild it with sdk {CONTRACT}"
        ));
    }
    let has = |interface: &str| {
        exports.iter().any(|name| {
            name.strip_prefix(PACKAGE)
                .and_then(|rest| rest.strip_prefix(interface))
                .is_some_and(|rest| rest.starts_with('@'))
        })
    };
    if !has("plugin") {
        return Err("it does not export plugway:gateway/plugin, which every plugin must".into());
    }
    let roles = [
        ("http", Role::Http),
        ("socket", Role::Socket),
        ("delivery", Role::Delivery),
        ("filter", Role::Filter),
    ];
    Ok((
        major_minor(version),
        roles.into_iter().filter(|(name, _)| has(name)).map(|(_, role)| role).collect(),
    ))
}

fn major_minor(version: &str) -> String {
    version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

fn speaks(version: &str) -> bool {
    major_minor(version) == CONTRACT
}

/// The innermost message of an error and its outermost, which is what an author needs; backtraces are not.
fn quote(error: &wasmtime::Error) -> String {
    shorten(&super::failure::describe(error), QUOTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused_in_words() {
        assert!(refuse_core_module(b"\0asm\x01\0\0\0").unwrap_err().contains("wasm32-wasip2"));
        assert!(refuse_core_module(b"#!/bin/sh").unwrap_err().contains("not a WebAssembly file"));
        assert!(refuse_core_module(b"").is_err());
        assert!(refuse_core_module(b"\0asm\x0d\0\x01\0").is_ok());
    }

    #[test]
    fn patch_releases_of_the_contract_are_spoken_and_others_are_not() {
        assert!(speaks("0.1.0") && speaks("0.1.7"));
        assert!(!speaks("0.2.0") && !speaks("0.3.0") && !speaks("1.0.0"));
    }
}
