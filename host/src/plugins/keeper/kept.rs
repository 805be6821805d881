//! What the keeper knows of one plugin beyond what readers see: its file, its generations, and the work on it.
//!
//! Invariant: going back never leads to what was gone back from, and a generation that serves is never told to close.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::{AbortHandle, Id};

use super::look::Look;
use crate::plugins::artefacts::ContentHash;
use crate::plugins::catalogue::{Entry, Order};
use crate::plugins::generation::{Content, Generation};
use crate::plugins::plugin::Plugin;
use crate::plugins::sandbox::Guest;

/// A plugin. It outlives its file for as long as anything of it is in use or the operator has taken it out.
pub(super) struct Kept<T: Guest> {
    pub(super) entry: Entry<T>,
    /// Its file is there.
    pub(super) present: bool,
    /// How the file looked when it was last read, or begun to be; none makes the next look load it.
    pub(super) seen: Option<Look>,
    /// It was refused for a route that another plugin has.
    pub(super) lost_a_route: bool,
    /// What served last with another content, unless the operator came from there.
    pub(super) previous: Option<Arc<Content<T>>>,
    /// Contents that the operator went back from: not loaded unless asked for.
    pub(super) rolled_back: BTreeSet<ContentHash>,
    pub(super) loads: u64,
    pub(super) reading: Option<Reading>,
    pub(super) loading: Option<Loading>,
    /// Loaded at the start, and waiting for the others.
    pub(super) candidate: Option<Arc<Generation<T>>>,
    /// Orders that wait for the work to end.
    pub(super) waiting: Vec<Order>,
    /// Replaced generations that may have exchanges, the oldest first.
    old: Vec<Arc<Generation<T>>>,
}

/// The file is being read.
pub(super) struct Reading {
    pub(super) job: Job,
    /// The operator asked for it: whatever is read is loaded.
    pub(super) wanted: bool,
}

/// What was read is being loaded.
pub(super) struct Loading {
    pub(super) job: Job,
    pub(super) hash: ContentHash,
}

/// A job of the keeper's, ended when this is dropped.
pub(super) struct Job(pub(super) AbortHandle);

impl Drop for Job {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Guest> Kept<T> {
    pub(super) fn new(plugin: Arc<Plugin>) -> Self {
        Self {
            entry: Entry { plugin, serving: None, error: None, disabled: false },
            present: true,
            seen: None,
            lost_a_route: false,
            previous: None,
            rolled_back: BTreeSet::new(),
            loads: 0,
            reading: None,
            loading: None,
            candidate: None,
            waiting: Vec::new(),
            old: Vec::new(),
        }
    }

    /// What serves, unless the operator took the plugin out.
    pub(super) fn serving(&self) -> Option<&Arc<Generation<T>>> {
        self.entry.serving.as_ref().filter(|_| !self.entry.disabled)
    }

    /// Whether there is anything to tell of it.
    pub(super) fn is_shown(&self) -> bool {
        self.entry.serving.is_some() || self.entry.error.is_some() || self.entry.disabled
    }

    /// Whether its file is being read or loaded.
    pub(super) fn is_busy(&self) -> bool {
        self.reading.is_some() || self.loading.is_some()
    }

    pub(super) fn has_job(&self, id: Id) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.job.0.id() == id)
            || self.loading.as_ref().is_some_and(|loading| loading.job.0.id() == id)
    }

    /// Whether a content is being loaded, or is loaded and waits for the others.
    pub(super) fn is_on_its_way(&self, hash: &ContentHash) -> bool {
        self.loading.as_ref().is_some_and(|loading| loading.hash == *hash)
            || self.candidate.as_ref().is_some_and(|candidate| candidate.hash == *hash)
    }

    /// Ends the work on the file.
    pub(super) fn drop_work(&mut self) {
        self.reading = None;
        self.loading = None;
        self.candidate = None;
    }

    /// Lets another generation serve, and closes the oldest where too many live on.
    pub(super) fn serve(&mut self, generation: Arc<Generation<T>>) {
        self.entry.error = None;
        self.lost_a_route = false;
        self.rolled_back.remove(&generation.hash);
        if let Some(before) = self.retire()
            && before.hash != generation.hash
        {
            self.previous = Some(before.content().clone());
        }
        // After what served was marked as replaced, so that none of its traps count from here on.
        self.entry.plugin.renewed();
        self.entry.serving = Some(generation);
        self.close_oldest();
    }

    /// Goes back to what served before.
    pub(super) fn roll_back(&mut self, generation: Arc<Generation<T>>) {
        let from = self.entry.serving.as_ref().map(|serving| serving.hash);
        self.serve(generation);
        self.rolled_back.extend(from);
        self.previous = None;
    }

    /// The operator takes it out: the content that serves is kept for when it is enabled again, and its connections are given
    /// the time of a reload to end.
    pub(super) fn disable(&mut self) {
        if self.entry.disabled {
            return;
        }
        self.entry.disabled = true;
        if let Some(before) = self.retire() {
            self.entry.serving = Some(Arc::new(Generation::new(before.content().clone())));
        }
        self.close_oldest();
    }

    /// Its file is gone: nothing serves, and what was remembered of contents goes with it.
    pub(super) fn remove(&mut self) {
        self.drop_work();
        self.retire();
        self.present = false;
        self.seen = None;
        self.entry.error = None;
        self.lost_a_route = false;
        self.previous = None;
        self.rolled_back.clear();
    }

    /// Whether nothing is lost by forgetting it.
    pub(super) fn is_forgettable(&self) -> bool {
        // Exchanges, and requests that wait for one, hold the plugin too.
        !self.present && !self.entry.disabled && Arc::strong_count(&self.entry.plugin) == 1
    }

    fn retire(&mut self) -> Option<Arc<Generation<T>>> {
        let before = self.entry.serving.take()?;
        before.replace();
        self.old.retain(|old| is_in_use(old));
        self.old.push(before.clone());
        Some(before)
    }

    fn close_oldest(&mut self) {
        let bound = self.entry.plugin.settings.limits.old_generations;
        while self.old.iter().filter(|old| is_in_use(old)).count() > bound {
            let oldest = self.old.remove(0);
            tracing::warn!(
                plugin = %self.entry.plugin.name(),
                generation = oldest.number,
                "more old generations have exchanges than limits.old_generations; the oldest one's are told to end"
            );
            oldest.closing.cancel();
        }
    }
}

fn is_in_use<T: Guest>(generation: &Generation<T>) -> bool {
    generation.in_use.load(Ordering::Acquire) > 0
}
