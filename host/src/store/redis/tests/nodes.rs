//! Several nodes on one Redis.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::super::{
    CancelOutcome, EventLog, Except, Notice, Notices, Outbox, Pace, Rate, Room, Settlement, Store,
    StoreError, TaskQueue,
};
use super::*;
use crate::domain::{Kind, Position, TaskId};

const LEASE: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(20);

async fn next(notices: &mut Box<dyn Notices>) -> Notice {
    tokio::time::timeout(SOON, notices.next()).await.expect("no notice came")
}

/// Watches a task and waits until it is watched.
async fn watch(store: &RedisStore, notices: &mut Box<dyn Notices>, task: TaskId) {
    store.watch(task);
    while next(notices).await != Notice::Watching(task) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_never_claim_the_same_task() {
    let server = RedisServer::start();
    let (a, b) = (node(&server).await, node(&server).await);
    let mut accepted = BTreeSet::new();
    for n in 0..300 {
        let submitter = if n % 2 == 0 { &a } else { &b };
        accepted.insert(submitter.submit(task(&format!("s{n}"))).await.unwrap().task);
    }
    let all = [&a, &b, &a, &b].map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let items = store.claim(7, LEASE).await.unwrap().items;
                if items.is_empty() {
                    return mine;
                }
                mine.extend(items.into_iter().map(|claim| claim.lease.task));
            }
        })
    });
    let mut claimed = Vec::new();
    for claimer in all {
        claimed.extend(claimer.await.unwrap());
    }
    assert_eq!(claimed.len(), accepted.len(), "something was claimed twice");
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_of_a_dead_node_is_taken_over_and_its_writes_are_refused() {
    let server = RedisServer::start();
    let (a, b) = (node(&server).await, node(&server).await);
    let id = a.submit(task("s")).await.unwrap().task;
    let first = a.claim(1, Duration::from_millis(50)).await.unwrap().items.remove(0);
    a.append(vec![Arc::new(event(&first, 1, Kind::Started)), Arc::new(event(&first, 2, Kind::Thinking))])
        .await
        .unwrap();
    // Redis' own clock decides, so this waits for as long as it says.
    let second = loop {
        let claimed = b.claim(1, LEASE).await.unwrap();
        if let Some(claim) = claimed.items.into_iter().next() {
            break claim;
        }
        tokio::time::sleep(claimed.next_due.unwrap()).await;
    };
    assert_eq!((second.lease.task, second.task.attempt, second.task.deaths), (id, 2, 1));
    b.append(vec![Arc::new(event(&second, 1, Kind::Started))]).await.unwrap();
    a.append(vec![Arc::new(event(&first, 3, Kind::Thinking))]).await.unwrap();
    assert!(matches!(a.renew(first.lease, LEASE).await, Err(StoreError::LeaseLost)));
    assert!(matches!(a.release(first.lease).await, Err(StoreError::LeaseLost)));
    let end = event(&first, 4, Kind::Completed);
    assert!(matches!(a.finish(first.lease, end).await, Err(StoreError::LeaseLost)));
    b.finish(second.lease, event(&second, 2, Kind::Completed)).await.unwrap();
    let places: Vec<_> = a.read(id, Position::START, 10).await.unwrap().iter().map(|e| e.position).collect();
    assert_eq!(places, [Position { attempt: 2, seq: 1 }, Position { attempt: 2, seq: 2 }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_another_node_accepts_wakes_this_one() {
    let server = RedisServer::start();
    let (a, b) = (node(&server).await, node(&server).await);
    // What wakes everybody in the beginning is over.
    while tokio::time::timeout(Duration::from_millis(300), b.task_ready()).await.is_ok() {}
    while tokio::time::timeout(Duration::from_millis(300), b.delivery_ready()).await.is_ok() {}
    a.submit(task("s")).await.unwrap();
    tokio::time::timeout(SOON, b.task_ready()).await.expect("no task was announced");
    a.enqueue_webhook(webhook("k")).await.unwrap();
    tokio::time::timeout(SOON, b.delivery_ready()).await.expect("no delivery was announced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_a_watched_task_on_another_node_is_heard() {
    let server = RedisServer::start();
    let (a, b) = (node(&server).await, node(&server).await);
    let mut notices = b.notices().unwrap();
    watch(&b, &mut notices, TaskId::new()).await;
    let id = a.submit(task("s")).await.unwrap().task;
    assert_eq!(next(&mut notices).await, Notice::SessionGrew(session("s")));
    watch(&b, &mut notices, id).await;

    let claim = a.claim(1, LEASE).await.unwrap().items.remove(0);
    let events: Vec<_> = (1..=3)
        .map(|seq| {
            let kind = if seq == 1 { Kind::Started } else { Kind::Other("söme thing".into()) };
            event(&claim, seq, kind)
        })
        .collect();
    a.append(events.iter().cloned().map(Arc::new).collect()).await.unwrap();
    assert_eq!(next(&mut notices).await, Notice::Events(events));
    assert_eq!(b.cancel(id, "two words").await.unwrap(), CancelOutcome::Running);
    assert_eq!(next(&mut notices).await, Notice::Cancel { task: id, reason: "two words".into() });
    let end = event(&claim, 4, Kind::Cancelled);
    a.finish(claim.lease, end.clone()).await.unwrap();
    assert_eq!(next(&mut notices).await, Notice::Events(vec![end]));

    // One that ends before it ran, cancelled here or there.
    let id = a.submit(task("s")).await.unwrap().task;
    assert_eq!(next(&mut notices).await, Notice::SessionGrew(session("s")));
    watch(&b, &mut notices, id).await;
    let CancelOutcome::Cancelled { event, .. } = a.cancel(id, "no").await.unwrap() else { panic!("it ran") };
    assert_eq!(next(&mut notices).await, Notice::Events(vec![*event]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_watched_as_long_as_anybody_watches_it() {
    let server = RedisServer::start();
    let store = node(&server).await;
    let mut notices = store.notices().unwrap();
    let id = store.submit(task("s")).await.unwrap().task;
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    watch(&store, &mut notices, id).await;
    watch(&store, &mut notices, id).await;
    store.unwatch(id);
    let mut say = event(&claim, 1, Kind::Started);
    store.append(vec![Arc::new(say.clone())]).await.unwrap();
    assert_eq!(next(&mut notices).await, Notice::Events(vec![say.clone()]));
    store.unwatch(id);
    let channel = format!("{{plugway}}:task:{}", id.digits());
    let subscribers = async || server.tell(&["PUBSUB", "NUMSUB", &channel]).await;
    eventually("nobody watches", async || subscribers().await == pair(&channel, 0)).await;
    say.position.seq = 2;
    store.append(vec![Arc::new(say)]).await.unwrap();
    store.probe().await.unwrap();
    store.submit(task("t")).await.unwrap();
    assert_eq!(next(&mut notices).await, Notice::SessionGrew(session("t")));
}

fn pair(channel: &str, count: i64) -> redis::Value {
    redis::Value::Array(vec![redis::Value::BulkString(channel.into()), redis::Value::Int(count)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_subscription_is_told_and_taken_up_again() {
    let mut server = RedisServer::start();
    let store = node(&server).await;
    let mut notices = store.notices().unwrap();
    let id = store.submit(task("s")).await.unwrap().task;
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    watch(&store, &mut notices, id).await;
    server.tell(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert_eq!(next(&mut notices).await, Notice::Lost);
    assert_eq!(next(&mut notices).await, Notice::Watching(id));
    let said = event(&claim, 1, Kind::Started);
    store.append(vec![Arc::new(said.clone())]).await.unwrap();
    assert_eq!(next(&mut notices).await, Notice::Events(vec![said]));

    server.stop();
    assert_eq!(next(&mut notices).await, Notice::Lost);
    server.start_again();
    assert_eq!(next(&mut notices).await, Notice::Watching(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_that_nobody_takes_are_bounded() {
    let server = RedisServer::start();
    let options = Options { notice_bytes: 64 << 10, ..options(&server) };
    let store = RedisStore::open(options).await.unwrap();
    let mut notices = store.notices().unwrap();
    let id = store.submit(task("s")).await.unwrap().task;
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    watch(&store, &mut notices, id).await;
    let large = "x".repeat(10_000);
    for seq in 1..=50 {
        let said = Event { data: large.as_str().into(), ..event(&claim, seq, Kind::Thinking) };
        store.append(vec![Arc::new(said)]).await.unwrap();
        // A message each.
        store.probe().await.unwrap();
    }
    let mut seen = Vec::new();
    let mut lost = false;
    // What was said last comes after the loss was told, or can be read.
    loop {
        match next(&mut notices).await {
            Notice::Lost => {
                lost = true;
                seen.clear();
            }
            Notice::Watching(_) if lost => break,
            Notice::Events(events) => seen.extend(events.iter().map(|event| event.position.seq)),
            _ => {}
        }
    }
    assert!(seen.len() < 50);
    assert_eq!(store.read(id, Position { attempt: 1, seq: 49 }, 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_prefixes_do_not_see_each_other() {
    let server = RedisServer::start();
    let a = node(&server).await;
    let b = RedisStore::open(Options { prefix: "other".into(), ..options(&server) }).await.unwrap();
    let id = a.submit(task("s")).await.unwrap().task;
    a.enqueue_webhook(webhook("k")).await.unwrap();
    assert!(b.claim(5, LEASE).await.unwrap().items.is_empty());
    assert!(b.claim_deliveries(5, LEASE, &Except::default()).await.unwrap().items.is_empty());
    assert_eq!(b.status(id).await.unwrap(), None);
    assert!(b.enqueue_webhook(webhook("k")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_sweeps_at_a_time() {
    let server = RedisServer::start();
    let store = node(&server).await;
    let id = store.submit(task("s")).await.unwrap().task;
    store.cancel(id, "").await.unwrap();
    let retention = super::super::super::Retention { events: Duration::ZERO, tasks: Duration::ZERO };
    server.tell(&["SET", "{plugway}:sweeper", "somebody else", "PX", "60000"]).await;
    assert_eq!(store.sweep(retention).await.unwrap().tasks, 0);
    server.tell(&["DEL", "{plugway}:sweeper"]).await;
    assert_eq!(store.sweep(retention).await.unwrap().tasks, 1);
    assert_eq!(store.sweep(retention).await.unwrap().tasks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_been_forgotten_leaves_nothing_behind() {
    let server = RedisServer::start();
    let clock = Clock::manual(1_700_000_000_000);
    let store = RedisStore::open(Options { clock: clock.clone(), ..options(&server) }).await.unwrap();
    let keys = async || match server.tell(&["KEYS", "*"]).await {
        redis::Value::Array(keys) => keys.len(),
        other => panic!("{other:?}"),
    };
    for n in 0..50 {
        let deliver = Some(DeliveryOrder { address: "a".into(), at: Moment::Start });
        let key = Some(format!("k{n}"));
        store
            .submit(NewTask { deliver, idempotency_key: key, ..task(&format!("s{}", n % 7)) })
            .await
            .unwrap();
        store.enqueue_webhook(webhook(&format!("w{n}"))).await.unwrap();
        let (ttl, quota) = (Some(LEASE), super::super::super::KvQuota { bytes: 1 << 20 });
        Kv::put(&store, "plug", &format!("k{n}"), vec![0; 10], None, ttl, quota).await.unwrap();
    }
    loop {
        let claims = store.claim(50, LEASE).await.unwrap().items;
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            store.append(vec![Arc::new(event(&claim, 1, Kind::Started))]).await.unwrap();
            store.finish(claim.lease, event(&claim, 2, Kind::Completed)).await.unwrap();
        }
    }
    loop {
        let deliveries = store.claim_deliveries(100, LEASE, &Except::default()).await.unwrap().items;
        if deliveries.is_empty() {
            break;
        }
        for (n, delivery) in deliveries.into_iter().enumerate() {
            let dead = Settlement::Dead { error: "x".into() };
            store.settle(delivery.lease, if n % 2 == 0 { Settlement::Done } else { dead }).await.unwrap();
        }
    }
    assert!(keys().await > 300);
    clock.advance(Duration::from_secs(100));
    let retention = super::super::super::Retention { events: LEASE, tasks: LEASE };
    let swept = store.sweep(retention).await.unwrap();
    assert_eq!((swept.tasks, swept.events, swept.kv), (50, 50, 50));
    // Only the counters, and what this node claimed last of tasks and of deliveries.
    assert_eq!(keys().await, 3);
    assert_eq!(store.backlog().await.unwrap(), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_can_not_fill_redis() {
    let server = RedisServer::start();
    let store = RedisStore::open(Options { log_events: 1_000, ..options(&server) }).await.unwrap();
    let id = store.submit(task("s")).await.unwrap().task;
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    for portion in (1..=5_000_u64).collect::<Vec<_>>().chunks(250) {
        store
            .append(portion.iter().map(|seq| Arc::new(event(&claim, *seq, Kind::Thinking))).collect())
            .await
            .unwrap();
    }
    store.finish(claim.lease, event(&claim, 5_001, Kind::Completed)).await.unwrap();
    let mut seqs = Vec::new();
    let mut at = Position::START;
    loop {
        let events = store.read(id, at, 500).await.unwrap();
        let Some(last) = events.last() else { break };
        at = last.position;
        seqs.extend(events.iter().map(|event| event.position.seq));
    }
    assert!(seqs.len() >= 1_001 && seqs.len() < 2_000, "{} are kept", seqs.len());
    assert!(seqs.iter().copied().eq(5_002 - seqs.len() as u64..=5_001), "not the last ones");
}

#[tokio::test]
async fn rates_and_pauses_hold_over_all_nodes() {
    let server = RedisServer::start();
    let (a, b) = (node(&server).await, node(&server).await);
    let rate = |key: &str, count| Rate { key: key.into(), count, per: Duration::from_secs(60) };
    let both = [rate("chat", 2), rate("all", 100)];
    assert_eq!(a.reserve("bot", &both, Duration::ZERO).await.unwrap(), Some(Duration::ZERO));
    assert_eq!(b.reserve("bot", &both, Duration::ZERO).await.unwrap(), Some(Duration::ZERO));
    assert_eq!(a.reserve("bot", &both, Duration::from_secs(50)).await.unwrap(), None, "the window is full");
    assert_eq!(
        b.reserve("other", &both, Duration::ZERO).await.unwrap(),
        Some(Duration::ZERO),
        "of another owner"
    );
    let wait = b.reserve("bot", &both, Duration::from_secs(61)).await.unwrap().unwrap();
    assert!(wait > Duration::from_secs(55), "{wait:?}");
    let room = b.peek("bot", &both[1]).await.unwrap();
    assert_eq!((room.remaining, room.next), (0, wait.min(room.next)), "others wait behind one that waits");
    let free = [rate("free", 5)];
    let untouched = Room { remaining: 5, next: Duration::ZERO, reset: Duration::ZERO };
    assert_eq!(b.peek("bot", &free[0]).await.unwrap(), untouched);
    assert_eq!(a.reserve("bot", &free, Duration::ZERO).await.unwrap(), Some(Duration::ZERO));
    let room = b.peek("bot", &free[0]).await.unwrap();
    assert_eq!((room.remaining, room.next), (4, Duration::ZERO));
    assert!(room.reset > Duration::from_secs(55) && room.reset <= Duration::from_secs(60), "{room:?}");
    b.pause("bot", "free", Duration::from_secs(40)).await.unwrap();
    b.pause("bot", "free", Duration::from_secs(1)).await.unwrap();
    assert!(a.is_paused("bot", &free).await.unwrap() && !a.is_paused("bot", &both).await.unwrap());
    assert_eq!(a.reserve("bot", &free, Duration::from_secs(20)).await.unwrap(), None);
    let room = b.peek("bot", &free[0]).await.unwrap();
    assert!(room.remaining == 0 && room.next > Duration::from_secs(35), "paused: {room:?}");
    let wait = a.reserve("bot", &free, Duration::from_secs(41)).await.unwrap().unwrap();
    assert!(wait > Duration::from_secs(35), "{wait:?}");
}

#[tokio::test]
async fn a_run_that_redis_has_forgotten_writes_nothing_under_the_next_ones_token() {
    let server = RedisServer::start();
    let (a, b) = (node(&server).await, node(&server).await);
    let id = a.submit(task("s")).await.unwrap().task;
    let before: redis::Value = server.tell(&["DUMP", &format!("{{plugway}}:t:{}", id.digits())]).await;
    let forgotten = a.claim(1, LEASE).await.unwrap().items.remove(0);
    // Redis goes back to what it had: the task waits.
    let redis::Value::BulkString(dump) = before else { panic!("{before:?}") };
    let client = redis::Client::open(server.url()).unwrap();
    let mut line = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("{{plugway}}:t:{}", id.digits());
    let mut back = redis::pipe();
    back.cmd("RESTORE").arg(&key).arg(0).arg(dump).arg("REPLACE").ignore();
    back.cmd("ZREM").arg("{plugway}:running").arg(id.digits()).ignore();
    back.cmd("ZADD").arg("{plugway}:ready").arg(1).arg(id.digits()).ignore();
    back.exec_async(&mut line).await.unwrap();
    let present = b.claim(1, LEASE).await.unwrap().items.remove(0);
    assert_eq!((present.task.id, present.task.attempt), (id, forgotten.task.attempt));
    assert_ne!(present.lease, forgotten.lease);
    a.append(vec![Arc::new(event(&forgotten, 1, Kind::Started))]).await.unwrap();
    a.probe().await.unwrap();
    assert!(b.read(id, Position::START, 9).await.unwrap().is_empty(), "what the forgotten run said");
    assert!(matches!(a.renew(forgotten.lease, LEASE).await, Err(StoreError::LeaseLost)));
    b.append(vec![Arc::new(event(&present, 1, Kind::Started))]).await.unwrap();
    b.finish(present.lease, event(&present, 2, Kind::Completed)).await.unwrap();
    assert_eq!(b.read(id, Position::START, 9).await.unwrap().len(), 2);
}
