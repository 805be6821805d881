//! The conformance suite over SQLite, and what only this store promises.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::super::conformance::{Fixture, conformance_suite};
use super::super::{EventLog, Store, StoreError, TaskQueue};
use super::{Options, SqliteStore};
use crate::domain::{Clock, Event, Kind, NewTask, Position, SessionId, TaskId};

conformance_suite!(Embedded);

struct Embedded {
    dir: TempDir,
    options: Options,
    store: Option<Arc<SqliteStore>>,
}

impl Embedded {
    fn open(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path(), options.clone()).unwrap();
        Self { dir, options, store: Some(Arc::new(store)) }
    }

    fn take(&mut self) -> SqliteStore {
        Arc::into_inner(self.store.take().unwrap()).expect("another handle is in use")
    }

    fn reopened(&mut self) {
        self.store = Some(Arc::new(SqliteStore::open(self.dir.path(), self.options.clone()).unwrap()));
    }

    fn sqlite(&self) -> Arc<SqliteStore> {
        Arc::clone(self.store.as_ref().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }
}

impl Fixture for Embedded {
    async fn new(queue_limit: u64) -> Self {
        Self::open(Options { queue_limit, clock: Clock::manual(1_700_000_000_000), ..Options::default() })
    }

    fn store(&self) -> Arc<dyn Store> {
        self.sqlite()
    }

    fn clock(&self) -> Clock {
        self.options.clock.clone()
    }

    async fn reopen(&mut self) {
        let store = self.take();
        store.close().await;
        drop(store);
        self.reopened();
    }

    async fn crash(&mut self) {
        self.take().crash();
        self.reopened();
    }
}

fn task(session: &str, bytes: usize) -> NewTask {
    NewTask {
        id: TaskId::new(),
        adapter: "plug".into(),
        agent: "echo".into(),
        session: SessionId::new("plug", session).unwrap(),
        input: "x".repeat(bytes).into(),
        deliver: None,
        idempotency_key: None,
    }
}

