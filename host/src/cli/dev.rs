//! `plugway dev`: build the plugins, serve, and rebuild a plugin whose sources change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::{ServeArgs, build, serve};
use crate::app::Gateway;
use crate::telemetry::{self, Metrics};

/// Saving a file is often several changes: they are waited out.
const SETTLE: Duration = Duration::from_millis(200);

/// Builds, serves, watches.
pub(super) fn dev(args: &ServeArgs) -> anyhow::Result<()> {
    let config = serve::load(args)?;
    telemetry::init_logs(&config.telemetry)?;
    let plugins = config.plugins_dir.clone();
    let crates = build::find_crates(&plugins)?;
    if crates.is_empty() {
        tracing::warn!(dir = %plugins.display(), "no plugin crates here; serving what is built already");
    } else {
        build::ensure_target()?;
        for dir in &crates {
            build::build_one(dir, &plugins)?;
        }
    }
    let metrics = Metrics::install()?;
    serve::runtime()?.block_on(async {
        let stop = serve::stop_signal()?;
        let gateway = Gateway::start(config, metrics).await?;
        gateway.catalogue().wait_loaded().await;
        serve::announce(&gateway)?;
        print_what_to_try(&gateway)?;
        let (_watcher, changes) = watch(&plugins)?;
        let rebuilding = tokio::spawn(rebuild(plugins, changes));
        gateway.serve(stop).await;
        rebuilding.abort();
        Ok(())
    })
}

/// Lines to copy, for what is served.
fn print_what_to_try(gateway: &Gateway) -> anyhow::Result<()> {
    let url = format!("http://{}", gateway.address()?);
    println!();
    println!("Try, in another terminal:");
    println!();
    let serves = |name: &str| {
        gateway.catalogue().status().iter().any(|plugin| plugin.name == name && plugin.generation > 0)
    };
    if serves("telegram") {
        println!("  # a Telegram update comes in; the answer names a task");
        println!("  TASK=$(curl -s {url}/webhook -H 'Content-Type: application/json' \\");
        println!(
            "    -d '{{\"update_id\":'$RANDOM',\"message\":{{\"message_id\":1,\"date\":0,\"chat\":{{\"id\":42,\"type\":\"private\"}},\"from\":{{\"id\":42,\"is_bot\":false,\"first_name\":\"You\"}},\"text\":\"Hello from a fresh machine\"}}}}' \\"
        );
        println!("    | sed 's/.*\"task_id\":\"\\([^\"]*\\)\".*/\\1/'); echo $TASK");
        println!();
        println!("  # its events, as they happen");
        println!("  curl -N {url}/stream/$TASK");
        println!();
        println!("  # what is known about it");
        println!("  curl {url}/tasks/$TASK");
        println!();
    }
    println!("  # the plugins, and how the gateway is");
    println!("  curl {url}/admin/plugins");
    println!("  curl {url}/ready");
    println!();
    println!(
        "Change a plugin's source, and it is rebuilt and swapped in; drop any .wasm into {}.",
        gateway.catalogue().dir().display()
    );
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
