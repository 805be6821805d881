//! Prints what fan-out costs: the gateway's agent feed beside a raw send loop, nchan and FastAPI, in one run, each
//! figure with its goal beside it.
//!
//! `cargo run --release -p plugway-load -- [--only NAME] [--clients N]`. It starts everything on the loopback interface
//! with temporary directories. What is compared runs in turns, round by round, and what is printed are medians. Nothing
//! is asserted of the figures, but every event is accounted for: a server that loses one, sends one twice or sends
//! another ends the run.

mod audit;
mod clients;
mod event;
mod figures;
mod peers;
mod publish;
mod subjects;
mod workshop;

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use plugway_figures::{limits, report};

use figures::Figure;
use peers::Kind;
use workshop::Workshop;

/// Prints what fan-out costs, beside other servers, as ratios and medians of one run. It measures the gateway that was
/// built beside it; set `PLUGWAY_BIN` to measure another. nchan (Debian: nginx, libnginx-mod-nchan), redis-server and
/// python3-venv have to be installed; what is missing is left out.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this figure; may be given more than once.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Figure>,
    /// Leaves these servers out.
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    without: Vec<Kind>,
    /// Clients of a server, but for those that are held.
    #[arg(long, default_value_t = 1_000, value_parser = at_least_one)]
    clients: usize,
    /// Clients that are held.
    #[arg(long, default_value_t = 10_000, value_parser = at_least_one)]
    held: usize,
    /// How often each figure is measured.
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    rounds: usize,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends what comes on standard input to so many clients, to compare with.
    #[command(hide = true)]
    Raw { address: SocketAddr, clients: usize },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Raw { address, clients }) = arguments.command {
        return peers::raw::serve(address, clients);
    }
    limits::raise_files()?;
    let mut figures = arguments.only;
    if figures.is_empty() {
        figures = Figure::ALL.to_vec();
    }
    let workshop = Workshop::open(arguments.clients, arguments.held, arguments.rounds, arguments.without)
        .context("the measurement can't be prepared")?;
    let mut rows = Vec::new();
    for figure in figures {
        eprintln!("measuring: {}", figure.title());
        let measured = figure.measure(&workshop);
        rows.extend(measured.with_context(|| format!("measuring failed: {}", figure.title()))?);
    }
    println!("{}", report::table(&workshop.description(), &rows));
    Ok(())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}
