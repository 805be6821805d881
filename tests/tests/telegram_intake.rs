//! What comes in from Telegram: once, from the right sender, and only what the plugin handles.

use futures::future::join_all;
use http::Method;
use plugway_tests::bot_api::SECRET;
use plugway_tests::update::message;
use plugway_tests::{Answer, Builder, Gateway};
use serde_json::{Value, json};

fn builder() -> Builder {
    Gateway::builder().plugin("telegram").env("WEBHOOK_SECRET", SECRET)
}

async fn push(gateway: &Gateway, update: &Value, secret: Option<&str>) -> Answer {
    let mut request = gateway.request(Method::POST, "/webhook").json(update);
    if let Some(secret) = secret {
        request = request.header("x-telegram-bot-api-secret-token", secret);
    }
    Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer")
}

#[tokio::test]
async fn an_update_delivered_twenty_times_at_once_and_again_after_a_restart_makes_one_task() {
    let mut gateway = builder().same_port().start().await;
    let update = message(4711, 7, "only once");
    let answers = join_all((0..20).map(|_| push(&gateway, &update, Some(SECRET)))).await;
    let tasks: Vec<_> =
        answers.into_iter().map(|answer| answer.expect(200).json()["task_id"].clone()).collect();
    assert!(tasks[0].is_string() && tasks.iter().all(|task| *task == tasks[0]), "{tasks:?}");
    assert_eq!(gateway.accepted_tasks().await, 1.0);

    gateway.kill();
    gateway.start_again().await;
    let again = push(&gateway, &update, Some(SECRET)).await.expect(200).json();
    assert_eq!(again["task_id"], tasks[0]);
    assert_eq!(gateway.accepted_tasks().await, 0.0, "nothing new since the restart");
}

#[tokio::test]
async fn two_updates_with_the_same_text_are_two_tasks() {
    let gateway = builder().start().await;
    let first = push(&gateway, &message(1, 7, "hello"), Some(SECRET)).await.expect(200).json();
    let second = push(&gateway, &message(2, 7, "hello"), Some(SECRET)).await.expect(200).json();
    assert_ne!(first["task_id"], second["task_id"]);
}

#[tokio::test]
async fn a_wrong_or_missing_secret_is_refused_and_nothing_is_stored() {
    let gateway = builder().start().await;
    let longer = format!("{SECRET}x");
    for secret in [None, Some(""), Some("wrong"), Some(&SECRET[1..]), Some(longer.as_str())] {
        let error = push(&gateway, &message(1, 7, "let me in"), secret).await.expect(401).error();
        assert_eq!(error["type"], "authentication_error");
        assert!(!error.to_string().contains(SECRET));
    }
    // A body that is none tells no stranger anything either.
    push(&gateway, &json!("nonsense"), Some("wrong")).await.expect(401).error();
    assert_eq!(gateway.accepted_tasks().await, 0.0);
}

#[tokio::test]
async fn updates_that_are_not_handled_are_taken_and_ignored() {
    let gateway = builder().start().await;
    let chat = json!({ "id": 7, "type": "private", "first_name": "Ada" });
    let from = json!({ "id": 7, "is_bot": false, "first_name": "Ada" });
    let kinds = [
        json!({ "update_id": 1, "poll": { "id": "1", "question": "?", "options": [] } }),
        json!({ "update_id": 2, "my_chat_member": { "chat": chat, "from": from, "date": 1 } }),
        json!({ "update_id": 3, "channel_post": { "message_id": 1, "date": 1, "chat": chat, "text": "news" } }),
        json!({ "update_id": 4, "a_kind_of_the_year_2030": { "anything": [1, 2, 3] } }),
        json!({ "update_id": 5 }),
        json!({ "update_id": 6, "message": { "message_id": 1, "date": 1, "chat": chat, "from": from,
            "new_chat_members": [from] } }),
    ];
    for update in kinds {
        let answer = push(&gateway, &update, Some(SECRET)).await.expect(200).json();
        assert_eq!(answer["status"], "ignored", "for {update}");
        assert!(answer.get("task_id").is_none(), "for {update}");
    }
    assert_eq!(gateway.accepted_tasks().await, 0.0);
}

#[tokio::test]
async fn a_full_queue_asks_telegram_to_come_back() {
    let gateway = builder().set("workers.count", 1).set("workers.queue", 2).start().await;
    let mut last = None;
    for update in 1..=6 {
        let answer = push(&gateway, &message(update, update, "/sleep 60s"), Some(SECRET)).await;
        let full = answer.status == 503;
        last = Some(answer);
        if full {
            break;
        }
    }
    let refused = last.expect("something was pushed").expect(503);
    refused.error();
    let seconds = refused.header("retry-after").and_then(|value| value.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds > 0), "retry-after of {refused:?}");
}

#[tokio::test]
async fn a_caption_with_a_picture_is_a_message() {
    let gateway = builder().start().await;
    let mut update = message(1, 7, "");
    let message = update["message"].as_object_mut().expect("it is an object");
    message.remove("text");
    message.insert("caption".into(), json!("what is this?"));
    let photo =
        json!({ "file_id": "AgAC", "file_unique_id": "u1", "width": 90, "height": 67, "file_size": 1253 });
    message.insert("photo".into(), json!([photo]));
    let task = push(&gateway, &update, Some(SECRET)).await.expect(200).json()["task_id"].clone();
    let ended = gateway.ended(task.as_str().expect("it is accepted")).await;
    assert_eq!(ended["result"]["text"], "what is this?");
}

#[tokio::test]
async fn users_who_are_not_allowed_get_nothing_and_are_logged() {
    let gateway = builder().set("plugins.telegram.config.allowed_users", vec![7]).start().await;
    let stranger = push(&gateway, &message(1, 666_013, "let me in"), Some(SECRET)).await.expect(200).json();
    assert!(stranger.get("task_id").is_none(), "{stranger}");
    gateway.logged(&["telegram", "666013"]).await;
    assert_eq!(gateway.accepted_tasks().await, 0.0);
    let friend = push(&gateway, &message(2, 7, "hello"), Some(SECRET)).await.expect(200).json();
    assert!(friend["task_id"].is_string(), "{friend}");
}

#[tokio::test]
async fn an_empty_list_of_allowed_users_is_warned_about() {
    let gateway = builder().start().await;
    gateway.logged(&["warn", "telegram", "allowed_users"]).await;
}
