//! Following tasks: order, gaps, restarts, ends, and the clock that goes with it.

use plugway_sdk::{mock::Mock, mock::Script, prelude::*};
use serde_json::{Value, json};
use std::time::Duration;

fn names(events: Events) -> Vec<String> {
    events.map(|event| event.map_or_else(|error| error.to_string(), |event| event.name)).collect()
}

fn submit() -> Submitted {
    Task::message("x").submit().expect("the mock takes it")
}

#[test]
fn events_come_in_order_and_end_with_the_task() {
    let mock = Mock::new();
    mock.agent(|_| {
        Script::new().started().every(Duration::from_secs(1)).thinking("hm").chunks(["a"]).completed("a")
    });
    let start = mock.now();
    let task = submit();
    assert_eq!(names(task.events()), ["started", "thinking", "response_chunk", "completed"]);
    assert_eq!(mock.now().duration_since(start).unwrap(), Duration::from_secs(3));
    assert_eq!(task.describe().unwrap().unwrap()["state"], "completed");
}

#[test]
fn what_is_lost_is_told_and_followed_by_the_rest() {
    let mock = Mock::new();
    mock.agent(|_| Script::new().started().lost(2).chunks(["a", "b", "c"]).completed("abc"));
    let task = submit();
    let expected = ["started", "events 2 to 3 are lost", "response_chunk", "completed"];
    assert_eq!(names(task.events()), expected);
    assert_eq!(names(task.events()), expected, "following again does not bring it back");
    assert_eq!(task.answer().unwrap(), "abc", "what the agent completed with is whole");
    let pieces: Vec<_> = task.events().text().collect();
    assert_eq!(pieces, [Err(Error::Gap { first: 2, last: 3 })]);
}

#[test]
fn an_answer_is_whole_or_an_error() {
    let mock = Mock::new();
    let answer = |script: Script| {
        mock.agent(move |_| script.clone());
        (submit().answer(), submit().events().text().collect::<Result<Vec<_>>>())
    };
    let begun = || Script::new().started().chunks(["old "]);
    assert_eq!(
        answer(begun().wait(Duration::from_secs(5)).restart().chunks(["n", "ew"]).completed("new")),
        (Ok("new".into()), Err(Error::Restarted))
    );
    assert_eq!(answer(begun().completed("")), (Ok("old ".into()), Ok(vec!["old ".into()])));
    assert_eq!(answer(Script::new().started().completed("all")), (Ok("all".into()), Ok(vec!["all".into()])));
    assert_eq!(answer(begun().lost(1).chunks(["x"]).completed("")).0, Err(Error::Gap { first: 3, last: 3 }));
    let (whole, pieces) = answer(begun().failed("fell over", "agent_error"));
    let failed = Error::Failed { error_type: "agent_error".into(), reason: "fell over".into() };
    assert_eq!((whole, pieces), (Err(failed.clone()), Err(failed)));
    let (whole, pieces) = answer(begun().cancelled("asked to"));
    assert_eq!(
        (whole, pieces),
        (Err(Error::Cancelled("asked to".into())), Err(Error::Cancelled("asked to".into())))
    );
}

#[test]
fn following_from_a_cursor_goes_on_behind_it() {
    let mock = Mock::new();
    mock.agent(|_| Script::reply(["a", "b"]));
    let task = submit();
    let mut events = task.events();
    events.next();
    events.next();
    let cursor = events.cursor().cloned();
    assert_eq!(names(task.follow(cursor)), ["response_chunk", "completed"]);
}

#[test]
fn a_cursor_of_a_voided_run_starts_the_present_one_from_its_beginning() {
    let mock = Mock::new();
    mock.agent(|_| {
        Script::new().started().chunks(["a", "b"]).wait(Duration::from_secs(5)).restart().completed("c")
    });
    let task = submit();
    let mut events = task.events();
    events.next();
    let cursor = events.cursor().cloned();
    mock.advance(Duration::from_secs(10));
    let attempts: Vec<u32> = task.follow(cursor).map(|event| event.unwrap().attempt).collect();
    assert_eq!(attempts, [2, 2]);
}

#[test]
fn waiting_is_bounded_by_the_timeout() {
    let mock = Mock::new();
    mock.agent(|_| Script::new().started().wait(Duration::from_secs(10)).completed(""));
    let mut events = submit().events();
    assert!(matches!(events.next_within(None), Ok(Next::Event(_))));
    assert!(matches!(events.next_within(Some(Duration::from_secs(4))), Ok(Next::Quiet)));
    assert!(matches!(events.next_within(Some(Duration::from_secs(7))), Ok(Next::Event(_))));
    assert!(matches!(events.next_within(None), Ok(Next::Ended)));
    assert!(matches!(events.next_within(None), Ok(Next::Ended)), "and stays so");
}

