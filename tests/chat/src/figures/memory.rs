//! Memory of the servers: before they were asked anything, and after all that was measured before.

use std::time::Duration;

use plugway_figures::report::Row;

use crate::workshop::Workshop;

const STREAMS: usize = 20;
const CHUNKS: u32 = 100;

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![Row::new("memory, idle and after streams", "", "")];
    for subject in workshop.subjects()? {
        subject.stream(STREAMS, CHUNKS, Duration::from_millis(1))?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let measured = format!("{:.0} and {:.0} MiB", mib(subject.idle), mib(subject.memory()?));
        rows.push(Row::new(format!("  {}", subject.kind.title()), measured, ""));
    }
    Ok(rows)
}
