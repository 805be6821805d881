//! Tells when something in the plugin directory changed. Watchers lose events, so whoever listens also looks by itself
//! from time to time.

use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Changes that may wait to be looked at; more are found by the next look.
const PENDING: usize = 1_024;

/// A file changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Its path.
    pub(crate) path: PathBuf,
    /// It is whole: it was renamed into place, or its writer closed it.
    pub(crate) complete: bool,
}

/// Watches one directory, not those below it.
pub(crate) struct Watch {
    _watcher: Option<notify::RecommendedWatcher>,
    changes: mpsc::Receiver<Change>,
}

impl Watch {
    /// Begins to watch. Where the system refuses, nothing is ever reported, and a warning says so.
    pub(crate) fn begin(dir: &Path) -> Self {
        let (send, changes) = mpsc::channel(PENDING);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let Some(complete) = completeness(&event.kind) else { return };
            for path in event.paths {
                // A full channel loses the change; the next look finds it.
                let _ = send.try_send(Change { path, complete });
            }
        });
        let watcher = watcher.and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(dir = %dir.display(), %error, "can't watch the plugin directory; looking every few seconds instead");
            })
            .ok();
        Self { _watcher: watcher, changes }
    }

    /// The next change. Never returns where watching was refused.
    pub(crate) async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            None => std::future::pending().await,
        }
    }
}

/// Whether an event says that a file is whole; none for events that change nothing.
fn completeness(kind: &EventKind) -> Option<bool> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(true),
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Some(true),
        EventKind::Access(_) => None,
        EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Any
        | EventKind::Other => Some(false),
    }
}
