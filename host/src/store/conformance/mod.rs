//! What every store owes, as tests: one function a promise, run for each implementation by [`conformance_suite!`].
//!
//! The cases know the traits and nothing else. Time stands still unless a case moves it.

mod kv;
mod log;
mod outbox;
mod queue;
mod upkeep;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use {kv::*, log::*, outbox::*, queue::*, upkeep::*};

use super::{Claim, Delivery, Except, Store, StoreError};
use crate::domain::{Clock, DeliveryOrder, Event, Kind, Moment, NewTask, Position, SessionId, TaskId};

/// A store of the kind under test in a place of its own, with a manual clock.
pub(crate) trait Fixture: Sized {
    /// An empty store with a queue of that size.
    fn new(queue_limit: u64) -> impl Future<Output = Self>;

    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Its clock.
    fn clock(&self) -> Clock;

    /// Closes the store and opens it again. No other handle may be in use.
    fn reopen(&mut self) -> impl Future<Output = ()>;

    /// Kills the process that uses the store, and opens it in another one. No other handle may be in use.
    fn crash(&mut self) -> impl Future<Output = ()>;
}

/// Runs every case for a [`Fixture`].
macro_rules! conformance_suite {
    ($fixture:ty) => {
        $crate::store::conformance::conformance_suite! { @each $fixture:
            accepted_tasks_are_handed_out_in_order,
            what_was_submitted_is_what_is_claimed,
            turns_of_a_session_run_one_after_the_other,
            the_session_whose_next_turn_was_accepted_first_comes_first,
            the_same_key_of_the_same_adapter_names_the_same_task,
            concurrent_submissions_of_one_key_make_one_task,
            a_full_queue_refuses_and_still_knows_duplicates,
            a_lease_that_ran_out_is_claimed_again_as_a_death,
            who_lost_the_lease_writes_nothing,
            a_renewed_lease_lasts_from_the_renewal,
            a_lease_that_nobody_took_can_still_be_used,
            a_claim_tells_when_the_next_lease_runs_out,
            whoever_sets_the_clock_neither_ends_nor_prolongs_a_lease,
            a_task_that_was_given_back_is_run_again_without_a_death,
            a_task_ends_once_with_its_terminal_event,
            cancelling_a_queued_task_ends_it_and_frees_its_session,
            cancelling_a_turn_in_the_middle_keeps_the_order_of_the_others,
            cancelling_a_running_task_tells_its_worker,
            the_wish_to_cancel_outlives_the_worker,
            cancelling_a_task_that_was_given_back_is_the_next_attempt,
            cancelling_what_has_ended_or_is_unknown_changes_nothing,
            concurrent_claims_never_give_the_same_task_twice,
            whoever_waits_for_tasks_is_woken,
            a_session_knows_its_tasks_in_order,
            a_look_at_a_task_tells_whose_and_where_it_is,
            earlier_turns_are_the_completed_ones_before_the_task,
            earlier_turns_are_the_latest_that_fit_in_the_bytes,
            events_are_read_in_order_from_a_place,
            a_started_run_voids_those_before,
            a_run_that_never_started_voids_nothing,
            events_of_a_run_that_is_over_are_dropped,
            what_was_appended_before_the_end_is_read_before_the_end,
            a_page_may_be_short_but_never_empty,
            events_of_many_tasks_do_not_mix,
            a_delivery_is_due_at_its_moment,
            a_start_delivery_of_a_task_that_never_ran_is_due_at_its_end,
            deliveries_of_a_session_leave_one_after_the_other,
            a_cancelled_turn_is_delivered_after_the_turns_before_it,
            a_webhook_key_is_sent_once,
            lanes_keep_their_order_and_do_not_wait_for_each_other,
            a_webhook_that_waits_for_another_try_holds_up_nobody,
            webhooks_beyond_the_room_of_their_origin_are_left,
            a_retry_waits_for_its_time,
            a_dead_letter_holds_up_nobody_and_can_be_replayed,
            a_replayed_letter_takes_its_turn_in_the_lane,
            a_delivery_lease_that_ran_out_is_claimed_again,
            a_renewed_delivery_lease_lasts_from_the_renewal,
            whoever_sets_the_clock_neither_delays_nor_hastens_a_delivery,
            plugins_that_are_left_out_keep_their_deliveries,
            concurrent_claims_never_give_the_same_delivery_twice,
            whoever_waits_for_deliveries_is_woken,
            a_kv_write_is_refused_unless_the_version_fits,
            a_kv_version_never_comes_back,
            an_expired_entry_is_absent,
            a_quota_counts_keys_and_values_and_what_is_gone_no_more,
            much_that_has_expired_at_once_makes_room_for_what_is_written,
            keys_are_listed_by_prefix_in_byte_order,
            owners_do_not_see_each_others_entries,
            events_are_forgotten_before_their_task,
            a_forgotten_task_frees_its_key,
            a_task_is_kept_while_it_is_being_delivered,
            settled_webhooks_and_dead_letters_are_forgotten,
            a_large_sweep_forgets_everything_that_is_due,
            a_sweep_of_large_things_forgets_everything_that_is_due,
            everything_survives_reopening,
            what_was_accepted_survives_a_crash,
            the_backlog_counts_what_waits,
            a_closed_store_says_so,
        }
    };
    (@each $fixture:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::store::conformance::$case::<$fixture>().await;
            }
        )*
    };
}
pub(crate) use conformance_suite;

