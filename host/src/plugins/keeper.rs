//! The catalogue's task: looks at the plugin directory, loads what changed, carries out the operator's orders, and
//! swaps the snapshot.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalogue::{Action, ActionError, Catalogue, Entry, Order, Snapshot};
use super::generation::{Generation, Loader};
use super::plugin::Plugin;
use super::routes::RouteTable;
use super::sandbox::Guest;
use super::settings::{NAME_RULE, Settings, is_name};
use super::watch::Watch;
use crate::domain::Clock;

/// Replaced generations that may live on at once; the oldest is closed first.
const OLD_GENERATIONS: usize = 3;
/// A file that is being written must look the same for this long.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the directory is looked at whatever the watcher says.
const RESCAN: Duration = Duration::from_secs(2);

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and the time of the last change to either content or name.
    identity: [i64; 4],
}

impl Stamp {
    /// Follows links, so that a swapped link is a changed file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt as _;
            [
                metadata.dev().cast_signed(),
                metadata.ino().cast_signed(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ]
        };
        #[cfg(not(unix))]
        let identity = [0; 4];
        Some(Self { len: metadata.len(), modified: metadata.modified().ok(), identity })
    }
}

/// What the keeper knows of a plugin beyond what readers see.
struct Kept<T: Guest> {
    entry: Entry<T>,
    path: PathBuf,
    /// State of the file when it was last loaded or refused; none makes the next look load it.
    seen: Option<Stamp>,
    loads: u64,
    previous: Option<Arc<Generation<T>>>,
    old: Vec<Arc<Generation<T>>>,
    /// Routes are claimed in this order.
    rank: u64,
}

