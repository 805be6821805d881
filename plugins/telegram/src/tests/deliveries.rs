//! What a chat looks like while an answer grows, and after.

use super::bot_api::{Fault, Stage, group, long_text, private, words};
use crate::said::RENDERED;
use plugway_sdk::{
    Reason,
    host::Level,
    mock::{Mock, Script},
};
use serde_json::{Value, json};
use std::time::Duration;

const CURSOR: &str = "▌";

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_short_answer_is_one_message_and_no_edit() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words("Just a few words.", 100));
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), ["Just a few words."]);
    assert_eq!((stage.calls("sendMessage").len(), stage.calls("editMessageText").len()), (1, 0));
    assert_eq!(stage.calls("sendChatAction")[0].body, json!({"chat_id": 5, "action": "typing"}));
}

#[test]
fn an_answer_grows_by_edits_that_end_in_a_cursor() {
    let text = long_text(600);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 100));
    stage.deliver(&task, &[]).unwrap();

    assert_eq!(stage.texts(), [text.as_str()]);
    let first = &stage.calls("sendMessage")[0];
    assert!(first.body["text"].as_str().unwrap().ends_with(" ▌"));
    assert_eq!(
        first.body["text"].as_str().unwrap().matches("word").count(),
        20,
        "the first message has 20 pieces"
    );
    let edits = stage.calls("editMessageText");
    let (last, growing) = edits.split_last().unwrap();
    assert!(growing.iter().all(|edit| edit.body["text"].as_str().unwrap().ends_with(" ▌")));
    assert_eq!(last.body["text"], text);
    for pair in growing.windows(2) {
        assert!(pair[1].at.duration_since(pair[0].at).unwrap() >= Duration::from_millis(1500));
    }
    assert!(growing.len() >= 3);
}

#[test]
fn edits_in_a_group_are_three_seconds_apart_whatever_is_configured() {
    let stage = Stage::new(json!({"edit_interval_ms": 1000}));
    let task = stage.ask(&group(), words(&long_text(600), 100));
    stage.deliver(&task, &[]).unwrap();
    let edits = stage.calls("editMessageText");
    for pair in edits[..edits.len() - 1].windows(2) {
        assert!(pair[1].at.duration_since(pair[0].at).unwrap() >= seconds(3));
    }
}

#[test]
fn without_a_token_nothing_is_sent_and_the_result_is_called_back() {
    let mock = Mock::new();
    mock.callback_url_configured(true);
    mock.agent(|_| Script::reply(["Hello", " **you**"]));
    mock.post("/webhook").json(&super::bot_api::update(1, &private(), "?")).handle(&crate::Telegram);
    let task = mock.submissions()[0].task.clone();
    mock.deliver(&crate::Telegram, &task).unwrap();
    assert!(mock.sent().is_empty());
    let result = mock.webhooks()[0].body.clone();
    assert_eq!((&result["success"], &result["messages"][0]["text"]), (&json!(true), &json!("Hello *you*")));
}

#[test]
fn with_streaming_off_there_is_one_message_at_the_end() {
    for (config, query, growing) in [
        (json!({"stream": false}), "", false),
        (json!({"stream": false}), "?stream=true", true),
        (json!({}), "?stream=false", false),
    ] {
        let stage = Stage::new(config);
        let text = long_text(600);
        let script = words(&text, 100);
        stage.mock.agent(move |_| script.clone());
        let call =
            stage.mock.post(&format!("/webhook{query}")).header("x-telegram-bot-api-secret-token", "s3cret");
        let answer: Value =
            call.json(&super::bot_api::update(1, &private(), "?")).handle(&crate::Telegram).parse().unwrap();
        assert_eq!(answer.get("streaming").is_some(), query == "?stream=true");
        let task = stage.mock.submissions()[0].task.clone();
        stage.deliver(&task, &[]).unwrap();
        assert_eq!(!stage.calls("editMessageText").is_empty(), growing);
        assert_eq!(stage.texts(), [text]);
    }
}

#[test]
fn typing_goes_on_every_five_seconds_while_nothing_else_is_sent() {
    let stage = Stage::new(json!({}));
    let script = Script::new().started().wait(seconds(23)).chunks(["Hi"]).completed("Hi");
    let task = stage.ask(&private(), script);
    stage.plan(|_, call| (call.method == "sendChatAction").then_some(Fault::Server));
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.calls("sendChatAction").len(), 5);
    assert_eq!(stage.texts(), ["Hi"]);
}

