//! Plugins as components: the engine, what the operator grants, loading, hot reload, the table of their
//! routes, and the role `filter`.
//!
//! What a guest may call is not decided here: `exchanges` brings the store's data and links the contract's imports,
//! through the trait [`Guest`].

mod artefacts;
mod bindings;
mod breaker;
mod catalogue;
mod compiler;
mod config;
mod engine;
mod failure;
mod filter;
mod generation;
mod keeper;
mod log;
mod manifest;
mod plugin;
mod routes;
mod sandbox;
mod settings;
mod status;
mod watch;

pub use artefacts::ArtefactCache;
pub use catalogue::{Action, ActionError, Catalogue, Entry, InUse, Snapshot};
pub use compiler::{COMPILE, Compiler, compile_component};
pub use config::{Limits, LimitsOverride, PluginConfig, Policy};
pub use engine::{Engine, EngineConfig, EngineError};
pub use failure::{FailureKind, HostFault, classify, describe, shorten};
pub use filter::{Absent, Admission, Draft, Filter, FilterDirectory, FilterFault, Step};
pub use generation::{CONTRACT, Checked, Content, Generation, Loader, Role};
pub(crate) use keeper::read_component;
pub use keeper::{Keeper, KeeperConfig};
pub use log::GuestLog;
pub(crate) use manifest::is_reserved;
pub use manifest::{Access, Manifest, Route, RouteKind};
pub use plugin::{Blame, Gate, Plugin, Refusal};
pub use routes::{Endpoint, Found, RouteTable};
pub use sandbox::{Guest, LimitExceeded, Sandbox, new_store};
pub use settings::{InvalidSettings, PluginSettings, Settings};
pub(crate) use settings::{NAME_RULE, is_name};
pub use status::{PluginState, PluginStatus};