fn event(task: &NewTask, seq: u64, kind: Kind) -> Event {
    Event {
        task: task.id,
        session: task.session.clone(),
        position: Position { attempt: 1, seq },
        kind,
        at_ms: 0,
        data: format!(r#"{{"text":"{}"}}"#, "y".repeat(5_000)).into(),
    }
}

#[tokio::test]
async fn a_second_gateway_is_refused_until_the_first_is_gone() {
    let mut fixture = Embedded::new(10).await;
    let error = SqliteStore::open(fixture.dir.path(), Options::default()).unwrap_err();
    assert!(error.to_string().contains("is in use by another plugway"), "{error}");
    drop(fixture.take());
    fixture.reopened();
}

#[tokio::test]
async fn a_file_of_a_newer_gateway_is_refused_and_left_alone() {
    let mut fixture = Embedded::new(10).await;
    drop(fixture.take());
    Connection::open(fixture.file()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::open(fixture.dir.path(), Options::default()).unwrap_err();
    assert!(error.to_string().contains("written by a newer plugway"), "{error}");
    let version: i64 = Connection::open(fixture.file())
        .unwrap()
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(version, 99);
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    std::fs::write(
        &file,
        "certainly not a database, and long enough to be read as the header of one ".repeat(50),
    )
    .unwrap();
    let error = SqliteStore::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    std::fs::remove_file(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    let error = SqliteStore::open(dir.path(), Options::default()).unwrap_err();
    assert!(error.to_string().contains("something else"), "{error}");
}

#[tokio::test]
async fn a_restart_expires_the_leases_of_the_process_before() {
    let mut fixture = Embedded::new(10).await;
    let new = task("s", 10);
    fixture.store().submit(new.clone()).await.unwrap();
    fixture.store().claim(1, Duration::from_secs(3600)).await.unwrap();
    fixture.crash().await;
    let store = fixture.store();
    // The first wake-up comes at once, so that nobody waits for something to happen.
    store.task_ready().await;
    let claimed = store.claim(1, Duration::from_secs(3600)).await.unwrap().items;
    assert_eq!((claimed[0].lease.task, claimed[0].task.deaths), (new.id, 1));
}

#[tokio::test]
async fn a_clock_that_is_set_back_before_a_restart_delays_no_delivery() {
    use super::super::{NewWebhook, Outbox, Settlement};

    let mut fixture = Embedded::new(10).await;
    let (owner, key, url, lane) = ("plug".into(), "k".into(), "https://example.org".into(), "".into());
    let store = fixture.sqlite();
    let origin = "https://example.org".into();
    store.enqueue_webhook(NewWebhook { owner, key, url, origin, lane, body: "{}".into() }).await.unwrap();
    let claimed = store.claim_deliveries(1, Duration::from_secs(30), &Default::default()).await.unwrap();
    let after = Duration::from_secs(3600);
    let retry = Settlement::Retry { after, counts: true, error: "x".into() };
    store.settle(claimed.items[0].lease, retry).await.unwrap();
    drop(store);
    let clock = fixture.clock();
    fixture.reopen().await;
    let due = async |fixture: &Embedded| {
        let store = fixture.sqlite();
        store.claim_deliveries(1, after, &Default::default()).await.unwrap().items.len()
    };
    assert_eq!(due(&fixture).await, 0);
    clock.set(clock.now_ms() - 1_000_000);
    fixture.reopen().await;
    assert_eq!(due(&fixture).await, 1);
}

#[tokio::test]
async fn a_crash_loses_events_that_were_not_committed_and_nothing_else() {
    let options = Options { group_wait: Duration::from_secs(3600), ..Options::default() };
    let mut fixture = Embedded::open(options);
    let new = task("s", 10);
    let store = fixture.store();
    store.submit(new.clone()).await.unwrap();
    let claimed = store.claim(1, Duration::from_secs(3600)).await.unwrap().items.remove(0);
    store.append(vec![Arc::new(event(&new, 1, Kind::Started))]).await.unwrap();
    store.renew(claimed.lease, Duration::from_secs(3600)).await.unwrap();
    store.append(vec![Arc::new(event(&new, 2, Kind::Thinking))]).await.unwrap();
    drop(store);
    fixture.crash().await;
    let events = fixture.store().read(new.id, Position::START, 10).await.unwrap();
    assert_eq!(events, [event(&new, 1, Kind::Started)]);
}

#[tokio::test]
async fn a_full_disk_refuses_who_waits_keeps_events_and_recovers() {
    let fixture = Embedded::open(Options::default());
    let store = fixture.sqlite();
    let new = task("s", 10);
    store.submit(new.clone()).await.unwrap();
    let claimed = store.claim(1, Duration::from_secs(3600)).await.unwrap().items.remove(0);
    store.fill_disk();

    let refused = store.submit(task("t", 100_000)).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable(why) if why.to_string().contains("full")),
        "{refused}"
    );
    let started = event(&new, 1, Kind::Started);
    let events = (2..100).map(|seq| event(&new, seq, Kind::Thinking));
    let events: Vec<_> = std::iter::once(started).chain(events).collect();
    for event in events.clone() {
        store.append(vec![Arc::new(event)]).await.unwrap();
    }
    let end = event(&new, 100, Kind::Completed);
    assert!(matches!(store.finish(claimed.lease, end.clone()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.probe().await, Err(StoreError::Unavailable(_))));

    // Only a restart of the writer's connection, or room, lets it write again; waiting callers see it at once.
    store.make_room();
    store.finish(claimed.lease, end.clone()).await.unwrap();
    store.probe().await.unwrap();
    let mut read: Vec<Event> = Vec::new();
    loop {
        // A page is bounded in bytes as well.
        let after = read.last().map_or(Position::START, |event| event.position);
        let page = store.read(new.id, after, 1_000).await.unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, events.into_iter().chain([end]).collect::<Vec<_>>());
    assert_eq!(store.backlog().await.unwrap(), super::Backlog::default());
}

#[tokio::test]
async fn events_that_a_full_disk_refuses_never_keep_others_waiting() {
    let fixture = Embedded::open(Options { pending_bytes: 64 << 10, ..Options::default() });
    let store = fixture.sqlite();
    let new = task("s", 10);
    store.submit(new.clone()).await.unwrap();
    let claimed = store.claim(1, Duration::from_secs(3600)).await.unwrap().items.remove(0);
    store.fill_disk();
    let (appender, events) = (fixture.sqlite(), new.clone());
    let appending = tokio::spawn(async move {
        for seq in 1..=100 {
            let kind = if seq == 1 { Kind::Started } else { Kind::Thinking };
            appender.append(vec![Arc::new(event(&events, seq, kind))]).await.unwrap();
        }
    });
    let refused = async {
        for n in 0..10 {
            let refused = store.submit(task(&format!("t{n}"), 30_000)).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
            assert!(matches!(store.probe().await, Err(StoreError::Unavailable(_))));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("a call hangs");
    assert!(!appending.is_finished(), "too many events were taken");

    store.make_room();
    store.probe().await.unwrap();
    appending.await.unwrap();
    let end = event(&new, 101, Kind::Completed);
    store.finish(claimed.lease, end).await.unwrap();
    let mut read = Vec::new();
    while let Ok(more) = store.read(new.id, read.last().copied().unwrap_or(Position::START), 1_000).await
        && !more.is_empty()
    {
        read.extend(more.iter().map(|event| event.position));
    }
    assert!(read.iter().map(|at| at.seq).eq(1..=101), "{read:?}");
}

#[tokio::test]
async fn events_of_a_run_that_lost_its_lease_while_the_disk_was_full_are_dropped() {
    let clock = Clock::manual(1_700_000_000_000);
    let fixture = Embedded::open(Options { clock: clock.clone(), ..Options::default() });
    let store = fixture.sqlite();
    let (lost, kept) = (task("lost", 10), task("kept", 10));
    let mut leases = Vec::new();
    for (new, length) in [(&lost, 30), (&kept, 3600)] {
        store.submit(new.clone()).await.unwrap();
        leases.extend(store.claim(1, Duration::from_secs(length)).await.unwrap().items);
        store.append(vec![Arc::new(event(new, 1, Kind::Started))]).await.unwrap();
    }
    store.probe().await.unwrap();
    store.fill_disk();
    for seq in 2..=50 {
        store.append(vec![Arc::new(event(&lost, seq, Kind::Thinking))]).await.unwrap();
    }
    assert!(matches!(store.probe().await, Err(StoreError::Unavailable(_))));
    clock.advance(Duration::from_secs(31));
    // The disk still takes what is small, and nobody waits for what nobody needs.
    store.probe().await.unwrap();
    store.make_room();
    store.append(vec![Arc::new(event(&kept, 2, Kind::Thinking))]).await.unwrap();
    store.append(vec![Arc::new(event(&lost, 51, Kind::Thinking))]).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert!(matches!(store.renew(leases[0].lease, hour).await, Err(StoreError::LeaseLost)));
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.queued, backlog.running), (1, 1));
    let again = store.claim(5, hour).await.unwrap().items.remove(0);
    assert_eq!((again.lease.task, again.task.attempt, again.task.deaths), (lost.id, 2, 1));
    store.renew(leases[1].lease, hour).await.unwrap();
    assert_eq!(store.read(lost.id, Position::START, 100).await.unwrap().len(), 1);
    assert_eq!(store.read(kept.id, Position::START, 100).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_portion_of_a_sweep_is_bounded_in_bytes() {
    use super::super::{Kv, KvQuota, NewWebhook, Outbox, Settlement};
    use super::sweep;

    let fixture = Embedded::new(1_000).await;
    let (store, clock) = (fixture.sqlite(), fixture.options.clock.clone());
    let large = "x".repeat(1 << 20);
    let new = task("s", 1 << 20);
    store.submit(new.clone()).await.unwrap();
    let claimed = store.claim(1, Duration::from_secs(30)).await.unwrap().items.remove(0);
    for seq in 1..=10 {
        let event = Event { data: large.as_str().into(), ..event(&new, seq, Kind::Thinking) };
        store.append(vec![Arc::new(event)]).await.unwrap();
    }
    store.finish(claimed.lease, event(&new, 11, Kind::Completed)).await.unwrap();
    for n in 0..10 {
        let cancelled = task(&format!("s{n}"), 1 << 20);
        store.submit(cancelled.clone()).await.unwrap();
        store.cancel(cancelled.id, "").await.unwrap();
        let (owner, key, url, lane) = ("plug".into(), n.to_string(), "https://example.org".into(), "".into());
        let origin = "https://example.org".into();
        store
            .enqueue_webhook(NewWebhook { owner, key, url, origin, lane, body: large.as_str().into() })
            .await
            .unwrap();
        let lease = store.claim_deliveries(1, Duration::from_secs(30), &Default::default()).await.unwrap();
        store.settle(lease.items[0].lease, Settlement::Dead { error: "x".into() }).await.unwrap();
        let (ttl, quota) = (Some(Duration::from_secs(1)), KvQuota { bytes: u64::MAX });
        store.put("plug", &n.to_string(), large.clone().into(), None, ttl, quota).await.unwrap();
    }
    clock.advance(Duration::from_secs(10));
    let keep = Duration::ZERO;
    let writer = &store.writer;
    assert_eq!(writer.call(0, move |tx| sweep::events(tx, keep)).await.unwrap(), Some(4));
    // Four more with the first task's events, and so on: 6 of its events are left, then itself.
    let (tasks, events, next) = writer.call(0, move |tx| sweep::tasks(tx, keep, (0, 0))).await.unwrap();
    assert_eq!((tasks, events, next), (0, 4, Some((0, 0))));
    let (tasks, events, _) = writer.call(0, move |tx| sweep::tasks(tx, keep, (0, 0))).await.unwrap();
    assert_eq!((tasks, events), (2, 2));
    assert_eq!(writer.call(0, move |tx| sweep::deliveries(tx, keep)).await.unwrap(), 4);
    assert_eq!(writer.call(0, sweep::expired).await.unwrap(), 4);
}

#[tokio::test]
async fn an_operation_that_breaks_a_rule_fails_alone() {
    let fixture = Embedded::open(Options::default());
    let store = fixture.store();
    let twice = task("s", 10);
    store.submit(twice.clone()).await.unwrap();
    // The same id again is nobody's business but its submitter's.
    let others = (0..20).map(|n| {
        let new = if n % 5 == 0 { twice.clone() } else { task(&format!("s{n}"), 10) };
        let store = fixture.store();
        tokio::spawn(async move { store.submit(new).await.is_ok() })
    });
    let mut accepted = 0;
    for other in others.collect::<Vec<_>>() {
        accepted += usize::from(other.await.unwrap());
    }
    assert_eq!(accepted, 16);
    assert_eq!(store.backlog().await.unwrap().queued, 17);
}

#[tokio::test]
async fn looking_for_work_is_a_search_however_long_the_past() {
    use super::{outbox, queue};

    let mut fixture = Embedded::new(10).await;
    drop(fixture.take());
    let conn = Connection::open(fixture.file()).unwrap();
    let hot = [
        (queue::EXPIRED, "tasks_leased"),
        (queue::CLAIMABLE, "tasks_ready"),
        (queue::HEAD, "tasks_open"),
        (outbox::DUE, "outbox_due"),
        (outbox::HEAD, "outbox_lane"),
    ];
    for (sql, index) in hot {
        let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let parameters = vec![rusqlite::types::Value::from(1); explain.parameter_count()];
        let plan: Vec<String> = explain
            .query_map(rusqlite::params_from_iter(parameters), |row| row.get(3))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        assert!(plan[0].starts_with("SEARCH") && plan[0].contains(index), "{sql}\n{plan:?}");
    }
}

#[tokio::test]
async fn unwritable_places_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taken");
    std::fs::write(&file, "").unwrap();
    let error = SqliteStore::open(&file, Options::default()).unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    SqliteStore::open(&dir.path().join("a/b/c"), Options::default()).unwrap();
}
