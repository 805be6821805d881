//! The harness itself: the recording proxy before `telegram-test-api`, with a dummy bot on the other side, and
//! redis-server.

use std::time::Duration;

use plugway_tests::bot_api::{BotApi, Fault, Outcome, Rule, SECRET, TOKEN, in_topic, message};
use plugway_tests::{Answer, DEADLINE, Receiver, RedisServer, eventually, within};
use serde_json::{Value, json};

/// Calls the Bot API as a bot does; an error where the connection fails.
async fn call(bot: &BotApi, method: &str, body: Value) -> Result<Answer, reqwest::Error> {
    let client = plugway_tests::client::plain();
    let request = client.post(format!("{}/bot{TOKEN}/{method}", bot.address())).json(&body);
    Answer::read(within("the Bot API answers", request.send()).await?).await
}

async fn send(bot: &BotApi, text: &str) -> Answer {
    call(bot, "sendMessage", json!({ "chat_id": 5, "text": text })).await.expect("the Bot API answers")
}

fn description(answer: &Answer) -> String {
    answer.json()["description"].as_str().expect("a refusal describes itself").to_owned()
}

#[tokio::test]
async fn a_message_of_a_user_is_pushed_with_the_secret_until_the_webhook_takes_it() {
    let (bot, receiver) = (BotApi::start().await, Receiver::start().await);
    receiver.answer_with(&[500, 503, 200]);
    bot.push_to(&receiver.url("/webhook")).await;

    let push = bot.say(&in_topic(-100, 3, "hello there")).await;
    bot.taken(push).await;

    let received = receiver.received();
    assert_eq!(received.iter().map(|one| one.status).collect::<Vec<_>>(), [500, 503, 200]);
    for reception in &received {
        assert_eq!(reception.header("x-telegram-bot-api-secret-token"), SECRET);
        assert_eq!(reception.json(), received[0].json(), "an update is redelivered as it was");
    }
    let update = received[0].json();
    assert_eq!(update["message"]["text"], "hello there");
    assert_eq!(update["message"]["chat"]["id"], -100);
    assert_eq!(update["message"]["message_thread_id"], 3);
    assert!(update["update_id"].is_i64() && update["message"]["message_id"].is_i64(), "ids in {update}");
    assert!(!update.to_string().contains(TOKEN), "the token in {update}");
}

#[tokio::test]
async fn a_call_in_the_answer_to_a_push_is_carried_out() {
    let (bot, receiver) = (BotApi::start().await, Receiver::start().await);
    receiver.answer_with_json(
        &json!({ "status": "handled", "method": "sendMessage", "chat_id": 5, "text": "hi" }),
    );
    bot.push_to(&receiver.url("/webhook")).await;
    let push = bot.say(&message(5, "/start")).await;
    assert_eq!(bot.taken(push).await["status"], "handled");
    assert_eq!(bot.chat(5).await[0].text, "hi");
}

