//! Promises about time and trouble: retention, reopening, crashes, counting.

use std::time::Duration;

use super::*;
use crate::domain::TaskState;
use crate::store::{Backlog, KvQuota, NewWebhook, Retention, Settlement, Swept};

const HOUR: Duration = Duration::from_secs(3600);
const RETENTION: Retention = Retention { events: HOUR, tasks: Duration::from_secs(24 * 3600) };

fn webhook(key: &str) -> NewWebhook {
    let (owner, url, lane) = ("plug".into(), "https://example.org".into(), key.into());
    NewWebhook { owner, key: key.into(), url, origin: "https://example.org".into(), lane, body: "{}".into() }
}

pub(crate) async fn events_are_forgotten_before_their_task<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let ended = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    append(&*store, &claimed, 1..=4).await;
    finish_now(&*store, &claimed, 5, &clock).await;
    let running = submit(&*store, task("t")).await;
    let claimed = store.claim(1, 100 * HOUR).await.unwrap().items.remove(0);
    append(&*store, &claimed, 1..=3).await;
    store.probe().await.unwrap();

    clock.advance(HOUR - Duration::from_secs(1));
    assert_eq!(store.sweep(RETENTION).await.unwrap(), Swept::default());
    clock.advance(Duration::from_secs(2));
    assert_eq!(store.sweep(RETENTION).await.unwrap(), Swept { events: 4, ..Swept::default() });
    assert_eq!(store.sweep(RETENTION).await.unwrap(), Swept::default());
    assert_eq!(places(&*store, ended, Position::START, 10).await, [(1, 5)]);
    assert_eq!(places(&*store, ended, Position { attempt: 1, seq: 2 }, 10).await, [(1, 5)]);
    assert_eq!(places(&*store, running, Position::START, 10).await, [(1, 1), (1, 2), (1, 3)]);
    assert!(store.task(ended).await.unwrap().unwrap().end.is_some());

    clock.advance(RETENTION.tasks);
    assert_eq!(store.sweep(RETENTION).await.unwrap(), Swept { tasks: 1, ..Swept::default() });
    assert_eq!(store.task(ended).await.unwrap(), None);
    assert!(places(&*store, ended, Position::START, 10).await.is_empty());
    assert_eq!(store.task(running).await.unwrap().unwrap().state, TaskState::Running);
}

pub(crate) async fn a_forgotten_task_frees_its_key<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    submit(&*store, keyed("s", "k")).await;
    let claimed = claim_one(&*store).await;
    finish_now(&*store, &claimed, 1, &clock).await;
    clock.advance(RETENTION.tasks - Duration::from_secs(1));
    store.sweep(RETENTION).await.unwrap();
    assert!(store.submit(keyed("s", "k")).await.unwrap().duplicate);
    clock.advance(Duration::from_secs(2));
    store.sweep(RETENTION).await.unwrap();
    assert!(!store.submit(keyed("s", "k")).await.unwrap().duplicate);
}

pub(crate) async fn a_task_is_kept_while_it_is_being_delivered<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let id = submit(&*store, delivered("s", Moment::End)).await;
    let claimed = claim_one(&*store).await;
    finish_now(&*store, &claimed, 1, &clock).await;
    clock.advance(2 * RETENTION.tasks);
    assert_eq!(store.sweep(RETENTION).await.unwrap().tasks, 0);
    assert!(store.task(id).await.unwrap().is_some());
    let delivery = one_delivery(&*store).await;
    store.settle(delivery.lease, Settlement::Done).await.unwrap();
    assert_eq!(store.sweep(RETENTION).await.unwrap().tasks, 1);
}

