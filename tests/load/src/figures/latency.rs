//! From publishing to clients at a steady rate, whether they keep up or not.

use std::time::Duration;

use plugway_figures::report::Row;
use plugway_figures::statistics::{median, millis, written};

use crate::peers::Kind;
use crate::subjects::{all, check};
use crate::workshop::Workshop;

/// Events a second.
const RATE: usize = 100;
/// Of the slowest server, which can't bear more.
const SLOW_RATE: usize = 5;
const LENGTH: usize = 5;

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let mut subjects = all(workshop)?;
    let mut latencies = vec![(Vec::new(), Vec::new()); subjects.len()];
    for _ in 0..workshop.rounds {
        for ((kind, subject), (middle, most)) in subjects.iter_mut().zip(&mut latencies) {
            let rate = rate(*kind);
            let pause = Duration::from_secs(1) / u32::try_from(rate)?;
            let received = subject.pace(rate * LENGTH, pause)?;
            middle.push(millis(received.latency(50.0)));
            most.push(millis(received.latency(99.0)));
        }
    }
    check(subjects.iter_mut().map(|(_, subject)| subject))?;
    let mut rows =
        vec![Row::new(format!("publish to client, p50 and p99, {} clients", workshop.clients), "", "")];
    for ((kind, subject), (middle, most)) in subjects.iter().zip(&latencies) {
        let goal = if *kind == Kind::Plugway { "p99 ≤ 10 ms" } else { "" };
        let measured = format!("{} and {}", written(median(middle), 1, "ms"), written(median(most), 1, "ms"));
        rows.push(Row::new(format!("  {}, {} events a second", subject.title, rate(*kind)), measured, goal));
    }
    Ok(rows)
}

fn rate(kind: Kind) -> usize {
    if kind == Kind::Python { SLOW_RATE } else { RATE }
}
