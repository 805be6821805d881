//! A Redis that is away, slow, full, emptied or closed to us.

use std::sync::Arc;
use std::time::Duration;

use super::super::super::{EventLog, KvQuota, Outbox, Retention, Store, StoreError, TaskQueue};
use super::*;
use crate::domain::{Kind, Position, TaskState};

const LEASE: Duration = Duration::from_secs(30);

fn impatient(server: &RedisServer) -> Options {
    Options {
        timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        ..options(server)
    }
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Unavailable(_)) => error.to_string(),
        other => panic!("not unavailable: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_not_there_is_named_without_its_password() {
    let open = async |url: &str| {
        let patience = Duration::from_millis(300);
        let options =
            Options { url: url.into(), timeout: patience, connect_timeout: patience, ..Options::default() };
        unavailable(RedisStore::open(options).await)
    };
    let refused = open("redis://me:hunter2@127.0.0.1:1/3").await;
    assert!(refused.contains("can't reach redis at redis://me@127.0.0.1:1/3"), "{refused}");
    for url in ["redis://me:hunter2@127.0.0.1:1/many", "http://me:hunter2@127.0.0.1", "hunter2"] {
        let wrong = open(url).await;
        assert!(wrong.contains("store.url") && !wrong.contains("hunter2"), "{wrong}");
    }
    assert!(!format!("{:?}", Options { url: "hunter2".into(), ..Options::default() }).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_at_once() {
    let server = RedisServer::with(&["--requirepass", "right"]);
    for url in [server.url(), format!("{}?pass=hunter2", server.url())] {
        let refused = RedisStore::open(Options { url, ..Options::default() }).await;
        let refused = unavailable(refused);
        assert!(refused.contains("does not accept the user or password"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    RedisStore::open(Options { url: format!("{}?pass=right", server.url()), ..Options::default() })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_newer_gateway_are_left_alone() {
    let server = RedisServer::start();
    server.tell(&["HSET", "{plugway}:meta", "format", "99"]).await;
    let refused = RedisStore::open(options(&server)).await.unwrap_err();
    assert!(refused.to_string().contains("written by a newer plugway"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_a_short_restart() {
    let mut server = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = node(&server).await;
    let first = store.submit(task("s")).await.unwrap().task;
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    let submitting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            for n in 0..2_000 {
                accepted.push(store.submit(task(&format!("t{n}"))).await.unwrap().task);
            }
            accepted
        })
    };
    store.append(vec![Arc::new(event(&claim, 1, Kind::Started))]).await.unwrap();
    server.stop();
    store.append(vec![Arc::new(event(&claim, 2, Kind::Thinking))]).await.unwrap();
    let finishing = {
        let (store, end) = (Arc::clone(&store), event(&claim, 3, Kind::Completed));
        tokio::spawn(async move { store.finish(claim.lease, end).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.start_again();
    finishing.await.unwrap().unwrap();
    let accepted = submitting.await.unwrap();
    assert_eq!(store.backlog().await.unwrap().queued, 2_000, "one was accepted twice, or lost");
    for id in accepted {
        assert_eq!(store.status(id).await.unwrap().unwrap().state, TaskState::Queued);
    }
    let seqs: Vec<_> = store
        .read(first, Position::START, 10)
        .await
        .unwrap()
        .iter()
        .map(|event| event.position.seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_calls_fail_at_once_and_later_succeed() {
    let mut server = RedisServer::start();
    let store = RedisStore::open(impatient(&server)).await.unwrap();
    server.stop();
    let told = unavailable(store.probe().await);
    assert!(told.contains("can't reach redis at unix://"), "{told}");
    // It has been away for longer than a call may take.
    let began = std::time::Instant::now();
    for _ in 0..100 {
        unavailable(store.submit(task("s")).await);
        unavailable(store.status(crate::domain::TaskId::new()).await);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "calls wait for nothing");
    server.start_again();
    eventually("it takes writes", async || store.probe().await.is_ok()).await;
    store.submit(task("s")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_does_not_answer_fails_calls_in_time() {
    let server = RedisServer::start();
    let store = RedisStore::open(impatient(&server)).await.unwrap();
    server.tell(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    let told = unavailable(store.submit(task("s")).await);
    assert!(told.contains("did not answer within 500ms"), "{told}");
    eventually("it takes writes", async || store.probe().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_whose_answer_was_lost_is_not_taken_for_a_lost_lease() {
    let server = RedisServer::start();
    let store = RedisStore::open(impatient(&server)).await.unwrap();
    store.submit(task("s")).await.unwrap();
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    let end = event(&claim, 1, Kind::Completed);
    // It is carried out after nobody waits for its answer any more.
    server.tell(&["CLIENT", "PAUSE", "1500", "ALL"]).await;
    let mut tries = 0;
    loop {
        tries += 1;
        match store.finish(claim.lease, end.clone()).await {
            Ok(()) => break,
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(tries > 1, "the answer was never lost");
    assert_eq!(store.task(claim.lease.task).await.unwrap().unwrap().end, Some(end.clone()));
    assert!(matches!(store.finish(claim.lease, end).await, Err(StoreError::LeaseLost)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_took_whose_answer_was_lost_is_claimed_again_without_a_death() {
    let server = RedisServer::start();
    let store = RedisStore::open(impatient(&server)).await.unwrap();
    let running = store.submit(task("running")).await.unwrap().task;
    store.claim(1, LEASE).await.unwrap();
    let id = store.submit(task("s")).await.unwrap().task;
    server.tell(&["CLIENT", "PAUSE", "1500", "ALL"]).await;
    unavailable(store.claim(5, LEASE).await);
    let claims = std::sync::Mutex::new(Vec::new());
    eventually("what was claimed goes back", async || {
        let claimed = store.claim(5, LEASE).await.map(|claimed| claimed.items).unwrap_or_default();
        claims.lock().unwrap().extend(claimed);
        !claims.lock().unwrap().is_empty()
    })
    .await;
    let claims = claims.into_inner().unwrap();
    assert_eq!(claims.len(), 1);
    assert_eq!((claims[0].lease.task, claims[0].task.deaths), (id, 0));
    assert_eq!(store.status(running).await.unwrap().unwrap().state, TaskState::Running);
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.queued, backlog.running), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_that_the_other_side_does_not_speak_is_an_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"-ERR what is this\r\n").await.ok();
        }
    });
    let patience = Duration::from_millis(300);
    let url = format!("rediss://me:hunter2@127.0.0.1:{port}");
    let options = Options { url, timeout: patience, connect_timeout: patience, ..Options::default() };
    let refused = unavailable(RedisStore::open(options).await);
    assert!(refused.contains(&format!("redis at rediss://me@127.0.0.1:{port}")), "{refused}");
    peer.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_refuses_what_adds_and_lets_what_is_there_end() {
    let server = RedisServer::start();
    let store = RedisStore::open(options(&server)).await.unwrap();
    let ended = store.submit(task("gone")).await.unwrap().task;
    store.cancel(ended, "").await.unwrap();
    let id = store.submit(task("s")).await.unwrap().task;
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    let accepted = store.submit(task("later")).await.unwrap().task;
    store.append(vec![Arc::new(event(&claim, 1, Kind::Started))]).await.unwrap();
    store.probe().await.unwrap();

    server.tell(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let quota = KvQuota { bytes: 1 << 20 };
    for told in [
        unavailable(store.submit(task("t")).await),
        unavailable(store.probe().await),
        unavailable(store.enqueue_webhook(webhook("k")).await),
        unavailable::<()>(match Kv::put(&store, "plug", "k", vec![1], None, None, quota).await {
            Err(crate::store::KvError::Store(error)) => Err(error),
            other => panic!("{other:?}"),
        }),
    ] {
        assert!(told.contains("is out of memory (maxmemory) and refuses to write"), "{told}");
    }
    // What was accepted is run and ends, or nothing would ever make room.
    store.append(vec![Arc::new(event(&claim, 2, Kind::Thinking))]).await.unwrap();
    assert_eq!(store.renew(claim.lease, LEASE).await.unwrap(), None);
    assert_eq!(store.status(id).await.unwrap().unwrap().state, TaskState::Running);
    store.finish(claim.lease, event(&claim, 3, Kind::Completed)).await.unwrap();
    let waiting = store.claim(1, LEASE).await.unwrap().items.remove(0);
    assert_eq!(waiting.task.id, accepted);
    let seqs: Vec<_> =
        store.read(id, Position::START, 10).await.unwrap().iter().map(|e| e.position.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    let keep = Retention { events: Duration::ZERO, tasks: Duration::ZERO };
    assert_eq!(store.sweep(keep).await.unwrap().tasks, 2);
    server.tell(&["CONFIG", "SET", "maxmemory", "0"]).await;
    store.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_redis_has_lost_its_tasks_and_takes_new_ones() {
    let server = RedisServer::start();
    let store = RedisStore::open(options(&server)).await.unwrap();
    let id = store.submit(task("s")).await.unwrap().task;
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    store.enqueue_webhook(webhook("k")).await.unwrap();
    let delivery = store.claim_deliveries(1, LEASE, &Default::default()).await.unwrap().items.remove(0);
    let quota = KvQuota { bytes: 1 << 20 };
    let version = Kv::put(&store, "plug", "k", vec![1], None, None, quota).await.unwrap();
    server.tell(&["FLUSHALL"]).await;
    server.tell(&["SCRIPT", "FLUSH"]).await;

    assert!(matches!(store.renew(claim.lease, LEASE).await, Err(StoreError::LeaseLost)));
    store.append(vec![Arc::new(event(&claim, 1, Kind::Started))]).await.unwrap();
    let end = event(&claim, 2, Kind::Completed);
    assert!(matches!(store.finish(claim.lease, end).await, Err(StoreError::LeaseLost)));
    assert!(matches!(store.renew_delivery(delivery.lease, LEASE).await, Err(StoreError::LeaseLost)));
    assert_eq!(store.task(id).await.unwrap(), None);
    assert_eq!(store.backlog().await.unwrap(), Default::default());

    // Nothing new is taken for what was before.
    assert!(store.enqueue_webhook(webhook("k")).await.unwrap());
    let again = store.claim_deliveries(1, LEASE, &Default::default()).await.unwrap().items.remove(0);
    assert_ne!(again.lease.id, delivery.lease.id);
    assert!(Kv::put(&store, "plug", "k", vec![1], None, None, quota).await.unwrap() > version);
    store.submit(task("s")).await.unwrap();
    let claim = store.claim(1, LEASE).await.unwrap().items.remove(0);
    store.finish(claim.lease, event(&claim, 1, Kind::Completed)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_still_loads_is_waited_for() {
    let mut server =
        RedisServer::with(&["--appendonly", "yes", "--appendfsync", "no", "--key-load-delay", "0"]);
    let store = node(&server).await;
    for n in 0..200 {
        store.submit(task(&format!("s{n}"))).await.unwrap();
    }
    drop(store);
    server.tell(&["BGREWRITEAOF"]).await;
    eventually("the rewrite is done", async || {
        let redis::Value::BulkString(info) = server.tell(&["INFO", "persistence"]).await else {
            return false;
        };
        String::from_utf8_lossy(&info).contains("aof_rewrite_in_progress:0")
    })
    .await;
    server.stop();
    server.set_argument("--key-load-delay", "1000");
    server.start_again();
    let store = RedisStore::open(Options { connect_timeout: Duration::from_secs(30), ..options(&server) })
        .await
        .unwrap();
    assert_eq!(store.backlog().await.unwrap().queued, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_replica_is_no_place_for_a_store() {
    let server = RedisServer::with(&["--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "yes"]);
    let refused = unavailable(RedisStore::open(impatient(&server)).await);
    assert!(refused.contains("is a read-only replica"), "{refused}");

    let server = RedisServer::start();
    let store = RedisStore::open(impatient(&server)).await.unwrap();
    server.tell(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = unavailable(store.probe().await);
    assert!(refused.contains("is a read-only replica"), "{refused}");
    server.tell(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("it takes writes", async || store.probe().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_may_not_ask_for_the_configuration_may_use_the_store() {
    let server = RedisServer::start();
    server
        .tell(&[
            "ACL",
            "SETUSER",
            "gate",
            "on",
            ">secret",
            "~{plugway}*",
            "&{plugway}:*",
            "+@all",
            "-@admin",
            "-@dangerous",
        ])
        .await;
    let url = format!("{}?user=gate&pass=secret", server.url());
    let store = RedisStore::open(Options { url, ..options(&server) }).await.unwrap();
    store.submit(task("s")).await.unwrap();
    store.enqueue_webhook(webhook("k")).await.unwrap();
    assert_eq!(store.claim(1, LEASE).await.unwrap().items.len(), 1);
    store.watch(crate::domain::TaskId::new());
    let other = Options {
        url: format!("{}?user=gate&pass=secret", server.url()),
        prefix: "other".into(),
        ..options(&server)
    };
    let refused = unavailable(RedisStore::open(other).await);
    assert!(refused.contains("does not permit its user"), "{refused}");
}
