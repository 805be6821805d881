//! Memory of streams that are held open: by exchanges, and by the native stream of a task that says nothing. For
//! information.

use std::time::Duration;

use anyhow::ensure;
use plugway_figures::report::Row;

use crate::client::{Connection, request};
use crate::workshop::{Gateway, Workshop};

const HELD: usize = 500;
/// Time for the last of them to be where it waits.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let held = workshop.rounds(HELD);
    // Each has a gateway of its own, so that memory which one leaves behind is not counted for the other.
    let gateway = workshop.gateway("").await?;
    let (by_exchange, left) = hold(&gateway, &request("POST", "/bench/hold", ""), held).await?;
    let gateway = workshop.gateway("").await?;
    let task = gateway.submit("/silent").await?;
    let (by_stream, _) = hold(&gateway, &request("GET", &format!("/stream/{task}"), ""), held).await?;
    Ok(vec![
        Row::new(format!("memory of a held exchange, of {held}"), format!("{by_exchange:.0} KiB"), ""),
        Row::new("  kept after they are closed", format!("{left:.0} KiB each"), ""),
        Row::new("  the same by GET /stream", format!("{by_stream:.0} KiB"), ""),
    ])
}

/// Memory for each in KiB, while they are open and after they were closed.
async fn hold(gateway: &Gateway, request: &[u8], held: usize) -> anyhow::Result<(f64, f64)> {
    // What the first one brings for all that follow is not theirs.
    drop(open(gateway, request).await?);
    tokio::time::sleep(SETTLE).await;
    let before = gateway.server.resident()?;
    let mut streams = Vec::new();
    for _ in 0..held {
        streams.push(open(gateway, request).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let during = gateway.server.resident()?;
    drop(streams);
    tokio::time::sleep(SETTLE).await;
    let after = gateway.server.resident()?;
    let each = |resident: u64| (resident as f64 - before as f64) / held as f64;
    Ok((each(during), each(after)))
}

async fn open(gateway: &Gateway, request: &[u8]) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(gateway.address()).await?;
    let status = connection.begin(request).await?;
    ensure!(status == 200, "the stream answered {status}");
    Ok(connection)
}