/// Length of the leases that the cases take.
const LEASE: Duration = Duration::from_secs(30);
/// Longer than such a lease.
const LONG: Duration = Duration::from_secs(31);
/// Queue bound of the cases that are about something else.
const ROOMY: u64 = 100_000;

pub(crate) fn session(name: &str) -> SessionId {
    SessionId::new("plug", name).unwrap()
}

pub(crate) fn task(name: &str) -> NewTask {
    NewTask {
        id: TaskId::new(),
        adapter: "plug".into(),
        agent: "echo".into(),
        session: session(name),
        input: format!(r#"{{"kind":"message","text":"to {name}"}}"#).into(),
        deliver: None,
        idempotency_key: None,
    }
}

fn delivered(name: &str, at: Moment) -> NewTask {
    NewTask { deliver: Some(DeliveryOrder { address: format!("address of {name}"), at }), ..task(name) }
}

fn keyed(name: &str, key: &str) -> NewTask {
    NewTask { idempotency_key: Some(key.into()), ..task(name) }
}

/// Submits a task and returns its id.
async fn submit(store: &dyn Store, task: NewTask) -> TaskId {
    let submitted = store.submit(task).await.unwrap();
    assert!(!submitted.duplicate);
    submitted.task
}

async fn claim(store: &dyn Store, limit: usize) -> Vec<Claim> {
    store.claim(limit, LEASE).await.unwrap().items
}

async fn claim_ids(store: &dyn Store, limit: usize) -> Vec<TaskId> {
    claim(store, limit).await.into_iter().map(|claim| claim.lease.task).collect()
}

async fn claim_one(store: &dyn Store) -> Claim {
    let mut claims = claim(store, 1).await;
    assert_eq!(claims.len(), 1, "nothing to claim");
    claims.remove(0)
}

/// An event of the claimed run.
fn event(claim: &Claim, seq: u64, kind: Kind, data: &str) -> Event {
    Event {
        task: claim.task.id,
        session: claim.task.session.clone(),
        position: Position { attempt: claim.task.attempt, seq },
        kind,
        at_ms: 1_000 + seq,
        data: data.into(),
    }
}

/// Appends events with the given numbers; 1 is the `started`.
async fn append(store: &dyn Store, claim: &Claim, seqs: impl IntoIterator<Item = u64>) {
    let kind = |seq| if seq == 1 { Kind::Started } else { Kind::ResponseChunk };
    let events = seqs.into_iter().map(|seq| Arc::new(event(claim, seq, kind(seq), "{}"))).collect();
    store.append(events).await.unwrap();
}

async fn finish(store: &dyn Store, claim: &Claim, seq: u64) {
    store.finish(claim.lease, event(claim, seq, Kind::Completed, r#"{"text":"done"}"#)).await.unwrap();
}

/// Ends a claimed task at the clock's time.
async fn finish_now(store: &dyn Store, claim: &Claim, seq: u64, clock: &Clock) {
    let event = Event { at_ms: clock.now_ms(), ..event(claim, seq, Kind::Completed, "{}") };
    store.finish(claim.lease, event).await.unwrap();
}

/// Places of all that is read behind one, page by page.
async fn places(store: &dyn Store, task: TaskId, after: Position, page: usize) -> Vec<(u32, u64)> {
    let mut places = Vec::new();
    let mut at = after;
    loop {
        let events = store.read(task, at, page).await.unwrap();
        let Some(last) = events.last() else { return places };
        at = last.position;
        places.extend(events.iter().map(|event| (event.position.attempt, event.position.seq)));
    }
}

async fn deliveries(store: &dyn Store, limit: usize) -> Vec<Delivery> {
    store.claim_deliveries(limit, LEASE, &Except::default()).await.unwrap().items
}

async fn one_delivery(store: &dyn Store) -> Delivery {
    let mut deliveries = deliveries(store, 10).await;
    assert_eq!(deliveries.len(), 1, "{deliveries:?}");
    deliveries.remove(0)
}

fn is_lost<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::LeaseLost))
}

fn all_different<T: Ord>(things: Vec<T>) -> BTreeSet<T> {
    let count = things.len();
    let set: BTreeSet<T> = things.into_iter().collect();
    assert_eq!(set.len(), count, "something was handed out twice");
    set
}
