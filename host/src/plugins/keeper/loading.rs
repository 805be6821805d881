//! From a changed file to the generation that serves: read, loaded, given its routes. Reading and loading are jobs beside
//! the keeper, one at most of each for a plugin; what they bring is judged and swapped here.
//!
//! Invariant: the newest content of a file wins, and a content that serves, or that the operator went back from, is not
//! loaded again unless that is asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::kept::{Job, Kept, Loading, Reading};
use super::look::{Look, Read};
use super::{Keeper, SETTLE, look};
use crate::plugins::artefacts::{ContentHash, Origin};
use crate::plugins::generation::Generation;
use crate::plugins::plugin::Plugin;
use crate::plugins::routes::RouteTable;
use crate::plugins::sandbox::Guest;

/// What a job brings.
pub(super) enum Done<T: Guest> {
    Read(Read),
    Loaded { result: Result<Generation<T>, String>, took: Duration },
}

impl<T: Guest> Keeper<T> {
    /// Begins to read a plugin's file. What is being loaded meanwhile goes on: the file may hold the same.
    pub(super) fn begin(&mut self, name: &str, wanted: bool) {
        let path = self.path(name);
        let settings = self.settings.of(name);
        let bound = settings.limits.file.as_u64();
        let kept =
            self.plugins.entry(name.to_owned()).or_insert_with(|| Kept::new(Arc::new(Plugin::new(settings))));
        kept.present = true;
        kept.seen = Some(Look::at(&path));
        let wanted = wanted || kept.reading.as_ref().is_some_and(|reading| reading.wanted);
        let job = Job(self.jobs.spawn(async move { Done::Read(look::read(path, bound).await) }));
        kept.reading = Some(Reading { job, wanted });
    }

    /// A job ended; of one that was ended by the keeper itself nothing is left to do.
    pub(super) fn job_ended(&mut self, ended: Result<(Id, Done<T>), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(name) = self.plugins.iter().find(|(_, kept)| kept.has_job(id)).map(|(name, _)| name.clone())
        else {
            return;
        };
        match ended {
            Ok((_, Done::Read(read))) => self.was_read(&name, read),
            Ok((_, Done::Loaded { result, took })) => self.was_loaded(&name, result, took),
            Err(error) => {
                if let Some(kept) = self.plugins.get_mut(&name) {
                    kept.drop_work();
                }
                self.refuse(&name, format!("the host failed while it loaded the file: {error}"));
            }
        }
    }

    fn was_read(&mut self, name: &str, read: Read) {
        let Some(kept) = self.plugins.get_mut(name) else { return };
        let wanted = kept.reading.take().is_some_and(|reading| reading.wanted);
        if read.look == Look::Absent {
            return self.remove(name);
        }
        kept.seen = Some(read.look);
        if read.changed {
            let look = Look::at(&self.path(name));
            self.unsettled.insert(name.to_owned(), (Instant::now() + SETTLE, look));
        }
        let Some(kept) = self.plugins.get_mut(name) else { return };
        let (bytes, hash) = match read.content {
            Ok(content) => content,
            Err(reason) => {
                kept.drop_work();
                return self.refuse(name, reason);
            }
        };
        if kept.is_on_its_way(&hash) {
            return;
        }
        kept.drop_work();
        if !wanted && let Some(why) = needs_no_load(kept, &hash) {
            tracing::debug!(plugin = name, "the file changed, its content {why}");
            kept.entry.error = None;
            self.publish();
            return self.finish(name, &Ok(()));
        }
        self.load(name, bytes, hash);
    }

    fn load(&mut self, name: &str, bytes: Vec<u8>, hash: ContentHash) {
        let settings = self.settings.of(name);
        if !settings.enabled {
            return self.refuse(name, "disabled by the configuration (enabled = false)".to_owned());
        }
        let Some(kept) = self.plugins.get_mut(name) else { return };
        let (loader, number, now_ms) = (self.loader.clone(), kept.loads + 1, self.clock.now_ms());
        let job = self.jobs.spawn(async move {
            let began = Instant::now();
            let result = loader.load(&settings, number, hash, bytes, now_ms).await;
            Done::Loaded { result, took: began.elapsed() }
        });
        kept.loading = Some(Loading { job: Job(job), hash });
    }

