//! WebSockets through the plugin `ide` before an agent runtime, beside a native relay: memory of idle sessions, frames for a
//! second of CPU, and how long a frame takes while many sessions are idle and many are not.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use futures::{SinkExt as _, StreamExt as _};
use plugway_figures::limits;
use plugway_figures::mark::{Found, find};
use plugway_figures::process::Server;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros, millis, percentile, ratio};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::{Connection, request};
use crate::runtime;
use crate::workshop::{BENCH, Gateway, Workshop};

const IDLE: usize = 2_000;
const BUSY: usize = 200;
const ROUNDS: usize = 6;
/// Frames of a turn that is said as fast as it is heard.
const FAST: usize = 50_000;
/// Sessions at the pace of a model, and frames of each.
const SLOW_SESSIONS: usize = 20;
const SLOW: usize = 100;
const SLOW_PAUSE: u32 = 20;
/// Frames of each busy session, and milliseconds between two.
const BUSY_FRAMES: usize = 50;
const BUSY_PAUSE: u32 = 100;
/// Opened at once.
const BATCH: usize = 50;
/// Time for the last of them to be where it waits.
const SETTLE: Duration = Duration::from_secs(1);
/// Longest wait for a frame.
const PATIENCE: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    limits::raise_files()?;
    let idle = workshop.rounds(IDLE);
    let busy = workshop.rounds(BUSY);
    limits::check_files(idle + 2 * busy)?;
    let clock = Instant::now();
    let agent = runtime::serve(clock).await?;
    let config = format!(
        "default_agent = \"runtime\"\nworkers.count = {busy}\n[agents.runtime]\nkind = \"http\"\nurl = \"http://{agent}\"\n\
         internal_api_key = \"not-looked-at-here\"\n"
    );
    let component = fs::read(workshop.ide())?;
    let submitter = fs::read(workshop.plugin())?;
    let gateway = || async {
        let home = workshop.home(&config)?;
        home.install("ide", &component);
        home.install(BENCH, &submitter);
        home.start().await
    };
    let mut rows = Vec::new();

    let (served, native) = (gateway().await?, workshop.relay(agent)?);
    let (mut fast, mut slow) = (Costs::default(), Costs::default());
    fast.take(&served, &native, 1, 1_000, 0).await?;
    fast = Costs::default();
    for _ in 0..workshop.rounds(ROUNDS) {
        fast.take(&served, &native, 1, workshop.rounds(FAST), 0).await?;
        slow.take(&served, &native, SLOW_SESSIONS, workshop.rounds(SLOW), SLOW_PAUSE).await?;
    }
    for (pace, costs) in
        [("flat out".to_owned(), fast), (format!("{SLOW_SESSIONS} sessions, one each {SLOW_PAUSE} ms"), slow)]
    {
        let against = |to: &[f64]| format!("{:.2}", ratio(to, &costs.plugin));
        let each = |costs: &[f64]| format!("{:.1} µs", median(costs));
        rows.push(Row::new(
            format!("frames for a second of CPU, of those of GET /stream, {pace}"),
            against(&costs.stream),
            "≥ 0.6",
        ));
        rows.push(Row::new("  of a relay's without log or gateway", against(&costs.relay), ""));
        rows.push(Row::new("  CPU for a frame by the plugin", each(&costs.plugin), ""));
        rows.push(Row::new("  by GET /stream", each(&costs.stream), ""));
        rows.push(Row::new("  by the relay", each(&costs.relay), ""));
    }
    drop((served, native));

    let (plugin, native) = (gateway().await?, workshop.relay(agent)?);
    let [by_plugin, by_native] = [&plugin.server, &native];
    let (held, each) = hold(by_plugin, idle).await?;
    let (held_by_native, each_by_native) = hold(by_native, idle).await?;
    let kib = |bytes: f64| format!("{:.0} KB", bytes / 1e3);
    rows.push(Row::new(format!("memory of an idle session, of {idle}"), kib(each), "≤ 96 KB, better 60"));
    rows.push(Row::new("  native", kib(each_by_native), ""));
    for (name, server) in [("", by_plugin), ("  native", by_native)] {
        let latencies = latencies(server, busy, clock).await?;
        let name = match name {
            "" => format!("way of a frame beside them, {busy} sessions, one each {BUSY_PAUSE} ms"),
            name => name.to_owned(),
        };
        let (middle, late) = (median(&latencies), percentile(&latencies, 99));
        rows.push(Row::new(name, format!("p50 {middle:.1} ms, p99 {late:.1} ms"), ""));
    }
    drop((held, held_by_native));
    Ok(rows)
}

/// CPU for a frame in microseconds, of every round.
#[derive(Default)]
struct Costs {
    plugin: Vec<f64>,
    /// The gateway's own relay of what a task says.
    stream: Vec<f64>,
    /// Without a gateway.
    relay: Vec<f64>,
}

