//! Promises of the outbox.

use std::time::Duration;

use super::*;
use crate::store::{DeliveryId, DeliveryTarget, NewWebhook, Settlement};

fn webhook(key: &str, lane: &str) -> NewWebhook {
    NewWebhook {
        owner: "plug".into(),
        key: key.into(),
        url: format!("https://example.org/{key}"),
        origin: "https://example.org".into(),
        lane: lane.into(),
        body: format!(r#"{{"key":"{key}"}}"#).into(),
    }
}

fn key(delivery: &Delivery) -> String {
    match &delivery.target {
        DeliveryTarget::Webhook { key, .. } => key.clone(),
        DeliveryTarget::Plugin { session, .. } => session.name().to_owned(),
    }
}

async fn keys(store: &dyn Store) -> Vec<String> {
    deliveries(store, 100).await.iter().map(key).collect()
}

async fn enqueue(store: &dyn Store, key: &str, lane: &str) {
    assert!(store.enqueue_webhook(webhook(key, lane)).await.unwrap());
}

async fn settle(store: &dyn Store, delivery: &Delivery, settlement: Settlement) {
    store.settle(delivery.lease, settlement).await.unwrap();
}

fn retry(after_ms: u64, counts: bool) -> Settlement {
    Settlement::Retry { after: Duration::from_millis(after_ms), counts, error: "refused".into() }
}

fn dead() -> Settlement {
    Settlement::Dead { error: "410".into() }
}

pub(crate) async fn a_delivery_is_due_at_its_moment<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let early = submit(&*store, delivered("early", Moment::Start)).await;
    let late = submit(&*store, delivered("late", Moment::End)).await;
    submit(&*store, task("none")).await;
    assert!(deliveries(&*store, 10).await.is_empty());
    let claims = claim(&*store, 10).await;
    let delivery = one_delivery(&*store).await;
    let expected = DeliveryTarget::Plugin {
        plugin: "plug".into(),
        task: early,
        session: session("early"),
        address: "address of early".into(),
    };
    assert_eq!((&delivery.target, delivery.attempts), (&expected, 0));
    settle(&*store, &delivery, Settlement::Done).await;
    for claim in &claims {
        finish(&*store, claim, 1).await;
    }
    let delivery = one_delivery(&*store).await;
    assert!(matches!(delivery.target, DeliveryTarget::Plugin { task, .. } if task == late));
    settle(&*store, &delivery, Settlement::Done).await;
    assert!(deliveries(&*store, 10).await.is_empty());
}

pub(crate) async fn a_start_delivery_of_a_task_that_never_ran_is_due_at_its_end<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, delivered("s", Moment::Start)).await;
    store.cancel(id, "").await.unwrap();
    assert_eq!(keys(&*store).await, ["s"]);
}

pub(crate) async fn deliveries_of_a_session_leave_one_after_the_other<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let first = submit(&*store, delivered("s", Moment::End)).await;
    let second = submit(&*store, delivered("s", Moment::Start)).await;
    let turn = claim_one(&*store).await;
    finish(&*store, &turn, 1).await;
    let turn = claim_one(&*store).await;
    assert_eq!(turn.lease.task, second);
    let delivery = one_delivery(&*store).await;
    assert!(matches!(delivery.target, DeliveryTarget::Plugin { task, .. } if task == first));
    settle(&*store, &delivery, retry(1_000, true)).await;
    assert!(deliveries(&*store, 10).await.is_empty());
    clock.advance(Duration::from_secs(1));
    let delivery = one_delivery(&*store).await;
    settle(&*store, &delivery, Settlement::Done).await;
    let delivery = one_delivery(&*store).await;
    assert!(matches!(delivery.target, DeliveryTarget::Plugin { task, .. } if task == second));
}

pub(crate) async fn a_cancelled_turn_is_delivered_after_the_turns_before_it<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    submit(&*store, delivered("s", Moment::End)).await;
    let cancelled = submit(&*store, delivered("s", Moment::End)).await;
    let turn = claim_one(&*store).await;
    store.cancel(cancelled, "").await.unwrap();
    assert!(deliveries(&*store, 10).await.is_empty());
    finish(&*store, &turn, 1).await;
    let delivery = one_delivery(&*store).await;
    assert!(matches!(delivery.target, DeliveryTarget::Plugin { task, .. } if task == turn.lease.task));
    settle(&*store, &delivery, dead()).await;
    let delivery = one_delivery(&*store).await;
    assert!(matches!(delivery.target, DeliveryTarget::Plugin { task, .. } if task == cancelled));
}