    fn was_loaded(&mut self, name: &str, result: Result<Generation<T>, String>, took: Duration) {
        let Some(kept) = self.plugins.get_mut(name) else { return };
        kept.loading = None;
        match result {
            Ok(generation) => {
                tracing::info!(
                    plugin = name,
                    generation = generation.number,
                    version = generation.manifest.version,
                    took = %humantime::format_duration(Duration::from_micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))),
                    cached = generation.origin == Origin::Cached,
                    "plugin loaded"
                );
                kept.loads = generation.number;
                if self.starting.is_some() {
                    kept.candidate = Some(Arc::new(generation));
                } else {
                    self.admit(name, Arc::new(generation));
                }
            }
            Err(reason) => self.refuse(name, reason),
        }
    }

    /// Lets a loaded generation serve if its routes are free.
    pub(super) fn admit(&mut self, name: &str, generation: Arc<Generation<T>>) {
        if let Err(reason) = self.check_routes(name, &generation) {
            if let Some(kept) = self.plugins.get_mut(name) {
                kept.lost_a_route = true;
            }
            return self.refuse(name, reason);
        }
        let Some(kept) = self.plugins.get_mut(name) else { return };
        warn_of_missing_grants(&kept.entry.plugin, &generation);
        metrics::counter!("plugway_plugin_loads_total", "plugin" => name.to_owned(), "outcome" => "serving")
            .increment(1);
        let before = kept.entry.serving.as_ref().map(|serving| serving.manifest.routes.clone());
        let gave_up = before.is_some_and(|before| before != generation.manifest.routes);
        kept.serve(generation);
        if gave_up {
            self.retry_those_without_routes(name);
        }
        self.publish();
        self.finish(name, &Ok(()));
    }

    /// Notes why a file is not served. What serves goes on.
    pub(super) fn refuse(&mut self, name: &str, reason: String) {
        let Some(kept) = self.plugins.get_mut(name) else { return };
        match &kept.entry.serving {
            Some(serving) => tracing::error!(
                plugin = name,
                generation = serving.number,
                "plugin refused, the generation before it serves on: {reason}"
            ),
            None => tracing::error!(plugin = name, "plugin refused: {reason}"),
        }
        // Without the name: whatever lies in the directory has one, and the log tells it.
        metrics::counter!("plugway_plugin_loads_total", "outcome" => "refused").increment(1);
        kept.entry.error = Some(reason.clone());
        self.publish();
        self.finish(name, &Err(reason));
    }

    /// A plugin gave routes up: others that were refused for them are loaded again.
    pub(super) fn retry_those_without_routes(&mut self, by: &str) {
        let waiting = self.plugins.iter().filter(|(name, kept)| *name != by && kept.lost_a_route);
        for name in waiting.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if let Some(kept) = self.plugins.get_mut(&name) {
                kept.lost_a_route = false;
            }
            self.begin(&name, false);
        }
    }

    /// Whether the generation's routes go with those of all others.
    pub(super) fn check_routes(&self, name: &str, generation: &Arc<Generation<T>>) -> Result<(), String> {
        let mut table = RouteTable::default();
        for (other, kept) in &self.plugins {
            if other != name
                && let Some(serving) = kept.serving()
            {
                table.add(&kept.entry.plugin, serving)?;
            }
        }
        match self.plugins.get(name) {
            Some(kept) => table.add(&kept.entry.plugin, generation),
            None => Ok(()),
        }
    }
}

/// Why a content that nobody asked for is not loaded: doing so would take the place of the generation to go back to, or
/// undo the operator's word.
fn needs_no_load<T: Guest>(kept: &Kept<T>, hash: &ContentHash) -> Option<&'static str> {
    if kept.entry.serving.as_ref().is_some_and(|serving| serving.hash == *hash) {
        Some("serves already")
    } else if kept.rolled_back.contains(hash) {
        Some("was rolled back; `reload` loads it all the same")
    } else {
        None
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
