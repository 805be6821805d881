//! Prints what a streamed chat costs through the gateway: its plugin `openai` before a model server, beside that server
//! alone and LiteLLM's proxy before it, in one run, each figure with its goal beside it.
//!
//! `cargo run --release -p plugway-chat -- [--only NAME]`. It starts everything on the loopback interface with temporary
//! directories. What is compared runs in turns, round by round, and what is printed are medians. Nothing is asserted of
//! the figures, but every chunk is accounted for: a server that loses one, sends one twice or sends another ends the run.

mod clock;
mod content;
mod figures;
mod http;
mod model;
mod streams;
mod subjects;
mod workshop;

use std::num::NonZeroUsize;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use plugway_figures::{limits, report};

use figures::Figure;
use subjects::Kind;
use workshop::{Effort, Workshop};

/// Prints what a streamed chat costs, beside LiteLLM's proxy, as ratios and medians of one run. It measures the gateway
/// that was built beside it; set `PLUGWAY_BIN` to measure another, and `PLUGWAY_PLUGINS` to the directory of an
/// `openai.wasm` that is built already. LiteLLM needs python3-venv; what is missing is left out.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this figure; may be given more than once.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Figure>,
    /// Leaves these servers out.
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    without: Vec<Kind>,
    /// How often each figure is measured.
    #[arg(long, default_value = "5")]
    rounds: NonZeroUsize,
    /// Streams that are held at once.
    #[arg(long, default_value = "2000")]
    held: NonZeroUsize,
    /// One round of short streams: for whether it works, not for the figures.
    #[arg(long)]
    quick: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a model that says what it is told to, to measure with.
    #[command(hide = true)]
    Model,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Model) = arguments.command {
        return model::serve();
    }
    limits::raise_files()?;
    let effort =
        Effort { rounds: arguments.rounds.get(), held: arguments.held.get(), quick: arguments.quick };
    let mut figures = arguments.only;
    if figures.is_empty() {
        figures = Figure::ALL.to_vec();
    }
    let workshop = Workshop::open(effort, arguments.without).context("the measurement can't be prepared")?;
    let mut rows = Vec::new();
    for figure in figures {
        eprintln!("measuring: {}", figure.title());
        let measured = figure.measure(&workshop);
        rows.extend(measured.with_context(|| format!("measuring failed: {}", figure.title()))?);
    }
    println!("{}", report::table(&workshop.description(), &rows));
    Ok(())
}