pub(crate) async fn a_webhook_key_is_sent_once<F: Fixture>() {
    let mut fixture = F::new(ROOMY).await;
    let store = fixture.store();
    enqueue(&*store, "a", "lane").await;
    assert!(!store.enqueue_webhook(webhook("a", "elsewhere")).await.unwrap());
    let other = NewWebhook { owner: String::new(), ..webhook("a", "lane") };
    assert!(store.enqueue_webhook(other).await.unwrap());
    let claimed = deliveries(&*store, 10).await;
    assert_eq!(claimed.len(), 2);
    let expected = DeliveryTarget::Webhook {
        owner: "plug".into(),
        key: "a".into(),
        url: "https://example.org/a".into(),
        body: r#"{"key":"a"}"#.into(),
    };
    assert!(claimed.iter().any(|delivery| delivery.target == expected));
    for delivery in &claimed {
        settle(&*store, delivery, Settlement::Done).await;
    }
    assert!(!store.enqueue_webhook(webhook("a", "lane")).await.unwrap());
    drop(store);
    fixture.reopen().await;
    assert!(!fixture.store().enqueue_webhook(webhook("a", "lane")).await.unwrap());
    assert!(deliveries(&*fixture.store(), 10).await.is_empty());
}

pub(crate) async fn lanes_keep_their_order_and_do_not_wait_for_each_other<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    for key in ["a1", "a2", "a3"] {
        enqueue(&*store, key, "a").await;
        clock.advance(Duration::from_millis(1));
    }
    enqueue(&*store, "b1", "b").await;
    let foreign = NewWebhook { owner: "other".into(), ..webhook("c1", "a") };
    assert!(store.enqueue_webhook(foreign).await.unwrap());
    let first = deliveries(&*store, 10).await;
    assert_eq!(first.iter().map(key).collect::<Vec<_>>(), ["a1", "b1", "c1"]);
    assert!(deliveries(&*store, 10).await.is_empty());
    settle(&*store, &first[0], Settlement::Done).await;
    let second = one_delivery(&*store).await;
    assert_eq!(key(&second), "a2");
    settle(&*store, &second, Settlement::Done).await;
    assert_eq!(keys(&*store).await, ["a3"]);
}

pub(crate) async fn a_webhook_that_waits_for_another_try_holds_up_nobody<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    enqueue(&*store, "a1", "a").await;
    let first = one_delivery(&*store).await;
    enqueue(&*store, "a2", "a").await;
    settle(&*store, &first, retry(5_000, true)).await;
    let second = one_delivery(&*store).await;
    assert_eq!(key(&second), "a2");
    settle(&*store, &second, retry(3_000, true)).await;
    let nothing = store.claim_deliveries(10, LEASE, &Except::default()).await.unwrap();
    assert!(nothing.items.is_empty());
    assert_eq!(nothing.next_due, Some(Duration::from_secs(3)), "the one whose time comes first");
    clock.advance(Duration::from_secs(1));
    enqueue(&*store, "a3", "a").await;
    let third = one_delivery(&*store).await;
    assert_eq!(key(&third), "a3", "what comes in while others wait goes at once");
    clock.advance(Duration::from_secs(10));
    assert!(deliveries(&*store, 10).await.is_empty(), "one at a time");
    settle(&*store, &third, Settlement::Done).await;
    let second = one_delivery(&*store).await;
    assert_eq!((key(&second), second.attempts), ("a2".to_owned(), 1));
    settle(&*store, &second, Settlement::Done).await;
    assert_eq!(keys(&*store).await, ["a1"]);
}

