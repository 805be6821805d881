//! The gateway dies under load, again and again: what it accepted ends in exactly one terminal event.

use std::env;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use plugway_tests::update::message;
use plugway_tests::{Builder, DEADLINE, Event, Gateway};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

/// Clients that send while the gateway runs.
const CLIENTS: usize = 16;

/// What they send: short work and work that a kill always finds under way.
const TEXTS: [&str; 5] = ["hello", "/words 20", "/sleep 30ms", "/tool t {}", "/fail on purpose"];

fn rounds() -> u32 {
    env::var("PLUGWAY_CRASH_ROUNDS")
        .ok()
        .map_or(50, |text| text.parse().expect("PLUGWAY_CRASH_ROUNDS is a number"))
}

fn builder() -> Builder {
    Gateway::builder().plugin("telegram").same_port().set("workers.count", 8).set("workers.queue", 1_000_000)
}

/// Sends until told to stop or the gateway is gone. Returns the tasks that were accepted for certain.
async fn load(gateway: &Gateway, next: &AtomicI64, stop: &AtomicBool) -> Vec<String> {
    let client = || async {
        let mut accepted = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let text = TEXTS[usize::try_from(number).expect("numbers are positive") % TEXTS.len()];
            // A request that the kill hits tells nothing: it may have been accepted or not.
            let Ok(answer) = gateway.try_post("/webhook", &message(number, number, text)).await else {
                break;
            };
            let answer: Value = answer.expect(200).json();
            accepted.push(answer["task_id"].as_str().expect("what is accepted has a task").to_owned());
        }
        accepted
    };
    futures::future::join_all((0..CLIENTS).map(|_| client())).await.concat()
}

/// Follows the task to its end, and checks that there is one.
async fn assert_ends_once(gateway: &Gateway, task: &str) {
    let events = gateway.stream(&format!("/stream/{task}")).await.rest().await;
    let events: Vec<_> = events.iter().filter(|event| event.name == "progress").collect();
    let terminal = |event: &&&Event| ["completed", "failed"].contains(&event.progress().as_str());
    assert_eq!(events.iter().filter(terminal).count(), 1, "{task} ends once: {events:#?}");
    assert!(events.last().is_some_and(|last| terminal(&last)), "{task} ends with its end: {events:#?}");
}

async fn assert_all_end_once(gateway: &Gateway, tasks: &[String]) {
    let checks = stream::iter(tasks).map(|task| assert_ends_once(gateway, task)).buffer_unordered(32);
    checks.collect::<Vec<()>>().await;
}

#[tokio::test]
async fn every_accepted_task_ends_exactly_once_whenever_the_gateway_is_killed() {
    let rounds = rounds();
    // So that a failure can be repeated, as far as the machine's timing lets it.
    let mut generator = StdRng::seed_from_u64(4_711);
    let mut gateway = builder().start().await;
    let next = AtomicI64::new(1);
    let mut all: Vec<String> = Vec::new();
    for round in 0..rounds {
        let lives = Duration::from_millis(generator.random_range(20..400));
        let stop = AtomicBool::new(false);
        let (accepted, ()) = tokio::join!(load(&gateway, &next, &stop), async {
            // No wait for something to happen: the kill is to come at any time.
            tokio::time::sleep(lives).await;
            gateway.shoot();
            stop.store(true, Ordering::Relaxed);
        });
        gateway.kill();
        gateway.start_again().await;
        println!("round {round}: {} accepted within {lives:?}", accepted.len());
        assert_all_end_once(&gateway, &accepted).await;
        all.extend(accepted);
    }
    // Later rounds have not touched what earlier ones ended.
    assert!(!all.is_empty(), "something was accepted");
    assert_all_end_once(&gateway, &all).await;
}

