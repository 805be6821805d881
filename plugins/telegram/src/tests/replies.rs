//! What follows from what Telegram answers, or something in its place.

use super::bot_api::{Fault, Stage, group, long_text, private, words};
use plugway_sdk::{Failure, host::Level, mock::Script};
use serde_json::{Value, json};
use std::time::Duration;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn formatting_is_sent_as_markdownv2_and_as_plain_text_where_telegram_refuses_it() {
    let text = "**Bold** and `code`.";
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(text, 10));
    stage.deliver(&task, &[]).unwrap();
    let sent = &stage.calls("sendMessage")[0].body;
    assert_eq!((&sent["parse_mode"], &sent["text"]), (&json!("MarkdownV2"), &json!(r"*Bold* and `code`\.")));

    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(text, 10));
    stage.plan(|_, call| {
        call.body.get("parse_mode").map(|_| Fault::Refuse(400, "Bad Request: can't parse entities: whatever"))
    });
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), [text]);
    let callback = &stage.mock.webhooks()[0].body;
    assert_eq!(
        callback["messages"][0],
        json!({"chat_id": 5, "text": text, "parse_mode": null, "reply_to_message_id": 11})
    );
}

#[test]
fn whatever_telegram_has_against_a_formatted_text_it_is_tried_without() {
    for description in
        ["ENTITIES_TOO_LONG", "Bad Request: MEDIA_CAPTION_TOO_LONG", "Bad Request: something new"]
    {
        for fault in [None, Some(Fault::Refuse(400, description))] {
            let text = "see [one](https://a.example/x) and **bold**";
            let stage = Stage::new(json!({}));
            let task = stage.ask(&private(), words(text, 10));
            stage.plan(move |_, call| match call.body.get("parse_mode") {
                Some(_) => Some(Fault::Refuse(400, description)),
                None => fault.filter(|_| call.method == "sendMessage"),
            });
            let told = stage.deliver(&task, &[]);
            assert_eq!(stage.calls("sendMessage").len(), 2, "once formatted, once plain");
            match fault {
                None => assert_eq!((told, stage.texts()), (Ok(()), vec![text.to_owned()])),
                Some(_) => assert_eq!(told, Err(Failure::Permanent(format!("400 {description}")))),
            }
        }
    }
}

#[test]
fn a_settled_message_that_is_refused_for_its_formatting_does_not_hold_up_growth() {
    let text = format!("**Bold** {}", long_text(6_000));
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 100));
    stage.plan(|_, call| {
        call.body.get("parse_mode").map(|_| Fault::Refuse(400, "Bad Request: ENTITIES_TOO_LONG"))
    });
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts().join(" ").replace('\n', " "), text.replace('\n', " "));
    let second = stage.world.borrow().messages[1].clone();
    assert!(second.edits > 5, "the second message grew by {} edits", second.edits);
    assert_eq!(stage.mock.webhooks()[0].body["messages"][0]["parse_mode"], Value::Null);
}

#[test]
fn growth_that_is_refused_for_its_formatting_goes_on_plain() {
    let text = format!("**Bold** {}", long_text(900));
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 100));
    stage.plan(|_, call| {
        let formatted = call.body.get("parse_mode").is_some();
        formatted.then_some(Fault::Refuse(400, "Bad Request: can't parse entities: whatever"))
    });
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), [text]);
    assert!(stage.calls("editMessageText").len() > 3);
}

#[test]
fn drafts_that_are_refused_for_their_formatting_go_on_plain_and_pause_when_told_to() {
    let text = format!("**Bold** {}", long_text(900));
    let stage = Stage::new(json!({"drafts": true}));
    let task = stage.ask(&private(), words(&text, 100));
    let mut drafts = 0;
    stage.plan(move |_, call| {
        drafts += usize::from(call.method == "sendMessageDraft");
        let formatted = call.method == "sendMessageDraft" && call.body.get("parse_mode").is_some();
        match drafts {
            3 if call.method == "sendMessageDraft" => Some(Fault::Flood(5)),
            _ => formatted.then_some(Fault::Refuse(400, "Bad Request: can't parse entities: whatever")),
        }
    });
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.calls("sendMessage").len(), 1);
    let drafts = stage.calls("sendMessageDraft");
    assert!(drafts[1..].iter().all(|draft| draft.body.get("parse_mode").is_none()));
    assert!(drafts[3].at.duration_since(drafts[2].at).unwrap() >= seconds(5));
}

