//! `plugway dev`: build the plugins, serve, and rebuild a plugin whose sources change.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::tryout::Tryout;
use super::{ServeArgs, build, serve};
use crate::app::Gateway;
use crate::plugins::Compiler;
use crate::telemetry::{self, Metrics};

/// Saving a file is often several changes: they are waited out.
const SETTLE: Duration = Duration::from_millis(200);

/// Builds, serves, watches.
pub(super) fn dev(args: &ServeArgs) -> anyhow::Result<()> {
    let config = serve::load(args)?;
    telemetry::init_logs(&config.telemetry)?;
    serve::raise_open_files(config.limits.connections);
    let plugins = config.plugins_dir.clone();
    std::fs::create_dir_all(&plugins).with_context(|| format!("can't create {}", plugins.display()))?;
    // Before the first build, so that what is saved meanwhile is built too.
    let (_watcher, changes) = watch(&plugins)?;
    build_all(&plugins)?;
    let metrics = Metrics::install()?;
    serve::run(async {
        let stop = serve::stop_signal()?;
        let tryout = Tryout::of(&config);
        let compiler = Compiler::child(&config.engine);
        let gateway = Gateway::start(config, metrics, compiler).await?;
        gateway.catalogue().wait_loaded().await;
        serve::announce(&gateway)?;
        let serving = gateway.catalogue().status();
        let serves = |name: &str| serving.iter().any(|plugin| plugin.name == name && plugin.generation > 0);
        // Whoever started it may have closed its output.
        let text = tryout.text(gateway.address()?, serves, gateway.catalogue().dir());
        let _ = std::io::stdout().write_all(text.as_bytes());
        let rebuilding = tokio::spawn(rebuild(plugins, changes));
        let served = gateway.serve(stop).await;
        rebuilding.abort();
        served
    })
}

/// Builds every crate that there is. What does not build is told: the rest is served, and its next change is built.
fn build_all(plugins: &Path) -> anyhow::Result<()> {
    let crates = build::find_crates(plugins)?;
    if crates.is_empty() {
        tracing::warn!(dir = %plugins.display(), "no plugin crates here; serving what is built already");
        return Ok(());
    }
    if let Err(error) = build::ensure_target() {
        tracing::error!("{error:#}; serving what is built already");
        return Ok(());
    }
    for dir in crates {
        if let Err(error) = build::build_one(&dir, plugins) {
            tracing::error!(plugin = %dir.display(), "{error:#}; serving what was built of it before, if anything");
        }
    }
    Ok(())
}

/// Reports which plugin crates' sources changed.
fn watch(plugins: &Path) -> anyhow::Result<(notify::RecommendedWatcher, mpsc::UnboundedReceiver<PathBuf>)> {
    let root = plugins.canonicalize().with_context(|| format!("no such folder: {}", plugins.display()))?;
    let (send, changes) = mpsc::unbounded_channel();
    let base = root.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if matches!(event.kind, notify::EventKind::Access(_)) {
            return;
        }
        for path in event.paths {
            if let Some(dir) = crate_of(&base, &path) {
                // The receiver ends with the process.
                let _ = send.send(dir);
            }
        }
    })?;
    watcher.watch(&root, RecursiveMode::Recursive).context("can't watch the plugins' sources")?;
    Ok((watcher, changes))
}

/// The plugin crate whose source a path is, if it is one.
fn crate_of(root: &Path, path: &Path) -> Option<PathBuf> {
    let inside = path.strip_prefix(root).ok()?;
    let mut parts = inside.components();
    let folder = root.join(parts.next()?);
    let below = parts.next()?.as_os_str();
    let is_source = path.extension().is_some_and(|extension| extension == "rs" || extension == "toml");
    (below != "target" && is_source && folder.join("Cargo.toml").is_file()).then_some(folder)
}

/// Rebuilds what changed. A build that fails is told and leaves what serves alone.
async fn rebuild(plugins: PathBuf, mut changes: mpsc::UnboundedReceiver<PathBuf>) {
    while let Some(first) = changes.recv().await {
        let mut changed = BTreeSet::from([first]);
        while let Ok(Some(more)) = tokio::time::timeout(SETTLE, changes.recv()).await {
            changed.insert(more);
        }
        for dir in changed {
            tracing::info!(plugin = %dir.display(), "sources changed, rebuilding");
            let out = plugins.clone();
            let built = tokio::task::spawn_blocking(move || build::build_one(&dir, &out)).await;
            match built {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::error!("{error:#}; what serves goes on serving"),
                Err(error) => tracing::error!(%error, "the build failed"),
            }
        }
    }
}
