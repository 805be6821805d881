//! Promises of the event log.

use super::*;

pub(crate) async fn events_are_read_in_order_from_a_place<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    append(&*store, &claimed, [1]).await;
    append(&*store, &claimed, 2..=9).await;
    finish(&*store, &claimed, 10).await;
    let all: Vec<_> = (1..=10).map(|seq| (1, seq)).collect();
    for page in [1, 3, 9, 10, 100] {
        assert_eq!(places(&*store, id, Position::START, page).await, all, "{page} a page");
    }
    assert_eq!(places(&*store, id, Position { attempt: 1, seq: 7 }, 2).await, [(1, 8), (1, 9), (1, 10)]);
    assert!(places(&*store, id, Position { attempt: 1, seq: 10 }, 2).await.is_empty());
    assert!(places(&*store, id, Position { attempt: 7, seq: u64::MAX }, 2).await.is_empty());
    assert!(places(&*store, TaskId::new(), Position::START, 2).await.is_empty());

    let events = store.read(id, Position::START, 2).await.unwrap();
    assert_eq!(
        events,
        [event(&claimed, 1, Kind::Started, "{}"), event(&claimed, 2, Kind::ResponseChunk, "{}")]
    );
}

pub(crate) async fn a_started_run_voids_those_before<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let id = submit(&*store, task("s")).await;
    let first = claim_one(&*store).await;
    append(&*store, &first, 1..=5).await;
    clock.advance(LONG);
    let second = claim_one(&*store).await;
    append(&*store, &second, 1..=2).await;
    finish(&*store, &second, 3).await;
    let present = [(2, 1), (2, 2), (2, 3)];
    assert_eq!(places(&*store, id, Position::START, 10).await, present);
    assert_eq!(places(&*store, id, Position { attempt: 1, seq: 3 }, 10).await, present);
    assert_eq!(places(&*store, id, Position { attempt: 1, seq: 300 }, 10).await, present);
    assert_eq!(places(&*store, id, Position { attempt: 2, seq: 1 }, 10).await, present[1..]);
}

pub(crate) async fn a_run_that_never_started_voids_nothing<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let id = submit(&*store, task("s")).await;
    let first = claim_one(&*store).await;
    append(&*store, &first, 1..=3).await;
    clock.advance(LONG);
    let second = claim_one(&*store).await;
    store.finish(second.lease, event(&second, 1, Kind::Failed, "{}")).await.unwrap();
    assert_eq!(places(&*store, id, Position::START, 2).await, [(1, 1), (1, 2), (1, 3), (2, 1)]);
    // Who saw more of the dead run than the log did still hears the end.
    assert_eq!(places(&*store, id, Position { attempt: 1, seq: 9 }, 10).await, [(2, 1)]);
}

pub(crate) async fn events_of_a_run_that_is_over_are_dropped<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let id = submit(&*store, task("s")).await;
    let first = claim_one(&*store).await;
    append(&*store, &first, 1..=2).await;
    clock.advance(LONG);
    let second = claim_one(&*store).await;
    append(&*store, &second, 1..=1).await;
    append(&*store, &first, 3..=9).await;
    finish(&*store, &second, 2).await;
    append(&*store, &second, 3..=5).await;
    append(&*store, &first, 10..=12).await;
    store.probe().await.unwrap();
    assert_eq!(places(&*store, id, Position::START, 10).await, [(2, 1), (2, 2)]);
}

pub(crate) async fn what_was_appended_before_the_end_is_read_before_the_end<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    for seq in 1..=3_000 {
        append(&*store, &claimed, [seq]).await;
    }
    finish(&*store, &claimed, 3_001).await;
    let all: Vec<_> = (1..=3_001).map(|seq| (1, seq)).collect();
    assert_eq!(places(&*store, id, Position::START, 256).await, all);
}

pub(crate) async fn a_page_may_be_short_but_never_empty<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(700_000));
    for seq in 1..=6 {
        let kind = if seq == 1 { Kind::Started } else { Kind::ResponseChunk };
        store.append(vec![Arc::new(event(&claimed, seq, kind, &large))]).await.unwrap();
    }
    store.finish(claimed.lease, event(&claimed, 7, Kind::Completed, &large)).await.unwrap();
    let all: Vec<_> = (1..=7).map(|seq| (1, seq)).collect();
    assert_eq!(places(&*store, id, Position::START, 256).await, all);
    let last = store.read(id, Position { attempt: 1, seq: 6 }, 1).await.unwrap();
    assert_eq!(&*last[0].data, large);
}

pub(crate) async fn events_of_many_tasks_do_not_mix<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    for n in 0..10 {
        submit(&*store, task(&format!("s{n}"))).await;
    }
    let claims = claim(&*store, 10).await;
    for seq in 1..=20 {
        let mixed = claims.iter().map(|claim| {
            let kind = if seq == 1 { Kind::Started } else { Kind::Thinking };
            Arc::new(event(claim, seq, kind, &format!(r#"{{"of":"{}"}}"#, claim.lease.task)))
        });
        store.append(mixed.collect()).await.unwrap();
    }
    store.probe().await.unwrap();
    for claim in &claims {
        let events = store.read(claim.lease.task, Position::START, 100).await.unwrap();
        assert_eq!(events.len(), 20);
        let own = claim.lease.task.to_string();
        assert!(events.iter().all(|event| event.task == claim.lease.task && event.data.contains(&own)));
    }
}
