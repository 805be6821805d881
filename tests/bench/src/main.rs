//! Prints what the gateway costs: figures of one run, each with its goal beside it.
//!
//! `cargo run --release -p plugway-bench -- [--only NAME] [--quick]`. It builds the gateway and a plugin of its own, and
//! starts everything on the loopback interface with temporary directories. What is compared runs in turns on the same
//! machine, and what is printed are medians. Nothing is asserted: a figure that misses its goal is a figure.

mod client;
mod figures;
mod native;
mod relay;
mod runtime;
mod workshop;

#[path = "../../plugins/bench/src/dialogue.rs"]
mod dialogue;

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use plugway_figures::report;

use figures::Figure;
use workshop::{Effort, Workshop};

/// Prints what the gateway costs, as ratios and medians of one run. Set `PLUGWAY_BIN` to measure a binary that is built
/// already.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this figure; may be given more than once.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Figure>,
    /// Fewer and shorter rounds: for whether it works, not for the figures.
    #[arg(long)]
    quick: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the plain request without a gateway, to compare with, until standard input ends.
    Native,
    /// Relays between WebSockets and an agent runtime without a gateway, to compare with, until standard input ends.
    Relay {
        /// Where the runtime listens.
        runtime: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Native) => return native::serve(),
        Some(Command::Relay { runtime }) => return relay::serve(runtime),
        None => {}
    }
    let effort = if arguments.quick { Effort::Quick } else { Effort::Full };
    let mut figures = arguments.only;
    if figures.is_empty() {
        figures = Figure::ALL.to_vec();
    }
    // One thread makes all the load, so that it takes no more than one processor from what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let workshop = Workshop::open(effort).context("the benchmark can't be prepared")?;
    let mut rows = Vec::new();
    for figure in figures {
        eprintln!("measuring: {}", figure.title());
        let measured = runtime.block_on(figure.measure(&workshop));
        rows.extend(measured.with_context(|| format!("measuring failed: {}", figure.title()))?);
    }
    println!("{}", report::table(&workshop.description(), &rows));
    Ok(())
}