pub(crate) async fn webhooks_beyond_the_room_of_their_origin_are_left<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    for (name, origin) in [("a", "https://a.example"), ("b", "https://b.example")] {
        for n in 0..20 {
            let key = format!("{name}{n}");
            let webhook = NewWebhook { origin: origin.into(), ..webhook(&key, &key) };
            assert!(store.enqueue_webhook(webhook).await.unwrap());
        }
        clock.advance(Duration::from_millis(1));
    }
    let except =
        Except { origins: [("https://a.example".to_owned(), 1)].into(), per_origin: 3, ..Except::default() };
    let claimed = store.claim_deliveries(10, LEASE, &except).await.unwrap();
    assert_eq!(claimed.items.iter().map(key).collect::<Vec<_>>(), ["a0", "b0", "b1", "b2"]);
    let claimed = store.claim_deliveries(2, LEASE, &except).await.unwrap();
    assert_eq!(claimed.items.iter().map(key).collect::<Vec<_>>(), ["a1", "b3"]);
    assert_eq!(deliveries(&*store, 100).await.len(), 34, "the others are still there");
}

pub(crate) async fn a_retry_waits_for_its_time<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    enqueue(&*store, "a", "a").await;
    enqueue(&*store, "b", "b").await;
    let claimed = deliveries(&*store, 10).await;
    settle(&*store, &claimed[0], retry(5_000, true)).await;
    settle(&*store, &claimed[1], retry(9_000, false)).await;
    assert!(is_lost(store.settle(claimed[0].lease, Settlement::Done).await));
    let nothing = store.claim_deliveries(10, LEASE, &Except::default()).await.unwrap();
    assert!(nothing.items.is_empty());
    assert_eq!(nothing.next_due, Some(Duration::from_secs(5)));
    clock.advance(Duration::from_millis(4_999));
    assert!(deliveries(&*store, 10).await.is_empty());
    clock.advance(Duration::from_millis(1));
    let claimed = store.claim_deliveries(10, LEASE, &Except::default()).await.unwrap();
    assert_eq!(claimed.next_due, Some(Duration::from_secs(4)));
    assert_eq!((key(&claimed.items[0]), claimed.items[0].attempts), ("a".to_owned(), 1));
    clock.advance(Duration::from_secs(4));
    let other = one_delivery(&*store).await;
    assert_eq!((key(&other), other.attempts), ("b".to_owned(), 0));
}

pub(crate) async fn a_dead_letter_holds_up_nobody_and_can_be_replayed<F: Fixture>() {
    let mut fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    enqueue(&*store, "a1", "a").await;
    enqueue(&*store, "a2", "a").await;
    let delivery = one_delivery(&*store).await;
    settle(&*store, &delivery, retry(0, true)).await;
    let delivery = one_delivery(&*store).await;
    settle(&*store, &delivery, dead()).await;
    let second = one_delivery(&*store).await;
    assert_eq!(key(&second), "a2");
    clock.advance(Duration::from_secs(1));
    settle(&*store, &second, dead()).await;
    drop(store);
    fixture.reopen().await;
    let store = fixture.store();
    let letters = store.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[0].id, letters[0].attempts, &*letters[0].error), (second.lease.id, 1, "410"));
    assert_eq!((letters[1].id, letters[1].attempts), (delivery.lease.id, 2));
    assert_eq!((letters[0].died_ms, &letters[0].target), (clock.now_ms(), &second.target));
    assert_eq!(store.dead_letters(1).await.unwrap().len(), 1);

    assert!(store.replay(delivery.lease.id).await.unwrap());
    assert!(!store.replay(delivery.lease.id).await.unwrap());
    assert!(!store.replay(DeliveryId(999_999)).await.unwrap());
    let again = one_delivery(&*store).await;
    assert_eq!((again.lease.id, again.attempts, &again.target), (delivery.lease.id, 0, &delivery.target));
    assert!(again.lease.token > delivery.lease.token);
    assert_eq!(store.dead_letters(10).await.unwrap().len(), 1);
}

pub(crate) async fn a_replayed_letter_takes_its_turn_in_the_lane<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    enqueue(&*store, "a1", "a").await;
    enqueue(&*store, "a2", "a").await;
    let first = one_delivery(&*store).await;
    settle(&*store, &first, dead()).await;
    let second = one_delivery(&*store).await;
    assert!(store.replay(first.lease.id).await.unwrap());
    assert!(deliveries(&*store, 10).await.is_empty());
    settle(&*store, &second, Settlement::Done).await;
    assert_eq!(keys(&*store).await, ["a1"]);
}

