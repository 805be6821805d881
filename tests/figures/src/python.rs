//! Environments with Python's packages, for the servers that are written in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::{is_installed, run};

/// Makes the environment with what `requirements` lists, unless it is there already. It is kept.
///
/// # Errors
/// Python is not there, or can't install them.
pub fn install(environment: &Path, requirements: &Path) -> anyhow::Result<()> {
    if !is_installed("python3") {
        bail!("Python is not installed; on Debian: sudo apt-get install python3-venv");
    }
    let wanted = fs::read_to_string(requirements)?;
    let installed = environment.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    let needs = "Python's packages need python3-venv and a package index";
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment)).context(needs)?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run(pip.arg(requirements)).context(needs)?;
    Ok(fs::write(installed, wanted)?)
}
