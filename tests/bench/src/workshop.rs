//! What all figures share: the gateway's binary, the benchmark's plugin, and gateways in directories of their own.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::bail;
use plugway_figures::process::{Server, run};
use plugway_figures::report;
use tempfile::TempDir;

use crate::client::{Connection, request};

/// Longest that a gateway gets to load its plugins.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    Full,
    Quick,
}

/// The binaries, and how much to do with them.
#[derive(Debug)]
pub(crate) struct Workshop {
    effort: Effort,
    gateway: PathBuf,
    built: TempDir,
}

impl Workshop {
    /// Builds what is measured.
    pub(crate) fn open(effort: Effort) -> anyhow::Result<Self> {
        if env::var_os("PLUGWAY_BIN").is_none() {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.current_dir(plugway_tests::workspace()).args([
                "build",
                "--release",
                "--package",
                "plugway",
            ]);
            run(&mut command)?;
        }
        let gateway = plugway_tests::plugway();
        let built = tempfile::tempdir()?;
        let sources = plugway_tests::workspace().join("tests/plugins");
        let mut command = Command::new(&gateway);
        command.args(["plugin", "build"]).arg(sources.join(BENCH)).arg(sources.join(SIEVE));
        command.arg(plugway_tests::workspace().join("plugins/ide"));
        command.arg("--out").arg(built.path()).stdout(Stdio::null());
        run(&mut command)?;
        Ok(Self { effort, gateway, built })
    }

    /// One line on what was measured, and where.
    pub(crate) fn description(&self) -> String {
        let quick = if self.effort == Effort::Quick { "; quick, not for comparison" } else { "" };
        report::place(&self.gateway) + quick
    }

    /// This many, or fewer for a quick run.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        match self.effort {
            Effort::Full => full,
            Effort::Quick => (full / 4).max(1),
        }
    }

    /// This long, or shorter for a quick run.
    pub(crate) fn length(&self, full: Duration) -> Duration {
        match self.effort {
            Effort::Full => full,
            Effort::Quick => full / 4,
        }
    }

    /// The benchmark's plugin.
    pub(crate) fn plugin(&self) -> PathBuf {
        self.built.path().join("bench.wasm")
    }

    /// A filter that passes everything, unless its configuration says otherwise.
    pub(crate) fn filter(&self) -> PathBuf {
        self.built.path().join("sieve.wasm")
    }

    /// The bundled plugin for IDEs.
    pub(crate) fn ide(&self) -> PathBuf {
        self.built.path().join("ide.wasm")
    }

    /// The native relay before a runtime.
    pub(crate) fn relay(&self, runtime: SocketAddr) -> anyhow::Result<Server> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("relay").arg(runtime.to_string());
        Server::announced(command, &self.built.path().join("relay.log"))
    }

    /// The native server.
    pub(crate) fn native(&self) -> anyhow::Result<Server> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("native");
        Server::announced(command, &self.built.path().join("native.log"))
    }

    /// A gateway with the benchmark's plugin, and with an echo agent that does not pause. `config` is what else its
    /// configuration has.
    pub(crate) async fn gateway(&self, config: &str) -> anyhow::Result<Gateway> {
        let home = self.home(config)?;
        home.install(BENCH, &fs::read(self.plugin())?);
        home.start().await
    }

    /// Directory of a gateway that has no plugins yet.
    pub(crate) fn home(&self, config: &str) -> anyhow::Result<Home> {
        let directory = tempfile::tempdir()?;
        let config = format!("{config}\n[agents.echo]\nchunk_delay = \"0s\"\nmax_count = 10_000_000\n");
        fs::write(directory.path().join("plugway.toml"), config)?;
        Ok(Home { binary: self.gateway.clone(), directory })
    }
}

/// Name that the plugin is installed by where it is there once.
pub(crate) const BENCH: &str = "bench";

/// Name of the filter's source.
const SIEVE: &str = "sieve";

/// What a gateway keeps between two starts.
#[derive(Debug)]
pub(crate) struct Home {
    binary: PathBuf,
    directory: TempDir,
}

impl Home {
    /// Puts a component in place, whole, by a rename.
    pub(crate) fn install(&self, name: &str, component: &[u8]) {
        plugway_tests::overwrite_bytes(&self.directory.path().join("plugins"), name, component);
    }

    /// Where all of it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the gateway; it may not have loaded its plugins yet.
    pub(crate) fn launch(&self) -> anyhow::Result<Server> {
        let directory = self.directory.path();
        let mut command = Command::new(&self.binary);
        command.current_dir(directory).env_clear().env("HOME", directory).arg("serve");
        command.arg("--config").arg(directory.join("plugway.toml")).args(["--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(directory.join("data"));
        command.arg("--plugins-dir").arg(directory.join("plugins"));
        Server::announced(command, &directory.join("log"))
    }

    /// Starts the gateway and waits until it is ready.
    pub(crate) async fn start(self) -> anyhow::Result<Gateway> {
        let server = self.launch()?;
        let gateway = Gateway { server, home: self };
        let began = Instant::now();
        loop {
            let (status, body) = gateway.get("/ready").await?;
            if status == 200 {
                return Ok(gateway);
            }
            if began.elapsed() > PATIENCE {
                bail!("the gateway does not get ready: {body}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A gateway that is ready.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) server: Server,
    pub(crate) home: Home,
}

impl Gateway {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// GET: status and body.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.ask(&request("GET", path, "")).await
    }

    /// Has the plugin submit a task with this text: the task's id.
    pub(crate) async fn submit(&self, text: &str) -> anyhow::Result<String> {
        match self.ask(&request("POST", "/bench/submit", text)).await? {
            (200, task) => Ok(task),
            (status, answer) => bail!("the task was not accepted: {status} {answer}"),
        }
    }

    /// Waits until the task has ended.
    pub(crate) async fn ended(&self, task: &str) -> anyhow::Result<()> {
        loop {
            let (_, answer) = self.get(&format!("/tasks/{task}")).await?;
            let description: serde_json::Value = serde_json::from_str(&answer)?;
            match description["state"].as_str() {
                Some("completed") => return Ok(()),
                Some("queued" | "running") => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => bail!("the task is {description}"),
            }
        }
    }

    async fn ask(&self, request: &[u8]) -> anyhow::Result<(u16, String)> {
        let mut connection = Connection::open(self.address()).await?;
        let (status, body) = connection.ask(request).await?;
        Ok((status, String::from_utf8_lossy(body).into_owned()))
    }
}
