//! Compiled components, cached by content: compiling takes tens of milliseconds, loading an artefact well under one.
//!
//! Invariant: an artefact is only ever loaded by the engine that it was compiled for, and never half-written.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::Engine;
use wasmtime::component::Component;

/// Artefacts kept; the ones not used for longest go first.
const KEPT: usize = 64;

/// SHA-256 of a component file.
pub(super) type ContentHash = [u8; 32];

/// Where a component came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was compiled just now.
    Compiled,
    /// Its artefact was in the cache.
    Cached,
}

/// The cache, a directory.
#[derive(Clone, Debug)]
pub struct ArtefactCache {
    dir: PathBuf,
}

impl ArtefactCache {
    /// Opens the cache, and drops what has not been used for long.
    ///
    /// # Errors
    /// The directory can't be created.
    pub fn open(dir: PathBuf) -> std::io::Result<Self> {
        fs::create_dir_all(&dir)?;
        // Artefacts are native code: nobody else may write here.
        #[cfg(unix)]
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let cache = Self { dir };
        cache.prune();
        Ok(cache)
    }

    /// The component, if its artefact is here. Blocks for the time of a look into the directory.
    pub fn find(&self, engine: &Engine, hash: &ContentHash) -> Option<Component> {
        let path = self.path(engine, hash);
        if !path.exists() {
            return None;
        }
        match load_artefact_file(engine, &path) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a cached artefact can't be used; compiling again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps what was compiled. Blocks until it is on disk; nobody needs to wait for it.
    pub fn keep(&self, engine: &Engine, hash: &ContentHash, artefact: &[u8]) {
        let path = self.path(engine, hash);
        if let Err(error) = self.save(&path, artefact) {
            tracing::warn!(path = %path.display(), %error, "can't cache a compiled plugin; it will be compiled at every start");
        }
    }

    fn path(&self, engine: &Engine, hash: &ContentHash) -> PathBuf {
        let mut compatibility = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatibility);
        let content: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("{content}-{:016x}.cwasm", compatibility.finish()))
    }

    fn save(&self, path: &Path, artefact: &[u8]) -> std::io::Result<()> {
        static SAVES: AtomicU64 = AtomicU64::new(0);
        let save = SAVES.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("tmp{}-{save}", std::process::id()));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(artefact)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        self.prune();
        Ok(())
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut files: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort_by(|a, b| b.cmp(a));
        for (_, path) in files.into_iter().skip(KEPT) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Loads what was compiled just now.
///
/// # Errors
/// It is no artefact, or not one of this engine's.
#[expect(
    unsafe_code,
    reason = "it comes from this process's own compiler or its child's, and wasmtime checks version and settings"
)]
pub(super) fn load_artefact(engine: &Engine, artefact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: see the reason above.
    unsafe { Component::deserialize(engine, artefact) }
}

/// Loads an artefact of the cache.
#[expect(
    unsafe_code,
    reason = "the directory is the gateway's own (mode 0700), files in it are written whole by `save` only, and wasmtime checks version and settings"
)]
fn load_artefact_file(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: see the reason above.
    let component = unsafe { Component::deserialize_file(engine, path) }?;
    // Marks it as used, for `prune`.
    if let Ok(file) = fs::File::options().append(true).open(path) {
        let _ = file.set_modified(std::time::SystemTime::now());
    }
    Ok(component)
}