pub(crate) async fn a_delivery_lease_that_ran_out_is_claimed_again<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    enqueue(&*store, "a", "a").await;
    let old = store.claim_deliveries(10, LEASE, &Except::default()).await.unwrap();
    assert_eq!(old.next_due, Some(LEASE));
    clock.advance(LONG);
    let new = one_delivery(&*store).await;
    assert_eq!((new.lease.id, new.attempts), (old.items[0].lease.id, 1));
    assert!(is_lost(store.settle(old.items[0].lease, Settlement::Done).await));
    assert!(is_lost(store.renew_delivery(old.items[0].lease, LEASE).await));
    settle(&*store, &new, Settlement::Done).await;
}

pub(crate) async fn a_renewed_delivery_lease_lasts_from_the_renewal<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    enqueue(&*store, "a", "a").await;
    let delivery = one_delivery(&*store).await;
    for _ in 0..4 {
        clock.advance(LEASE / 2);
        store.renew_delivery(delivery.lease, LEASE).await.unwrap();
    }
    clock.advance(LEASE / 2);
    assert!(deliveries(&*store, 10).await.is_empty());
    clock.advance(LEASE);
    one_delivery(&*store).await;
}

pub(crate) async fn whoever_sets_the_clock_neither_delays_nor_hastens_a_delivery<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let (start, hour) = (clock.now_ms(), 3_600_000);
    for key in ["waits", "leased", "retried"] {
        enqueue(&*store, key, key).await;
    }
    clock.set(start - hour);
    let claimed = deliveries(&*store, 10).await;
    assert_eq!(claimed.iter().map(key).collect::<Vec<_>>(), ["waits", "leased", "retried"]);
    settle(&*store, &claimed[0], Settlement::Done).await;
    settle(&*store, &claimed[2], retry(5_000, true)).await;
    clock.set(start + hour);
    let nothing = store.claim_deliveries(10, LEASE, &Except::default()).await.unwrap();
    assert_eq!((nothing.items.len(), nothing.next_due), (0, Some(Duration::from_secs(5))));
    clock.set(start - hour);
    clock.advance(Duration::from_secs(5));
    assert_eq!(keys(&*store).await, ["retried"]);
    clock.advance(LONG);
    assert_eq!(keys(&*store).await, ["leased", "retried"]);
}

pub(crate) async fn plugins_that_are_left_out_keep_their_deliveries<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    for adapter in ["plug", "quiet", "zeta"] {
        let new = NewTask { adapter: adapter.into(), ..delivered(adapter, Moment::End) };
        let id = submit(&*store, new).await;
        store.cancel(id, "").await.unwrap();
    }
    enqueue(&*store, "hook", "a").await;
    let plugins = vec!["quiet".to_owned(), "plug".to_owned()];
    let except = Except { plugins, webhooks: true, ..Except::default() };
    let claimed = store.claim_deliveries(10, LEASE, &except).await.unwrap();
    assert_eq!(claimed.items.iter().map(key).collect::<Vec<_>>(), ["zeta"]);
    let except = Except { webhooks: false, ..except };
    let claimed = store.claim_deliveries(10, LEASE, &except).await.unwrap();
    assert_eq!(claimed.items.iter().map(key).collect::<Vec<_>>(), ["hook"]);
    assert_eq!(deliveries(&*store, 10).await.len(), 2);
}

pub(crate) async fn concurrent_claims_never_give_the_same_delivery_twice<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    for n in 0..100 {
        enqueue(&*store, &format!("k{n}"), &format!("lane {n}")).await;
    }
    let claimers: Vec<_> = (0..6)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let claimed = deliveries(&*store, 3).await;
                    if claimed.is_empty() {
                        return mine;
                    }
                    mine.extend(claimed.iter().map(|delivery| delivery.lease.id));
                }
            })
        })
        .collect();
    let mut claimed = Vec::new();
    for claimer in claimers {
        claimed.extend(claimer.await.unwrap());
    }
    assert_eq!(all_different(claimed).len(), 100);
}

pub(crate) async fn whoever_waits_for_deliveries_is_woken<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let wait = async {
        loop {
            store.delivery_ready().await;
            if let Some(delivery) = deliveries(&*store, 1).await.pop() {
                return delivery;
            }
        }
    };
    let wait = tokio::time::timeout(Duration::from_secs(10), wait);
    let (woken, ()) = tokio::join!(wait, enqueue(&*store, "a", "a"));
    assert_eq!(key(&woken.unwrap()), "a");
}
