//! Promises of the task queue.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::domain::TaskState;
use crate::store::CancelOutcome;

pub(crate) async fn accepted_tasks_are_handed_out_in_order<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let mut accepted = Vec::new();
    for n in 0..20 {
        accepted.push(submit(&*store, task(&format!("s{n}"))).await);
    }
    let mut handed_out = claim_ids(&*store, 7).await;
    assert_eq!(handed_out.len(), 7);
    handed_out.extend(claim_ids(&*store, 100).await);
    assert_eq!(handed_out, accepted);
    assert!(claim(&*store, 5).await.is_empty());
}

pub(crate) async fn what_was_submitted_is_what_is_claimed<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let text = "grüße \u{1F980} \"quoted\"\n".repeat(60_000);
    let input = serde_json::json!({ "kind": "message", "text": text }).to_string();
    let new = NewTask { input: input.clone().into(), ..task("s") };
    let submitted = store.submit(new.clone()).await.unwrap();
    assert_eq!((submitted.task, submitted.session, submitted.duplicate), (new.id, session("s"), false));
    let accepted_ms = clock.now_ms();
    clock.advance(Duration::from_secs(3));

    let record = store.task(new.id).await.unwrap().unwrap();
    assert_eq!((record.state, record.attempt, record.started_ms), (TaskState::Queued, 0, None));
    let Claim { lease, task, cancel } = claim_one(&*store).await;
    assert_eq!((lease.task, task.id, cancel), (new.id, new.id, None));
    assert_eq!((&*task.adapter, &*task.agent, &task.session), ("plug", "echo", &session("s")));
    assert_eq!((&*task.input, task.state, task.attempt, task.deaths), (&*input, TaskState::Running, 1, 0));
    assert_eq!((task.created_ms, task.started_ms), (accepted_ms, Some(clock.now_ms())));
    assert_eq!((task.ended_ms, &task.end), (None, &None));
    assert_eq!(store.task(new.id).await.unwrap(), Some(task));
    assert_eq!(store.task(TaskId::new()).await.unwrap(), None);
}

pub(crate) async fn turns_of_a_session_run_one_after_the_other<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let mut turns = Vec::new();
    for _ in 0..5 {
        turns.push(submit(&*store, task("one")).await);
    }
    let other = submit(&*store, task("other")).await;
    let mut claims = claim(&*store, 10).await;
    assert_eq!(claims.len(), 2);
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let running = claims.iter().find(|claim| claim.task.session == session("one")).unwrap();
        seen.push(running.lease.task);
        assert!(claim(&*store, 10).await.is_empty());
        finish(&*store, running, 1).await;
        claims = claim(&*store, 10).await;
    }
    assert_eq!(seen, turns);
    assert_eq!(store.open_tasks(&session("other"), None).await.unwrap(), [other]);
}

pub(crate) async fn the_session_whose_next_turn_was_accepted_first_comes_first<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let first = submit(&*store, task("busy")).await;
    let second = submit(&*store, task("busy")).await;
    let late = submit(&*store, task("late")).await;
    let claimed = claim_one(&*store).await;
    assert_eq!(claimed.lease.task, first);
    finish(&*store, &claimed, 1).await;
    assert_eq!(claim_ids(&*store, 10).await, [second, late]);
}

pub(crate) async fn the_same_key_of_the_same_adapter_names_the_same_task<F: Fixture>() {
    let mut fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let first = submit(&*store, keyed("s", "k")).await;
    let again = store.submit(keyed("elsewhere", "k")).await.unwrap();
    assert_eq!((again.task, again.session, again.duplicate), (first, session("s"), true));
    submit(&*store, NewTask { adapter: "other".into(), ..keyed("s2", "k") }).await;
    submit(&*store, keyed("s3", "another")).await;
    assert_eq!(claim(&*store, 10).await.len(), 3);
    assert!(store.session_tasks(&session("elsewhere"), None, 10).await.unwrap().is_empty());
    drop(store);
    fixture.reopen().await;
    assert!(fixture.store().submit(keyed("s", "k")).await.unwrap().duplicate);
}

