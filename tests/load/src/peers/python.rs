//! FastAPI with sse-starlette and redis: the program in `tests/load/python`, in an environment of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Peer, redis};
use crate::process::{Server, free_address, is_installed, run};
use crate::workshop::Workshop;

/// What is missing, in a sentence. Makes the environment where it isn't there yet.
pub(super) fn missing(workshop: &Workshop) -> Option<String> {
    if !is_installed("python3") {
        return Some("Python is not installed; on Debian: sudo apt-get install python3-venv".to_owned());
    }
    install(&workshop.python()).err().map(|error| {
        format!("FastAPI can't be installed; it needs python3-venv and a package index: {error:#}")
    })
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

fn install(environment: &Path) -> anyhow::Result<()> {
    let wanted = fs::read_to_string(sources().join("requirements.txt"))?;
    let installed = environment.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run(pip.arg(sources().join("requirements.txt")))?;
    Ok(fs::write(installed, wanted)?)
}

pub(super) fn start(workshop: &Workshop) -> anyhow::Result<Peer> {
    let (redis, address) = (redis::start(workshop)?, free_address()?);
    let mut command = Command::new(workshop.python().join("bin/uvicorn"));
    command.current_dir(sources()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("REDIS_URL", format!("redis://{}", redis.address()));
    command.args(["feed:app", "--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--workers", "1", "--log-level", "warning", "--no-access-log", "--backlog", "4096"]);
    let server = Server::start(command, address, &workshop.log("python"))?;
    Peer::on_redis(vec![server], "/api/agent/stream", redis)
}
