//! Several gateways on one Redis: together they are one gateway, whichever of them is asked, works, or dies.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use http::Method;
use plugway_tests::update::message;
use plugway_tests::{Builder, DEADLINE, Event, Gateway, Receiver, RedisServer, Sse, eventually};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

/// What clients send while nodes die: short work, and work that a kill finds under way.
const TEXTS: [&str; 5] = ["hello", "/words 40", "/sleep 300ms", "/tool t {}", "/fail on purpose"];
/// Clients that send.
const SENDERS: usize = 6;
/// Clients that follow tasks, reconnecting to any node, at once.
const FOLLOWERS: usize = 24;
/// Sooner than any poll of the gateway: whoever hears of something in this time was told.
const AT_ONCE: Duration = Duration::from_secs(5);

fn node(redis: &RedisServer) -> Builder {
    Gateway::builder()
        .plugin("telegram")
        .same_port()
        .set("store.kind", "redis")
        .set("store.url", redis.url())
        .set("drain", "2s")
}

async fn nodes<const N: usize>(redis: &RedisServer, set: impl Fn(Builder) -> Builder) -> [Gateway; N] {
    let started = join_all((0..N).map(|_| set(node(redis)).start())).await;
    started.try_into().expect("as many as were asked for")
}

async fn cancel(gateway: &Gateway, task: &str) {
    let answer = gateway.request(Method::POST, &format!("/tasks/{task}/cancel")).send().await;
    assert_eq!(answer.expect("an answer").status(), 200);
}

/// The place of the nodes that runs something; they are to run one task together.
async fn runner(nodes: &[Gateway]) -> usize {
    eventually(DEADLINE, || async {
        let running =
            join_all(nodes.iter().map(async |node| node.metrics().await.sum("plugway_tasks_running", &[])));
        let running = running.await;
        running.iter().position(|count| *count >= 1.0).ok_or_else(|| format!("{running:?} run"))
    })
    .await
}

/// An event's place in its task: the run, and the number in it.
fn place(event: &Event) -> (u32, u64) {
    let id = event.id.as_deref().expect("events have ids");
    let mut parts = id.rsplit('-');
    let seq = parts.next().and_then(|seq| seq.parse().ok());
    let attempt = parts.next().and_then(|attempt| attempt.parse().ok());
    attempt.zip(seq).unwrap_or_else(|| panic!("no place in {id}"))
}

fn is_terminal(event: &Event) -> bool {
    event.name == "progress" && ["completed", "failed"].contains(&event.progress().as_str())
}

/// Panics unless the event continues what was seen: the next of the same run, or the beginning of a later one, or the
/// end that a task that was given up has.
fn assert_continues(task: &str, seen: &[Event], event: &Event) {
    assert_ne!(event.name, "gap", "{task}: nothing is lost: {event:?} after {:?}", seen.last());
    let Some(last) = seen.last() else { return };
    let ((attempt, seq), (last_attempt, last_seq)) = (place(event), place(last));
    let next = attempt == last_attempt && seq == last_seq + 1;
    let later_run = attempt > last_attempt && seq == 1;
    assert!(next || later_run, "{task}: {event:?} does not follow {last:?}");
    assert!(!is_terminal(last), "{task}: {event:?} after its end {last:?}");
}

/// Follows a task to its end, on one node after the other, each for a moment.
async fn follow(
    client: &reqwest::Client,
    urls: &[String],
    task: &str,
    seed: u64,
    patience: Duration,
) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut seen: Vec<Event> = Vec::new();
    let give_up = Instant::now() + patience;
    while !seen.last().is_some_and(is_terminal) {
        assert!(Instant::now() < give_up, "{task} did not end in {patience:?}, it has {seen:#?}");
        let url = &urls[random.random_range(0..urls.len())];
        let mut request = client.get(format!("{url}/stream/{task}"));
        if let Some(last) = seen.last() {
            request = request.header("last-event-id", last.id.as_deref().expect("events have ids"));
        }
        let stays = Duration::from_millis(random.random_range(20..600));
        let visit = async {
            match Sse::try_open(request).await {
                Ok(mut stream) => {
                    while let Some(event) = stream.next().await {
                        if event.name == "heartbeat" {
                            continue;
                        }
                        assert_continues(task, &seen, &event);
                        seen.push(event);
                    }
                }
                // Dead, or about to be.
                Err(None | Some(503)) => sleep(Duration::from_millis(50)).await,
                Err(Some(status)) => panic!("{task}: {status} from {url}"),
            }
        };
        let _ = timeout(stays, visit).await;
    }
    seen
}

