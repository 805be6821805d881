//! CPU for a chunk when the model server says them as fast as they are taken.

use std::time::Duration;

use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros, written};

use super::against_litellm;
use crate::subjects::Kind;
use crate::workshop::Workshop;

const STREAMS: usize = 4;
/// Of each stream.
const CHUNKS: u32 = 10_000;
/// Of the slowest server.
const FEW: u32 = 1_000;

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let subjects = workshop.subjects()?;
    let mut costs = vec![Vec::new(); subjects.len()];
    for _ in 0..workshop.rounds() {
        for (subject, costs) in subjects.iter().zip(&mut costs) {
            let chunks = workshop.count(if subject.kind == Kind::Litellm { FEW } else { CHUNKS });
            let cpu = subject.cpu()?;
            let received = subject.stream(STREAMS, chunks, Duration::ZERO)?;
            costs.push(micros(subject.cpu()? - cpu) / received.chunks as f64);
        }
    }
    let mut rows = vec![Row::new(format!("CPU for a chunk, {STREAMS} streams flat out"), "", "")];
    for (subject, costs) in subjects.iter().zip(&costs) {
        rows.push(Row::new(format!("  {}", subject.kind.title()), written(median(costs), 1, "µs"), ""));
    }
    rows.extend(against_litellm(subjects, &costs));
    Ok(rows)
}
