//! `plugway plugin build`: cargo with the settings that a plugin wants, and an atomic installation.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::BuildArgs;

const TARGET: &str = "wasm32-wasip2";
/// A small stack starts quickly; this one carries serde_json's recursion limit.
const GUEST_STACK: usize = 128 << 10;

/// Builds and installs what was asked for.
pub(super) fn build(args: &BuildArgs) -> anyhow::Result<()> {
    let crates = if args.crates.is_empty() { find_crates(&args.out)? } else { args.crates.clone() };
    if crates.is_empty() {
        bail!("no plugin crates (folders with a Cargo.toml) under {}", args.out.display());
    }
    ensure_target()?;
    for dir in crates {
        let installed = build_one(&dir, &args.out)?;
        say!("{}", installed.display());
    }
    Ok(())
}

/// Folders with a Cargo.toml right below `dir`, by name.
pub(super) fn find_crates(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", dir.display())),
    };
    let mut crates: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .collect();
    crates.sort();
    Ok(crates)
}

/// Makes sure that the compiler can build components, with rustup's help where it is there.
pub(super) fn ensure_target() -> anyhow::Result<()> {
    let libs = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("can't run rustc; install Rust by rustup")?;
    let dir = PathBuf::from(String::from_utf8_lossy(&libs.stdout).trim());
    if libs.status.success() && dir.is_dir() {
        return Ok(());
    }
    eprintln!("installing the compiler target {TARGET} (rustup target add {TARGET})");
    let added = Command::new("rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).status();
    match added {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("the compiler target {TARGET} is missing; install it with: rustup target add {TARGET}"),
    }
}

/// Builds one crate and installs it as `out/FOLDER.wasm`.
pub(super) fn build_one(dir: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    let dir = dir.canonicalize().with_context(|| format!("no such folder: {}", dir.display()))?;
    let name =
        dir.file_name().and_then(|name| name.to_str()).context("the folder's name is not UTF-8")?.to_owned();
    let built = cargo(&dir).with_context(|| format!("building the plugin {name} failed"))?;
    std::fs::create_dir_all(out).with_context(|| format!("can't create {}", out.display()))?;
    let installed = out.join(format!("{name}.wasm"));
    // Not `.wasm`, so that the gateway does not look at it before it is whole.
    let temporary = out.join(format!(".{name}.wasm.{}", std::process::id()));
    std::fs::copy(&built, &temporary)
        .and_then(|_| std::fs::rename(&temporary, &installed))
        .with_context(|| format!("can't install {}", installed.display()))?;
    Ok(installed)
}

/// Runs cargo, its messages going to the user, and returns the component that it made.
fn cargo(dir: &Path) -> anyhow::Result<PathBuf> {
    let rustflags = format!("target.{TARGET}.rustflags=[\"-Clink-arg=-zstack-size={GUEST_STACK}\"]");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(dir)
        .args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"])
        .args(["--config", "profile.release.opt-level=\"s\""])
        .args(["--config", "profile.release.lto=true"])
        .args(["--config", "profile.release.codegen-units=1"])
        .args(["--config", "profile.release.strip=true"])
        .args(["--config", "profile.release.debug=false"])
        .args(["--config", &rustflags])
        // What `cargo run` sets for the gateway is not for the plugin.
        .env_remove("RUSTFLAGS")
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo; install Rust by rustup")?;
    if !output.status.success() {
        bail!("cargo ended with {}", output.status);
    }
    let manifest = dir.join("Cargo.toml");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut components = messages.lines().filter_map(|line| component_of(line, &manifest));
    components.next_back().context(
        "the crate made no component; its Cargo.toml needs: [lib] crate-type = [\"cdylib\", \"rlib\"]",
    )
}

/// The component in one of cargo's messages, if it is about the crate itself.
fn component_of(line: &str, manifest: &Path) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_own = message.get("manifest_path")?.as_str().is_some_and(|path| Path::new(path) == manifest);
    let files = message.get("filenames")?.as_array()?;
    let component = files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".wasm"))?;
    is_own.then(|| component.into())
}