#[test]
fn a_missing_topic_is_done_without() {
    let chat = group();
    let stage = Stage::new(json!({}));
    stage.world.borrow_mut().threads.insert(77);
    for (thread, found) in [(77, true), (78, false)] {
        stage.mock.agent(|_| Script::reply(["Hi"]));
        let mut update = super::bot_api::update(thread, &chat, "?");
        update["message"]["message_thread_id"] = thread.into();
        update["message"]["is_topic_message"] = true.into();
        stage.webhook(&update);
        let submission = stage.mock.submissions().last().unwrap().clone();
        assert_eq!(submission.session, *format!("telegram:-100:{thread}"));
        stage.deliver(&submission.task, &[]).unwrap();
        let last = stage.world.borrow().messages.last().unwrap().body.clone();
        assert_eq!(last.get("message_thread_id").is_some(), found);
    }
    assert_eq!(stage.texts(), ["Hi", "Hi"]);
}

#[test]
fn an_answer_to_a_closed_topic_lands_nowhere_else() {
    for description in ["Bad Request: TOPIC_CLOSED", "Bad Request: topic closed"] {
        let stage = Stage::new(json!({}));
        let mut update = super::bot_api::update(1, &group(), "?");
        update["message"]["message_thread_id"] = 77.into();
        update["message"]["is_topic_message"] = true.into();
        stage.mock.agent(|_| Script::reply(["**Hi**"]));
        stage.webhook(&update);
        let task = stage.mock.submissions()[0].task.clone();
        stage.fail_method("sendMessage", Fault::Refuse(400, description));
        assert_eq!(stage.deliver(&task, &[]), Err(Failure::Permanent(format!("400 {description}"))));
        assert_eq!(stage.calls("sendMessage").len(), 1);
    }
}

#[test]
fn a_blocked_bot_is_a_permanent_failure_that_the_callback_tells_of() {
    for (code, description) in
        [(403, "Forbidden: bot was blocked by the user"), (400, "Bad Request: chat not found")]
    {
        let stage = Stage::new(json!({}));
        let task = stage.ask(&private(), words(&long_text(600), 100));
        stage.plan(move |_, _| Some(Fault::Refuse(code, description)));
        assert_eq!(stage.deliver(&task, &[]), Err(Failure::Permanent(format!("{code} {description}"))));
        assert_eq!(stage.mock.webhooks()[0].body["success"], false);
        assert_eq!(stage.calls("sendMessage").len(), 2, "once while it grew, once at the end");
    }
}

#[test]
fn a_token_that_is_not_granted_is_said_in_the_log_and_tried_again() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words("Hi.", 10));
    stage.plan(|_, _| Some(Fault::Refuse(401, "Unauthorized")));
    stage.assert_retry(&task, seconds(60), "sendMessage: 401 Unauthorized");
    assert!(stage.mock.has_logged(Level::Error, "401 Unauthorized"));
    stage.plan(|_, _| None);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!((stage.texts(), stage.maybe_twice(&task)), (vec!["Hi.".to_owned()], 0));
}

#[test]
fn a_group_that_moved_is_followed() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&group(), words("Hi there.", 10));
    stage.mock.answer_next(Ok(plugway_sdk::Response::json(200, &json!({"ok": true, "result": true}))));
    stage.mock.answer_next(Ok(plugway_sdk::Response::json(
        400,
        &json!({"ok": false, "error_code": 400, "description": "Bad Request: group chat was upgraded to a supergroup chat",
                "parameters": {"migrate_to_chat_id": -1001}}),
    )));
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.world.borrow().messages[0].chat, -1001);
}

#[test]
fn what_is_no_answer_of_the_bot_api_is_no_refusal() {
    for status in [302, 400, 401, 403, 404, 408, 413, 429, 451, 500, 502] {
        for method in ["sendMessage", "editMessageText"] {
            let text = long_text(300);
            let stage = Stage::new(json!({}));
            let task = stage.ask(&private(), words(&text, 100));
            let mut failed = 0;
            stage.plan(move |_, call| {
                failed += usize::from(call.method == method);
                (call.method == method && failed < 4).then_some(Fault::Page(status))
            });
            stage.deliver(&task, &[]).unwrap();
            assert_eq!((stage.texts(), stage.maybe_twice(&task)), (vec![text], 0), "{status} to {method}");
            let calls = stage.calls(method);
            for pair in calls.windows(2) {
                assert!(pair[1].at.duration_since(pair[0].at).unwrap() >= seconds(1), "{status} to {method}");
            }
        }
    }
}