#[test]
fn a_text_that_outgrows_its_message_goes_on_in_the_next() {
    let text = long_text(9_500);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 50));
    stage.deliver(&task, &[]).unwrap();
    let texts = stage.texts();
    assert_eq!(texts.len(), 3);
    assert_eq!(texts.join(" ").replace('\n', " "), text.replace('\n', " "));
    assert!(texts.iter().all(|text| !text.contains(CURSOR)));
    let first = stage.world.borrow().messages[0].clone();
    assert_eq!(
        first.body["reply_parameters"],
        json!({"message_id": 11, "allow_sending_without_reply": true})
    );
    assert!(stage.world.borrow().messages[1].body.get("reply_parameters").is_none());
}

#[test]
fn reply_modes_choose_which_messages_reply() {
    for (mode, expected) in
        [("off", [false, false]), ("first", [true, false]), ("all", [true, true]), ("odd", [true, false])]
    {
        let stage = Stage::new(json!({"reply_to_mode": mode, "stream": false}));
        let task = stage.ask(&private(), words(&long_text(6_000), 1));
        stage.deliver(&task, &[]).unwrap();
        let replies: Vec<bool> = stage
            .calls("sendMessage")
            .iter()
            .map(|call| call.body.get("reply_parameters").is_some())
            .collect();
        assert_eq!(replies, expected, "{mode}");
    }
}

#[test]
fn a_later_attempt_takes_the_place_of_what_the_first_one_said() {
    let (first, second) = (long_text(5_000), "A different answer altogether.");
    let script = Script::new().started().every(Duration::from_millis(20)).chunks(first.split_inclusive(' '));
    let script = script.wait(seconds(10)).restart().chunks(second.split_inclusive(' ')).completed(second);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), script);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.world.borrow().messages.len(), 2, "the first attempt had two messages");
    assert_eq!(stage.texts(), [second]);
}

#[test]
fn what_a_message_was_sent_with_is_not_taken_for_what_it_says_now() {
    let (first, second) = (long_text(5_000), long_text(5_000).replace("word", "term"));
    let pieces = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    let script =
        Script::new().started().chunks(pieces(&first)).wait(seconds(10)).restart().chunks(pieces(&second));
    let stage = Stage::new(json!({"drafts": true, "min_tokens": 1}));
    let task =
        stage.ask(&private(), script.wait(seconds(10)).restart().chunks(pieces(&first)).completed(&first));
    stage.mock.close_after(seconds(15), Reason::Draining);
    stage.assert_retry(&task, Duration::ZERO, "draining");
    assert!(stage.texts()[0].starts_with("term1"));
    stage.mock.advance(seconds(60));
    stage.mock.close_after(seconds(1000), Reason::Draining);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts().join("\n"), first);
}

#[test]
fn a_message_that_can_not_be_deleted_is_emptied() {
    let script = Script::new()
        .started()
        .every(Duration::from_millis(20))
        .chunks(long_text(5_000).split_inclusive(' '));
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), script.wait(seconds(10)).restart().completed("Short."));
    stage.fail_method("deleteMessage", Fault::Refuse(400, "Bad Request: message can't be deleted"));
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), ["Short.", "…"]);
}

#[test]
fn what_was_written_stays_when_a_task_fails_or_is_cancelled() {
    let begin = || {
        Script::new().started().every(Duration::from_millis(100)).chunks(long_text(400).split_inclusive(' '))
    };
    let cases = [
        (
            begin().failed("the model fell over\nstack trace", "agent_error"),
            "⚠️ Something went wrong: the model fell over",
        ),
        (begin().failed("", "deadline"), "⚠️ That took too long. Please try again."),
        (begin().cancelled("asked to"), "⏹ Stopped."),
    ];
    for (script, note) in cases {
        let stage = Stage::new(json!({}));
        let task = stage.ask(&private(), script);
        stage.deliver(&task, &[]).unwrap();
        assert_eq!(stage.texts(), [format!("{}\n\n{note}", long_text(400))]);
        assert_eq!(stage.mock.webhooks()[0].body["success"], false);
    }
}

#[test]
fn a_note_stands_outside_of_a_block_of_code_that_was_cut_off() {
    let stage = Stage::new(json!({}));
    let script = Script::new().started().chunks(["```rust\n", "fn main() {"]).cancelled("asked to");
    let task = stage.ask(&private(), script);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), ["fn main() {\n\n⏹ Stopped."]);
}

