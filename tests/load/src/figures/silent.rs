//! A tenth of the clients never read: what that does to the others, and what each of them costs.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, millis, ratio, written};

use crate::peers::Kind;
use crate::workshop::Workshop;

const SERVERS: [Kind; 2] = [Kind::Plugway, Kind::Nchan];
/// One in so many is silent.
const SILENT: usize = 10;
/// Rounds have servers of their own.
const ROUNDS: usize = 3;
/// Events a second.
const RATE: usize = 100;
const LENGTH: usize = 5;
/// Bursts and their events that no socket's buffers hold.
const FILLING: (usize, usize) = (20, 50);

/// What the rounds of one server came to.
#[derive(Default)]
struct Rounds {
    /// p99 in milliseconds while everybody reads.
    without: Vec<f64>,
    /// The same of those who read while others don't.
    with: Vec<f64>,
    /// Bytes of each silent one.
    memory: Vec<f64>,
}

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let silent = (workshop.clients / SILENT).max(1);
    let title = format!("{} clients, {silent} of which never read", workshop.clients);
    let mut rows = vec![Row::new(title, "", "")];
    for kind in SERVERS.into_iter().filter(|kind| workshop.has(*kind)) {
        let mut rounds = Rounds::default();
        for _ in 0..workshop.rounds.min(ROUNDS) {
            rounds.add(kind, workshop, silent).with_context(|| kind.title())?;
        }
        let (without, with) = (median(&rounds.without), median(&rounds.with));
        let p99 = format!("{} and {}", written(without, 1, "ms"), written(with, 1, "ms"));
        rows.push(Row::new(format!("  {}: p99 of the others, before and then", kind.title()), p99, ""));
        let goal = if kind == Kind::Plugway { "1 ×" } else { "" };
        let moved = written(ratio(&rounds.with, &rounds.without), 2, "×");
        rows.push(Row::new("    it moves by", moved, goal));
        let memory = written(median(&rounds.memory) / 1024.0, 1, "KiB");
        rows.push(Row::new("    memory of each silent one", memory, ""));
    }
    Ok(rows)
}

impl Rounds {
    fn add(&mut self, kind: Kind, workshop: &Workshop, silent: usize) -> anyhow::Result<()> {
        let clock = workshop.clock;
        let mut peer = kind.start(workshop, workshop.clients)?;
        let mut clients = peer.follow(workshop.clients.saturating_sub(silent).max(1), clock)?;
        let wire = peer.calibrate(&mut clients, clock)?;
        let pause = Duration::from_secs(1) / u32::try_from(RATE)?;
        let (bursts, events) = FILLING;
        // As much as will be sent with the silent ones, so that what it leaves behind is not theirs.
        peer.burst(&mut clients, bursts, events, clock)?;
        self.without.push(millis(peer.pace(&mut clients, RATE * LENGTH, pause, clock)?.latency(99.0)));

        let memory = peer.memory()?;
        let mute = peer.mute(silent)?;
        thread::sleep(Duration::from_millis(500));
        peer.burst(&mut clients, bursts, events, clock)?;
        self.with.push(millis(peer.pace(&mut clients, RATE * LENGTH, pause, clock)?.latency(99.0)));
        self.memory.push((peer.memory()? as f64 - memory as f64) / silent as f64);
        let sent = wire * (bursts * events) as u64;
        for stream in mute {
            let waiting = rustix::io::ioctl_fionread(&stream)?;
            ensure!(waiting < sent, "a socket's buffers have held everything");
        }
        Ok(())
    }
}
