//! CPU for a chunk of the echo agent, which speaks as fast as the log takes it: by the plugin as chat completions and as
//! responses, by the gateway's native stream of such a task, and with nobody who follows. Beside them the model server's.
//!
//! Each has all of the gateway's work in it, the task's too.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use plugway_figures::process::Server;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros, ratio, written};
use serde_json::Value;

use crate::content::Content;
use crate::http::{ask, request};
use crate::streams::Call;
use crate::subjects::{DONE, completion};
use crate::workshop::Workshop;

const CHUNKS: u32 = 50_000;
/// Longest that a task may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What its gateways are set to: no pauses, and as many words as are asked for.
const CONFIG: &str = "[agents.echo]\nchunk_delay = \"0s\"\nmax_count = 10_000_000\n";

/// Who follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Model,
    Nobody,
    Native,
    Completion,
    Response,
}

impl Way {
    const ALL: [Self; 5] = [Self::Model, Self::Nobody, Self::Native, Self::Completion, Self::Response];

    fn title(self) -> &'static str {
        match self {
            Self::Model => "the model server alone",
            Self::Nobody => "a task that nobody follows",
            Self::Native => "GET /stream/{task}, which merges for readers that lag",
            Self::Completion => "POST /v1/chat/completions",
            Self::Response => "POST /v1/responses",
        }
    }
}

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let (model, gateway) = (workshop.model()?, workshop.gateway(CONFIG)?);
    let mut costs = vec![Vec::new(); Way::ALL.len()];
    // The first ones open the store's files, and wait until the plugin serves.
    let began = Instant::now();
    while let Err(error) = take(Way::Response, &gateway, 100) {
        if began.elapsed() > PATIENCE {
            return Err(error.context(gateway.log()));
        }
        thread::sleep(Duration::from_millis(100));
    }
    for _ in 0..workshop.rounds() {
        for (way, costs) in Way::ALL.into_iter().zip(&mut costs) {
            let server = if way == Way::Model { &model } else { &gateway };
            costs.push(take(way, server, workshop.count(CHUNKS)).with_context(|| way.title())?);
        }
    }
    let mut rows = vec![Row::new("CPU for a chunk of the echo agent, one stream flat out", "", "")];
    for (way, costs) in Way::ALL.into_iter().zip(&costs) {
        rows.push(Row::new(format!("  {}", way.title()), written(median(costs), 1, "µs"), ""));
    }
    let against = written(ratio(&costs[Way::Completion as usize], &costs[Way::Native as usize]), 2, "×");
    rows.push(Row::new("  chat completions against the native stream", against, ""));
    Ok(rows)
}

/// The server's CPU for each chunk, in microseconds.
fn take(way: Way, server: &Server, chunks: u32) -> anyhow::Result<f64> {
    let address = server.address();
    let text = format!("/words {chunks}");
    let cpu = server.cpu()?;
    match way {
        Way::Model => {
            follow(address, completion("model", &text, ""), Content::Marks(chunks), DONE)?;
        }
        Way::Nobody => ended(address, &submit(address, &text)?)?,
        Way::Native => {
            let path = format!("/stream/{}", submit(address, &text)?);
            let content = Content::words(chunks, r#""response_chunk""#, r#""text":""#);
            follow(address, request("GET", &path, "", ""), content, r#""progress_type":"completed""#)?;
        }
        Way::Completion => {
            let content = Content::words(chunks, r#""chat.completion.chunk""#, r#""content":""#);
            follow(address, completion("echo", &text, ""), content, DONE)?;
        }
        Way::Response => {
            let body = format!(r#"{{"model":"echo","stream":true,"input":"{text}"}}"#);
            let content = Content::words(chunks, r#""response.output_text.delta""#, r#""delta":""#);
            let end = r#""type":"response.completed""#;
            follow(address, request("POST", "/v1/responses", "", &body), content, end)?;
        }
    }
    Ok(micros(server.cpu()? - cpu) / f64::from(chunks))
}

fn follow(
    address: SocketAddr,
    request: Vec<u8>,
    content: Content,
    end: &'static str,
) -> anyhow::Result<usize> {
    Ok(Call { address, request, content, end }.run(1)?.chunks)
}

/// Has the gateway accept a task by a native route: its id.
fn submit(address: SocketAddr, text: &str) -> anyhow::Result<String> {
    let body = format!(r#"{{"query":"{text}"}}"#);
    let (status, answer) = ask(address, &request("POST", "/api/agent/command", "", &body))?;
    ensure!(status < 300, "the task was not accepted: {status} {}", String::from_utf8_lossy(&answer));
    let answer: Value = serde_json::from_slice(&answer)?;
    let id = answer["request_id"].as_str().and_then(|id| id.strip_prefix("req-"));
    Ok(format!("task_{}", id.context("no request_id")?))
}

/// Waits until the task has ended.
fn ended(address: SocketAddr, task: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let (_, answer) = ask(address, &request("GET", &format!("/tasks/{task}"), "", ""))?;
        let description: Value = serde_json::from_slice(&answer)?;
        match description["state"].as_str() {
            Some("completed") => return Ok(()),
            Some("queued" | "running") if began.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(50));
            }
            _ => bail!("the task is {description}"),
        }
    }
}
