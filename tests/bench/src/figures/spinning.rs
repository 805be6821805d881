//! Latency of a native route and of a plugin while eight exchanges of another plugin compute without end, against the
//! same with nobody else there.

use std::time::Duration;

use anyhow::ensure;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, percentile};
use tokio::task::JoinSet;

use super::requests::QUESTION;
use crate::client::{Connection, load, request};
use crate::workshop::{BENCH, Gateway, Workshop};

const ROUNDS: usize = 5;
const LENGTH: Duration = Duration::from_secs(1);
const SPINNING: usize = 8;

/// The same plugin under another name: what it does counts against its own limits only.
const CONFIG: &str = "[plugins.spinner]\nmount = \"/spinner\"\nlimits = { cpu_per_step = \"10m\" }\n";

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let home = workshop.home(CONFIG)?;
    let component = std::fs::read(workshop.plugin())?;
    home.install(BENCH, &component);
    home.install("spinner", &component);
    let gateway = home.start().await?;
    let length = workshop.length(LENGTH);
    let native = request("GET", "/health", "");
    let plugin = request("POST", "/bench/answer", QUESTION);
    let mut idle = [Latencies::default(), Latencies::default()];
    let mut busy = [Latencies::default(), Latencies::default()];
    for _ in 0..workshop.rounds(ROUNDS) {
        idle[0].take(&gateway, &native, length).await?;
        idle[1].take(&gateway, &plugin, length).await?;
        let spinning = spin(&gateway, length * 2 + Duration::from_millis(500)).await?;
        busy[0].take(&gateway, &native, length).await?;
        busy[1].take(&gateway, &plugin, length).await?;
        for status in spinning.join_all().await {
            ensure!(status? == 200, "an exchange could not spin for as long as it should");
        }
    }
    let goals = ["p50 within 1 ms of idle", "p50 within 1 ms of idle"];
    let names = ["native route while 8 exchanges spin", "other plugin while 8 exchanges spin"];
    let rows = names.iter().zip(goals).zip(idle.iter().zip(&busy));
    Ok(rows
        .map(|((name, goal), (idle, busy))| {
            Row::new(*name, format!("{}, idle {}", busy.describe(), idle.describe()), goal)
        })
        .collect())
}

/// Percentiles of every round, in milliseconds.
#[derive(Default)]
struct Latencies {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Latencies {
    /// Asks one request after the other.
    async fn take(&mut self, gateway: &Gateway, request: &[u8], length: Duration) -> anyhow::Result<()> {
        let load = load(gateway.address(), request, 1, length).await?;
        ensure!(load.refused == 0, "{} of {} requests were refused", load.refused, load.answered);
        self.p50.push(percentile(&load.latencies, 50));
        self.p99.push(percentile(&load.latencies, 99));
        Ok(())
    }

    fn describe(&self) -> String {
        format!("p50 {:.2} p99 {:.2} ms", median(&self.p50), median(&self.p99))
    }
}

async fn spin(gateway: &Gateway, length: Duration) -> anyhow::Result<JoinSet<anyhow::Result<u16>>> {
    let path = format!("/spinner/bench/spin/{}", length.as_millis());
    let mut spinning = JoinSet::new();
    for _ in 0..SPINNING {
        let mut connection = Connection::open(gateway.address()).await?;
        let request = request("POST", &path, "");
        spinning.spawn(async move { Ok(connection.ask(&request).await?.0) });
    }
    // They begin before the first request that is measured.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(spinning)
}