pub(crate) async fn settled_webhooks_and_dead_letters_are_forgotten<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    for key in ["done", "dead", "waits"] {
        store.enqueue_webhook(webhook(key)).await.unwrap();
    }
    let claimed = deliveries(&*store, 10).await;
    store.settle(claimed[0].lease, Settlement::Done).await.unwrap();
    store.settle(claimed[1].lease, Settlement::Dead { error: "x".into() }).await.unwrap();
    let later = Settlement::Retry { after: Duration::ZERO, counts: true, error: "x".into() };
    store.settle(claimed[2].lease, later).await.unwrap();
    let entry = async |key: &str, ttl| {
        store.put("plug", key, vec![1], None, ttl, KvQuota { bytes: 100 }).await.unwrap()
    };
    entry("gone", Some(HOUR)).await;
    entry("stays", None).await;
    clock.advance(RETENTION.tasks - Duration::from_secs(1));
    let swept = store.sweep(RETENTION).await.unwrap();
    assert_eq!(swept, Swept { kv: 1, ..Swept::default() });
    assert!(!store.enqueue_webhook(webhook("done")).await.unwrap());
    clock.advance(Duration::from_secs(2));
    assert_eq!(store.sweep(RETENTION).await.unwrap(), Swept { deliveries: 2, ..Swept::default() });
    assert!(store.dead_letters(10).await.unwrap().is_empty());
    assert_eq!(store.backlog().await.unwrap(), Backlog { deliveries: 1, ..Backlog::default() });
    assert!(store.enqueue_webhook(webhook("done")).await.unwrap());
    assert!(!store.enqueue_webhook(webhook("waits")).await.unwrap());
    assert_eq!(store.keys("plug", "", None, 10).await.unwrap(), ["stays"]);
}

pub(crate) async fn a_large_sweep_forgets_everything_that_is_due<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let events = 2_345;
    for n in 0..300 {
        store.submit(task(&format!("s{n}"))).await.unwrap();
    }
    let claims = claim(&*store, 300).await;
    append(&*store, &claims[0], 1..=events).await;
    for claimed in &claims[1..] {
        append(&*store, claimed, 1..=3).await;
    }
    for claimed in &claims {
        finish_now(&*store, claimed, events + 1, &clock).await;
    }
    clock.advance(2 * HOUR);
    let swept = store.sweep(RETENTION).await.unwrap();
    assert_eq!(swept, Swept { events: events + 299 * 3, ..Swept::default() });
    clock.advance(RETENTION.tasks);
    assert_eq!(store.sweep(RETENTION).await.unwrap(), Swept { tasks: 300, ..Swept::default() });

    // Both at once, where nobody swept in between.
    submit(&*store, task("late")).await;
    let claimed = claim_one(&*store).await;
    append(&*store, &claimed, 1..=events).await;
    finish_now(&*store, &claimed, events + 1, &clock).await;
    clock.advance(2 * RETENTION.tasks);
    let swept = store.sweep(RETENTION).await.unwrap();
    assert_eq!(swept, Swept { events, tasks: 1, ..Swept::default() });
}

pub(crate) async fn a_sweep_of_large_things_forgets_everything_that_is_due<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let large = "x".repeat(1 << 20);
    for n in 0..6 {
        let name = format!("s{n}");
        submit(&*store, NewTask { input: large.as_str().into(), ..task(&name) }).await;
        let claimed = claim_one(&*store).await;
        for seq in 1..=2 {
            let kind = if seq == 1 { Kind::Started } else { Kind::Thinking };
            store.append(vec![Arc::new(event(&claimed, seq, kind, &large))]).await.unwrap();
        }
        let end = Event { at_ms: clock.now_ms(), ..event(&claimed, 3, Kind::Completed, &large) };
        store.finish(claimed.lease, end).await.unwrap();
        store.enqueue_webhook(NewWebhook { body: large.as_str().into(), ..webhook(&name) }).await.unwrap();
        let delivery = one_delivery(&*store).await;
        store.settle(delivery.lease, Settlement::Dead { error: "x".into() }).await.unwrap();
        let quota = KvQuota { bytes: u64::MAX };
        store.put("plug", &name, large.clone().into(), None, Some(HOUR), quota).await.unwrap();
    }
    clock.advance(2 * HOUR);
    assert_eq!(store.sweep(RETENTION).await.unwrap(), Swept { events: 12, kv: 6, ..Swept::default() });
    clock.advance(RETENTION.tasks);
    let swept = store.sweep(RETENTION).await.unwrap();
    assert_eq!(swept, Swept { tasks: 6, deliveries: 6, ..Swept::default() });
    assert_eq!(store.backlog().await.unwrap(), Backlog::default());
}