pub(crate) async fn concurrent_submissions_of_one_key_make_one_task<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let submissions = (0..20).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.submit(keyed("s", "update 7")).await.unwrap() })
    });
    let mut fresh = Vec::new();
    let mut ids = BTreeSet::new();
    for submission in submissions.collect::<Vec<_>>() {
        let submitted = submission.await.unwrap();
        ids.insert(submitted.task);
        fresh.extend((!submitted.duplicate).then_some(submitted.task));
    }
    assert_eq!((fresh.len(), ids.len()), (1, 1));
}

pub(crate) async fn a_full_queue_refuses_and_still_knows_duplicates<F: Fixture>() {
    let fixture = F::new(3).await;
    let store = fixture.store();
    for n in 0..3 {
        submit(&*store, keyed("s", &format!("k{n}"))).await;
    }
    assert!(matches!(store.submit(task("t")).await, Err(StoreError::QueueFull { queued: 3 })));
    assert!(store.submit(keyed("s", "k1")).await.unwrap().duplicate);
    // What runs does not wait any more.
    let claimed = claim_one(&*store).await;
    submit(&*store, task("t")).await;
    assert!(matches!(store.submit(task("t")).await, Err(StoreError::QueueFull { .. })));
    // What is given back waits again.
    store.release(claimed.lease).await.unwrap();
    assert!(matches!(store.submit(task("t")).await, Err(StoreError::QueueFull { queued: 4 })));
}

pub(crate) async fn a_lease_that_ran_out_is_claimed_again_as_a_death<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let id = submit(&*store, task("s")).await;
    let next = submit(&*store, task("s")).await;
    let first = claim_one(&*store).await;
    assert!(claim(&*store, 10).await.is_empty());
    clock.advance(LONG);
    let second = claim_one(&*store).await;
    assert_eq!((second.lease.task, second.task.attempt, second.task.deaths), (id, 2, 1));
    assert!(second.lease.token > first.lease.token);
    clock.advance(LONG);
    let third = claim_one(&*store).await;
    assert_eq!((third.task.attempt, third.task.deaths), (3, 2));
    finish(&*store, &third, 1).await;
    assert_eq!(claim_ids(&*store, 10).await, [next]);
}

pub(crate) async fn who_lost_the_lease_writes_nothing<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    submit(&*store, delivered("s", Moment::End)).await;
    let old = claim_one(&*store).await;
    clock.advance(LONG);
    let new = claim_one(&*store).await;
    assert!(is_lost(store.renew(old.lease, LEASE).await));
    assert!(is_lost(store.release(old.lease).await));
    assert!(is_lost(store.finish(old.lease, event(&old, 2, Kind::Completed, "{}")).await));
    append(&*store, &old, [1, 2, 3]).await;
    let record = store.task(new.task.id).await.unwrap().unwrap();
    assert_eq!(record, new.task);
    assert!(deliveries(&*store, 10).await.is_empty());
    assert!(places(&*store, new.task.id, Position::START, 10).await.is_empty());
    finish(&*store, &new, 1).await;
}

pub(crate) async fn a_renewed_lease_lasts_from_the_renewal<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    for _ in 0..5 {
        clock.advance(LEASE / 2);
        assert_eq!(store.renew(claimed.lease, LEASE).await.unwrap(), None);
    }
    clock.advance(LEASE / 2);
    assert!(claim(&*store, 1).await.is_empty());
    clock.advance(LEASE);
    assert_eq!(claim_one(&*store).await.task.deaths, 1);
}

pub(crate) async fn a_lease_that_nobody_took_can_still_be_used<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    clock.advance(LONG);
    assert_eq!(store.renew(claimed.lease, LEASE).await.unwrap(), None);
    clock.advance(LONG);
    finish(&*store, &claimed, 1).await;
    assert!(claim(&*store, 1).await.is_empty());
}

pub(crate) async fn a_claim_tells_when_the_next_lease_runs_out<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    assert_eq!(store.claim(4, LEASE).await.unwrap().next_due, None);
    submit(&*store, task("s")).await;
    claim_one(&*store).await;
    clock.advance(Duration::from_secs(5));
    submit(&*store, task("t")).await;
    let due = store.claim(4, LEASE).await.unwrap().next_due;
    assert_eq!(due, Some(LEASE - Duration::from_secs(5)));
}