#[test]
fn waiting_is_bounded_however_much_arrives_for_others() {
    let mock = Mock::new();
    let second = Duration::from_secs(1);
    mock.agent(move |task| match task.text() {
        "busy" => Script::new().started().every(second).chunks(["."; 1_000]).completed(""),
        _ => Script::new().started(),
    });
    let (quiet, busy) = (Task::message("quiet").submit().unwrap(), Task::message("busy").submit().unwrap());
    let (mut quiet, busy) = (quiet.events(), busy.events());
    assert!(matches!(quiet.next_within(Some(3 * second)), Ok(Next::Event(_))));
    let start = mock.now();
    assert!(matches!(quiet.next_within(Some(3 * second + second / 2)), Ok(Next::Quiet)));
    let waited = mock.now().duration_since(start).unwrap();
    assert_eq!(waited, 3 * second + second / 2);
    assert_eq!(names(busy).len(), 1_002, "nothing of the other's is lost");
}

#[test]
fn what_nobody_knows_is_not_said_to_be_unknown() {
    let mock = Mock::new();
    let task = submit();
    mock.break_storage(Some("the disk is full"));
    let unavailable = Error::unavailable("the disk is full");
    assert_eq!(task.cancel(), Err(unavailable.clone()));
    assert_eq!(task.describe(), Err(unavailable.clone()));
    assert_eq!(plugway_sdk::cancel_session(&task.session), Err(unavailable.clone()));
    assert_eq!(task.events().next().unwrap().unwrap_err(), unavailable);
    mock.break_storage(None);
    let foreign = submit().events().last().unwrap().unwrap().cursor;
    assert!(matches!(task.follow(Some(foreign)).next(), Some(Err(Error::BadRequest { .. }))));
    assert_eq!(TaskRef::new("nobody").describe(), Ok(None));
}

#[test]
fn two_tasks_are_followed_side_by_side() {
    let mock = Mock::new();
    mock.agent(|task| Script::new().started().chunks([task.text()]).completed(task.text()));
    let (first, second) = (Task::message("1").submit().unwrap(), Task::message("2").submit().unwrap());
    let (mut one, two) = (first.events(), second.events());
    one.next();
    assert_eq!(names(two), ["started", "response_chunk", "completed"]);
    assert_eq!(names(one), ["response_chunk", "completed"]);
}

#[test]
fn waiting_sets_aside_what_arrives() {
    let mock = Mock::new();
    mock.agent(|_| Script::reply(["a"]));
    let events = submit().events();
    mailbox::wait(Duration::from_secs(30)).unwrap();
    assert_eq!(names(events), ["started", "response_chunk", "completed"]);
}

#[test]
fn a_cancelled_task_ends_so() {
    let mock = Mock::new();
    mock.agent(|_| Script::new().started().wait(Duration::from_secs(10)).completed("late"));
    let task = submit();
    assert_eq!((task.cancel(), task.cancel()), (Ok(true), Ok(false)));
    assert_eq!(names(task.events()), ["started", "cancelled"]);
    assert_eq!(plugway_sdk::cancel_session(&task.session), Ok(0));
}

#[test]
fn an_unknown_task_is_not_found() {
    let _mock = Mock::new();
    let mut events = TaskRef::new("nobody").events();
    assert!(matches!(events.next(), Some(Err(Error::NotFound(_)))));
    assert!(events.next().is_none());
}

