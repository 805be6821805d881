//! What all figures share: where things are, how much to do, and the servers that several of them measure.

use std::cell::{Cell, OnceCell};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use plugway_figures::process::{Server, free_address, run};
use plugway_figures::report;
use tempfile::TempDir;

use crate::subjects::{Kind, Subject};

/// The plugin's file.
const PLUGIN: &str = "openai.wasm";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Streams that are held at once.
    pub(crate) held: usize,
    pub(crate) quick: bool,
}

#[derive(Debug)]
pub(crate) struct Workshop {
    /// Before the directory that they work in: they end first.
    subjects: OnceCell<Vec<Subject>>,
    effort: Effort,
    without: Vec<Kind>,
    gateway: PathBuf,
    plugin: PathBuf,
    target: PathBuf,
    directory: TempDir,
    homes: Cell<usize>,
}

impl Workshop {
    pub(crate) fn open(effort: Effort, without: Vec<Kind>) -> anyhow::Result<Self> {
        let program = env::current_exe()?;
        let profile = program.parent().context("the program is in a directory")?;
        let gateway = env::var_os("PLUGWAY_BIN").map_or_else(|| profile.join("plugway"), PathBuf::from);
        ensure!(
            gateway.is_file(),
            "there is no gateway at {}: cargo build --release, or set PLUGWAY_BIN",
            gateway.display()
        );
        let directory = tempfile::tempdir()?;
        let plugin = match env::var_os("PLUGWAY_PLUGINS") {
            Some(plugins) => PathBuf::from(plugins).join(PLUGIN),
            None => build(&gateway, directory.path())?,
        };
        ensure!(plugin.is_file(), "there is no plugin at {}", plugin.display());
        let mut workshop = Self {
            effort,
            without,
            gateway,
            plugin,
            target: profile.parent().unwrap_or(profile).to_path_buf(),
            directory,
            homes: Cell::new(0),
            subjects: OnceCell::new(),
        };
        for kind in Kind::ALL {
            if workshop.has(kind)
                && let Some(missing) = kind.missing(&workshop)
            {
                eprintln!("left out: {}. {missing}", kind.title());
                workshop.without.push(kind);
            }
        }
        Ok(workshop)
    }

    /// Whether this kind of server is there to be measured.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        !self.without.contains(&kind)
    }

    /// How often each figure is measured.
    pub(crate) fn rounds(&self) -> usize {
        if self.effort.quick { 1 } else { self.effort.rounds }
    }

    /// This many, or fewer for a quick run.
    pub(crate) fn count(&self, full: u32) -> u32 {
        if self.effort.quick { (full / 10).max(1) } else { full }
    }

    /// Streams that are held at once.
    pub(crate) fn held(&self) -> usize {
        if self.effort.quick { self.effort.held.div_ceil(10) } else { self.effort.held }
    }

    /// The model server and the gateways before it, which stay for all figures.
    pub(crate) fn subjects(&self) -> anyhow::Result<&[Subject]> {
        match self.subjects.get() {
            Some(subjects) => Ok(subjects),
            None => {
                let subjects = Subject::all(self)?;
                Ok(self.subjects.get_or_init(|| subjects))
            }
        }
    }

    /// Directory of the environment that Python's packages are in; it is kept.
    pub(crate) fn python(&self) -> PathBuf {
        self.target.join("chat-python")
    }

    /// A model server.
    pub(crate) fn model(&self) -> anyhow::Result<Server> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("model");
        Server::announced(command, &self.log("model"))
    }

    /// A gateway with the plugin `openai`. `config` is what its configuration has.
    pub(crate) fn gateway(&self, config: &str) -> anyhow::Result<Server> {
        let (address, home) = (free_address()?, self.home("plugway")?);
        fs::create_dir(home.join("plugins"))?;
        fs::copy(&self.plugin, home.join("plugins").join(PLUGIN))?;
        fs::write(home.join("plugway.toml"), config)?;
        let mut command = Command::new(&self.gateway);
        command.current_dir(&home).env_clear().env("HOME", &home).arg("serve");
        command.arg("--config").arg(home.join("plugway.toml")).args(["--listen", &address.to_string()]);
        command.arg("--data-dir").arg(home.join("data")).arg("--plugins-dir").arg(home.join("plugins"));
        Server::start(command, address, &self.log("plugway"))
    }

    /// A new directory for a server.
    pub(crate) fn home(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.numbered(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// A new file for a server's log.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.numbered(&format!("{name}.log"))
    }

    fn numbered(&self, name: &str) -> PathBuf {
        self.homes.set(self.homes.get() + 1);
        self.directory.path().join(format!("{}-{name}", self.homes.get()))
    }

    /// One line on what was measured, and where.
    pub(crate) fn description(&self) -> String {
        let quick = if self.effort.quick { "; quick, not for comparison" } else { "" };
        format!(
            "{}; medians of {} rounds; CPU: user and system from /proc/PID/stat, of a server and its \
             children{quick}",
            report::place(&self.gateway),
            self.rounds()
        )
    }
}

/// Builds the plugin into the directory: its file.
fn build(gateway: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/openai");
    let mut command = Command::new(gateway);
    command.args(["plugin", "build"]).arg(source).arg("--out").arg(directory).stdout(Stdio::null());
    run(&mut command)?;
    Ok(directory.join(PLUGIN))
}
