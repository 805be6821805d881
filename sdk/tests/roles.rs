//! The roles `delivery` and `filter`, as the host calls them.

use plugway_sdk::{mock::Mock, mock::Script, prelude::*};
use serde_json::json;
use std::time::Duration;

struct Mailer;

impl Delivery for Mailer {
    type Address = String;

    fn deliver(&self, task: TaskRef, address: String) -> Result<(), Failure> {
        http::post(&address).body(task.answer()?).send()?.ok()?;
        kv::put("sent", b"1", None)?;
        Ok(())
    }
}

plugway_sdk::export!(Mailer: delivery, name = "mailer", summary = "mails", version = "2.0.0", origins = ["https://a.example"]);

fn task(mock: &Mock) -> TaskId {
    mock.agent(|_| Script::reply(["Hi"]));
    Task::message("x")
        .deliver(&"https://a.example/in", Moment::Start)
        .submit()
        .expect("the mock takes it")
        .id
        .clone()
}

#[test]
fn what_failed_for_now_is_tried_again_and_what_can_not_work_is_not() {
    let mock = Mock::new();
    let task = task(&mock);
    mock.answer_next(Err(http::Error::Unreachable("refused".into())));
    let seconds = Duration::from_secs;
    assert_eq!(mock.deliver(&Mailer, &task), Err(Failure::retry(seconds(5), "unreachable: refused")));
    mock.answer_next(Err(http::Error::Denied("no".into())));
    assert!(matches!(mock.deliver(&Mailer, &task), Err(Failure::Permanent(_))));
    mock.agent(|_| Script::new().wait(Duration::from_secs(60)).completed("late"));
    let slow = Task::message("x").deliver(&"https://a.example/in", Moment::Start).submit().unwrap();
    mock.close_after(Duration::from_secs(30), Reason::Draining);
    assert_eq!(
        mock.deliver(&Mailer, &slow.id),
        Err(Failure::retry(Duration::ZERO, "exchange closed: draining"))
    );
    let busy = Error::Unavailable { reason: "502".into(), message: None, retry_after: Some(seconds(7)) };
    assert_eq!(Failure::from(busy), Failure::retry(seconds(7), "502"));
}

struct Teller;

impl Delivery for Teller {
    type Address = String;

    fn deliver(&self, _task: TaskRef, _address: String) -> Result<(), Failure> {
        Err(Failure::permanent("blocked"))
    }

    fn given_up(&self, task: TaskRef, address: String, reason: &str) -> Result<()> {
        let told = json!({"task": task.id, "error": reason});
        webhooks::post(Some(&address), &told, task.id.as_str())?;
        Ok(())
    }
}

plugway_sdk::export!(Teller: delivery, name = "teller");

#[test]
fn whoever_waits_for_a_delivery_that_is_given_up_can_be_told() {
    let mock = Mock::new();
    let task = task(&mock);
    mock.give_up(&Teller, &task, "given up after 1day: 502").unwrap();
    assert_eq!(mock.webhooks()[0].body, json!({"task": task, "error": "given up after 1day: 502"}));
    assert_eq!(mock.give_up(&Mailer, &task, "blocked"), Ok(()), "by default nobody is told");
}

#[test]
fn a_host_that_dies_leaves_what_was_done() {
    let mock = Mock::new();
    let task = task(&mock);
    mock.outgoing(|_| Ok(Response::empty(204)));
    mock.deliver(&Mailer, &task).unwrap();
    let imports = mock.imports_called();
    let mut sent = mock.sent().len();
    for imports in 1..imports {
        kv::delete("sent").unwrap();
        assert_eq!(mock.deliver_and_kill(&Mailer, &task, imports), None);
        let stored = mock.stored_keys().len();
        let left = mock.sent().len() - sent;
        assert!(stored <= left, "stored only after it was sent");
        sent += left;
    }
}

#[test]
fn the_manifest_says_what_the_options_say() {
    let manifest = Mailer::manifest();
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("mailer", "2.0.0"));
    assert_eq!((manifest.summary.as_str(), manifest.origins.len()), ("mails", 1));
}

struct Censor;

impl Filter for Censor {
    fn admit(&self, input: &str) -> Admission {
        match input {
            input if input.contains("bomb") => Admission::Refuse("not here".into()),
            input if input.contains("darn") => Admission::Replace(input.replace("darn", "****")),
            _ => Admission::Pass,
        }
    }

    fn apply(&self, _task: &str, state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
        state.push(1);
        match event.kind.as_str() {
            "thinking" => Vec::new(),
            "completed" => {
                let count =
                    Draft { kind: "progress".into(), data: json!({"message": state.len()}).to_string() };
                vec![count, event]
            }
            _ => vec![event],
        }
    }
}

plugway_sdk::export!(Censor: filter);

#[test]
fn a_filter_drops_inserts_and_remembers_by_its_state() {
    let mock = Mock::new();
    let filter = mock.filter(&Censor);
    assert_eq!(filter.admit(&json!({"text": "a bomb"})), Admission::Refuse("not here".into()));
    assert_eq!(filter.admit(&json!({"text": "darn"})), Admission::Replace(r#"{"text":"****"}"#.into()));
    assert_eq!(filter.admit(&json!({"text": "fine"})), Admission::Pass);
    let events =
        filter.run(&[("thinking", json!({})), ("response_chunk", json!({})), ("completed", json!({}))]);
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["response_chunk", "progress", "completed"]);
    assert_eq!(events[1].data, r#"{"message":3}"#);
}