#[tokio::test]
async fn users_who_speak_at_once_get_updates_of_their_own() {
    let (bot, receiver) = (BotApi::start().await, Receiver::start().await);
    bot.push_to(&receiver.url("/webhook")).await;
    let says = (1..=8).map(|chat| {
        let bot = &bot;
        async move { bot.say(&message(chat, "hello")).await }
    });
    futures::future::join_all(says).await;
    let received = receiver.received_at_least(8).await;
    let mut ids: Vec<_> = received.iter().map(|one| one.json()["update_id"].as_i64()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

#[tokio::test]
async fn what_a_chat_shows_follows_sends_edits_and_deletes() {
    let bot = BotApi::start().await;
    let id = send(&bot, "wri \u{258c}").await.expect(200).json()["result"]["message_id"].clone();
    let edit = json!({ "chat_id": 5, "message_id": id, "text": "*written*", "parse_mode": "MarkdownV2" });
    call(&bot, "editMessageText", edit.clone()).await.expect("an answer").expect(200);
    let again = call(&bot, "editMessageText", edit).await.expect("an answer").expect(400);
    assert!(description(&again).contains("message is not modified"));
    let reply = json!({ "chat_id": "5", "text": "more", "reply_parameters": { "message_id": 9 }, "message_thread_id": 2 });
    call(&bot, "sendMessage", reply).await.expect("an answer").expect(200);

    let shown = bot.chat(5).await;
    assert_eq!(shown.iter().map(|one| one.text.as_str()).collect::<Vec<_>>(), ["written", "more"]);
    assert_eq!(shown[0].before, ["wri \u{258c}"]);
    assert_eq!((shown[1].reply_to, shown[1].thread), (Some(9), Some(2)));

    call(&bot, "deleteMessage", json!({ "chat_id": 5, "message_id": id }))
        .await
        .expect("an answer")
        .expect(200);
    assert_eq!(bot.chat(5).await.len(), 1);
    let gone =
        call(&bot, "deleteMessage", json!({ "chat_id": 5, "message_id": id })).await.expect("an answer");
    assert_eq!(gone.status, 400);
    call(&bot, "sendChatAction", json!({ "chat_id": 5, "action": "typing" }))
        .await
        .expect("an answer")
        .expect(200);
    call(&bot, "sendPhoto", json!({ "chat_id": 5 })).await.expect("an answer").expect(404);
}

#[tokio::test]
async fn what_the_bot_api_refuses_is_refused() {
    let bot = BotApi::start().await;
    send(&bot, &"x".repeat(4096)).await.expect(200);
    assert!(description(&send(&bot, &"x".repeat(4097)).await.expect(400)).contains("message is too long"));
    assert!(
        description(&send(&bot, &"\u{1f600}".repeat(2049)).await.expect(400)).contains("message is too long")
    );
    assert!(description(&send(&bot, " ").await.expect(400)).contains("message text is empty"));
    let marked = json!({ "chat_id": 5, "text": "1 + 1", "parse_mode": "MarkdownV2" });
    let refused = call(&bot, "sendMessage", marked).await.expect("an answer").expect(400);
    assert!(description(&refused).contains("can't parse entities"));
    let client = plugway_tests::client::plain();
    let stranger = client.post(format!("{}/bot1:2/getMe", bot.address())).send().await.expect("an answer");
    assert_eq!(stranger.status(), 401);
}

#[tokio::test]
async fn faults_come_as_scripted() {
    let bot = BotApi::start().await;
    bot.fail(Rule::next("sendMessage", Fault::FloodControl(1))).await;
    bot.fail(Rule::next("sendMessage", Fault::Status(502)).after(1)).await;
    bot.fail(Rule::next("sendMessage", Fault::CutBefore)).await;
    bot.fail(Rule::next("sendMessage", Fault::CutAfter)).await;

    let limited = send(&bot, "one").await.expect(429).json();
    assert_eq!(limited["parameters"]["retry_after"], 1);
    eventually(DEADLINE, || async {
        let answer = send(&bot, "two").await;
        if answer.status == 502 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert!(!bot.impatient().await.is_empty(), "a bot that does not wait is found out");
    assert!(call(&bot, "sendMessage", json!({ "chat_id": 5, "text": "three" })).await.is_err());
    assert!(call(&bot, "sendMessage", json!({ "chat_id": 5, "text": "four" })).await.is_err());
    send(&bot, "five").await.expect(200);

    let shown = bot.chat(5).await;
    assert_eq!(shown.iter().map(|one| one.text.as_str()).collect::<Vec<_>>(), ["four", "five"]);
    assert_eq!(bot.lost(5).await, 1);
}

#[tokio::test]
async fn a_closed_port_refuses_connections_until_it_opens_again() {
    let bot = BotApi::start().await;
    bot.close().await;
    assert!(call(&bot, "getMe", json!({})).await.is_err_and(|error| error.is_connect()));
    bot.recover().await;
    eventually(DEADLINE, || async {
        call(&bot, "getMe", json!({})).await.map_err(|error| error.to_string())
    })
    .await;

    bot.fail(Rule::next("sendMessage", Fault::ClosedAfter(Duration::from_millis(300)))).await;
    send(&bot, "the last one").await.expect(200);
    eventually(DEADLINE, || async {
        call(&bot, "getMe", json!({})).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(bot.chat(5).await.len(), 1);
}

#[tokio::test]
async fn random_faults_repeat_from_their_seed() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let bot = BotApi::start().await;
        bot.fail_at_random(7, 0.5, &[Fault::Status(500), Fault::CutBefore, Fault::CutAfter]).await;
        for text in 0..12 {
            // Whether it fails is what is compared.
            let _ = call(&bot, "sendMessage", json!({ "chat_id": 5, "text": text.to_string() })).await;
        }
        runs.push(bot.calls().await.into_iter().map(|call| call.outcome).collect::<Vec<_>>());
    }
    assert_eq!(runs[0], runs[1]);
    assert!(
        runs[0].contains(&Outcome::Answered(200)) && runs[0].contains(&Outcome::CutBefore),
        "{:?}",
        runs[0]
    );
}

#[tokio::test]
async fn a_redis_server_starts_again_at_its_address_with_what_it_is_to_keep() {
    let (mut forgetful, mut durable) = (RedisServer::start().await, RedisServer::start_durable().await);
    let urls = [forgetful.url(), durable.url()];
    assert_ne!(urls[0], urls[1]);
    for server in [&mut forgetful, &mut durable] {
        let _: () = server.command(&["SET", "killed", "kept"]).await;
        server.kill();
        assert!(server.ask::<String>(&["GET", "killed"]).await.is_err(), "a killed server answers");
        server.start_again().await;
        let _: () = server.command(&["SET", "stopped", "kept"]).await;
        assert!(server.stop().await.success());
        server.start_again().await;
    }
    assert_eq!([forgetful.url(), durable.url()], urls);
    for key in ["killed", "stopped"] {
        assert_eq!(forgetful.command::<Option<String>>(&["GET", key]).await, None);
        assert_eq!(durable.command::<Option<String>>(&["GET", key]).await.as_deref(), Some("kept"));
    }
}

#[tokio::test]
async fn a_paused_redis_server_answers_once_it_is_resumed() {
    let server = RedisServer::start().await;
    assert_eq!(server.publish("channel:signals", "nobody listens").await, 0);
    server.pause();
    let mut answer = std::pin::pin!(server.ask::<String>(&["PING"]));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut answer).await;
    assert!(early.is_err(), "a paused server said {early:?}");
    server.resume();
    assert_eq!(answer.await.expect("an answer"), "PONG");
}
