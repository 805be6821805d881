//! The least that fan-out can cost: one thread that sends the same bytes to each socket in turn.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use anyhow::Context as _;
use plugway_figures::process::{Server, free_address};

use super::{Feed, Peer};
use crate::workshop::Workshop;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// Accepts so many clients, then sends what comes on standard input to all of them, until that ends.
pub(crate) fn serve(address: SocketAddr, clients: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    let mut open = Vec::with_capacity(clients);
    let mut buffer = vec![0; 64 << 10];
    while open.len() < clients {
        let (mut stream, _) = listener.accept()?;
        let mut request = Vec::new();
        loop {
            let length = stream.read(&mut buffer)?;
            request.extend_from_slice(&buffer[..length]);
            if request.ends_with(b"\r\n\r\n") {
                stream.set_nodelay(true)?;
                stream.write_all(HEAD)?;
                open.push(stream);
                break;
            }
            // Who only looks whether this listens says nothing.
            if length == 0 {
                break;
            }
        }
    }
    let mut input = std::io::stdin().lock();
    loop {
        let length = input.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        for stream in &mut open {
            stream.write_all(&buffer[..length])?;
        }
    }
}

pub(super) fn start(workshop: &Workshop, clients: usize) -> anyhow::Result<Peer> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["raw", &address.to_string(), &clients.to_string()]);
    let mut server = Server::start(command, address, &workshop.log("raw"))?;
    let input = server.take_stdin().context("standard input is piped")?;
    Ok(Peer::new(vec![server], "/", Feed::Pipe(input)))
}
