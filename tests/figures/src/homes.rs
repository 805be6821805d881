//! Directories and logs of the servers of one run, numbered, and gone with it.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

/// A directory for all that the servers of a run leave behind.
#[derive(Debug)]
pub struct Homes {
    directory: TempDir,
    made: Cell<usize>,
}

impl Homes {
    /// An empty one.
    ///
    /// # Errors
    /// There is no room for temporary files.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, made: Cell::new(0) })
    }

    /// A new directory for a server.
    ///
    /// # Errors
    /// It can't be made.
    pub fn home(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.numbered(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// A new file for a server's log, which is yet to be made.
    pub fn log(&self, name: &str) -> PathBuf {
        self.numbered(&format!("{name}.log"))
    }

    fn numbered(&self, name: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.directory.path().join(format!("{}-{name}", self.made.get()))
    }
}
