//! What may be submitted, and what cancelling does.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::{AgentInfo, Beginning, Config, Limits, OnBusy, SubmitError, SubmitRequest, Tasks, beginning};
use crate::domain::{
    AgentEvent, Clock, DeliveryOrder, ErrorType, Kind, Moment, Position, SessionId, TaskId, TaskRecord,
    TaskState,
};
use crate::hub::{Hub, Step};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Except, Outbox, Store, TaskQueue};

struct Office {
    _dir: TempDir,
    store: Arc<SqliteStore>,
    hub: Hub,
    tasks: Tasks,
}

fn agent(name: &str, default: bool) -> AgentInfo {
    AgentInfo { name: name.into(), summary: String::new(), default }
}

fn office(queue_limit: u64, config: Config) -> Office {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { queue_limit, clock: Clock::manual(1_000_000), ..Options::default() };
    let store = Arc::new(SqliteStore::open(dir.path(), options).unwrap());
    let hub = Hub::new(store.clone(), Default::default());
    let agents = vec![agent("first", false), agent("usual", true)];
    let tasks = Tasks::new(store.clone(), hub.clone(), agents, crate::filters::Filters::none(), config);
    Office { _dir: dir, store, hub, tasks }
}

fn says(text: &str) -> SubmitRequest {
    SubmitRequest {
        input: json!({ "kind": "message", "text": text }).to_string(),
        ..SubmitRequest::default()
    }
}

fn to(session: &str) -> SubmitRequest {
    SubmitRequest { session: Some(session.into()), ..says("hi") }
}

