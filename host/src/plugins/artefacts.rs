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

    /// The component, from its artefact or else compiled. Blocks for as long as compiling takes.
    ///
    /// # Errors
    /// The bytes are no valid component.
    pub fn load(
        &self,
        engine: &Engine,
        hash: &ContentHash,
        bytes: &[u8],
    ) -> wasmtime::Result<(Component, Origin)> {
        let path = self.path(engine, hash);
        if path.exists() {
            match load_artefact(engine, &path) {
                Ok(component) => return Ok((component, Origin::Cached)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a cached artefact can't be used; compiling again");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok((compile_at_low_priority(engine, bytes)?, Origin::Compiled))
    }

    /// Keeps what was compiled. Blocks until it is on disk; nobody needs to wait for it.
    pub fn keep(&self, engine: &Engine, hash: &ContentHash, component: &Component) {
        let path = self.path(engine, hash);
        if let Err(error) = self.save(&path, component) {
            tracing::warn!(path = %path.display(), %error, "can't cache a compiled plugin; it will be compiled at every start");
        }
    }

    fn path(&self, engine: &Engine, hash: &ContentHash) -> PathBuf {
        let mut compatibility = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatibility);
        let content: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("{content}-{:016x}.cwasm", compatibility.finish()))
    }

    fn save(&self, path: &Path, component: &Component) -> std::io::Result<()> {
        let bytes = component.serialize().map_err(|error| std::io::Error::other(error.to_string()))?;
        static SAVES: AtomicU64 = AtomicU64::new(0);
        let save = SAVES.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("tmp{}-{save}", std::process::id()));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&bytes)?;
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

/// Compiles on a thread of its own that gives way to those that serve.
fn compile_at_low_priority(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
    std::thread::scope(|scope| {
        let compile = scope.spawn(|| {
            // On Linux this is the thread's own priority. Where it is refused, compiling is merely less polite.
            let _ = rustix::process::setpriority_process(None, 10);
            Component::from_binary(engine, bytes)
        });
        compile
            .join()
            .unwrap_or_else(|_| Err(wasmtime::Error::msg("the compiler panicked on this component")))
    })
}

/// Loads an artefact.
#[expect(
    unsafe_code,
    reason = "the directory is the gateway's own (mode 0700), files in it are written whole by `save` only, and wasmtime checks version and settings"
)]
fn load_artefact(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: see the reason above.
    let component = unsafe { Component::deserialize_file(engine, path) }?;
    // Marks it as used, for `prune`.
    if let Ok(file) = fs::File::options().append(true).open(path) {
        let _ = file.set_modified(std::time::SystemTime::now());
    }
    Ok(component)
}
