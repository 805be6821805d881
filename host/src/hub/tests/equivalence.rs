//! Any interleaving of publishing, logging, losing and reconnecting gives every client each event once and in order.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{Entry, Follower, Step};
use super::{Stage, drained, small_ring};
use crate::domain::{Kind, Position};

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Act {
    Publish(u64),
    Log(usize),
    LoseRun,
    LoseProcess,
    Listen { client: usize, max: usize },
    Reconnect { client: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..6_u64).prop_map(Act::Publish),
        3 => (1..8_usize).prop_map(Act::Log),
        1 => Just(Act::LoseRun),
        1 => Just(Act::LoseProcess),
        5 => (0..3_usize, 1..9_usize).prop_map(|(client, max)| Act::Listen { client, max }),
        2 => (0..3_usize).prop_map(|client| Act::Reconnect { client }),
    ];
    proptest::collection::vec(act, 1..40)
}

/// A client that reconnects with the place of the last event that it got.
struct Client {
    follower: Follower,
    heard: Vec<Position>,
    ended: bool,
}

impl Client {
    fn reconnect(&mut self, stage: &Stage) {
        self.follower = stage.follow(self.heard.last().copied().unwrap_or(Position::START));
        self.ended = false;
    }

    fn heard(&mut self, entries: &[Entry], steps: &[Step]) {
        self.heard.extend(entries.iter().map(|entry| entry.event().position));
        self.ended |= steps.contains(&Step::Ended);
        assert!(!steps.iter().any(|step| matches!(step, Step::Gap { .. })), "{steps:?}");
    }
}

async fn play(acts: Vec<Act>, ring_events: usize, given_up: bool) {
    let mut stage = Stage::new(small_ring(ring_events)).await;
    stage.start().await;
    let client =
        |stage: &Stage| Client { follower: stage.follow(Position::START), heard: Vec::new(), ended: false };
    let mut clients = [client(&stage), client(&stage), client(&stage)];
    for act in acts {
        match act {
            Act::Publish(count) => stage.chunks(count),
            Act::Log(count) => stage.log(count).await,
            Act::LoseRun => {
                stage.lose_run();
                stage.start().await;
            }
            Act::LoseProcess => {
                stage.lose_process();
                clients.iter_mut().for_each(|client| client.reconnect(&stage));
                stage.start().await;
            }
            Act::Listen { client, max } => {
                let client = &mut clients[client];
                let mut entries = Vec::new();
                let wait = Duration::from_millis(20);
                if let Ok(step) = tokio::time::timeout(wait, client.follower.next(&mut entries, max)).await {
                    client.heard(&entries, &[step.unwrap()]);
                }
            }
            Act::Reconnect { client } => clients[client].reconnect(&stage),
        }
    }
    if given_up {
        stage.lose_process();
        clients.iter_mut().for_each(|client| client.reconnect(&stage));
        stage.claim().await;
        stage.finish(Kind::Failed).await;
    } else {
        stage.finish(Kind::Completed).await;
    }
    let end = stage.end.unwrap();
    for client in &mut clients {
        let (entries, steps) = drained(&mut client.follower, 5).await;
        client.heard(&entries, &steps);
        assert!(client.ended);
        for pair in client.heard.windows(2) {
            let follows = pair[1].attempt == pair[0].attempt && pair[1].seq == pair[0].seq + 1;
            let next_run = pair[1].attempt > pair[0].attempt && pair[1].seq == 1;
            assert!(follows || next_run, "{:?} after {:?}", pair[1], pair[0]);
        }
        let last_run: Vec<_> =
            client.heard.iter().filter(|at| at.attempt == end.attempt).map(|at| at.seq).collect();
        assert_eq!(last_run, (1..=end.seq).collect::<Vec<_>>(), "of the last run");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_client_hears_the_last_run_whole_and_nothing_twice(
        acts in acts(),
        ring_events in 1..12_usize,
        given_up: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(acts, ring_events, given_up));
    }
}