#[test]
fn payloads_are_read_leniently_and_nothing_is_lost() {
    let kind = |kind: &str, data: serde_json::Value| EventKind::parse(kind, &data.to_string());
    let EventKind::ToolStarted(tool) = kind(
        "tool_started",
        json!({"call_id": "c", "tool_name": "t", "parameters": {"a": 1}, "arguments": "{\"a\":1}", "executor": "client"}),
    ) else {
        panic!()
    };
    assert_eq!((tool.executor, &tool.parameters["a"]), (plugway_sdk::Executor::Client, &json!(1)));

    let EventKind::Completed(done) = kind("completed", json!({"text": null, "messages": null})) else {
        panic!()
    };
    assert!(done.text.is_empty() && done.messages.is_empty());

    let EventKind::ResponseChunk(chunk) = EventKind::parse("response_chunk", r#"{"text":"a\nb \"c\""}"#)
    else {
        panic!()
    };
    assert_eq!(chunk.text, "a\nb \"c\"");

    for text in ["", "a\tb\\c/\r\n", "\u{1}\u{7f}", "ä🦀", "\"", "\\", "\\\"", "a\",\"b\":\"c"] {
        let EventKind::ResponseChunk(chunk) = kind("response_chunk", json!({"text": text})) else {
            panic!("{text:?}")
        };
        assert_eq!(chunk.text, text);
        let with_more = kind("response_chunk", json!({"text": text, "zzz": "\\"}));
        assert_eq!(with_more, EventKind::ResponseChunk(chunk));
    }
    for broken in [r#"{"text":"a\"}"#, r#"{"text":"\x"}"#, r#"{"text":"a"b"}"#, r#"{"text":""#] {
        assert!(matches!(EventKind::parse("response_chunk", broken), EventKind::Unknown { .. }), "{broken}");
    }
    for (data, text) in [
        (r#"{"text":"a\"}","raw":{"text":"b","x":[{"y":"\\"}]}}"#, "a\"}"),
        (r#"{"text":"a","raw":null}"#, "a"),
        (r#"{"text":"a","raw":{},"text":"b"}"#, "b"),
        (r#"{"raw":{"text":"b"},"text":"a"}"#, "a"),
    ] {
        let EventKind::ResponseChunk(chunk) = EventKind::parse("response_chunk", data) else {
            panic!("{data}")
        };
        assert_eq!(chunk.text, text, "{data}");
    }
    assert!(matches!(kind("response_chunk", json!({"text": 7})), EventKind::Unknown { .. }));
    // What nobody asks for may be what it will; what can't be read is null, and its event is not lost.
    let deep = "[".repeat(200) + &"]".repeat(200);
    let many = format!("[{}1]", "1,".repeat(60_000));
    for odd in [r#""\ud83d""#, "1e999", deep.as_str(), many.as_str()] {
        let data = format!(r#"{{"call_id":"c","arguments":"{{}}","parameters":{odd},"raw":{{"x":{odd}}}}}"#);
        let EventKind::ToolStarted(tool) = EventKind::parse("tool_started", &data) else { panic!("{data}") };
        assert_eq!((tool.call_id.as_str(), tool.parameters), ("c", Value::Null), "{data}");
        let data = format!(r#"{{"error":"boom \ud83d","raw":{{"x":{odd}}}}}"#);
        let EventKind::Failed(failed) = EventKind::parse("failed", &data) else { panic!("{data}") };
        assert_eq!(failed.error, "boom \u{FFFD}");
    }
    assert!(
        matches!(kind("failed", json!({"error": 7})), EventKind::Failed(_)),
        "a terminal event stays terminal"
    );
    assert!(matches!(kind("workflow_start", json!({})), EventKind::Unknown { .. }));
}

#[test]
fn idempotency_names_the_same_task() {
    let mock = Mock::new();
    let submit = || Task::message("x").idempotency_key("k").submit().unwrap();
    let (first, second) = (submit(), submit());
    assert_eq!((&first.id, first.duplicate, second.duplicate), (&second.id, false, true));
    assert_eq!(mock.submissions().len(), 1);
}

#[test]
fn pacing_moves_the_clock_and_refuses_what_would_take_too_long() {
    let mock = Mock::new();
    let second = Duration::from_secs(1);
    let start = mock.now();
    assert_eq!(pacing::acquire("a", 2, second, Duration::ZERO), Ok(true));
    assert_eq!(pacing::acquire("a", 2, second, Duration::ZERO), Ok(true));
    assert_eq!(pacing::acquire("a", 2, second, Duration::ZERO), Ok(false));
    assert_eq!(pacing::acquire("b", 1, second, Duration::ZERO), Ok(true));
    assert_eq!(pacing::acquire("a", 2, second, second), Ok(true));
    assert_eq!(mock.now().duration_since(start).unwrap(), second);
    pacing::pause("a", second * 60).unwrap();
    assert_eq!(pacing::acquire("a", 2, second, second * 59), Ok(false));
}

#[test]
fn entries_grow_old_and_versions_guard_them() {
    let mock = Mock::new();
    kv::put_json("k", &1, Some(Duration::from_secs(5))).unwrap();
    assert_eq!(kv::update("k", None, |count: &mut u32| *count += 1), Ok(2));
    kv::put("old", b"x", Some(Duration::from_secs(5))).unwrap();
    assert_eq!(kv::keys("", None, 10).unwrap(), ["k", "old"]);
    mock.advance(Duration::from_secs(6));
    assert_eq!(kv::get("old"), Ok(None));
    assert_eq!(kv::keys("", None, 10).unwrap(), ["k"]);
    assert!(matches!(kv::cas("k", b"x", 0, None), Err(kv::Error::Conflict { .. })));
    kv::put("k", b"x", None).unwrap();
    assert!(matches!(kv::get_json::<u32>("k"), Err(kv::Error::Malformed(_))));
}

#[test]
fn secrets_are_compared_and_put_in_by_the_host() {
    let mock = Mock::new();
    mock.secret("token", "t0p");
    mock.outgoing(|_| Ok(Response::empty(204)));
    assert!(
        host::secret_equals("token", "t0p")
            && !host::secret_equals("token", "t0")
            && !host::has_secret("other")
    );
    http::get("https://a.example/{secret:token}").send().unwrap();
    assert!(matches!(http::get("https://a.example/{secret:other}").send(), Err(http::Error::Denied(_))));
    assert_eq!(mock.sent().len(), 1);
    assert_eq!(mock.sent()[0].url, "https://a.example/{secret:token}");
}
