//! The gateway: its agent feed, on a node alone or on several that share one Redis.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use plugway_figures::process::{Server, free_address};

use super::{Peer, redis};
use crate::workshop::Workshop;

const PATH: &str = "/api/agent/stream";

pub(super) fn missing(workshop: &Workshop) -> Option<String> {
    let path = workshop.gateway();
    (!path.is_file()).then(|| {
        format!(
            "there is no gateway at {}: cargo build --release --workspace, or set PLUGWAY_BIN",
            path.display()
        )
    })
}

pub(super) fn start(workshop: &Workshop, clients: usize) -> anyhow::Result<Peer> {
    let redis = redis::start(workshop)?;
    let node = node(workshop, &redis, clients, false)?;
    Peer::on_redis(vec![node], PATH, redis)
}

pub(super) fn start_nodes(workshop: &Workshop, nodes: usize, clients: usize) -> anyhow::Result<Peer> {
    let redis = redis::start(workshop)?;
    let servers = (0..nodes).map(|_| node(workshop, &redis, clients, true)).collect::<anyhow::Result<_>>()?;
    Peer::on_redis(servers, PATH, redis)
}

fn node(workshop: &Workshop, redis: &Server, clients: usize, shared: bool) -> anyhow::Result<Server> {
    let (address, home) = (free_address()?, workshop.home("plugway")?);
    let url = format!("redis://{}", redis.address());
    let mut config = format!("[limits]\nconnections = {}\n[feed]\nredis_url = \"{url}\"\n", clients + 100);
    if shared {
        let _ = write!(config, "[store]\nkind = \"redis\"\nurl = \"{url}\"\n");
    }
    fs::create_dir_all(home.join("plugins"))?;
    fs::write(home.join("plugway.toml"), config)?;
    let mut command = Command::new(workshop.gateway());
    command.current_dir(&home).env_clear().env("HOME", &home).arg("serve");
    command.arg("--config").arg(home.join("plugway.toml")).args(["--listen", &address.to_string()]);
    command.arg("--data-dir").arg(home.join("data")).arg("--plugins-dir").arg(home.join("plugins"));
    Server::start(command, address, &workshop.log("plugway"))
}