pub(crate) async fn everything_survives_reopening<F: Fixture>() {
    let mut fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let ended = submit(&*store, task("ended")).await;
    let claimed = claim_one(&*store).await;
    append(&*store, &claimed, 1..=3).await;
    finish(&*store, &claimed, 4).await;
    let queued = submit(&*store, delivered("queued", Moment::Start)).await;
    store.enqueue_webhook(webhook("k")).await.unwrap();
    store.put("plug", "k", vec![1], None, None, KvQuota { bytes: 100 }).await.unwrap();
    let before = (store.task(ended).await.unwrap(), store.backlog().await.unwrap());
    drop(store);
    fixture.reopen().await;
    let store = fixture.store();
    assert_eq!((store.task(ended).await.unwrap(), store.backlog().await.unwrap()), before);
    assert_eq!(places(&*store, ended, Position::START, 10).await, [(1, 1), (1, 2), (1, 3), (1, 4)]);
    assert_eq!(one_delivery(&*store).await.attempts, 0);
    assert_eq!(claim_ids(&*store, 5).await, [queued]);
    one_delivery(&*store).await;
    assert!(store.get("plug", "k").await.unwrap().is_some());
}

pub(crate) async fn what_was_accepted_survives_a_crash<F: Fixture>() {
    let mut fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let mut accepted = Vec::new();
    for n in 0..50 {
        accepted.push(submit(&*store, task(&format!("s{n}"))).await);
    }
    let running = claim(&*store, 5).await;
    finish(&*store, &running[0], 1).await;
    drop(store);
    fixture.crash().await;
    fixture.clock().advance(LONG);
    let store = fixture.store();
    let claims = claim(&*store, 100).await;
    assert_eq!(claims.iter().map(|claim| claim.lease.task).collect::<Vec<_>>(), accepted[1..]);
    for (n, claimed) in claims.iter().enumerate() {
        let expected = if n < 4 { (2, 1) } else { (1, 0) };
        assert_eq!((claimed.task.attempt, claimed.task.deaths), expected, "claim {n}");
    }
    assert_eq!(store.task(accepted[0]).await.unwrap().unwrap().state, TaskState::Completed);
    assert!(is_lost(store.renew(running[1].lease, LEASE).await));
}

pub(crate) async fn the_backlog_counts_what_waits<F: Fixture>() {
    let mut fixture = F::new(ROOMY).await;
    let store = fixture.store();
    assert_eq!(store.backlog().await.unwrap(), Backlog::default());
    for n in 0..4 {
        submit(&*store, delivered(&format!("s{}", n / 2), Moment::End)).await;
    }
    for key in ["a", "b", "c"] {
        store.enqueue_webhook(webhook(key)).await.unwrap();
    }
    let claims = claim(&*store, 10).await;
    assert_eq!(claims.len(), 2);
    finish(&*store, &claims[0], 1).await;
    let claimed = store
        .claim_deliveries(2, LEASE, &Except { plugins: vec!["plug".into()], ..Except::default() })
        .await
        .unwrap()
        .items;
    store.settle(claimed[0].lease, Settlement::Dead { error: "x".into() }).await.unwrap();
    let expected = Backlog { queued: 2, running: 1, deliveries: 3, dead: 1 };
    assert_eq!(store.backlog().await.unwrap(), expected);
    drop(store);
    fixture.reopen().await;
    assert_eq!(fixture.store().backlog().await.unwrap(), expected);
}

pub(crate) async fn a_closed_store_says_so<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    store.probe().await.unwrap();
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    append(&*store, &claimed, 1..=3).await;
    store.close().await;
    store.close().await;
    assert!(matches!(store.submit(task("s")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.probe().await, Err(StoreError::Unavailable(_))));
    // What was appended before is there.
    assert_eq!(places(&*store, id, Position::START, 10).await, [(1, 1), (1, 2), (1, 3)]);
}