/// Keeps a catalogue true to its directory until it is told to stop.
pub struct Keeper<T: Guest> {
    catalogue: Catalogue<T>,
    loader: Loader<T>,
    settings: Settings,
    orders: mpsc::Receiver<Order>,
    watch: Watch,
    clock: Clock,
    plugins: BTreeMap<String, Kept<T>>,
    /// Files that were seen changing: when to look again, and how they looked.
    unsettled: BTreeMap<String, (Instant, Option<Stamp>)>,
    next_rank: u64,
    ignored: std::collections::BTreeSet<PathBuf>,
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
        dir: PathBuf,
        loader: Loader<T>,
        settings: Settings,
        clock: Clock,
    ) -> std::io::Result<(Catalogue<T>, Self)> {
        fs::create_dir_all(&dir)?;
        let watch = Watch::begin(&dir);
        let (catalogue, orders) = Catalogue::new(dir);
        let keeper = Self {
            catalogue: catalogue.clone(),
            loader,
            settings,
            orders,
            watch,
            clock,
            plugins: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            next_rank: 0,
            ignored: std::collections::BTreeSet::new(),
        };
        Ok((catalogue, keeper))
    }

    /// Loads what is there, then follows what changes.
    pub async fn run(mut self, stop: CancellationToken) {
        self.look(true).await;
        self.catalogue.loaded_once();
        let mut rescan = tokio::time::interval(RESCAN);
        rescan.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let settled = self.unsettled.values().map(|(at, _)| *at).min();
            tokio::select! {
                () = stop.cancelled() => return,
                change = self.watch.changed() => {
                    if let Some(name) = self.plugin_name(&change.path) {
                        if change.complete {
                            self.file_changed(&name).await;
                        } else {
                            self.unsettled.insert(name, (Instant::now() + SETTLE, Stamp::of(&change.path)));
                        }
                    }
                }
                () = sleep_until(settled) => self.look_at_unsettled().await,
                Some(order) = self.orders.recv() => {
                    let result = self.carry_out(&order.plugin, order.action).await;
                    // Whoever asked may have gone.
                    let _ = order.done.send(result);
                }
                _ = rescan.tick() => self.look(false).await,
            }
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
    async fn look(&mut self, at_start: bool) {
        let dir = self.catalogue.dir().to_owned();
        let files = match fs::read_dir(&dir) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "can't read the plugin directory; what serves goes on serving");
                return;
            }
        };
        let mut present: Vec<(String, PathBuf)> =
            files.flatten().filter_map(|file| Some((self.plugin_name(&file.path())?, file.path()))).collect();
        present.sort();
        for (name, path) in &present {
            let stamp = Stamp::of(path);
            let changed = match self.plugins.get(name) {
                Some(kept) => kept.seen != stamp,
                None => stamp.is_some(),
            };
            if at_start && changed {
                self.file_changed(name).await;
            } else if changed {
                self.unsettled.entry(name.clone()).or_insert((Instant::now() + SETTLE, stamp));
            }
        }
        let gone = self.plugins.keys().filter(|name| !present.iter().any(|(there, _)| there == *name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.unsettled.entry(name).or_insert((Instant::now() + SETTLE, None));
        }
    }

    async fn look_at_unsettled(&mut self) {
        let now = Instant::now();
        let due: Vec<String> =
            self.unsettled.iter().filter(|(_, (at, _))| *at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some((_, before)) = self.unsettled.remove(&name) else { continue };
            let stamp = Stamp::of(&self.path(&name));
            if stamp == before {
                self.file_changed(&name).await;
            } else {
                self.unsettled.insert(name, (now + SETTLE, stamp));
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.catalogue.dir().join(format!("{name}.wasm"))
    }

    /// A file is whole and not as it was, or gone.
    async fn file_changed(&mut self, name: &str) {
        self.unsettled.remove(name);
        let path = self.path(name);
        match Stamp::of(&path) {
            None => self.remove(name),
            Some(stamp) if self.plugins.get(name).is_some_and(|kept| kept.seen == Some(stamp)) => {}
            Some(_) => {
                let _ = self.load(name, false).await;
            }
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(kept) = self.plugins.remove(name) {
            tracing::info!(plugin = name, "plugin removed; requests in flight finish");
            drop(kept);
            self.forget_refusals(name);
            self.publish();
        }
    }

    /// A plugin gave routes up: others that were refused for them may be loaded now.
    fn forget_refusals(&mut self, by: &str) {
        for (name, kept) in &mut self.plugins {
            if name != by && kept.entry.error.is_some() {
                kept.seen = None;
            }
        }
    }

    /// Loads a plugin's file and lets it serve, or notes why not. What serves already is not loaded again, since that
    /// would take the place of the generation to go back to; unless it is `wanted`.
    async fn load(&mut self, name: &str, wanted: bool) -> Result<(), String> {
        let started = std::time::Instant::now();
        let path = self.path(name);
        self.kept(name, &path);
        let settings = self.settings.of(name);
        let loads = self.plugins.get(name).map_or(0, |kept| kept.loads) + 1;
        let stamp = Stamp::of(&path);
        let read = read_file(&path, settings.limits.file.as_u64()).await;
        if let (Ok((_, hash)), Some(kept), false) = (&read, self.plugins.get_mut(name), wanted)
            && kept.entry.serving.as_ref().is_some_and(|serving| serving.hash == *hash)
        {
            tracing::debug!(plugin = name, "the file was touched, its content serves already");
            kept.seen = stamp;
            if kept.entry.error.take().is_some() {
                self.publish();
            }
            return Ok(());
        }
        let result = match read {
            Ok((bytes, hash)) if settings.enabled => {
                self.loader.load(&settings, loads, hash, bytes, self.clock.now_ms()).await
            }
            Ok(_) => Err("disabled by the configuration (enabled = false)".to_owned()),
            Err(reason) => Err(reason),
        };
        if Stamp::of(&path) != stamp {
            // It changed while it was read: what was loaded may be half of it.
            self.unsettled.insert(name.to_owned(), (Instant::now() + SETTLE, Stamp::of(&path)));
        }
        let result = result.and_then(|generation| self.check_routes(name, Arc::new(generation)));
        let Some(kept) = self.plugins.get_mut(name) else { return Ok(()) };
        kept.seen = stamp;
        let result = match result {
            Ok(generation) => {
                kept.loads = loads;
                kept.entry.error = None;
                tracing::info!(
                    plugin = name,
                    generation = generation.number,
                    version = generation.manifest.version,
                    took = %humantime::format_duration(Duration::from_micros(u64::try_from(started.elapsed().as_micros()).unwrap_or(0))),
                    cached = generation.origin == super::artefacts::Origin::Cached,
                    "plugin loaded"
                );
                warn_of_missing_grants(&kept.entry.plugin, &generation);
                let before = kept.entry.serving.as_ref().map(|serving| serving.manifest.routes.clone());
                let gave_up = before.is_some_and(|before| before != generation.manifest.routes);
                replace(kept, generation);
                if gave_up {
                    self.forget_refusals(name);
                }
                metrics::counter!("plugway_plugin_loads_total", "plugin" => name.to_owned(), "outcome" => "serving").increment(1);
                Ok(())
            }
            Err(reason) => {
                let goes_on = kept.entry.serving.as_ref().map(|generation| generation.number);
                match goes_on {
                    Some(generation) => {
                        tracing::error!(
                            plugin = name,
                            generation,
                            "plugin refused, the generation before it serves on: {reason}"
                        );
                    }
                    None => tracing::error!(plugin = name, "plugin refused: {reason}"),
                }
                metrics::counter!("plugway_plugin_loads_total", "plugin" => name.to_owned(), "outcome" => "refused").increment(1);
                kept.entry.error = Some(reason.clone());
                Err(reason)
            }
        };
        self.publish();
        result
    }

    /// Makes sure that there is an entry for the plugin.
    fn kept(&mut self, name: &str, path: &Path) {
        if self.plugins.contains_key(name) {
            return;
        }
        self.next_rank += 1;
        let plugin = Arc::new(Plugin::new(self.settings.of(name)));
        let entry = Entry { plugin, serving: None, error: None, disabled: false };
        let kept = Kept {
            entry,
            path: path.to_owned(),
            seen: None,
            loads: 0,
            previous: None,
            old: Vec::new(),
            rank: self.next_rank,
        };
        self.plugins.insert(name.to_owned(), kept);
    }

    /// Whether the generation's routes go with those of all others.
    fn check_routes(&self, name: &str, generation: Arc<Generation<T>>) -> Result<Arc<Generation<T>>, String> {
        let mut table = RouteTable::default();
        for (other, kept) in self.by_rank() {
            if other != name
                && let (Some(serving), false) = (&kept.entry.serving, kept.entry.disabled)
            {
                table.add(&kept.entry.plugin, serving)?;
            }
        }
        if let Some(kept) = self.plugins.get(name) {
            table.add(&kept.entry.plugin, &generation)?;
        }
        Ok(generation)
    }

    fn by_rank(&self) -> Vec<(&String, &Kept<T>)> {
        let mut all: Vec<_> = self.plugins.iter().collect();
        all.sort_by_key(|(_, kept)| kept.rank);
        all
    }

    /// Shows readers what is now.
    fn publish(&mut self) {
        let mut routes = RouteTable::default();
        let mut conflicts = Vec::new();
        for (name, kept) in self.by_rank() {
            if let (Some(serving), false) = (&kept.entry.serving, kept.entry.disabled)
                && let Err(reason) = routes.add(&kept.entry.plugin, serving)
            {
                conflicts.push((name.clone(), reason));
            }
        }
        for (name, reason) in conflicts {
            // Every generation was checked before it served; should two conflict all the same, the others are served.
            tracing::error!(plugin = name, "some of its routes are not served: {reason}");
        }
        let plugins = self
            .plugins
            .values()
            .map(|kept| (kept.entry.plugin.name().clone(), kept.entry.clone()))
            .collect();
        self.catalogue.publish(Snapshot { plugins, routes });
    }

    async fn carry_out(&mut self, name: &str, action: Action) -> Result<(), ActionError> {
        if !is_name(name) || (!self.plugins.contains_key(name) && !self.path(name).exists()) {
            return Err(ActionError::Unknown(name.to_owned()));
        }
        if action == Action::Reload {
            return self.load(name, true).await.map_err(ActionError::Refused);
        }
        let Some(kept) = self.plugins.get_mut(name) else {
            return Err(ActionError::Unknown(name.to_owned()));
        };
        match action {
            Action::Reload => {}
            Action::Disable => kept.entry.disabled = true,
            Action::Enable => {
                let serving = kept.entry.serving.clone();
                if let Some(serving) = serving {
                    self.check_routes(name, serving).map_err(ActionError::Refused)?;
                }
                if let Some(kept) = self.plugins.get_mut(name) {
                    kept.entry.disabled = false;
                }
            }
            Action::Rollback => {
                let Some(previous) = kept.previous.clone() else {
                    return Err(ActionError::Refused(format!(
                        "`{name}` has no generation before the one that serves"
                    )));
                };
                let previous = self.check_routes(name, previous).map_err(ActionError::Refused)?;
                if let Some(kept) = self.plugins.get_mut(name) {
                    // The file stays as it is: it is loaded again when it changes, or by `reload`.
                    kept.seen = Stamp::of(&kept.path);
                    kept.entry.error = None;
                    replace(kept, previous);
                }
            }
        }
        if action == Action::Disable {
            self.forget_refusals(name);
        }
        tracing::info!(plugin = name, ?action, "done at the operator's request");
        self.publish();
        Ok(())
    }
}

/// Lets another generation serve, and closes the oldest where too many live on.
fn replace<T: Guest>(kept: &mut Kept<T>, generation: Arc<Generation<T>>) {
    kept.entry.plugin.renewed();
    let before = kept.entry.serving.replace(generation.clone());
    // A generation that serves again is not to be closed.
    kept.old.retain(|old| !Arc::ptr_eq(old, &generation) && old.in_use.load(Ordering::Acquire) > 0);
    if let Some(before) = before {
        kept.old.push(before.clone());
        kept.previous = Some(before);
    }
    while kept.old.len() > OLD_GENERATIONS {
        let oldest = kept.old.remove(0);
        if kept.previous.as_ref().is_some_and(|previous| Arc::ptr_eq(previous, &oldest)) {
            continue;
        }
        tracing::warn!(
            generation = oldest.number,
            "too many old generations live; the oldest one's exchanges are closed"
        );
        oldest.closing.cancel();
    }
}

/// Tells the operator which lines are missing.
fn warn_of_missing_grants<T: Guest>(plugin: &Plugin, generation: &Generation<T>) {
    let grant = &plugin.settings.grant;
    let name = plugin.name();
    for origin in generation.manifest.origins.iter().filter(|origin| !grant.reaches(origin)) {
        tracing::warn!(plugin = %name, "wants {origin} (not granted); to grant it: [plugins.{name}] origins = [\"{origin}\"]");
    }
    for secret in generation.manifest.secrets.iter().filter(|secret| grant.secret(secret).is_none()) {
        tracing::warn!(plugin = %name, "wants the secret `{secret}` (not granted, or its variable is unset); to grant it: [plugins.{name}] secrets = {{ {secret} = \"env:NAME\" }}");
    }
}

async fn read_file(path: &Path, bound: u64) -> Result<(Vec<u8>, [u8; 32]), String> {
    let path = path.to_owned();
    let read = move || {
        let file = fs::File::open(&path).map_err(|error| format!("can't be read: {error}"))?;
        let mut bytes = Vec::new();
        file.take(bound + 1).read_to_end(&mut bytes).map_err(|error| format!("can't be read: {error}"))?;
        if bytes.len() as u64 > bound {
            return Err(format!("larger than {} (limits.file)", bytesize::ByteSize(bound)));
        }
        let hash = Sha256::digest(&bytes).into();
        Ok((bytes, hash))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(format!("can't be read: {error}")))
}

/// Never, without a time.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
