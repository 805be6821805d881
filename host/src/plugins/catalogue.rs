//! All plugins and which generation of each serves: what readers see is one snapshot behind an atomic pointer, what
//! changes it is one task.
//!
//! Invariant: whatever lies in the plugin directory, a generation that serves goes on serving until another one has
//! passed the whole loading transaction, or the operator takes it out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::filter::FilterDirectory;
use super::generation::Generation;
use super::plugin::Plugin;
use super::routes::RouteTable;
use super::sandbox::Guest;
use super::status::{PluginState, PluginStatus};

/// Orders that may wait for the catalogue's task, and for one plugin's load.
pub(super) const ORDERS: usize = 64;

/// What the operator can do to a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Load its file again, changed or not, rolled back or not.
    Reload,
    /// Go back to what served before; what it goes back from is not loaded again unless by `Reload`.
    Rollback,
    /// Take it out until it is enabled again, or the gateway restarts.
    Disable,
    /// Put it back.
    Enable,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// No plugin of that name has a file, or ever had one.
    #[error("no plugin `{0}`")]
    Unknown(String),
    /// It can't be done in the plugin's present state: why.
    #[error("{0}")]
    Refused(String),
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Stopped,
}

/// An order to the catalogue's task.
pub(crate) struct Order {
    pub(crate) plugin: String,
    pub(crate) action: Action,
    pub(crate) done: oneshot::Sender<Result<(), ActionError>>,
}

impl Order {
    /// Tells the result to whoever asked, who may have gone.
    pub(crate) fn answer(self, result: Result<(), ActionError>) {
        let _ = self.done.send(result);
    }
}

/// A plugin in a snapshot.
pub struct Entry<T: Guest> {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// What serves, if anything does.
    pub serving: Option<Arc<Generation<T>>>,
    /// The last load's error, if it failed.
    pub error: Option<String>,
    /// Taken out by the operator.
    pub disabled: bool,
}

impl<T: Guest> std::fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("plugin", self.plugin.name())
            .field("serving", &self.serving)
            .finish_non_exhaustive()
    }
}

impl<T: Guest> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            plugin: self.plugin.clone(),
            serving: self.serving.clone(),
            error: self.error.clone(),
            disabled: self.disabled,
        }
    }
}

/// All plugins at one moment.
pub struct Snapshot<T: Guest> {
    /// By name.
    pub plugins: BTreeMap<Arc<str>, Entry<T>>,
    /// Who answers what.
    pub routes: RouteTable<T>,
}

impl<T: Guest> std::fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(&self.plugins).finish()
    }
}

impl<T: Guest> Default for Snapshot<T> {
    fn default() -> Self {
        Self { plugins: BTreeMap::new(), routes: RouteTable::default() }
    }
}

/// Where readers find the plugins. Cheap to clone.
pub struct Catalogue<T: Guest> {
    shared: Arc<Shared<T>>,
}

struct Shared<T: Guest> {
    snapshot: ArcSwap<Snapshot<T>>,
    orders: mpsc::Sender<Order>,
    loaded: watch::Sender<bool>,
    dir: PathBuf,
    filters: FilterDirectory,
}

impl<T: Guest> Clone for Catalogue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T: Guest> std::fmt::Debug for Catalogue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl<T: Guest> Catalogue<T> {
    /// An empty catalogue, and the orders that its task will carry out.
    pub(super) fn new(dir: PathBuf, filters: FilterDirectory) -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let shared = Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            orders,
            loaded: watch::Sender::new(false),
            dir,
            filters,
        };
        (Self { shared: Arc::new(shared) }, receiver)
    }

    /// All plugins as they are now.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot<T>>> {
        self.shared.snapshot.load()
    }

    /// Those of them that the configuration names as filters.
    pub fn filters(&self) -> &FilterDirectory {
        &self.shared.filters
    }

    /// Where plugins are dropped.
    pub fn dir(&self) -> &std::path::Path {
        &self.shared.dir
    }

    /// Swaps the snapshot. Only the catalogue's task calls this.
    pub(crate) fn publish(&self, snapshot: Snapshot<T>) {
        metrics::gauge!("plugway_plugins_serving").set(
            snapshot.plugins.values().filter(|entry| entry.serving.is_some() && !entry.disabled).count()
                as f64,
        );
        let now = Arc::new(snapshot);
        self.shared.filters.publish(&now);
        let before = self.shared.snapshot.swap(now.clone());
        // What never served has no figures: any file in the directory has a name.
        let served = |name: &Arc<str>| before.plugins.get(name).is_some_and(|entry| entry.serving.is_some());
        for name in now.plugins.keys().chain(before.plugins.keys()) {
            let serving = now.plugins.get(name).and_then(|entry| entry.serving.as_ref());
            if serving.is_some() || served(name) {
                let number = serving.map_or(0, |generation| generation.number);
                metrics::gauge!("plugway_plugin_generation", "plugin" => name.to_string()).set(number as f64);
            }
        }
    }

    /// Says that every file present at start was looked at once.
    pub(crate) fn loaded_once(&self) {
        self.shared.loaded.send_replace(true);
    }

    /// Whether every file present at start was looked at once.
    pub fn is_loaded(&self) -> bool {
        *self.shared.loaded.borrow()
    }

    /// Returns when every file present at start was looked at once.
    pub async fn wait_loaded(&self) {
        // The sender lives as long as `self`, so this can't fail.
        let _ = self.shared.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Does something to a plugin, and returns when it is done.
    ///
    /// # Errors
    /// [`ActionError`], with a sentence for the operator.
    pub async fn act(&self, plugin: &str, action: Action) -> Result<(), ActionError> {
        let (done, result) = oneshot::channel();
        let order = Order { plugin: plugin.to_owned(), action, done };
        self.shared.orders.send(order).await.map_err(|_| ActionError::Stopped)?;
        result.await.unwrap_or(Err(ActionError::Stopped))
    }

    /// What the operator is told about each plugin, and about filters that are named and not there.
    pub fn status(&self) -> Vec<PluginStatus> {
        let mut status: Vec<_> = self.snapshot().plugins.values().map(PluginStatus::of).collect();
        if !self.is_loaded() {
            return status;
        }
        for (settings, absent) in self.shared.filters.named() {
            let Some(absent) = absent else { continue };
            match status.iter_mut().find(|plugin| plugin.name == *settings.name) {
                Some(plugin) => plugin.error = plugin.error.take().or(Some(absent.0)),
                None => status.push(PluginStatus::missing(&settings.name, absent.0)),
            }
        }
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }
}

impl<T: Guest> Entry<T> {
    /// Where the plugin is in its life.
    pub fn state(&self) -> PluginState {
        match (&self.serving, self.disabled) {
            (_, true) => PluginState::Disabled,
            (None, _) => PluginState::Refused,
            (Some(_), _) if self.plugin.aside_for().is_some() => PluginState::Aside,
            (Some(_), _) => PluginState::Serving,
        }
    }
}

/// An exchange of a generation: while one lives, the generation counts as in use.
#[derive(Debug)]
pub struct InUse<T: Guest> {
    generation: Arc<Generation<T>>,
}

impl<T: Guest> InUse<T> {
    /// Marks the generation as in use.
    pub fn begin(generation: Arc<Generation<T>>) -> Self {
        generation.in_use.fetch_add(1, Ordering::AcqRel);
        Self { generation }
    }
}

impl<T: Guest> std::ops::Deref for InUse<T> {
    type Target = Generation<T>;

    fn deref(&self) -> &Generation<T> {
        &self.generation
    }
}

impl<T: Guest> Drop for InUse<T> {
    fn drop(&mut self) {
        self.generation.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}