pub(crate) async fn whoever_sets_the_clock_neither_ends_nor_prolongs_a_lease<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let (start, hour) = (clock.now_ms(), 3_600_000);
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    clock.set(start + hour);
    let nothing = store.claim(4, LEASE).await.unwrap();
    assert_eq!((nothing.items.len(), nothing.next_due), (0, Some(LEASE)));
    assert_eq!(store.renew(claimed.lease, LEASE).await.unwrap(), None);
    clock.set(start - hour);
    clock.advance(LONG);
    let again = claim_one(&*store).await;
    assert_eq!((again.lease.task, again.task.deaths), (id, 1));
    // Stamps are what the clock shows.
    assert_eq!(again.task.started_ms, Some(clock.now_ms()));
}

pub(crate) async fn a_task_that_was_given_back_is_run_again_without_a_death<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let waits = submit(&*store, task("s")).await;
    let first = claim_one(&*store).await;
    store.release(first.lease).await.unwrap();
    assert!(is_lost(store.release(first.lease).await));
    assert_eq!(store.task(id).await.unwrap().unwrap().state, TaskState::Queued);
    let second = claim_one(&*store).await;
    assert_eq!((second.lease.task, second.task.attempt, second.task.deaths), (id, 2, 0));
    finish(&*store, &second, 1).await;
    assert_eq!(claim_ids(&*store, 5).await, [waits]);
}

pub(crate) async fn a_task_ends_once_with_its_terminal_event<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let cases = [
        (Kind::Completed, TaskState::Completed),
        (Kind::Failed, TaskState::Failed),
        (Kind::Cancelled, TaskState::Cancelled),
    ];
    for (kind, state) in cases {
        let id = submit(&*store, task("s")).await;
        let claimed = claim_one(&*store).await;
        let end = event(&claimed, 4, kind, r#"{"what":"ever"}"#);
        store.finish(claimed.lease, end.clone()).await.unwrap();
        assert!(is_lost(store.finish(claimed.lease, end.clone()).await));
        assert!(is_lost(store.renew(claimed.lease, LEASE).await));
        let record = store.task(id).await.unwrap().unwrap();
        assert_eq!(
            (record.state, record.ended_ms, record.end.as_ref()),
            (state, Some(end.at_ms), Some(&end))
        );
        assert_eq!(store.read(id, Position::START, 10).await.unwrap(), [end]);
    }
    assert!(claim(&*store, 10).await.is_empty());
}

pub(crate) async fn cancelling_a_queued_task_ends_it_and_frees_its_session<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let id = submit(&*store, task("s")).await;
    let next = submit(&*store, task("s")).await;
    let outcome = store.cancel(id, "no \"longer\" wanted").await.unwrap();
    let CancelOutcome::Cancelled { agent, event } = outcome else { panic!("{outcome:?}") };
    assert_eq!(agent, "echo");
    assert_eq!((event.task, &event.session, &event.kind), (id, &session("s"), &Kind::Cancelled));
    assert_eq!((event.position, event.at_ms), (Position { attempt: 1, seq: 1 }, clock.now_ms()));
    assert_eq!(&*event.data, r#"{"reason":"no \"longer\" wanted"}"#);
    let record = store.task(id).await.unwrap().unwrap();
    assert_eq!((record.state, record.attempt, record.end.as_ref()), (TaskState::Cancelled, 0, Some(&*event)));
    assert_eq!(store.read(id, Position::START, 10).await.unwrap(), [*event]);
    assert_eq!(claim_ids(&*store, 10).await, [next]);
}

pub(crate) async fn cancelling_a_turn_in_the_middle_keeps_the_order_of_the_others<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(submit(&*store, task("s")).await);
    }
    let first = claim_one(&*store).await;
    store.cancel(turns[1], "").await.unwrap();
    assert!(claim(&*store, 10).await.is_empty());
    finish(&*store, &first, 1).await;
    let third = claim_one(&*store).await;
    assert_eq!(third.lease.task, turns[2]);
    finish(&*store, &third, 1).await;
    assert_eq!(claim_ids(&*store, 10).await, [turns[3]]);
}

pub(crate) async fn cancelling_a_running_task_tells_its_worker<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    assert_eq!(store.renew(claimed.lease, LEASE).await.unwrap(), None);
    assert_eq!(store.cancel(id, "first").await.unwrap(), CancelOutcome::Running);
    assert_eq!(store.cancel(id, "second").await.unwrap(), CancelOutcome::Running);
    assert_eq!(store.renew(claimed.lease, LEASE).await.unwrap().as_deref(), Some("first"));
    assert_eq!(store.task(id).await.unwrap().unwrap().state, TaskState::Running);
}