impl Costs {
    async fn take(
        &mut self,
        gateway: &Gateway,
        relay: &Server,
        sessions: usize,
        frames: usize,
        pause: u32,
    ) -> anyhow::Result<()> {
        self.plugin.push(cost(&gateway.server, sessions, frames, pause).await?);
        self.stream.push(streamed(gateway, sessions, frames, pause).await?);
        self.relay.push(cost(relay, sessions, frames, pause).await?);
        Ok(())
    }
}

/// [`cost`] by the gateway's own streams of tasks.
async fn streamed(gateway: &Gateway, sessions: usize, frames: usize, pause: u32) -> anyhow::Result<f64> {
    let text = format!("/words {frames} {pause}ms");
    let before = gateway.server.cpu()?;
    try_join_all((0..sessions).map(|_| async {
        let task = gateway.submit(&text).await?;
        let mut connection = Connection::open(gateway.address()).await?;
        let status = connection.begin(&request("GET", &format!("/stream/{task}"), "")).await?;
        ensure!(status == 200, "the stream answered {status}");
        connection.count_events().await
    }))
    .await?;
    let cpu = gateway.server.cpu()? - before;
    Ok(micros(cpu) / (sessions * frames) as f64)
}

/// CPU for a frame in microseconds, of so many sessions at once.
async fn cost(server: &Server, sessions: usize, frames: usize, pause: u32) -> anyhow::Result<f64> {
    let mut sockets = open(server.address(), "cost", sessions).await?;
    let before = server.cpu()?;
    try_join_all(sockets.iter_mut().map(|socket| turn(socket, frames, pause, |_| Ok(())))).await?;
    let cpu = server.cpu()? - before;
    Ok(micros(cpu) / (sessions * frames) as f64)
}

/// Idle sessions, and the bytes of memory that each costs the server.
async fn hold(server: &Server, sessions: usize) -> anyhow::Result<(Vec<Socket>, f64)> {
    // What the first ones bring for all that follow is not theirs.
    drop(open(server.address(), "first", BATCH).await?);
    tokio::time::sleep(SETTLE).await;
    let before = server.memory()?;
    let sockets = open(server.address(), "idle", sessions).await?;
    tokio::time::sleep(SETTLE).await;
    let more = server.memory()?.saturating_sub(before);
    Ok((sockets, more as f64 / sessions as f64))
}

/// How long frames took from the runtime to the client, in milliseconds.
async fn latencies(server: &Server, sessions: usize, clock: Instant) -> anyhow::Result<Vec<f64>> {
    let mut sockets = open(server.address(), "busy", sessions).await?;
    let turns = sockets.iter_mut().enumerate().map(|(at, socket)| async move {
        // They do not speak in time.
        tokio::time::sleep(Duration::from_millis(u64::from(BUSY_PAUSE)) * at as u32 / sessions as u32).await;
        let mut latencies = Vec::new();
        turn(socket, BUSY_FRAMES, BUSY_PAUSE, |text| {
            let Found::Mark(mark, _) = find(text.as_bytes(), 0) else { bail!("no mark in {text}") };
            latencies.push(millis(clock.elapsed().saturating_sub(mark.made)));
            Ok(())
        })
        .await?;
        anyhow::Ok(latencies)
    });
    Ok(try_join_all(turns).await?.concat())
}

async fn open(address: SocketAddr, name: &str, count: usize) -> anyhow::Result<Vec<Socket>> {
    // What an earlier round said is another session's.
    let round = uuid::Uuid::now_v7().simple().to_string();
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let batch = BATCH.min(count - sockets.len());
        let connections = (0..batch).map(|at| {
            let url = format!("ws://{address}/ws/{name}-{round}-{}", sockets.len() + at);
            async move {
                let (socket, _) =
                    connect_async(url).await.with_context(|| limits::connect_hint(address, count))?;
                anyhow::Ok(socket)
            }
        });
        let batch = try_join_all(connections).await?;
        sockets.extend(batch);
    }
    Ok(sockets)
}

/// One turn: asks for so many frames, and hears all of them.
async fn turn(
    socket: &mut Socket,
    frames: usize,
    pause: u32,
    mut heard: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let ask = format!(r#"{{"type":"user_message","content":"/words {frames} {pause}ms"}}"#);
    socket.send(Message::text(ask)).await?;
    let mut count = 0;
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.context("no frame in time")?;
        let Message::Text(text) = message.context("the connection has ended")?? else { continue };
        if text.starts_with(r#"{"type":"done""#) {
            ensure!(count == frames, "{count} of {frames} frames came");
            return Ok(());
        }
        heard(&text)?;
        count += 1;
    }
}
