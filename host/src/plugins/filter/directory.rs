//! Which of the plugins that the configuration names as filters are there: what the catalogue shows to those who know
//! nothing of exchanges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::{Filter, Policy};
use crate::plugins::catalogue::Snapshot;
use crate::plugins::sandbox::Guest;
use crate::plugins::settings::PluginSettings;

/// A filter that is named and can't be called: why, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Absent(pub String);

/// Where filters are found. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FilterDirectory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Those that the configuration names.
    named: BTreeMap<Arc<str>, Arc<PluginSettings>>,
    /// Plugins whose tasks pass filters of their own.
    filtered: BTreeSet<String>,
    /// Those of the named that plugins are there for; none before the plugins were loaded.
    found: watch::Sender<Option<Found>>,
}

/// What there is of every named filter that has a plugin.
type Found = BTreeMap<Arc<str>, Result<Filter, Absent>>;

impl FilterDirectory {
    /// A directory that waits to be told of the plugins.
    pub(in crate::plugins) fn new(
        named: impl IntoIterator<Item = Arc<PluginSettings>>,
        filtered: BTreeSet<String>,
    ) -> Self {
        let named = named.into_iter().map(|settings| (settings.name.clone(), settings)).collect();
        Self { shared: Arc::new(Shared { named, filtered, found: watch::Sender::new(None) }) }
    }

    /// Settings of a plugin that the configuration names as a filter.
    pub fn settings(&self, name: &str) -> Option<&Arc<PluginSettings>> {
        self.shared.named.get(name)
    }

    /// The filter, as it serves now.
    ///
    /// # Errors
    /// [`Absent`].
    pub fn get(&self, name: &str) -> Result<Filter, Absent> {
        match &*self.shared.found.borrow() {
            None => Err(Absent("the plugins are still being loaded".to_owned())),
            Some(found) => found.get(name).cloned().unwrap_or_else(|| Err(missing(name))),
        }
    }

    /// The filter; while the plugins are being loaded it is waited for, and after that too where nothing may pass it by.
    ///
    /// # Errors
    /// [`Absent`]: it did not come within its `limits.waiting_timeout`.
    pub async fn wait(&self, name: &str) -> Result<Filter, Absent> {
        let Some(settings) = self.settings(name) else { return Err(missing(name)) };
        let mut changes = self.shared.found.subscribe();
        let found = changes.wait_for(|found| match found {
            None => false,
            Some(found) => settings.policy == Policy::Skip || matches!(found.get(name), Some(Ok(_))),
        });
        // Out of time it is not there, whatever the reason by now is.
        let _ = tokio::time::timeout(settings.limits.waiting_timeout, found).await;
        self.get(name)
    }

    /// Every filter that the configuration names, with why it can't be called, if it can't.
    pub fn named(&self) -> Vec<(Arc<PluginSettings>, Option<Absent>)> {
        self.shared
            .named
            .values()
            .map(|settings| (settings.clone(), self.get(&settings.name).err()))
            .collect()
    }

    /// Takes over what readers are shown.
    pub(in crate::plugins) fn publish<T: Guest>(&self, snapshot: &Snapshot<T>) {
        if self.shared.named.is_empty() {
            return;
        }
        let known = self.shared.found.borrow().clone().unwrap_or_default();
        let mut found = Found::new();
        for (name, entry) in snapshot.plugins.iter().filter(|(name, _)| self.shared.named.contains_key(*name))
        {
            let serving = entry.serving.as_ref().filter(|_| !entry.disabled);
            let role = serving.and_then(|generation| generation.filter.clone());
            let filter = match role {
                Some(role) => Ok(match known.get(name) {
                    Some(Ok(filter)) if filter.is(&entry.plugin, &role) => filter.clone(),
                    _ => Filter::new(entry.plugin.clone(), role),
                }),
                None => Err(Absent(match (entry.disabled, serving) {
                    (true, _) => format!("the plugin `{name}` is disabled"),
                    (false, Some(_)) => format!("the plugin `{name}` has no filter role"),
                    (false, None) => {
                        format!("the plugin `{name}` is refused; `plugway plugin list` says why")
                    }
                })),
            };
            found.insert(name.clone(), filter);
        }
        let before = self.shared.found.send_replace(Some(found));
        self.notice(before.as_ref());
        if before.is_none() {
            let absent = |name: &&String| !snapshot.plugins.contains_key(name.as_str());
            for plugin in self.shared.filtered.iter().filter(absent) {
                tracing::warn!(
                    plugin,
                    "plugins.{plugin}.filters is set, and there is no plugin of that name: its filters are nobody's"
                );
            }
        }
    }

    /// Tells the operator of what changed.
    fn notice(&self, before: Option<&Found>) {
        for (settings, absent) in self.named() {
            let name = &settings.name;
            let was_there = before.and_then(|before| before.get(name)).is_some_and(Result::is_ok);
            match absent {
                Some(absent) if was_there || before.is_none() => tracing::error!(
                    filter = %name,
                    policy = settings.policy.as_str(),
                    "a filter is not there: {absent}; {}",
                    match settings.policy {
                        Policy::Fail => "tasks that are to pass it are refused, or fail",
                        Policy::Skip => "tasks pass unfiltered by it",
                    }
                ),
                None if !was_there && before.is_some() => {
                    tracing::info!(filter = %name, "the filter is there")
                }
                _ => {}
            }
        }
    }
}

fn missing(name: &str) -> Absent {
    Absent(format!(
        "there is no plugin `{name}`: put {name}.wasm into the plugin directory, or take it out of `filters`"
    ))
}
