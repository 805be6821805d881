//! Many clients that are held: memory of each, and how long an event takes to reach them, at a low rate.
//!
//! Every round has servers of its own, so that memory which an earlier one left behind does not serve a later one.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, millis, ratio, written};

use crate::peers::Kind;
use crate::workshop::Workshop;

const SERVERS: [Kind; 2] = [Kind::Plugway, Kind::Nchan];
/// Rounds are long.
const ROUNDS: usize = 3;
const EVENTS: usize = 20;
/// Between an event that all clients have and the next one.
const PAUSE: Duration = Duration::from_millis(200);
/// Time for a server to be where it waits.
const SETTLE: Duration = Duration::from_secs(1);
/// Bytes of the units that the kernel counts what sockets hold in.
const PAGE: f64 = 4096.0;

/// What the rounds of one server came to.
#[derive(Default)]
struct Rounds {
    /// Bytes of each client, before the first event.
    idle: Vec<f64>,
    /// The same after the last.
    after: Vec<f64>,
    /// The kernel's, of both ends.
    kernel: Vec<f64>,
    /// Milliseconds.
    middle: Vec<f64>,
    most: Vec<f64>,
}

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let (mut plugway, mut nchan) = (Rounds::default(), Rounds::default());
    let times = workshop.rounds.min(ROUNDS);
    for _ in 0..times {
        for (kind, rounds) in SERVERS.into_iter().zip([&mut plugway, &mut nchan]) {
            if workshop.has(kind) {
                rounds.add(kind, workshop).with_context(|| kind.title())?;
            }
        }
    }
    let mut rows = vec![Row::new(format!("{} clients held, {} rounds", workshop.held, times), "", "")];
    for (kind, rounds) in SERVERS.into_iter().zip([&plugway, &nchan]) {
        let ours = kind == Kind::Plugway;
        let kib = |values: &[f64]| written(median(values) / 1024.0, 2, "KiB");
        let memory = format!("{}, after events {}", kib(&rounds.idle), kib(&rounds.after));
        let goal = if ours { "≤ 6 KB, better 4 KB" } else { "" };
        rows.push(Row::new(format!("  {}: memory of each", kind.title()), memory, goal));
        rows.push(Row::new("    the kernel's, for both ends", kib(&rounds.kernel), ""));
        let latency = format!(
            "{} and {}",
            written(median(&rounds.middle), 1, "ms"),
            written(median(&rounds.most), 1, "ms")
        );
        rows.push(Row::new("    publish to client, p50 and p99", latency, ""));
    }
    let against = written(ratio(&plugway.most, &nchan.most), 2, "×");
    rows.push(Row::new("  p99 against nchan", against, "< 1 ×"));
    Ok(rows)
}

impl Rounds {
    fn add(&mut self, kind: Kind, workshop: &Workshop) -> anyhow::Result<()> {
        let mut peer = kind.start(workshop, workshop.held)?;
        // What the first ones bring for all that follow is not theirs.
        let mut few = peer.follow(10, workshop.clock)?;
        peer.calibrate(&mut few, workshop.clock)?;
        drop(few);
        thread::sleep(SETTLE);

        let (memory, kernel) = (peer.memory()?, kernel_memory()?);
        let each = |now: f64, before: f64| (now - before) / workshop.held as f64;
        let of_peer = |now: u64| each(now as f64, memory as f64);
        let mut clients = peer.follow(workshop.held, workshop.clock)?;
        clients.read_until(Instant::now() + SETTLE)?;
        self.idle.push(of_peer(peer.memory()?));
        self.kernel.push(each(kernel_memory()?, kernel));

        let mut latencies: Option<crate::clients::Received> = None;
        for _ in 0..EVENTS {
            let received = peer.burst(&mut clients, 1, 1, workshop.clock)?;
            match &mut latencies {
                Some(all) => all.latencies.add(&received.latencies)?,
                None => latencies = Some(received),
            }
            clients.read_until(Instant::now() + PAUSE)?;
        }
        clients.audit(EVENTS as u64)?;
        self.after.push(of_peer(peer.memory()?));
        if let Some(latencies) = latencies {
            self.middle.push(millis(latencies.latency(50.0)));
            self.most.push(millis(latencies.latency(99.0)));
        }
        Ok(())
    }
}

/// The kernel's memory of the whole system, in bytes: what it keeps of sockets and files, and what sockets hold that was
/// sent and not read.
fn kernel_memory() -> anyhow::Result<f64> {
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let line = sockets.lines().find(|line| line.starts_with("TCP:")).context("no TCP in sockstat")?;
    let (_, pages) = line.rsplit_once("mem ").context("no mem in sockstat")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let slab = memory.lines().find_map(|line| line.strip_prefix("Slab:")).context("no Slab in meminfo")?;
    let slab: f64 = slab.trim().trim_end_matches(" kB").parse()?;
    Ok(pages.trim().parse::<f64>()? * PAGE + slab * 1024.0)
}