#[tokio::test]
async fn a_run_that_died_is_run_again_as_the_next_attempt() {
    let mut gateway = builder().start().await;
    let task = gateway.accept(&message(1, 7, "/sleep 1s")).await;
    let path = format!("/stream/{task}");
    let first = gateway.stream(&path).await.until(|event| event.progress() == "started").await;
    gateway.kill();
    gateway.start_again().await;
    // The cursor is of a run that is voided sooner or later (on Redis when its lease runs out): what was logged of it may
    // be told, and the present run is told from its beginning.
    let events = gateway.stream_after(&path, &first.id.expect("events have ids")).await.rest().await;
    let kinds: Vec<_> = events.iter().map(Event::progress).collect();
    let starts = kinds.iter().filter(|kind| *kind == "started").count();
    let start = kinds.iter().position(|kind| kind == "started");
    assert!(starts == 1 && start <= Some(1), "{kinds:?}");
    assert_eq!(kinds.last().map(String::as_str), Some("completed"), "{kinds:?}");
    assert_eq!(gateway.ended(&task).await["attempt"], 2);
}

#[tokio::test]
async fn a_task_whose_runs_die_again_and_again_fails_as_abandoned() {
    let mut gateway = builder().set("workers.max_attempts", 2).start().await;
    let task = gateway.accept(&message(1, 7, "/sleep 60s")).await;
    for attempt in 1..=2 {
        let running =
            |description: &Value| description["state"] == "running" && description["attempt"] == attempt;
        plugway_tests::eventually(DEADLINE, || async {
            let description = gateway.get(&format!("/tasks/{task}")).await.expect(200).json();
            if running(&description) { Ok(()) } else { Err(description.to_string()) }
        })
        .await;
        gateway.kill();
        gateway.start_again().await;
    }
    assert_eq!(gateway.ended(&task).await["state"], "failed");
    assert_ends_once(&gateway, &task).await;
}

#[tokio::test]
async fn what_ended_stays_as_it_ended_over_restarts() {
    let mut gateway = builder().start().await;
    let task = gateway.accept(&message(1, 7, "/words 9")).await;
    let path = format!("/stream/{task}");
    let before = gateway.stream(&path).await.rest().await;
    gateway.kill();
    gateway.start_again().await;
    assert_eq!(gateway.stream(&path).await.rest().await, before);
}

#[tokio::test]
async fn a_gateway_that_is_told_to_stop_ends_well_and_loses_nothing() {
    let mut gateway = builder().start().await;
    let tasks = [
        gateway.accept(&message(1, 7, "/sleep 300ms")).await,
        gateway.accept(&message(2, 7, "/words 5")).await,
        gateway.accept(&message(3, 8, "/words 500")).await,
    ];
    assert!(gateway.stop().await.success());
    gateway.start_again().await;
    assert_all_end_once(&gateway, &tasks).await;
}

#[tokio::test]
async fn a_client_that_reconnects_over_a_crash_sees_the_whole_answer_of_the_last_run() {
    let mut gateway = builder().set("agents.echo.chunk_delay", "10ms").start().await;
    let task = gateway.accept(&message(1, 7, "/words 50")).await;
    let path = format!("/stream/{task}");
    let mut stream = gateway.stream(&path).await;
    let mut seen = Vec::new();
    while seen.len() < 20 {
        seen.extend(stream.next().await);
    }
    gateway.kill();
    gateway.start_again().await;
    let last = seen.last().and_then(|event: &Event| event.id.clone()).expect("events have ids");
    seen.extend(gateway.stream_after(&path, &last).await.rest().await);
    // A later `started` voids what was said before.
    let start = seen.iter().rposition(|event| event.progress() == "started").expect("it started");
    let chunks = seen[start..].iter().filter(|event| event.progress() == "response_chunk");
    let text: String =
        chunks.map(|event| event.json()["data"]["text"].as_str().expect("text").to_owned()).collect();
    let words: Vec<_> = (1..=50).map(|number| format!("w{number}")).collect();
    assert_eq!(text, words.join(" "));
}