pub(crate) async fn the_wish_to_cancel_outlives_the_worker<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let id = submit(&*store, task("s")).await;
    claim_one(&*store).await;
    store.cancel(id, "please").await.unwrap();
    clock.advance(LONG);
    let claimed = claim_one(&*store).await;
    assert_eq!(claimed.cancel.as_deref(), Some("please"));
}

pub(crate) async fn cancelling_a_task_that_was_given_back_is_the_next_attempt<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    append(&*store, &claimed, 1..=3).await;
    store.release(claimed.lease).await.unwrap();
    store.cancel(id, "").await.unwrap();
    assert_eq!(places(&*store, id, Position::START, 10).await, [(1, 1), (1, 2), (1, 3), (2, 1)]);
}

pub(crate) async fn cancelling_what_has_ended_or_is_unknown_changes_nothing<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    finish(&*store, &claimed, 1).await;
    let before = store.task(id).await.unwrap();
    assert_eq!(store.cancel(id, "").await.unwrap(), CancelOutcome::Ended);
    assert_eq!(store.task(id).await.unwrap(), before);
    assert_eq!(store.cancel(TaskId::new(), "").await.unwrap(), CancelOutcome::Unknown);
}

pub(crate) async fn concurrent_claims_never_give_the_same_task_twice<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let all_accepted = Arc::new(AtomicBool::new(false));
    let claimers: Vec<_> = (0..8)
        .map(|_| {
            let (store, all_accepted) = (Arc::clone(&store), Arc::clone(&all_accepted));
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let last = all_accepted.load(Ordering::SeqCst);
                    let claimed = claim_ids(&*store, 3).await;
                    if claimed.is_empty() && last {
                        return mine;
                    }
                    mine.extend(claimed);
                }
            })
        })
        .collect();
    let mut accepted = BTreeSet::new();
    for n in 0..200 {
        accepted.insert(submit(&*store, task(&format!("s{n}"))).await);
    }
    all_accepted.store(true, Ordering::SeqCst);
    let mut claimed = Vec::new();
    for claimer in claimers {
        claimed.extend(claimer.await.unwrap());
    }
    assert_eq!(all_different(claimed), accepted);
}

pub(crate) async fn whoever_waits_for_tasks_is_woken<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let woken = |what: &'static str| {
        let store = Arc::clone(&store);
        async move {
            let wait = async {
                loop {
                    store.task_ready().await;
                    let claimed = claim(&*store, 1).await;
                    if let Some(claimed) = claimed.into_iter().next() {
                        return claimed;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what)
        }
    };
    let (first, _) = tokio::join!(woken("by a submission"), async {
        submit(&*store, task("s")).await;
        submit(&*store, task("s")).await
    });
    let (second, ()) = tokio::join!(woken("by the end of the turn before"), finish(&*store, &first, 1));
    let (third, _) =
        tokio::join!(woken("by a task that is given back"), async { store.release(second.lease).await });
    assert_eq!(third.lease.task, second.lease.task);
}

pub(crate) async fn a_session_knows_its_tasks_in_order<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let before = TaskId::new();
    let mut turns = Vec::new();
    for n in 0..5 {
        turns.push(submit(&*store, task("s")).await);
        submit(&*store, task(&format!("other {n}"))).await;
    }
    let listed = async |after, limit| store.session_tasks(&session("s"), after, limit).await.unwrap();
    assert_eq!(listed(None, 10).await, turns);
    assert_eq!(listed(None, 2).await, turns[..2]);
    assert_eq!(listed(Some(turns[1]), 2).await, turns[2..4]);
    assert_eq!(listed(Some(turns[4]), 2).await, []);
    // One that is not known (any more) is placed by its time.
    assert_eq!(listed(Some(before), 10).await, turns);
    assert_eq!(listed(Some(TaskId::new()), 10).await, []);
    assert_eq!(store.last_task(&session("s")).await.unwrap(), Some(turns[4]));
    assert_eq!(store.last_task(&session("none")).await.unwrap(), None);
    store.cancel(turns[2], "").await.unwrap();
    let open = async |before| store.open_tasks(&session("s"), before).await.unwrap();
    assert_eq!(open(None).await, [turns[0], turns[1], turns[3], turns[4]]);
    // One that has ended itself still has others before it.
    assert_eq!(open(Some(turns[2])).await, turns[..2]);
    assert_eq!(open(Some(turns[3])).await, turns[..2]);
    assert_eq!(open(Some(turns[0])).await, []);
    assert_eq!(open(Some(TaskId::new())).await, []);
}

