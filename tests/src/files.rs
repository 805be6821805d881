//! Where the binary, the built plugins and the fixtures are.

use std::env;
use std::path::{Path, PathBuf};

/// Root of the workspace.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// The gateway's binary: `PLUGWAY_BIN`, else what was built beside this test, else the workspace's target directory.
///
/// # Panics
///
/// When it was not built.
pub fn plugway() -> PathBuf {
    if let Some(path) = env::var_os("PLUGWAY_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "PLUGWAY_BIN names {}, which is no file", path.display());
        return path;
    }
    let name = format!("plugway{}", env::consts::EXE_SUFFIX);
    let target = workspace().join("target");
    [profile(), Some(target.join("release")), Some(target.join("debug"))]
        .into_iter()
        .flatten()
        .map(|directory| directory.join(&name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("plugway binary not found, run ./tests/run"))
}

/// A bundled plugin, built: from the directory `PLUGWAY_PLUGINS`, else from `plugins/`.
///
/// # Panics
///
/// When it was not built.
pub fn plugin(name: &str) -> PathBuf {
    let directory = env::var_os("PLUGWAY_PLUGINS").map_or_else(|| workspace().join("plugins"), PathBuf::from);
    built(&directory, name)
}

/// A plugin of `tests/plugins`, built: from the directory `PLUGWAY_FIXTURES`, else from `fixtures` in the target
/// directory.
///
/// # Panics
///
/// When it was not built.
pub fn fixture(name: &str) -> PathBuf {
    let directory = env::var_os("PLUGWAY_FIXTURES").map_or_else(|| target().join("fixtures"), PathBuf::from);
    built(&directory, name)
}

/// Where all gateways of the tests keep compiled plugins, so that each is compiled once and not once a test.
pub(crate) fn artefacts() -> PathBuf {
    target().join("artefacts-of-tests")
}

/// The target directory that this test was built into.
fn target() -> PathBuf {
    let target = profile().and_then(|profile| profile.parent().map(Path::to_path_buf));
    target.unwrap_or_else(|| workspace().join("target"))
}

fn built(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(format!("{name}.wasm"));
    assert!(path.is_file(), "plugin {} not found, run ./tests/run", path.display());
    path
}

/// The profile's directory that this test was built into, as `target/release` for `target/release/deps/telegram-1a2b`.
fn profile() -> Option<PathBuf> {
    let test = env::current_exe().ok()?;
    let directory = test.parent()?;
    let profile = if directory.ends_with("deps") { directory.parent()? } else { directory };
    Some(profile.to_path_buf())
}
