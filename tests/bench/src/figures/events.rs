//! What the gateway's CPU does for each event of a task that somebody follows, beyond what it does for one that nobody
//! follows: through an exchange that renders it as a server-sent event, and through the native stream.
//!
//! The agent speaks as fast as the log takes it. No follower keeps up with that on a small machine, so there are two
//! cases: a ring that keeps all events, where followers come late but live, and the default ring, where they fall off
//! and read what they missed from the log.

use std::time::Duration;

use anyhow::ensure;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros};

use crate::client::{Connection, request};
use crate::workshop::{Gateway, Workshop};

const ROUNDS: usize = 8;
const EVENTS: usize = 100_000;

const WHOLE_RING: &str = "[stream]\nring_events = 1_000_000\nring_bytes = \"1GiB\"\n";

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let events = workshop.rounds(EVENTS);
    let live = workshop.gateway(WHOLE_RING).await?;
    let late = workshop.gateway("").await?;
    let (mut from_ring, mut from_log) = (Costs::default(), Costs::default());
    // The first ones open the store's files and connections.
    alone(&live, &words(events)).await?;
    alone(&late, &words(events)).await?;
    for _ in 0..workshop.rounds(ROUNDS) {
        from_ring.take(&live, events).await?;
        from_log.take(&late, events).await?;
    }
    let cost = |values: &[f64]| format!("{:.1} µs", median(values));
    Ok(vec![
        Row::new("event rendered by an exchange: CPU", cost(&from_ring.exchange), "≤ 2 µs"),
        Row::new("  by GET /stream, which merges for readers that lag", cost(&from_ring.stream), ""),
        Row::new("  by an exchange that fell off the ring, from the log", cost(&from_log.exchange), ""),
        Row::new("  by GET /stream likewise", cost(&from_log.stream), ""),
        Row::new("  event that nobody follows", cost(&from_ring.nobody), ""),
    ])
}

/// CPU for an event in microseconds, of every round.
#[derive(Default)]
struct Costs {
    nobody: Vec<f64>,
    /// Beyond `nobody`.
    exchange: Vec<f64>,
    /// Beyond `nobody`.
    stream: Vec<f64>,
}

impl Costs {
    async fn take(&mut self, gateway: &Gateway, events: usize) -> anyhow::Result<()> {
        let text = words(events);
        let each = |cpu: Duration| micros(cpu) / events as f64;

        let cpu = gateway.server.cpu()?;
        alone(gateway, &text).await?;
        let nobody = each(gateway.server.cpu()? - cpu);
        self.nobody.push(nobody);

        let cpu = gateway.server.cpu()?;
        let rendered = by_exchange(gateway, &text).await?;
        self.exchange.push(each(gateway.server.cpu()? - cpu) - nobody);
        ensure!(rendered >= events, "the exchange rendered {rendered} of {events} events");

        let cpu = gateway.server.cpu()?;
        by_stream(gateway, &text).await?;
        self.stream.push(each(gateway.server.cpu()? - cpu) - nobody);
        Ok(())
    }
}

/// What makes the echo agent say this many pieces.
fn words(events: usize) -> String {
    format!("/words {events}")
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