fn lives() -> Duration {
    let seconds = env::var("PLUGWAY_NODES_SECONDS").ok();
    Duration::from_secs(seconds.map_or(20, |text| text.parse().expect("PLUGWAY_NODES_SECONDS is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_task_ends_once_whichever_node_is_killed() {
    let redis = RedisServer::start_durable().await;
    let mut nodes = nodes::<3>(&redis, |node| {
        node.set("workers.lease", "2s")
            .set("workers.max_attempts", 1_000)
            .set("workers.queue", 1_000_000)
            .set("agents.echo.chunk_delay", "20ms")
    })
    .await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url("")).collect();
    let client = plugway_tests::client::builder().build().expect("a client");
    let (stop, next) = (AtomicBool::new(false), AtomicI64::new(1));
    let until = Instant::now() + lives();

    let kills = async {
        let mut random = StdRng::seed_from_u64(4_711);
        let mut killed = 0;
        while Instant::now() < until {
            sleep(Duration::from_millis(random.random_range(200..1_500))).await;
            let node = &mut nodes[random.random_range(0..3)];
            node.kill();
            killed += 1;
            sleep(Duration::from_millis(random.random_range(0..500))).await;
            node.start_again().await;
        }
        stop.store(true, Ordering::Relaxed);
        killed
    };
    let (sender, accepted) = tokio::sync::mpsc::unbounded_channel::<String>();
    let sends = join_all((0..SENDERS).map(|n| {
        let (client, urls, stop, next, sender) = (&client, &urls, &stop, &next, sender.clone());
        async move {
            let mut random = StdRng::seed_from_u64(n as u64);
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let text = TEXTS[usize::try_from(number).expect("positive") % TEXTS.len()];
                let url = &urls[random.random_range(0..urls.len())];
                let update = message(number, number % 40, text);
                let answer = client.post(format!("{url}/webhook")).json(&update).send().await;
                // A request that the kill hits tells nothing: it may have been accepted or not.
                let Ok(answer) = answer else { continue };
                if answer.status() == 200
                    && let Ok(answer) = answer.json::<Value>().await
                {
                    let task = answer["task_id"].as_str().expect("what is accepted has a task");
                    sender.send(task.to_owned()).expect("somebody listens");
                }
                // No faster than three nodes that die work off.
                sleep(Duration::from_millis(random.random_range(0..500))).await;
            }
        }
    }));
    drop(sender);
    let accepted =
        stream::unfold(accepted, async |mut accepted| accepted.recv().await.map(|task| (task, accepted)));
    let follows = accepted
        .enumerate()
        .map(|(n, task)| {
            let (client, urls) = (&client, &urls);
            async move {
                let seen = follow(client, urls, &task, n as u64, lives() + Duration::from_secs(90)).await;
                (task, seen)
            }
        })
        .buffer_unordered(FOLLOWERS)
        .collect::<HashMap<String, Vec<Event>>>();
    let (killed, _, followed) = tokio::join!(kills, sends, follows);

    println!("{} tasks, {killed} kills", followed.len());
    assert!(killed > 3 && followed.len() > 20, "{killed} kills, {} tasks", followed.len());
    // Whoever comes later sees the last run, whole, and the same end.
    for (n, (task, seen)) in followed.iter().enumerate() {
        let events = nodes[n % 3].stream(&format!("/stream/{task}")).await.rest().await;
        assert_eq!(events.iter().filter(|event| is_terminal(event)).count(), 1, "{task}: {events:#?}");
        assert_eq!(events.last(), seen.last(), "{task} ends once");
        let (run, _) = place(seen.last().expect("something was seen"));
        let last_run: Vec<&Event> = seen.iter().filter(|event| place(event).0 == run).collect();
        assert_eq!(
            last_run,
            events.iter().filter(|event| place(event).0 == run).collect::<Vec<_>>(),
            "{task}"
        );
    }
}

#[tokio::test]
async fn a_cancel_reaches_the_node_that_runs_the_task() {
    let redis = RedisServer::start_durable().await;
    let nodes = nodes::<2>(&redis, |node| node).await;
    for round in 0..4 {
        let task = nodes[0].accept(&message(round, round, "/sleep 60s")).await;
        let runner = runner(&nodes).await;
        let other = &nodes[1 - runner];
        let mut stream = other.stream(&format!("/stream/{task}")).await;
        stream.until(|event| event.progress() == "started").await;
        let asked = Instant::now();
        cancel(other, &task).await;
        let rest = stream.rest().await;
        assert!(asked.elapsed() < AT_ONCE, "it took {:?}, {rest:?}", asked.elapsed());
        assert_eq!(
            rest.last().map(|event| event.json()["data"]["error_type"].clone()),
            Some("cancelled".into())
        );
        assert_eq!(nodes[runner].ended(&task).await["state"], "cancelled");
    }
}

#[tokio::test]
async fn what_runs_on_one_node_is_heard_live_on_the_others() {
    let redis = RedisServer::start_durable().await;
    let nodes = nodes::<2>(&redis, |node| node.set("agents.echo.chunk_delay", "50ms")).await;
    let task = nodes[0].accept(&message(1, 1, "/words 60")).await;
    let runner = runner(&nodes).await;
    let path = format!("/stream/{task}");
    let streams = [nodes[runner].stream(&path).await, nodes[1 - runner].stream(&path).await];
    let began = Instant::now();
    let [here, there] = streams.map(async |mut stream| {
        let mut heard = Vec::new();
        while let Some(event) = stream.next().await {
            heard.push((event, Instant::now()));
        }
        heard
    });
    let (here, there) = tokio::join!(here, there);
    assert_eq!(
        here.iter().map(|(event, _)| event).collect::<Vec<_>>(),
        there.iter().map(|(event, _)| event).collect::<Vec<_>>()
    );
    let late =
        here.iter().zip(&there).map(|((_, here), (_, there))| there.saturating_duration_since(*here)).max();
    assert!(late < Some(Duration::from_secs(1)), "{late:?} late");
    assert!(began.elapsed() > Duration::from_secs(1), "it was heard while it ran");
}

#[tokio::test]
async fn a_session_has_one_turn_at_a_time_over_all_nodes_and_its_history() {
    let redis = RedisServer::start_durable().await;
    let nodes = nodes::<3>(&redis, |node| node.set("agents.echo.chunk_delay", "10ms")).await;
    let mut tasks = Vec::new();
    for n in 0..12 {
        tasks.push(nodes[n % 3].accept(&message(n as i64, 7, &format!("/words {}", n + 1))).await);
    }
    let mut spans = Vec::new();
    for (n, task) in tasks.iter().enumerate() {
        let record = nodes[(n + 1) % 3].ended(task).await;
        assert_eq!(record["state"], "completed");
        let at = |name: &str| record[name].as_str().expect("a time").to_owned();
        spans.push((at("started_at"), at("ended_at")));
    }
    for pair in spans.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "one after the other: {spans:#?}");
    }
}

