//! What lies at a plugin's path: looked at without reading it, and read within a bound.
//!
//! Invariant: a plugin counts as removed only where the system says that there is no such file; what can't be looked at
//! is an error, and nothing but a regular file is ever read.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::plugins::artefacts::ContentHash;

/// What lies at a path, as far as one can tell without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// There is no such file.
    Absent,
    /// A file.
    File(Stamp),
    /// Something that can't be served, or can't be looked at: why.
    Unclear(String),
}

/// What tells one state of a file from another without reading it: device, inode, length, the time of the last change to
/// its content, and that to either content or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp([i64; 7]);

impl Look {
    /// Follows links, so that a swapped link is a changed file.
    pub(super) fn at(path: &Path) -> Self {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(error) => Self::unclear(&error),
            Ok(_) => match fs::metadata(path) {
                Err(error) => Self::unclear(&error),
                Ok(metadata) => Self::of(&metadata),
            },
        }
    }

    fn of(metadata: &fs::Metadata) -> Self {
        if !metadata.is_file() {
            return Self::Unclear("it is no regular file".to_owned());
        }
        Self::File(Stamp([
            metadata.dev().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.len().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ]))
    }

    fn unclear(error: &io::Error) -> Self {
        Self::Unclear(format!("it can't be looked at: {error}"))
    }
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Read {
    /// How it looked then.
    pub(super) look: Look,
    /// It looked differently afterwards: what was read may be half of it.
    pub(super) changed: bool,
    /// Its bytes and their hash, or why they can't be had.
    pub(super) content: Result<(Vec<u8>, ContentHash), String>,
}

/// A component file of at most `bound` bytes, and its hash. Blocks.
///
/// # Errors
/// Why it can't be read.
pub(crate) fn read_component(path: &Path, bound: u64) -> Result<(Vec<u8>, ContentHash), String> {
    match open(path) {
        Ok((file, _)) => read_opened(file, bound),
        Err(Look::Unclear(reason)) => Err(reason),
        Err(_) => Err("there is no such file".to_owned()),
    }
}

/// Reads a file of at most `bound` bytes.
pub(super) async fn read(path: PathBuf, bound: u64) -> Read {
    let task = tokio::task::spawn_blocking(move || {
        let (look, content) = match open(&path) {
            Ok((file, look)) => (look, read_opened(file, bound)),
            Err(look) => {
                let reason = match &look {
                    Look::Unclear(reason) => reason.clone(),
                    _ => "it is gone".to_owned(),
                };
                (look, Err(reason))
            }
        };
        Read { changed: Look::at(&path) != look, look, content }
    });
    task.await.unwrap_or_else(|error| {
        let reason = format!("it can't be read: {error}");
        Read { look: Look::Unclear(reason.clone()), changed: false, content: Err(reason) }
    })
}

/// Opens a regular file; waits for nobody to open the other end of anything else.
fn open(path: &Path) -> Result<(fs::File, Look), Look> {
    let look = Look::at(path);
    if !matches!(look, Look::File(_)) {
        return Err(look);
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = fs::File::options().read(true).custom_flags(flags).open(path);
    let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = opened.map_err(|error| Look::unclear(&error))?;
    match Look::of(&metadata) {
        Look::File(stamp) => Ok((file, Look::File(stamp))),
        other => Err(other),
    }
}

fn read_opened(file: fs::File, bound: u64) -> Result<(Vec<u8>, ContentHash), String> {
    let mut bytes = Vec::new();
    file.take(bound + 1).read_to_end(&mut bytes).map_err(|error| format!("it can't be read: {error}"))?;
    if bytes.len() as u64 > bound {
        return Err(format!("larger than {} (limits.file)", ByteSize(bound)));
    }
    let hash = Sha256::digest(&bytes).into();
    Ok((bytes, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_is_not_there_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert_eq!(Look::at(&path("none")), Look::Absent);
        fs::write(path("file"), "").unwrap();
        assert!(matches!(Look::at(&path("file")), Look::File(_)));
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        std::os::unix::fs::symlink("round", path("round")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        for unclear in ["dangling", "round", "folder", "file/below"] {
            assert!(matches!(Look::at(&path(unclear)), Look::Unclear(_)), "{unclear}");
        }
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let read = read(path, 10).await;
        assert_eq!(read.content.unwrap_err(), "it is no regular file");
    }

    #[tokio::test]
    async fn a_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(path.clone(), 5).await.content.unwrap().0, b"12345");
        assert!(read(path, 4).await.content.unwrap_err().contains("limits.file"));
    }
}
