//! What all figures share: where things are, how much to do, and what is left out.

use std::cell::Cell;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use plugway_figures::report;
use tempfile::TempDir;

use crate::event::Clock;
use crate::peers::Kind;

#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) clock: Clock,
    /// Clients of all figures but the one of held connections.
    pub(crate) clients: usize,
    /// Clients of that one.
    pub(crate) held: usize,
    pub(crate) rounds: usize,
    without: Vec<Kind>,
    gateway: PathBuf,
    target: PathBuf,
    directory: TempDir,
    homes: Cell<usize>,
}

impl Workshop {
    pub(crate) fn open(
        clients: usize,
        held: usize,
        rounds: usize,
        without: Vec<Kind>,
    ) -> anyhow::Result<Self> {
        let program = env::current_exe()?;
        let profile = program.parent().context("the program is in a directory")?;
        let gateway = env::var_os("PLUGWAY_BIN").map_or_else(|| profile.join("plugway"), PathBuf::from);
        let mut workshop = Self {
            clock: Clock::start(),
            clients,
            held,
            rounds,
            without,
            gateway,
            target: profile.parent().unwrap_or(profile).to_path_buf(),
            directory: tempfile::tempdir()?,
            homes: Cell::new(0),
        };
        for kind in Kind::ALL {
            if !workshop.without.contains(&kind)
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

    /// The gateway's binary.
    pub(crate) fn gateway(&self) -> &Path {
        &self.gateway
    }

    /// Directory of the environment that Python's packages are in; it is kept.
    pub(crate) fn python(&self) -> PathBuf {
        self.target.join("load-python")
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
        format!(
            "{}; medians of {} rounds; CPU: user and system from /proc/PID/stat, of a server and its children",
            report::place(&self.gateway),
            self.rounds
        )
    }
}