#[tokio::test]
async fn the_same_update_at_all_nodes_at_once_makes_one_task() {
    let redis = RedisServer::start_durable().await;
    let nodes = nodes::<3>(&redis, |node| node).await;
    let update = message(1, 7, "hello");
    let tasks = join_all((0..30).map(|n| nodes[n % 3].accept(&update))).await;
    assert!(tasks.iter().all(|task| *task == tasks[0]), "{tasks:?}");
}

#[tokio::test]
async fn each_result_is_called_back_by_one_node() {
    let redis = RedisServer::start_durable().await;
    let receiver = Receiver::start().await;
    let nodes = nodes::<3>(&redis, |node| {
        node.set("callbacks.result_url", receiver.url("/results"))
            .set("callbacks.private_networks", vec!["127.0.0.0/8"])
    })
    .await;
    let updates: Vec<Value> = (0..60).map(|n| message(n, n, "hello")).collect();
    let sent = updates.iter().enumerate().map(|(n, update)| nodes[n % 3].accept(update));
    let tasks = join_all(sent).await;
    eventually(DEADLINE, || async {
        let got = receiver.received().len();
        if got >= tasks.len() { Ok(()) } else { Err(format!("{got} of {}", tasks.len())) }
    })
    .await;
    // Room for one too many.
    sleep(Duration::from_millis(500)).await;
    let mut by_task = BTreeMap::<String, usize>::new();
    for reception in receiver.received() {
        *by_task.entry(reception.json()["task_id"].as_str().expect("a task").to_owned()).or_default() += 1;
    }
    assert_eq!(by_task.len(), tasks.len());
    assert!(by_task.values().all(|count| *count == 1), "{by_task:#?}");
}

#[tokio::test]
async fn a_node_that_leaves_gives_its_work_to_the_others_at_once() {
    let redis = RedisServer::start_durable().await;
    // A lease that nobody waits for in this test.
    let mut nodes = nodes::<2>(&redis, |node| node.set("workers.lease", "10m").set("drain", "100ms")).await;
    let task = nodes[0].accept(&message(1, 1, "/sleep 3s")).await;
    let runner = runner(&nodes).await;
    assert!(nodes[runner].stop().await.success());
    let other = &nodes[1 - runner];
    let record = other.ended(&task).await;
    assert_eq!((&record["state"], &record["attempt"]), (&"completed".into(), &2.into()));
    // One that joins takes part.
    nodes[runner].start_again().await;
    let task = nodes[runner].accept(&message(2, 2, "hello")).await;
    assert_eq!(nodes[1 - runner].ended(&task).await["state"], "completed");
}

