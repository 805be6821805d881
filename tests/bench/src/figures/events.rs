//! What the gateway's CPU does for each event of a task that somebody follows, beyond what it does for one that nobody
//! follows: through an exchange that renders it as a server-sent event, and through the native stream.
//!
//! The agent speaks as fast as the log takes it, so events come in bursts, as they do from a fast model.

use std::time::Duration;

use anyhow::ensure;

use crate::client::{Connection, request};
use crate::report::Row;
use crate::statistics::{median, micros};
use crate::workshop::{Gateway, Workshop};

const ROUNDS: usize = 7;
const EVENTS: usize = 100_000;

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let gateway = workshop.gateway("").await?;
    let events = if workshop.rounds(ROUNDS) == ROUNDS { EVENTS } else { EVENTS / 4 };
    let text = format!("/words {events}");
    alone(&gateway, &text).await?;
    let (mut base, mut exchange, mut stream) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rendered, mut streamed) = (Vec::new(), Vec::new());
    let each = |cpu: Duration| micros(cpu) / events as f64;
    for _ in 0..workshop.rounds(ROUNDS) {
        let cpu = gateway.server.cpu()?;
        alone(&gateway, &text).await?;
        let nobody = each(gateway.server.cpu()? - cpu);

        let cpu = gateway.server.cpu()?;
        rendered.push(by_exchange(&gateway, &text).await? as f64);
        exchange.push(each(gateway.server.cpu()? - cpu) - nobody);

        let cpu = gateway.server.cpu()?;
        streamed.push(by_stream(&gateway, &text).await? as f64);
        stream.push(each(gateway.server.cpu()? - cpu) - nobody);
        base.push(nobody);
    }
    let frames = |counts: &[f64]| format!("{:.0} frames for {events} events", median(counts));
    Ok(vec![
        Row::new("event rendered by an exchange: CPU", format!("{:.2} µs", median(&exchange)), "≤ 2 µs"),
        Row::new("  received", frames(&rendered), ""),
        Row::new("  the same by GET /stream", format!("{:.2} µs", median(&stream)), ""),
        Row::new("  received", frames(&streamed), ""),
        Row::new("  event that nobody follows", format!("{:.2} µs", median(&base)), ""),
    ])
}

async fn alone(gateway: &Gateway, text: &str) -> anyhow::Result<()> {
    let task = gateway.submit(text).await?;
    gateway.ended(&task).await
}

async fn by_exchange(gateway: &Gateway, text: &str) -> anyhow::Result<usize> {
    let mut connection = Connection::open(gateway.address()).await?;
    let status = connection.begin(&request("POST", "/bench/stream", text)).await?;
    ensure!(status == 200, "the exchange answered {status}");
    connection.count_events().await
}

async fn by_stream(gateway: &Gateway, text: &str) -> anyhow::Result<usize> {
    let mut connection = Connection::open(gateway.address()).await?;
    let task = gateway.submit(text).await?;
    let status = connection.begin(&request("GET", &format!("/stream/{task}"), "")).await?;
    ensure!(status == 200, "the stream answered {status}");
    connection.count_events().await
}