#[test]
fn an_ok_that_can_not_be_read_is_an_ok() {
    let stage = Stage::new(json!({"stream": false}));
    let task = stage.ask(&private(), words(&long_text(5_000), 1));
    stage.fail_method("sendMessage", Fault::Spoilt);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts().join(" ").replace('\n', " "), long_text(5_000).replace('\n', " "));
    let page: Value = stage.mock.stored(&format!("delivery/{task}")).unwrap();
    assert_eq!((stage.calls("sendMessage").len(), &page["unread"]), (2, &json!(2)));
    assert!(stage.mock.has_logged(Level::Warn, "taken for sent"));
}

#[test]
fn growth_ends_where_the_id_of_its_message_can_not_be_read() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&long_text(600), 100));
    let mut spoilt = false;
    stage.plan(move |_, call| {
        (call.method == "sendMessage" && !std::mem::replace(&mut spoilt, true)).then_some(Fault::Spoilt)
    });
    stage.deliver(&task, &[]).unwrap();
    assert_eq!((stage.calls("editMessageText").len(), stage.maybe_twice(&task)), (0, 1));
    assert_eq!(stage.texts().last(), Some(&long_text(600)));
}

#[test]
fn a_server_that_tells_no_id_gets_the_answer_and_no_growth() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&long_text(600), 100));
    let ok = || Ok(plugway_sdk::Response::json(200, &json!({"ok": true, "result": null})));
    stage.mock.answer_next(ok());
    stage.mock.answer_next(ok());
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.calls("editMessageText").len(), 0);
    assert_eq!(stage.texts(), [long_text(600)]);
}

#[test]
fn growth_is_skipped_under_flood_control_and_the_answer_waits_for_its_end() {
    let text = long_text(1500);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 100));
    let mut edits = 0;
    stage.plan(move |_, call| {
        edits += usize::from(call.method == "editMessageText");
        (call.method == "editMessageText" && edits == 2).then_some(Fault::Flood(40))
    });
    let asked = stage.mock.now();
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), [text.as_str()]);
    let edits = stage.calls("editMessageText");
    assert_eq!(edits.len(), 3, "nothing was tried during the pause, and the last one came after it");
    assert!(edits[2].at.duration_since(edits[1].at).unwrap() >= seconds(40));
    assert!(stage.mock.now().duration_since(asked).unwrap() < seconds(60));
}

#[test]
fn an_answer_waits_its_turn_after_a_reply_of_the_bot_itself() {
    let stage = Stage::new(json!({"stream": false}));
    stage.webhook(&super::bot_api::update(1, &private(), "/help"));
    let helped = stage.mock.now();
    let task = stage.ask(&private(), Script::reply(["Hi."]));
    stage.deliver(&task, &[]).unwrap();
    assert!(stage.calls("sendMessage")[0].at.duration_since(helped).unwrap() >= seconds(1));
}

#[test]
fn a_long_pause_is_left_to_the_host() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words("Hi.", 10));
    stage.fail_call(1, Fault::Flood(300));
    let asked = stage.mock.now();
    stage.assert_retry(&task, seconds(300), "sendMessage: Telegram asks for a pause");
    stage.mock.advance(seconds(300));
    stage.deliver(&task, &[]).unwrap();
    assert_eq!((stage.texts(), stage.maybe_twice(&task)), (vec!["Hi.".to_owned()], 0));
    assert!(stage.mock.now().duration_since(asked).unwrap() >= seconds(300));
}

#[test]
fn a_long_pause_outlives_a_restart() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words("Hi.", 10));
    stage.fail_call(1, Fault::Flood(300));
    stage.mock.deliver(&crate::Telegram, &task).unwrap_err();
    let pause: Value = stage.mock.stored("pause/chat/5").unwrap();

    let stage = Stage::new(json!({}));
    plugway_sdk::kv::put_json("pause/chat/5", &pause, None).unwrap();
    let task = stage.ask(&private(), words("Hi.", 10));
    let asked = stage.mock.now();
    stage.deliver(&task, &[]).unwrap();
    let sends = stage.calls("sendMessage");
    assert_eq!(sends.len(), 1);
    assert!(sends[0].at.duration_since(asked).unwrap() >= seconds(299));
}