#[tokio::test]
async fn redis_that_stops_and_starts_again_costs_no_client_its_connection_and_no_task_its_end() {
    let mut redis = RedisServer::start_durable().await;
    let nodes = nodes::<2>(&redis, |node| {
        node.set("agents.echo.chunk_delay", "50ms")
            .set("stream.heartbeat", "200ms")
            .set("workers.lease", "5s")
    })
    .await;
    let task = nodes[0].accept(&message(1, 1, "/words 100")).await;
    let path = format!("/stream/{task}");
    let mut streams = [nodes[0].stream(&path).await, nodes[1].stream(&path).await];
    for stream in &mut streams {
        stream.until(|event| event.progress() == "response_chunk").await;
    }
    redis.stop().await;
    for node in &nodes {
        eventually(DEADLINE, || async {
            let ready = node.get("/ready").await;
            if ready.status == 503 { Ok(()) } else { Err(ready.text()) }
        })
        .await;
        let ready = node.get("/ready").await.expect(503).json();
        assert!(ready["store"].as_str().is_some_and(|store| store.contains("redis://127.0.0.1")), "{ready}");
        assert_eq!(node.get("/health").await.status, 200);
        let answer = node.post("/webhook", &message(2, 2, "hello")).await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    for stream in &mut streams {
        stream.until(|event| event.name == "heartbeat").await;
        stream.until(|event| event.name == "heartbeat").await;
    }
    redis.start_again().await;
    for stream in streams {
        let events: Vec<Event> =
            stream.rest().await.into_iter().filter(|event| event.name != "heartbeat").collect();
        assert_eq!(events.last().map(Event::progress).as_deref(), Some("completed"), "{events:?}");
        for pair in events.windows(2) {
            assert_continues(&task, &pair[..1], &pair[1]);
        }
    }
    for node in &nodes {
        let task = node.accept(&message(3, 3, "hello")).await;
        assert_eq!(node.ended(&task).await["state"], "completed");
        eventually(DEADLINE, || async {
            let ready = node.get("/ready").await;
            if ready.status == 200 { Ok(()) } else { Err(ready.text()) }
        })
        .await;
    }
}

#[tokio::test]
async fn redis_that_is_flushed_loses_what_it_had_and_nothing_else() {
    let redis = RedisServer::start_durable().await;
    let [node] = nodes::<1>(&redis, |node| node.set("workers.lease", "2s")).await;
    let task = node.accept(&message(1, 1, "/sleep 60s")).await;
    let mut stream = node.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "started").await;
    redis.command::<String>(&["FLUSHALL"]).await;
    // The task is gone, and nobody waits for it for ever.
    let waits = timeout(DEADLINE, stream.rest()).await;
    assert!(waits.is_ok(), "the stream of what is gone ends");
    eventually(DEADLINE, || async {
        let running = node.metrics().await.sum("plugway_tasks_running", &[]);
        if running == 0.0 { Ok(()) } else { Err(format!("{running} run")) }
    })
    .await;
    let next = node.accept(&message(2, 1, "hello")).await;
    assert_eq!(node.ended(&next).await["state"], "completed");
    assert_eq!(node.get(&format!("/tasks/{task}")).await.status, 404);
}

#[tokio::test]
async fn redis_that_is_full_refuses_new_work_in_words_and_takes_it_again() {
    let redis = RedisServer::start_durable().await;
    let [node] = nodes::<1>(&redis, |node| node).await;
    let task = node.accept(&message(1, 1, "hello")).await;
    node.ended(&task).await;
    redis.command::<String>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let answer = node.post("/webhook", &message(2, 2, "hello")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let ready = node.get("/ready").await.expect(503).json();
    assert!(ready["store"].as_str().is_some_and(|store| store.contains("memory")), "{ready}");
    // What is there can be read.
    assert_eq!(node.get(&format!("/tasks/{task}")).await.expect(200).json()["state"], "completed");
    redis.command::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let task = node.accept(&message(2, 2, "hello")).await;
    assert_eq!(node.ended(&task).await["state"], "completed");
}

#[tokio::test]
async fn redis_that_holds_still_is_waited_for() {
    let redis = RedisServer::start_durable().await;
    let [node] = nodes::<1>(&redis, |node| node.set("agents.echo.chunk_delay", "20ms")).await;
    let task = node.accept(&message(1, 1, "/words 100")).await;
    let mut stream = node.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "response_chunk").await;
    redis.pause();
    sleep(Duration::from_secs(3)).await;
    redis.resume();
    let rest = stream.rest().await;
    assert_eq!(rest.last().map(Event::progress).as_deref(), Some("completed"));
    assert_eq!(node.ended(&task).await["attempt"], 1);
}
