//! What the system allows: open files and ports.

use std::fs;
use std::net::SocketAddr;

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside the clients' sockets.
const OTHERS: usize = 200;

/// Lets this process and its children open as many files as they may.
pub fn raise_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// An error that says what to do where `clients` sockets are too many.
pub fn check_files(clients: usize) -> anyhow::Result<()> {
    let needed = clients + OTHERS;
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < needed as u64 => bail!(
            "{clients} clients need {needed} open files, and {files} are allowed: raise the hard limit (ulimit -Hn \
             {needed}, or LimitNOFILE=, or /etc/security/limits.conf), or give fewer clients"
        ),
        _ => Ok(()),
    }
}

/// What to look at when a connection can't be made.
pub fn connect_hint(address: SocketAddr, clients: usize) -> String {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range = range.split_whitespace().collect::<Vec<_>>().join(" to ");
    format!(
        "no connection to {address} ({clients} clients of ports {range}: if there are too few, \
         sysctl net.ipv4.ip_local_port_range=\"10000 65000\")"
    )
}