#[test]
fn an_ending_without_words_is_put_into_words() {
    let cases = [
        (Script::new().started().completed(""), "I have no answer to that."),
        (
            Script::new().started().failed("x", "agent_unreachable"),
            "⚠️ I can't be reached at the moment. Please try again later.",
        ),
        (Script::new().started().cancelled(""), "⏹ Stopped."),
    ];
    for (script, text) in cases {
        let stage = Stage::new(json!({}));
        let task = stage.ask(&private(), script);
        stage.deliver(&task, &[]).unwrap();
        assert_eq!(stage.texts(), [text]);
    }
}

#[test]
fn the_final_text_is_the_completed_one_or_else_the_pieces() {
    for (completed, expected) in [("Something else.", "Something else."), ("", "Pieces only")] {
        let stage = Stage::new(json!({}));
        let task =
            stage.ask(&private(), Script::new().started().chunks(["Pieces", " only"]).completed(completed));
        stage.deliver(&task, &[]).unwrap();
        assert_eq!(stage.texts(), [expected]);
    }
}

#[test]
fn events_that_were_lost_do_not_spoil_the_answer() {
    let text = long_text(800);
    let script =
        Script::new().started().every(Duration::from_millis(100)).chunks(text.split_inclusive(' ').take(30));
    let script = script.lost(10).chunks(text.split_inclusive(' ').skip(30)).completed(&text);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), script);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), [text]);
    assert!(stage.mock.has_logged(Level::Warn, "are lost"));
}

#[test]
fn a_delivery_that_is_given_up_is_called_back_as_no_success() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words("Hi.", 10));
    stage.plan(|_, _| Some(Fault::Server));
    stage.assert_retry(&task, seconds(30), "sendMessage: 502");
    assert!(stage.mock.webhooks().is_empty());
    stage.mock.give_up(&crate::Telegram, &task, "given up after 1day: sendMessage: 502").unwrap();
    let body = stage.mock.webhooks()[0].body.clone();
    assert_eq!((&body["success"], &body["messages"]), (&json!(false), &json!([])));
    assert_eq!(body["error"], "not delivered: given up after 1day: sendMessage: 502");
    assert_eq!(body["task_id"], task.as_str());
}

#[test]
fn a_callback_that_can_not_be_stored_keeps_the_delivery_open() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words("Hi.", 10));
    stage.mock.break_outbox(Some("the disk is full"));
    stage.assert_retry(&task, seconds(5), "the outbox is unavailable: the disk is full");
    stage.mock.break_outbox(None);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!((stage.texts(), stage.mock.webhooks().len()), (vec!["Hi.".to_owned()], 1));
}

#[test]
fn a_callback_that_is_too_large_goes_without_the_messages() {
    let stage = Stage::new(json!({"stream": false}));
    let task = stage.ask(&private(), Script::reply([long_text(1_100_000)]));
    stage.deliver(&task, &[]).unwrap();
    let body = &stage.mock.webhooks()[0].body;
    assert_eq!((&body["success"], &body["messages"]), (&json!(true), &json!([])));
    assert!(body["error"].as_str().unwrap().starts_with("the messages are left out: the body has"));
}

#[test]
fn the_callback_tells_what_was_sent() {
    let stage = Stage::new(json!({}));
    let script = Script::new()
        .started()
        .wait(Duration::from_millis(500))
        .thinking("hm")
        .wait(seconds(2))
        .chunks(["A."])
        .completed("A.");
    let task = stage.ask(&private(), script);
    stage.deliver(&task, &[]).unwrap();
    stage.deliver(&task, &[]).unwrap();
    let webhooks = stage.mock.webhooks();
    assert_eq!(webhooks.len(), 1, "once, however often the delivery is called");
    assert_eq!((webhooks[0].url.as_deref(), webhooks[0].key.as_str()), (None, task.as_str()));
    assert_eq!(
        webhooks[0].body,
        json!({"task_id": task, "success": true, "error": null, "duration_ms": 2500, "progress_updates": 4,
               "messages": [{"chat_id": 5, "text": "A.", "parse_mode": null, "reply_to_message_id": 11}]})
    );
}

#[test]
fn a_finished_delivery_does_nothing_when_it_is_called_again() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words("Done.", 1));
    stage.deliver(&task, &[]).unwrap();
    let calls = stage.world.borrow().calls.len();
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.world.borrow().calls.len(), calls);
}

#[test]
fn a_message_that_the_user_has_deleted_is_sent_anew() {
    let text = long_text(600);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 100));
    let mut edits = 0;
    stage.plan(move |_, call| {
        edits += usize::from(call.method == "editMessageText");
        (call.body["message_id"] == 101 && edits > 1)
            .then_some(Fault::Refuse(400, "Bad Request: message to edit not found"))
    });
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts().last(), Some(&text));
    assert_eq!(stage.calls("sendMessage").len(), 2);
    assert_eq!(
        stage.calls("editMessageText").iter().filter(|edit| edit.body["message_id"] == 101).count(),
        2
    );
}

