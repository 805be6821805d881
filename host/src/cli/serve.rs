//! `plugway serve`: from the configuration to the last line of the log.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::ServeArgs;
use crate::app::Gateway;
use crate::config::{Config, Overrides};
use crate::plugins::Compiler;
use crate::telemetry::{self, Metrics};

/// Files that are open beside connections: the store, plugins, requests to agents and platforms.
const OTHER_FILES: u64 = 1_024;
/// What work that can't be interrupted, as reading a file, gets when all else has ended.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Reads the configuration that the arguments name.
pub(super) fn load(args: &ServeArgs) -> anyhow::Result<Config> {
    let overrides = Overrides {
        listen: args.listen.clone(),
        data_dir: args.data_dir.clone(),
        plugins_dir: args.plugins_dir.clone(),
    };
    Config::load(args.config.as_deref(), &overrides).context("the configuration can't be used")
}

/// Serves until SIGINT or SIGTERM.
pub(super) fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let config = load(args)?;
    telemetry::init_logs(&config.telemetry)?;
    raise_open_files(config.limits.connections);
    let metrics = Metrics::install()?;
    run(async {
        let stop = stop_signal()?;
        let compiler = Compiler::child(&config.engine);
        let gateway = Gateway::start(config, metrics, compiler).await?;
        announce(&gateway)?;
        gateway.serve(stop).await
    })
}

/// Runs on the runtime of everything but guests. Work that can't be interrupted does not keep the process.
pub(super) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WORK);
    result
}

/// Takes as many open files as the system gives, and warns where that is too few for the connections to be served.
pub(super) fn raise_open_files(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        limit.current = limit.maximum;
    }
    // None: no limit.
    let Some(most) = limit.current else { return };
    let wanted = connections as u64 + OTHER_FILES;
    if most < wanted {
        tracing::warn!(
            connections,
            open_files = most,
            "this process may not open enough files for limits.connections: allow {wanted} (ulimit -n {wanted}; systemd: LimitNOFILE={wanted}; docker: --ulimit nofile={wanted}), or set limits.connections to {} or less",
            most.saturating_sub(OTHER_FILES)
        );
    }
}

/// Tells programs where the gateway listens: one line on standard output.
pub(super) fn announce(gateway: &Gateway) -> anyhow::Result<()> {
    let address = gateway.address()?;
    tracing::info!(%address, plugins = %gateway.catalogue().dir().display(), "listening");
    let mut stdout = std::io::stdout();
    // Whoever started the gateway may have closed its output: no reason not to serve.
    let _ = writeln!(stdout, "listening on http://{address}").and_then(|()| stdout.flush());
    Ok(())
}

/// Resolves when the gateway is asked to stop; the second signal ends the process at once.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("asked to stop twice: ending at once");
            std::process::exit(130);
        });
    })
}
