//! The catalogue's task: looks at the plugin directory, has loaded what changed, carries out the operator's orders, and
//! swaps the snapshot.
//!
//! Invariant: this task waits for nothing but the next thing to do. Reading, compiling and calling a component are jobs
//! beside it, so that a slow one delays no other plugin, no order and no end.

mod claims;
mod kept;
mod loading;
mod look;
mod orders;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalogue::{ActionError, Catalogue, Order, Snapshot};
use super::filter::FilterDirectory;
use super::generation::Loader;
use super::routes::RouteTable;
use super::sandbox::Guest;
use super::settings::{self, NAME_RULE, Settings, is_name};
use super::watch::{Change, Watch};
use crate::domain::{Clock, sleep_until};
use claims::Claims;
use kept::Kept;
use loading::Done;
use look::Look;
pub(crate) use look::read_component;

/// A file that is being written must look the same for this long.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the directory is looked at whatever the watcher says.
const RESCAN: Duration = Duration::from_secs(2);

/// Where a keeper finds what it keeps.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// The plugin directory; created where it is missing.
    pub dir: PathBuf,
    /// The file that records which plugin has which routes.
    pub claims: PathBuf,
    /// How long the start waits for components before it serves those that are loaded.
    pub first_load: Duration,
}

/// Keeps a catalogue true to its directory until it is told to stop.
pub struct Keeper<T: Guest> {
    catalogue: Catalogue<T>,
    loader: Arc<Loader<T>>,
    settings: Settings,
    orders: mpsc::Receiver<Order>,
    watch: Watch,
    clock: Clock,
    first_load: Duration,
    claims: Claims,
    plugins: BTreeMap<String, Kept<T>>,
    jobs: JoinSet<Done<T>>,
    /// Files that were seen changing: when to look again, and how they looked.
    unsettled: BTreeMap<String, (Instant, Look)>,
    /// Until when the start waits. Nothing is shown to readers before it is over.
    starting: Option<Instant>,
    ignored: BTreeSet<PathBuf>,
}

impl<T: Guest> std::fmt::Debug for Keeper<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("catalogue", &self.catalogue).finish_non_exhaustive()
    }
}

impl<T: Guest> Keeper<T> {
    /// Opens the directory, creating it where it is missing.
    ///
    /// # Errors
    /// It can't be created.
    pub fn open(
        config: KeeperConfig,
        loader: Loader<T>,
        settings: Settings,
        clock: Clock,
    ) -> std::io::Result<(Catalogue<T>, Self)> {
        fs::create_dir_all(&config.dir)?;
        settings.warn_beyond(loader.engine().slots());
        let watch = Watch::begin(&config.dir);
        let filters = FilterDirectory::new(settings.filters(), settings.filtered().clone());
        let (catalogue, orders) = Catalogue::new(config.dir, filters);
        let keeper = Self {
            catalogue: catalogue.clone(),
            loader: Arc::new(loader),
            settings,
            orders,
            watch,
            clock,
            first_load: config.first_load,
            claims: Claims::open(config.claims),
            plugins: BTreeMap::new(),
            jobs: JoinSet::new(),
            unsettled: BTreeMap::new(),
            starting: None,
            ignored: BTreeSet::new(),
        };
        Ok((catalogue, keeper))
    }