pub(crate) async fn a_look_at_a_task_tells_whose_and_where_it_is<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let id = submit(&*store, task("s")).await;
    let agrees = async |state, end| {
        let status = store.status(id).await.unwrap().unwrap();
        assert_eq!((&*status.adapter, &*status.agent, &status.session), ("plug", "echo", &session("s")));
        assert_eq!((status.state, status.end), (state, end));
        let record = store.task(id).await.unwrap().unwrap();
        assert_eq!((record.state, record.end.map(|end| end.position)), (state, end));
    };
    agrees(TaskState::Queued, None).await;
    submit(&*store, task("s")).await;
    let claimed = claim_one(&*store).await;
    agrees(TaskState::Running, None).await;
    finish(&*store, &claimed, 7).await;
    agrees(TaskState::Completed, Some(Position { attempt: 1, seq: 7 })).await;
    let waiting = submit(&*store, task("s")).await;
    assert_eq!(store.status(waiting).await.unwrap().unwrap().state, TaskState::Queued);
    store.cancel(waiting, "").await.unwrap();
    assert_eq!(store.status(waiting).await.unwrap().unwrap().state, TaskState::Cancelled);
    assert_eq!(store.status(TaskId::new()).await.unwrap(), None);
}

pub(crate) async fn earlier_turns_are_the_completed_ones_before_the_task<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    let mut turns = Vec::new();
    for n in 0..6 {
        turns.push(submit(&*store, NewTask { input: format!("{n}").into(), ..task("s") }).await);
        submit(&*store, task("other")).await;
    }
    let kinds = [Kind::Completed, Kind::Failed, Kind::Completed, Kind::Cancelled, Kind::Completed];
    for kind in kinds {
        let claimed = claim(&*store, 2).await;
        let claimed = claimed.iter().find(|claim| claim.task.session == session("s")).unwrap();
        let data = format!(r#"{{"n":{}}}"#, claimed.task.input);
        store.finish(claimed.lease, event(claimed, 1, kind, &data)).await.unwrap();
    }
    let before = async |task, limit| -> Vec<(TaskId, String, String)> {
        let turns = store.turns_before(task, limit, usize::MAX).await.unwrap();
        turns.into_iter().map(|turn| (turn.task, turn.input.into(), turn.completed.into())).collect()
    };
    let turn = |n: usize| (turns[n], n.to_string(), format!(r#"{{"n":{n}}}"#));
    assert_eq!(before(turns[5], 10).await, [turn(0), turn(2), turn(4)]);
    assert_eq!(before(turns[5], 2).await, [turn(2), turn(4)]);
    assert_eq!(before(turns[2], 10).await, [turn(0)]);
    assert_eq!(before(TaskId::new(), 10).await, []);
}

pub(crate) async fn earlier_turns_are_the_latest_that_fit_in_the_bytes<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    // Bytes, not characters: 30 of input and 70 of data each, the second one twice as much.
    for n in 0..4 {
        let factor = if n == 1 { 2 } else { 1 };
        submit(&*store, NewTask { input: "ü".repeat(15 * factor).into(), ..task("s") }).await;
        let claimed = claim_one(&*store).await;
        let end = event(&claimed, 1, Kind::Completed, &"ü".repeat(35 * factor));
        store.finish(claimed.lease, end).await.unwrap();
    }
    let last = submit(&*store, task("s")).await;
    let before = async |limit, bytes| store.turns_before(last, limit, bytes).await.unwrap().len();
    assert_eq!(before(10, 99).await, 0);
    assert_eq!(before(10, 100).await, 1);
    assert_eq!(before(10, 200).await, 2);
    // Nothing is left out in the middle, though the first one would fit.
    assert_eq!(before(10, 399).await, 2);
    assert_eq!(before(10, 400).await, 3);
    assert_eq!((before(10, 500).await, before(3, 500).await), (4, 3));
}
