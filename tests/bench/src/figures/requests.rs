//! A request with a JSON body of 500 bytes through an http plugin, against the same answer from a native handler. In
//! turns, so that both have the same machine; the other one idles meanwhile.

use std::time::Duration;

use anyhow::ensure;
use plugway_figures::process::Server;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros};

use crate::client::{load, request};
use crate::workshop::Workshop;

const ROUNDS: usize = 9;
const LENGTH: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 32;

/// What a client of a chat API sends: 500 bytes.
pub(super) const QUESTION: &str = r#"{"model":"gateway/echo","user":"user-4f1c9d2e","stream":false,"temperature":0.7,"max_tokens":1024,"messages":[{"role":"system","content":"You are a helpful assistant of a small shop that sells and repairs bicycles. Answer in short sentences."},{"role":"user","content":"Hello! My rear wheel makes a clicking noise when I pedal hard, but not when I coast. What could that be, and can I ride to work on it tomorrow, about twelve kilometres, or should I bring it in \"first\"? Many thanks in advance"}]}"#;

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let native = workshop.native()?;
    let gateway = workshop.gateway("").await?;
    let (mut ratios, mut extra) = (Vec::new(), Vec::new());
    let (mut natives, mut plugins) = (Vec::new(), Vec::new());
    let length = workshop.length(LENGTH);
    round(&native, length).await?;
    round(&gateway.server, length).await?;
    for _ in 0..workshop.rounds(ROUNDS) {
        let by_native = round(&native, length).await?;
        let by_plugin = round(&gateway.server, length).await?;
        ratios.push(by_plugin.rate / by_native.rate);
        extra.push(by_plugin.cpu - by_native.cpu);
        natives.push(by_native);
        plugins.push(by_plugin);
    }
    let rate = |rounds: &[Round]| median(&rounds.iter().map(|round| round.rate).collect::<Vec<_>>());
    let cpu = |rounds: &[Round]| median(&rounds.iter().map(|round| round.cpu).collect::<Vec<_>>());
    Ok(vec![
        Row::new(
            "request through a plugin: throughput / native",
            format!("{:.2}", median(&ratios)),
            "≥ 0.6, stretch 0.7",
        ),
        Row::new("  CPU beyond native", format!("{:.1} µs", median(&extra)), "≤ 13 µs, stretch 8 µs"),
        Row::new("  native", format!("{:.0}/s, {:.1} µs CPU", rate(&natives), cpu(&natives)), ""),
        Row::new("  plugin", format!("{:.0}/s, {:.1} µs CPU", rate(&plugins), cpu(&plugins)), ""),
    ])
}

struct Round {
    /// Per second.
    rate: f64,
    /// Of the server, in microseconds per request.
    cpu: f64,
}

async fn round(server: &Server, length: Duration) -> anyhow::Result<Round> {
    let question = request("POST", "/bench/answer", QUESTION);
    let before = server.cpu()?;
    let load = load(server.address(), &question, CONNECTIONS, length).await?;
    let cpu = server.cpu()? - before;
    ensure!(load.refused == 0, "{} of {} requests were refused", load.refused, load.answered);
    Ok(Round { rate: load.rate(), cpu: micros(cpu) / load.answered as f64 })
}

#[cfg(test)]
mod tests {
    use super::QUESTION;
    use crate::dialogue::Question;

    #[test]
    fn the_question_has_500_bytes_and_the_answer_about_as_many() {
        assert_eq!(QUESTION.len(), 500);
        let question: Question = serde_json::from_str(QUESTION).expect("it is a question");
        let answer = serde_json::to_string(&question.answer()).expect("it is JSON");
        assert!((450..550).contains(&answer.len()), "{} bytes", answer.len());
    }
}
