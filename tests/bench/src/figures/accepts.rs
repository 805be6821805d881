//! Tasks accepted durably per second by 64 clients, through a plugin that only submits; and what the disk does alone.
//!
//! The workers are kept busy by tasks that say nothing, so that accepting has the machine to itself; then beside it
//! with workers that run what is accepted.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros, percentile};

use crate::client::{load, request};
use crate::workshop::{Gateway, Workshop};

const ROUNDS: usize = 5;
const LENGTH: Duration = Duration::from_secs(2);
const CLIENTS: usize = 64;
/// Default of `workers.count`.
const WORKERS: usize = 4;

const CONFIG: &str = "[workers]\nqueue = 100_000_000\n";

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let accepting = workshop.gateway(CONFIG).await?;
    for _ in 0..WORKERS {
        accepting.submit("/silent").await?;
    }
    let running = workshop.gateway(CONFIG).await?;
    let length = workshop.length(LENGTH);
    let (mut accepted, mut while_running, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    round(&accepting, length).await?;
    for _ in 0..workshop.rounds(ROUNDS) {
        synced.push(syncs(&accepting, length)?);
        accepted.push(round(&accepting, length).await?);
        while_running.push(round(&running, length).await?);
        drained(&running).await?;
    }
    let rate = |rounds: &[Round]| median(&rounds.iter().map(|round| round.rate).collect::<Vec<_>>());
    let (slowest, cpu) =
        (median(&column(&accepted, |round| round.p99)), median(&column(&accepted, |round| round.cpu)));
    Ok(vec![
        Row::new("durable accepts, 64 clients", format!("{:.0}/s", rate(&accepted)), "≥ 5,000/s"),
        Row::new("  p99, CPU each", format!("{slowest:.1} ms, {cpu:.0} µs"), ""),
        Row::new("  with the workers running them", format!("{:.0}/s", rate(&while_running)), ""),
        Row::new("  the disk alone, one fdatasync each", format!("{:.0}/s", median(&synced)), ""),
    ])
}

struct Round {
    /// Per second.
    rate: f64,
    /// In milliseconds.
    p99: f64,
    /// Of the gateway, in microseconds per accept.
    cpu: f64,
}

fn column(rounds: &[Round], value: impl Fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().map(value).collect()
}

async fn round(gateway: &Gateway, length: Duration) -> anyhow::Result<Round> {
    let task = request("POST", "/bench/submit", "Hello");
    let before = gateway.server.cpu()?;
    let load = load(gateway.address(), &task, CLIENTS, length).await?;
    let cpu = gateway.server.cpu()? - before;
    ensure!(load.refused == 0, "{} tasks were refused beside {} accepted", load.refused, load.answered);
    let p99 = percentile(&load.latencies, 99);
    Ok(Round { rate: load.rate(), p99, cpu: micros(cpu) / load.answered as f64 })
}

/// Waits until all that was accepted has run: tasks run in the order of their acceptance.
async fn drained(gateway: &Gateway) -> anyhow::Result<()> {
    let last = gateway.submit("the last one").await?;
    gateway.ended(&last).await
}

/// Small appends per second, each on the disk before the next, beside the gateway's own data.
fn syncs(gateway: &Gateway, length: Duration) -> anyhow::Result<f64> {
    let mut file = File::create(gateway.home.path().join("synced"))?;
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < length {
        file.write_all(&[0; 256])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
