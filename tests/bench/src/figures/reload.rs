//! A plugin's file replaced by a rename, until its new generation serves: compiled, and from the cache of artefacts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, millis};

use crate::client::{Connection, request};
use crate::workshop::{BENCH, Gateway, Workshop};

const ROUNDS: usize = 11;
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let gateway = workshop.gateway("").await?;
    let (mut compiled, mut cached) = (Vec::new(), Vec::new());
    for salt in 0..workshop.rounds(ROUNDS) {
        let new = plugway_tests::salted(&workshop.plugin(), u8::try_from(salt)?);
        compiled.push(swap(&gateway, &new).await?);
        // The generation that it was started with, whose artefact is there.
        cached.push(swap(&gateway, &std::fs::read(workshop.plugin())?).await?);
    }
    let log = std::fs::read_to_string(gateway.home.path().join("log"))?;
    let from_cache =
        log.lines().filter(|line| line.contains("plugin loaded") && line.contains("cached=true")).count();
    ensure!(from_cache == cached.len(), "{from_cache} of {} came from the cache", cached.len());
    Ok(vec![
        Row::new(
            "file renamed → new generation serves, compiled",
            format!("{:.0} ms", median(&compiled)),
            "≤ 250 ms",
        ),
        Row::new("  from the cache of artefacts", format!("{:.1} ms", median(&cached)), "≤ 20 ms"),
    ])
}

/// How long it took, in milliseconds.
async fn swap(gateway: &Gateway, component: &[u8]) -> anyhow::Result<f64> {
    let mut connection = Connection::open(gateway.address()).await?;
    let before = generation(&mut connection).await?;
    // The bytes are written beforehand, so that only the rename is inside.
    let directory = gateway.home.path().join("plugins");
    let temporary = directory.join("new");
    std::fs::write(&temporary, component)?;
    let began = Instant::now();
    std::fs::rename(temporary, directory.join(format!("{BENCH}.wasm")))?;
    while generation(&mut connection).await? == before {
        if began.elapsed() > PATIENCE {
            bail!("no new generation within {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Ok(millis(began.elapsed()))
}

/// Number of the generation that serves.
async fn generation(connection: &mut Connection) -> anyhow::Result<u64> {
    let (status, body) = connection.ask(&request("GET", "/admin/plugins", "")).await?;
    ensure!(status == 200, "/admin/plugins answers {status}");
    let plugins: serde_json::Value = serde_json::from_slice(body)?;
    plugins[0]["generation"].as_u64().with_context(|| format!("no generation in {plugins}"))
}