    /// Loads what is there, then follows what changes. What is being loaded at the end is given up.
    pub async fn run(mut self, stop: CancellationToken) {
        self.starting = Some(Instant::now() + self.first_load);
        self.look();
        self.end_start_if_due();
        let mut rescan = tokio::time::interval_at(Instant::now() + RESCAN, RESCAN);
        rescan.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let settled = self.unsettled.values().map(|(at, _)| *at).min();
            let starting = self.starting;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(ended) = self.jobs.join_next_with_id() => {
                    self.job_ended(ended);
                    self.end_start_if_due();
                }
                change = self.watch.changed() => self.noticed(&change),
                () = sleep_until(settled) => self.look_at_unsettled(),
                () = sleep_until(starting) => self.end_start_if_due(),
                Some(order) = self.orders.recv() => self.take_order(order),
                _ = rescan.tick() => self.look(),
            }
        }
    }

    /// The watcher saw something change.
    fn noticed(&mut self, change: &Change) {
        let Some(name) = self.plugin_name(&change.path) else { return };
        if change.complete {
            self.file_changed(&name);
        } else {
            self.unsettled.insert(name, (Instant::now() + SETTLE, Look::at(&change.path)));
        }
    }

    /// The plugin that a file in the directory stands for, if it stands for one.
    fn plugin_name(&mut self, path: &Path) -> Option<String> {
        if path.extension().is_none_or(|extension| extension != "wasm") {
            return None;
        }
        let stem = path.file_stem()?.to_str()?;
        if is_name(stem) {
            return Some(stem.to_owned());
        }
        if !stem.starts_with(['.', '~', '#']) && self.ignored.insert(path.to_owned()) {
            tracing::warn!(file = %path.display(), "ignored: a plugin's file is named with {NAME_RULE}");
        }
        None
    }

    /// Looks at the whole directory. Changed files are left to settle, except at the start.
    fn look(&mut self) {
        self.plugins.retain(|_, kept| !kept.is_forgettable());
        let dir = self.catalogue.dir().to_owned();
        let files = match fs::read_dir(&dir) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "can't read the plugin directory; what serves goes on serving");
                return;
            }
        };
        let paths: BTreeSet<PathBuf> = files.flatten().map(|file| file.path()).collect();
        self.ignored.retain(|path| paths.contains(path));
        let present: BTreeSet<String> = paths.iter().filter_map(|path| self.plugin_name(path)).collect();
        for name in &present {
            let look = Look::at(&self.path(name));
            if self.plugins.get(name).is_some_and(|kept| kept.seen.as_ref() == Some(&look)) {
                continue;
            }
            if self.starting.is_some() {
                self.file_changed(name);
            } else {
                self.unsettled.entry(name.clone()).or_insert((Instant::now() + SETTLE, look));
            }
        }
        let gone = self.plugins.iter().filter(|(name, kept)| kept.present && !present.contains(*name));
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.unsettled.entry(name).or_insert((Instant::now() + SETTLE, Look::Absent));
        }
    }

    fn look_at_unsettled(&mut self) {
        let now = Instant::now();
        let due: Vec<String> =
            self.unsettled.iter().filter(|(_, (at, _))| *at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some((_, before)) = self.unsettled.remove(&name) else { continue };
            let look = Look::at(&self.path(&name));
            if look == before {
                self.file_changed(&name);
            } else {
                self.unsettled.insert(name, (now + SETTLE, look));
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.catalogue.dir().join(format!("{name}.wasm"))
    }

    /// A file is whole and not as it was, or gone.
    fn file_changed(&mut self, name: &str) {
        self.unsettled.remove(name);
        match Look::at(&self.path(name)) {
            Look::Absent => self.remove(name),
            look if self.plugins.get(name).is_some_and(|kept| kept.seen.as_ref() == Some(&look)) => {}
            _ => self.begin(name, false),
        }
    }

    fn remove(&mut self, name: &str) {
        let Some(kept) = self.plugins.get_mut(name).filter(|kept| kept.present) else { return };
        kept.remove();
        for order in std::mem::take(&mut kept.waiting) {
            order.answer(Err(ActionError::Unknown(name.to_owned())));
        }
        tracing::info!(plugin = name, "plugin removed; requests in flight finish");
        self.retry_those_without_routes(name);
        self.publish();
    }

    /// Ends the start when every file was looked at, or the time for that is over: gives out routes in their order, and
    /// shows readers all that serves at once.
    fn end_start_if_due(&mut self) {
        let Some(until) = self.starting else { return };
        if Instant::now() < until && self.plugins.values().any(Kept::is_busy) {
            return;
        }
        let mut loaded: Vec<_> = self
            .plugins
            .iter_mut()
            .filter_map(|(name, kept)| Some((name.clone(), kept.candidate.take()?)))
            .map(|(name, generation)| {
                let routes = generation.manifest.routes_under(&self.settings.of(&name).mount);
                (!self.claims.has_all(&name, &routes), name, generation)
            })
            .collect();
        // Those who had all of their routes keep them; among the others, names decide.
        loaded.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, name, generation) in loaded {
            self.admit(&name, generation);
        }
        self.starting = None;
        self.publish();
        self.catalogue.loaded_once();
    }

    /// Shows readers what is now.
    fn publish(&mut self) {
        if self.starting.is_some() {
            return;
        }
        let mut routes = RouteTable::default();
        let mut claims = claims::Routes::new();
        for (name, kept) in &self.plugins {
            let Some(serving) = kept.serving() else { continue };
            if let Err(reason) = routes.add(&kept.entry.plugin, serving) {
                // Every generation was checked before it served; should two conflict all the same, the others are served.
                tracing::error!(plugin = name, "some of its routes are not served: {reason}");
            }
            let mount = &kept.entry.plugin.settings.mount;
            claims.insert(name.clone(), serving.manifest.routes_under(mount));
        }
        self.claims.record(claims);
        let shown = self.plugins.values().filter(|kept| kept.is_shown());
        let plugins = shown.map(|kept| (kept.entry.plugin.name().clone(), kept.entry.clone())).collect();
        self.catalogue.publish(Snapshot { plugins, routes });
    }
}
