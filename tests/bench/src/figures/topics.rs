//! What an event costs the hub that is published to one of many topics and taken by the topic's follower, in this
//! process: as much with 10,000 topics as with one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use plugway::domain::{Event, Kind, Position, SessionId, TaskId};
use plugway::hub::{Config, Entry, Follower, Frame, Hub, Publisher, Step};
use plugway::store::Store as _;
use plugway::store::sqlite::{Options, SqliteStore};
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros};

use crate::workshop::Workshop;

const ROUNDS: usize = 7;
/// Events of a round, spread over the topics.
const EVENTS: usize = 400_000;
const TOPICS: [usize; 4] = [1, 100, 1_000, 10_000];

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let home = tempfile::tempdir()?;
    // Followers read no log here: their rings hold all that they have not heard.
    let store = Arc::new(SqliteStore::open(home.path(), Options::default())?);
    let mut costs = [const { Vec::new() }; TOPICS.len()];
    for _ in 0..workshop.rounds(ROUNDS) {
        for (topics, costs) in TOPICS.into_iter().zip(&mut costs) {
            let hub = Hub::new(store.clone(), Config::default());
            costs.push(micros(round(&hub, topics)?) / EVENTS as f64);
            ensure!(hub.topics() == 0, "{} topics are left", hub.topics());
        }
    }
    store.close().await;
    let costs = costs.map(|costs| median(&costs));
    let row = |(topics, cost): (usize, f64)| {
        let name = if topics == 1 {
            "event through the hub: one topic".to_owned()
        } else {
            format!("  {topics} topics")
        };
        Row::new(name, format!("{cost:.2} µs ({:.2} ×)", cost / costs[0]), "")
    };
    Ok(TOPICS.into_iter().zip(costs).map(row).collect())
}

struct Topic {
    task: TaskId,
    publisher: Publisher,
    follower: Follower,
}

fn round(hub: &Hub, topics: usize) -> anyhow::Result<Duration> {
    let session = SessionId::fresh("bench");
    let mut topics: Vec<_> = (0..topics)
        .map(|_| {
            let task = TaskId::new();
            Topic { task, publisher: hub.publisher(task), follower: hub.follow(task, Position::START) }
        })
        .collect();
    let mut entries: Vec<Entry> = Vec::new();
    let count = topics.len();
    let began = Instant::now();
    for number in 0..EVENTS {
        let topic = &mut topics[number % count];
        let seq = (number / count) as u64 + 1;
        let event = Event {
            task: topic.task,
            session: session.clone(),
            position: Position { attempt: 1, seq },
            kind: if seq == 1 { Kind::Started } else { Kind::ResponseChunk },
            at_ms: 0,
            data: r#"{"text":"a word or two "}"#.into(),
        };
        topic.publisher.publish(Arc::new(event));
        let step = topic.follower.try_next(&mut entries, 8);
        ensure!(step == Some(Step::Events { replayed: false, behind: 0 }), "{step:?}");
        entries[0].frame(|event| Frame::text(&event.data));
        entries.clear();
    }
    Ok(began.elapsed())
}