#[tokio::test(start_paused = true)]
async fn a_submission_fills_in_agent_and_session() {
    let office = office(10, Config::default());
    let submitted = office.tasks.submit("plug", says("hi")).await.unwrap();
    let record = office.tasks.task(submitted.task).await.unwrap().unwrap();
    assert_eq!((&*record.agent, &*record.adapter, record.session.owner()), ("usual", "plug", "plug"));
    assert_eq!(record.session, submitted.session);
    let other = office.tasks.submit("plug", says("hi")).await.unwrap();
    assert_ne!(other.session, submitted.session);
    let named = SubmitRequest { agent: Some("first".into()), ..to("s") };
    let named = office.tasks.submit("plug", named).await.unwrap();
    assert_eq!(named.session, SessionId::new("plug", "s").unwrap());
    assert_eq!(office.tasks.task(named.task).await.unwrap().unwrap().agent, "first");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acceptable_is_refused_by_name_and_changes_nothing() {
    let office = office(10, Config { max_input: 200, ..Config::default() });
    let refused = async |request: SubmitRequest| office.tasks.submit("plug", request).await.unwrap_err();
    let field = async |request| match refused(request).await {
        SubmitError::Invalid(invalid) => invalid.field,
        other => panic!("{other}"),
    };
    let agent = SubmitRequest { agent: Some("nobody".into()), ..says("hi") };
    assert!(matches!(refused(agent).await, SubmitError::UnknownAgent(name) if name == "nobody"));
    assert!(matches!(refused(says(&"x".repeat(300))).await, SubmitError::TooLarge { max: 200, .. }));
    assert_eq!(field(SubmitRequest { input: "{".into(), ..SubmitRequest::default() }).await, None);
    let no_text = SubmitRequest { input: r#"{"kind":"message"}"#.into(), ..SubmitRequest::default() };
    assert_eq!(field(no_text).await.as_deref(), Some("text"));
    assert_eq!(field(to("")).await.as_deref(), Some("session"));
    assert_eq!(field(to(&"s".repeat(513))).await.as_deref(), Some("session"));
    let key = |key: &str| SubmitRequest { idempotency_key: Some(key.into()), ..says("hi") };
    assert_eq!(field(key("")).await.as_deref(), Some("idempotency_key"));
    assert_eq!(field(key(&"k".repeat(513))).await.as_deref(), Some("idempotency_key"));
    let order = DeliveryOrder { address: "a".repeat(70_000), at: Moment::End };
    let deliver = SubmitRequest { deliver: Some(order), ..says("hi") };
    assert_eq!(field(deliver).await.as_deref(), Some("deliver.address"));
    assert_eq!(office.store.backlog().await.unwrap().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_when_to_come_back_and_still_knows_duplicates() {
    let office = office(1, Config::default());
    let keyed = SubmitRequest { idempotency_key: Some("k".into()), ..says("hi") };
    let first = office.tasks.submit("plug", keyed.clone()).await.unwrap();
    let error = office.tasks.submit("plug", says("hi")).await.unwrap_err();
    assert!(matches!(error, SubmitError::Busy { retry_after } if retry_after == Duration::from_secs(2)));
    let again = office.tasks.submit("plug", keyed).await.unwrap();
    assert_eq!((again.task, again.duplicate), (first.task, true));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_once_the_gateway_is_about_to_stop() {
    let office = office(10, Config::default());
    office.tasks.stop_accepting();
    let error = office.tasks.submit("plug", says("hi")).await.unwrap_err();
    assert!(matches!(error, SubmitError::Unavailable(_)));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_queued_task_is_heard_to_end_at_once() {
    let office = office(10, Config::default());
    let task = office.tasks.submit("plug", says("hi")).await.unwrap().task;
    let mut follower = office.hub.follow(task, Position::START);
    let mut entries = Vec::new();
    let began = tokio::time::Instant::now();
    let (step, cancelled) = tokio::join!(follower.next(&mut entries, 9), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        office.tasks.cancel(task, "no").await.unwrap()
    });
    assert!(cancelled && matches!(step.unwrap(), Step::Events { .. }));
    assert_eq!(entries[0].event().kind, Kind::Cancelled);
    assert!(began.elapsed() < Duration::from_millis(500));
    assert!(!office.tasks.cancel(task, "no").await.unwrap());
    assert!(!office.tasks.cancel(TaskId::new(), "no").await.unwrap());
    let document = Tasks::document(&office.tasks.task(task).await.unwrap().unwrap());
    assert_eq!((&document["state"], &document["result"]), (&json!("cancelled"), &json!({ "reason": "no" })));
    assert_eq!(document["started_at"], json!(null));
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_session_stops_all_that_is_open_in_it() {
    let office = office(10, Config::default());
    let mut turns = Vec::new();
    for _ in 0..3 {
        turns.push(office.tasks.submit("plug", to("s")).await.unwrap().task);
    }
    let other = office.tasks.submit("plug", to("t")).await.unwrap();
    let session = SessionId::new("plug", "s").unwrap();
    assert_eq!(office.tasks.cancel_session(&session, "all").await.unwrap(), 3);
    assert_eq!(office.tasks.cancel_session(&session, "all").await.unwrap(), 0);
    for turn in turns {
        assert_eq!(office.tasks.task(turn).await.unwrap().unwrap().state, TaskState::Cancelled);
    }
    let claims = office.store.claim(10, Duration::from_secs(1)).await.unwrap().items;
    assert_eq!(claims.iter().map(|claim| claim.lease.task).collect::<Vec<_>>(), [other.task]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_counted_without_another_look_at_it() {
    let office = office(10, Config::default());
    let task = office.tasks.submit("plug", says("hi")).await.unwrap().task;
    office.store.stop_reading();
    assert!(office.tasks.cancel(task, "no").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_can_not_be_cancelled_does_not_keep_the_others_from_it() {
    let office = office(10, Config::default());
    let mut turns = Vec::new();
    for _ in 0..3 {
        turns.push(office.tasks.submit("plug", to("s")).await.unwrap().task);
    }
    office.store.damage(turns[1]).await;
    let session = SessionId::new("plug", "s").unwrap();
    office.tasks.cancel_session(&session, "all").await.unwrap_err();
    for turn in [turns[0], turns[2]] {
        assert_eq!(office.tasks.status(turn).await.unwrap().unwrap().state, TaskState::Cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_has_ended_already_interrupts_none_after_it() {
    let office = office(10, Config::default());
    let before = office.tasks.submit("plug", to("s")).await.unwrap().task;
    let submitted = office.tasks.submit("plug", to("s")).await.unwrap();
    office.tasks.cancel(submitted.task, "").await.unwrap();
    let after = office.tasks.submit("plug", to("s")).await.unwrap().task;
    office.tasks.interrupt_earlier(&submitted).await;
    let state = async |task| office.tasks.status(task).await.unwrap().unwrap().state;
    assert_eq!((state(before).await, state(after).await), (TaskState::Cancelled, TaskState::Queued));
}

#[tokio::test(start_paused = true)]
async fn where_so_configured_a_new_turn_interrupts_those_before_it() {
    let office = office(10, Config { on_busy: OnBusy::Interrupt, ..Config::default() });
    let running = office.tasks.submit("plug", to("s")).await.unwrap().task;
    let claim = office.store.claim(1, Duration::from_secs(9)).await.unwrap().items.remove(0);
    let waiting = office.tasks.submit("plug", to("s")).await.unwrap().task;
    let latest = office.tasks.submit("plug", to("s")).await.unwrap().task;
    let elsewhere = office.tasks.submit("plug", to("t")).await.unwrap().task;
    let state = async |task| office.tasks.task(task).await.unwrap().unwrap().state;
    assert_eq!(state(running).await, TaskState::Running);
    assert!(office.store.renew(claim.lease, Duration::from_secs(9)).await.unwrap().is_some());
    assert_eq!(state(waiting).await, TaskState::Cancelled);
    assert_eq!((state(latest).await, state(elsewhere).await), (TaskState::Queued, TaskState::Queued));
}

#[tokio::test(start_paused = true)]
async fn what_the_agent_has_asked_for_neither_interrupts_nor_is_lost_to_a_message() {
    let office = office(10, Config { on_busy: OnBusy::Interrupt, ..Config::default() });
    let answers = [
        r#"{"kind":"tool_result","results":[{"call_id":"c","result":1}]}"#,
        r#"{"kind":"decision","call_id":"c","decision":"approve"}"#,
        r#"{"kind":"control","name":"switch_agent"}"#,
    ];
    let submit = async |input: &str| {
        let request = SubmitRequest { input: input.to_owned(), ..to("s") };
        office.tasks.submit("plug", request).await.unwrap().task
    };
    let running = office.tasks.submit("plug", to("s")).await.unwrap().task;
    let lease = office.store.claim(1, Duration::from_secs(9)).await.unwrap().items.remove(0).lease;
    assert_eq!(lease.task, running);
    let mut waiting = Vec::new();
    for answer in answers {
        waiting.push(submit(answer).await);
    }
    assert_eq!(office.store.renew(lease, Duration::from_secs(9)).await.unwrap(), None, "it runs on");
    let message = office.tasks.submit("plug", to("s")).await.unwrap().task;
    assert!(office.store.renew(lease, Duration::from_secs(9)).await.unwrap().is_some());
    for task in waiting.into_iter().chain([message]) {
        assert_eq!(office.tasks.status(task).await.unwrap().unwrap().state, TaskState::Queued);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_still_delivered() {
    let office = office(10, Config::default());
    let order = DeliveryOrder { address: "chat 7".into(), at: Moment::Start };
    let request = SubmitRequest { deliver: Some(order), ..says("hi") };
    let task = office.tasks.submit("plug", request).await.unwrap().task;
    office.tasks.cancel(task, "").await.unwrap();
    let due =
        office.store.claim_deliveries(5, Duration::from_secs(1), &Except::default()).await.unwrap().items;
    assert_eq!(due.len(), 1);
}

fn record(deaths: u32, input: &str) -> TaskRecord {
    TaskRecord {
        id: TaskId::new(),
        adapter: "plug".into(),
        agent: "usual".into(),
        session: SessionId::fresh("plug"),
        input: input.into(),
        state: TaskState::Running,
        attempt: deaths + 1,
        deaths,
        created_ms: 0,
        started_ms: Some(0),
        ended_ms: None,
        end: None,
    }
}

#[test]
fn a_claim_leads_to_a_run_or_to_an_end() {
    const INPUT: &str = r#"{"kind":"message","text":"hi"}"#;
    let limits = |max_attempts, retry_on_crash| Some(Limits { max_attempts, retry_on_crash });
    let error_type = |beginning| match beginning {
        Beginning::Run(_) => None,
        Beginning::Fail(AgentEvent::Failed { error_type, .. }) => Some(error_type),
        other => panic!("{other:?}"),
    };
    let cases = [
        (record(0, INPUT), limits(3, true), None),
        (record(2, INPUT), limits(3, true), None),
        (record(3, INPUT), limits(3, true), Some(ErrorType::Abandoned)),
        (record(0, INPUT), limits(3, false), None),
        (record(1, INPUT), limits(3, false), Some(ErrorType::Abandoned)),
        (record(0, INPUT), limits(0, true), None),
        (record(1, INPUT), limits(0, true), Some(ErrorType::Abandoned)),
        (record(0, "{}"), limits(3, true), Some(ErrorType::InvalidInput)),
        (record(0, INPUT), None, Some(ErrorType::UnknownAgent)),
    ];
    for (task, limits, expected) in cases {
        assert_eq!(
            error_type(beginning(&task, None, limits)),
            expected,
            "{} deaths, {limits:?}",
            task.deaths
        );
    }
    let cancelled = beginning(&record(9, "{}"), Some("enough"), None);
    assert_eq!(cancelled, Beginning::Cancel { reason: "enough".into() });
}
