//! Memory of many chat completions that are under way at once, through the plugin and the echo agent: each has had
//! chunks, and more are to come.
//!
//! Every round has a gateway of its own, so that memory which an earlier one left behind does not serve a later one.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use plugway_figures::process::Server;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, written};

use crate::content::Content;
use crate::streams::{Call, Streams};
use crate::subjects::{DONE, completion};
use crate::workshop::Workshop;

/// Rounds are long.
const ROUNDS: usize = 3;
/// Words of a stream, one a second.
const CHUNKS: u32 = 25;
/// Asked for at once.
const BATCH: usize = 100;
/// Chunks that each has had when memory is looked at.
const HAD: usize = 3;
/// Time for a gateway to be where it waits.
const SETTLE: Duration = Duration::from_secs(2);

/// What the rounds came to, in bytes.
#[derive(Default)]
struct Rounds {
    idle: Vec<f64>,
    each: Vec<f64>,
    left: Vec<f64>,
}

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let held = workshop.held();
    let mut rounds = Rounds::default();
    for _ in 0..workshop.rounds().min(ROUNDS) {
        // Workers for all of them, and what a plugin may have at once by default or more.
        let gateway = workshop.gateway(&format!(
            "[workers]\ncount = {}\n[agents.echo]\nchunk_delay = \"1s\"\n[plugins.openai]\nlimits = {{ exchanges = {} }}\n",
            held + BATCH,
            held.max(3072)
        ))?;
        rounds.add(&gateway, held).with_context(|| gateway.log())?;
    }
    let kib = |values: &[f64]| written(median(values) / 1024.0, 1, "KiB");
    let mib = written(median(&rounds.idle) / f64::from(1 << 20), 0, "MiB");
    Ok(vec![
        Row::new(
            format!("memory of a chat completion under way, of {held}"),
            kib(&rounds.each),
            "≤ 96 KB, stretch 60 KB",
        ),
        Row::new("  kept after they have ended, each", kib(&rounds.left), ""),
        Row::new("  the gateway when idle", mib, ""),
    ])
}

impl Rounds {
    fn add(&mut self, gateway: &Server, held: usize) -> anyhow::Result<()> {
        let call = |chunks: u32| Call {
            address: gateway.address(),
            request: completion("echo", &format!("/words {chunks}"), ""),
            content: Content::words(chunks, r#""chat.completion.chunk""#, r#""content":""#),
            end: DONE,
        };
        thread::sleep(SETTLE);
        // What the first ones bring for all that follow is not theirs.
        call(2).run(10)?;
        thread::sleep(SETTLE);
        let idle = gateway.memory()? as f64;

        let call = call(CHUNKS);
        let mut streams = Streams::open(&call, held)?;
        for from in (0..held).step_by(BATCH) {
            let batch = from..held.min(from + BATCH);
            streams.send(batch.clone())?;
            streams.read_chunks(batch, 1)?;
        }
        streams.read_chunks(0..held, HAD)?;
        let during = gateway.memory()? as f64;
        let under_way = streams.under_way();
        ensure!(under_way == held, "only {under_way} of {held} streams are under way at once");
        streams.finish()?;
        drop(streams);
        thread::sleep(SETTLE);
        let after = gateway.memory()? as f64;
        self.idle.push(idle);
        self.each.push((during - idle) / held as f64);
        self.left.push((after - idle) / held as f64);
        Ok(())
    }
}