#[test]
fn what_the_chat_says_already_is_not_rendered_again() {
    let text = long_text(40_000);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 10));
    stage.plan(|_, call| {
        (call.method == "sendMessage" && call.body["text"].as_str()?.contains("word3900 "))
            .then_some(Fault::Flood(600))
    });
    RENDERED.set(0);
    stage.mock.deliver(&crate::Telegram, &task).unwrap_err();
    let calls = stage.calls("sendMessage").len() + stage.calls("editMessageText").len();
    assert!(
        calls > 10 && RENDERED.get() <= calls + 20,
        "{} texts are rendered for {calls} calls",
        RENDERED.get()
    );

    stage.mock.advance(seconds(600));
    let calls = stage.world.borrow().calls.len();
    RENDERED.set(0);
    stage.mock.deliver(&crate::Telegram, &task).unwrap_err();
    assert_eq!(
        (stage.world.borrow().calls.len() - calls, RENDERED.get()),
        (1, 1),
        "the one that is not there yet"
    );
}

#[test]
fn a_chat_gets_at_most_one_call_a_second() {
    let stage = Stage::new(json!({"edit_interval_ms": 1000}));
    let task = stage.ask(&private(), words(&long_text(9_000), 30));
    stage.deliver(&task, &[]).unwrap();
    let world = stage.world.borrow();
    let calls: Vec<_> = world.calls.iter().filter(|call| call.method != "sendChatAction").collect();
    for pair in calls.windows(2) {
        assert!(pair[1].at.duration_since(pair[0].at).unwrap() >= seconds(1));
    }
}

#[test]
fn a_group_gets_at_most_twenty_calls_a_minute() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&group(), words(&long_text(16_000), 100));
    stage.deliver(&task, &[]).unwrap();
    let world = stage.world.borrow();
    let calls: Vec<_> = world.calls.iter().filter(|call| call.method != "sendChatAction").collect();
    for window in calls.windows(21) {
        assert!(window[20].at.duration_since(window[0].at).unwrap() >= seconds(60));
    }
}

#[test]
fn drafts_show_growth_without_messages() {
    let text = long_text(6_000);
    let stage = Stage::new(json!({"drafts": true}));
    let task = stage.ask(&private(), words(&text, 60));
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts().join(" ").replace('\n', " "), text.replace('\n', " "));
    assert_eq!((stage.calls("sendMessage").len(), stage.calls("editMessageText").len()), (2, 0));
    let drafts = stage.calls("sendMessageDraft");
    assert!(
        drafts.len() > 5
            && drafts.iter().all(|draft| draft.body["draft_id"] == 11 && draft.body["can_stop"] == true)
    );
}

#[test]
fn a_draft_is_repeated_before_it_goes_away() {
    let script = Script::new()
        .started()
        .chunks(long_text(300).split_inclusive(' '))
        .wait(seconds(70))
        .completed("End.");
    let stage = Stage::new(json!({"drafts": true}));
    let task = stage.ask(&private(), script);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.calls("sendMessageDraft").len(), 5, "20 pieces, all of them, and three times more");
    assert_eq!(stage.calls("sendChatAction").len(), 1);
}

#[test]
fn where_drafts_do_not_work_there_are_edits() {
    let text = long_text(900);
    let stage = Stage::new(json!({"drafts": true}));
    let task = stage.ask(&private(), words(&text, 100));
    stage.fail_method("sendMessageDraft", Fault::Refuse(404, "Not Found: method not found"));
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), [text]);
    assert_eq!(stage.calls("sendMessageDraft").len(), 1);
    assert!(stage.calls("editMessageText").len() > 2);
}

#[test]
fn groups_have_no_drafts() {
    let stage = Stage::new(json!({"drafts": true}));
    let task = stage.ask(&group(), words(&long_text(600), 100));
    stage.deliver(&task, &[]).unwrap();
    assert!(stage.calls("sendMessageDraft").is_empty());
}

#[test]
fn a_host_that_drains_gets_its_exchange_back_and_calls_again() {
    let text = long_text(900);
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), words(&text, 100));
    stage.mock.close_after(seconds(5), Reason::Draining);
    stage.assert_retry(&task, Duration::ZERO, "draining");
    stage.mock.close_after(seconds(1000), Reason::Draining);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!((stage.texts(), stage.calls("sendMessage").len()), (vec![text], 1));
}
