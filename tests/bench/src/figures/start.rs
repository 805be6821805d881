//! From the start of the process to its first answer through a plugin whose artefact is cached, and what the process
//! holds when it then idles.

use std::time::{Duration, Instant};

use anyhow::ensure;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, millis};

use super::requests::QUESTION;
use crate::client::{Connection, request};
use crate::workshop::{BENCH, Workshop};

const ROUNDS: usize = 11;
/// Time for what a start leaves behind to end.
const SETTLE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let home = workshop.home("")?;
    home.install(BENCH, &std::fs::read(workshop.plugin())?);
    let question = request("POST", "/bench/answer", QUESTION);
    let (mut listening, mut answered, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    // The first start compiles.
    for round in 0..=workshop.rounds(ROUNDS) {
        let began = Instant::now();
        let server = home.launch()?;
        let listens = began.elapsed();
        let mut connection = Connection::open(server.address()).await?;
        while connection.ask(&question).await?.0 != 200 {
            ensure!(began.elapsed() < PATIENCE, "no answer through the plugin within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        let answers = began.elapsed();
        if round > 0 {
            listening.push(millis(listens));
            answered.push(millis(answers));
            tokio::time::sleep(workshop.length(SETTLE)).await;
            resident.push(server.resident()? as f64 / 1024.0);
        }
    }
    Ok(vec![
        Row::new("start → first answer, artefact cached", format!("{:.0} ms", median(&answered)), "≤ 150 ms"),
        Row::new("  start → listening", format!("{:.0} ms", median(&listening)), ""),
        Row::new("idle memory after that", format!("{:.1} MiB", median(&resident)), "≤ 40 MB"),
    ])
}
