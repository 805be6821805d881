//! redis-server, for who hears events by it.

use std::process::Command;

use plugway_figures::process::{Server, free_address, is_installed};

use crate::workshop::Workshop;

pub(super) fn missing() -> Option<String> {
    (!is_installed("redis-server"))
        .then(|| "redis-server is not installed; on Debian: sudo apt-get install redis-server".to_owned())
}

pub(super) fn start(workshop: &Workshop) -> anyhow::Result<Server> {
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no"]).arg("--dir").arg(workshop.home("redis")?);
    Server::start(command, address, &workshop.log("redis"))
}
