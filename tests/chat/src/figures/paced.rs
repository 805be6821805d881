//! Streams that pause between chunks, as models do: how long the first chunk takes, how long each is on its way, and what
//! CPU it takes.

use std::time::Duration;

use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros, percentile, written};

use super::against_litellm;
use crate::streams::Received;
use crate::subjects::{Kind, Subject};
use crate::workshop::Workshop;

/// What is asked in every round.
#[derive(Clone, Copy)]
struct Pace {
    streams: usize,
    /// How often, one after the other.
    times: u32,
    chunks: u32,
    pause: Duration,
    /// Goal of the first chunk.
    first: &'static str,
}

/// What the rounds of one server came to.
#[derive(Default)]
struct Rounds {
    /// Milliseconds to the first chunk.
    first: Vec<f64>,
    /// Microseconds of a chunk's way.
    middle: Vec<f64>,
    most: Vec<f64>,
    /// Microseconds of CPU for a chunk.
    cpu: Vec<f64>,
}

pub(super) fn alone(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let pause = Duration::from_millis(10);
    let pace = Pace { streams: 1, times: 20, chunks: 20, pause, first: "≤ 1 ms" };
    let (subjects, rounds) = measure(workshop, pace)?;
    let mut rows = vec![Row::new("one stream alone, beyond the model server's own", "", "")];
    rows.extend(ways(subjects, &rounds, pace));
    Ok(rows)
}

pub(super) fn together(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let pause = Duration::from_millis(20);
    let pace = Pace { streams: 20, times: 2, chunks: 200, pause, first: "≤ 5 ms" };
    let (subjects, rounds) = measure(workshop, pace)?;
    let title = format!("{} streams at once, beyond the model server's own", pace.streams);
    let mut rows = vec![Row::new(title, "", "")];
    rows.extend(ways(subjects, &rounds, pace));
    rows.push(Row::new(
        format!("CPU for a chunk, {} streams, a chunk in {pause:?} each", pace.streams),
        "",
        "",
    ));
    for (subject, rounds) in subjects.iter().zip(&rounds) {
        let cpu = written(median(&rounds.cpu), 1, "µs");
        rows.push(Row::new(format!("  {}", subject.kind.title()), cpu, ""));
    }
    let costs: Vec<_> = rounds.into_iter().map(|rounds| rounds.cpu).collect();
    rows.extend(against_litellm(subjects, &costs));
    Ok(rows)
}

fn measure(workshop: &Workshop, pace: Pace) -> anyhow::Result<(&[Subject], Vec<Rounds>)> {
    let subjects = workshop.subjects()?;
    let mut all: Vec<_> = subjects.iter().map(|_| Rounds::default()).collect();
    for _ in 0..workshop.rounds() {
        for (subject, rounds) in subjects.iter().zip(&mut all) {
            rounds.add(subject, pace, workshop)?;
        }
    }
    Ok((subjects, all))
}

impl Rounds {
    fn add(&mut self, subject: &Subject, pace: Pace, workshop: &Workshop) -> anyhow::Result<()> {
        let cpu = subject.cpu()?;
        let mut received = Received::default();
        for _ in 0..workshop.count(pace.times) {
            received.add(subject.stream(pace.streams, pace.chunks, pace.pause)?);
        }
        self.cpu.push(micros(subject.cpu()? - cpu) / received.chunks as f64);
        self.first.push(median(&received.firsts));
        self.middle.push(median(&received.ways));
        self.most.push(percentile(&received.ways, 99));
        Ok(())
    }
}

/// Rows of what comes on top of the first subject, which is the model server.
fn ways(subjects: &[Subject], rounds: &[Rounds], pace: Pace) -> Vec<Row> {
    let mut rows = Vec::new();
    let Some(direct) = rounds.first() else { return rows };
    for (subject, rounds) in subjects.iter().zip(rounds) {
        let title = subject.kind.title();
        let ours = subject.kind == Kind::Plugway;
        let goal = |goal| if ours { goal } else { "" };
        if subject.kind == Kind::Direct {
            let measured = format!(
                "{}, then {} and {}",
                written(median(&direct.first), 2, "ms"),
                written(median(&direct.middle), 0, "µs"),
                written(median(&direct.most), 0, "µs")
            );
            rows.push(Row::new(format!("  {title} itself: first chunk, way p50 and p99"), measured, ""));
            continue;
        }
        let beyond = |values: &[f64], of: &[f64]| {
            median(&values.iter().zip(of).map(|(value, of)| value - of).collect::<Vec<_>>())
        };
        let first = written(beyond(&rounds.first, &direct.first), 2, "ms");
        rows.push(Row::new(format!("  {title}: time to the first chunk"), first, goal(pace.first)));
        let middle = written(beyond(&rounds.middle, &direct.middle), 0, "µs");
        rows.push(Row::new("    a chunk's way, p50", middle, goal("≤ 100 µs")));
        let most = written(beyond(&rounds.most, &direct.most), 0, "µs");
        rows.push(Row::new("    p99", most, ""));
    }
    rows
}
