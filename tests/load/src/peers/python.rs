//! FastAPI with sse-starlette and redis: the program in `tests/load/python`, in an environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use plugway_figures::process::{Server, free_address};
use plugway_figures::python;

use super::{Peer, redis};
use crate::workshop::Workshop;

/// What is missing, in a sentence. Makes the environment where it isn't there yet.
pub(super) fn missing(workshop: &Workshop) -> Option<String> {
    let requirements = sources().join("requirements.txt");
    redis::missing().or_else(|| {
        python::install(&workshop.python(), &requirements).err().map(|error| format!("{error:#}"))
    })
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
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
