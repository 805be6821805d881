//! The result callback: signed, retried, given up in the end, and never sent where it must not go.

use plugway_tests::bot_api::BotApi;
use plugway_tests::update::message;
use plugway_tests::{Builder, DEADLINE, Gateway, Receiver, Reception, eventually};
use serde_json::{Value, json};
use standardwebhooks::Webhook;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A gateway whose callbacks may go to the loopback interface, as its answers may.
fn builder(bot: &BotApi) -> Builder {
    bot.configure(Gateway::builder())
        .set("callbacks.secret", SECRET)
        .set("callbacks.private_networks", vec!["127.0.0.0/8"])
        .set("callbacks.retry.first_delay", "50ms")
}

/// Checks the signature with the official library.
#[track_caller]
fn assert_signed(reception: &Reception) {
    let webhook = Webhook::new(SECRET).expect("the secret is one");
    webhook.verify(&reception.body, &reception.headers).expect("the signature is good");
}

async fn accept_with_callback(gateway: &Gateway, update: &Value, url: &str) -> String {
    let escaped = url.replace('%', "%25").replace(':', "%3A").replace('/', "%2F");
    let answer = gateway.post(&format!("/webhook?callback_url={escaped}"), update).await.expect(200).json();
    answer["task_id"].as_str().unwrap_or_else(|| panic!("not accepted: {answer}")).to_owned()
}

#[tokio::test]
async fn a_result_is_posted_to_the_configured_url_and_signed() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    let gateway = builder(&bot).env("CALLBACK_URL", &receiver.url("/result")).start().await;
    let task = gateway.accept(&message(1, 7, "hello there")).await;
    let received = receiver.received_at_least(1).await;
    assert_eq!(received[0].path, "/result");
    assert!(received[0].header("content-type").starts_with("application/json"));
    assert_signed(&received[0]);

    let mut result = received[0].json();
    let members = result.as_object_mut().expect("a result is an object");
    assert!(members.remove("duration_ms").is_some_and(|value| value.is_u64()), "duration_ms");
    assert!(
        members.remove("progress_updates").is_some_and(|value| value.as_u64() > Some(0)),
        "progress_updates"
    );
    let messages = members.remove("messages").expect("messages");
    assert_eq!(result, json!({ "task_id": task, "success": true, "error": null }));
    assert_eq!(messages[0]["chat_id"], 7);
    assert_eq!(messages[0]["text"], "hello there");
    assert_eq!(messages[0]["reply_to_message_id"], 1_001, "the message that it answers");
    assert!(
        messages[0].get("parse_mode").is_some() && messages.as_array().map(Vec::len) == Some(1),
        "{messages}"
    );
}

#[tokio::test]
async fn a_failed_task_is_reported_as_such() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    let gateway = builder(&bot).env("CALLBACK_URL", &receiver.url("/result")).start().await;
    gateway.accept(&message(1, 7, "/fail out of coffee")).await;
    let result = receiver.received_at_least(1).await[0].json();
    assert_eq!(result["success"], false);
    assert_eq!(result["error"], "out of coffee");
}

#[tokio::test]
async fn a_url_of_the_request_goes_before_the_configured_one() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    let gateway = builder(&bot).env("CALLBACK_URL", &receiver.url("/default")).start().await;
    accept_with_callback(&gateway, &message(1, 7, "hello"), &receiver.url("/own")).await;
    gateway.accept(&message(2, 7, "hello again")).await;
    let received = receiver.received_at_least(2).await;
    let mut paths: Vec<_> = received.iter().map(|one| one.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/default", "/own"]);
}

#[tokio::test]
async fn a_callback_is_tried_again_with_the_same_id_until_it_is_taken() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_with(&[500, 503, 200]);
    let gateway = builder(&bot).env("CALLBACK_URL", &receiver.url("/result")).start().await;
    gateway.accept(&message(1, 7, "hello")).await;
    let received = receiver.received_at_least(3).await;
    for reception in &received {
        assert_signed(reception);
        assert_eq!(reception.header("webhook-id"), received[0].header("webhook-id"));
        assert_eq!(reception.body, received[0].body);
    }
    // Another one shows that the first was not sent a fourth time.
    gateway.accept(&message(2, 7, "hello again")).await;
    let received = receiver.received_at_least(4).await;
    assert_ne!(received[3].header("webhook-id"), received[0].header("webhook-id"));
    assert_eq!(received.len(), 4);
}

#[tokio::test]
async fn a_redirection_is_a_failure_and_not_followed() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    receiver.redirect_to(&receiver.url("/elsewhere"));
    let gateway = builder(&bot).env("CALLBACK_URL", &receiver.url("/result")).start().await;
    gateway.accept(&message(1, 7, "hello")).await;
    let received = receiver.received_at_least(2).await;
    assert!(received.iter().all(|one| one.path == "/result"), "{received:?}");
}

#[tokio::test]
async fn a_receiver_that_is_gone_for_good_is_not_asked_again() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_with(&[410]);
    let gateway = builder(&bot).start().await;
    accept_with_callback(&gateway, &message(1, 7, "hello"), &receiver.url("/gone")).await;
    gateway.logged(&["dead letter", "410"]).await;
    accept_with_callback(&gateway, &message(2, 7, "hello"), &receiver.url("/other")).await;
    let received = receiver.received_at_least(2).await;
    assert_eq!(received.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["/gone", "/other"]);
}

#[tokio::test]
async fn a_callback_that_nobody_takes_becomes_a_dead_letter_that_can_be_sent_again() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_with(&[500; 3]);
    let gateway = builder(&bot).set("callbacks.retry.attempts", 3).start().await;
    accept_with_callback(&gateway, &message(1, 7, "hello"), &receiver.url("/result")).await;
    gateway.logged(&["dead letter", "500"]).await;
    assert_eq!(receiver.received().len(), 3);

    let letters = gateway.get("/admin/dead-letters").await.expect(200).json();
    let callback = |letter: &&Value| letter["target"]["url"].is_string();
    let letter = letters.as_array().and_then(|letters| letters.iter().find(callback));
    let letter = letter.unwrap_or_else(|| panic!("no callback among {letters}"));
    assert_eq!(letter["target"]["url"], receiver.url("/result"), "{letter}");
    assert_eq!(letter["attempts"], 3, "{letter}");
    gateway.post(&format!("/admin/dead-letters/{}/replay", letter["id"]), &Value::Null).await.expect(200);
    let received = receiver.received_at_least(4).await;
    assert_eq!(received[3].header("webhook-id"), received[0].header("webhook-id"));
    assert_signed(&received[3]);
    gateway.post("/admin/dead-letters/4711/replay", &Value::Null).await.expect(404).error();
}

#[tokio::test]
async fn a_callback_that_waits_survives_a_crash() {
    let bot = BotApi::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_with(&[500]);
    let mut gateway = builder(&bot).env("CALLBACK_URL", &receiver.url("/result")).same_port().start().await;
    gateway.accept(&message(1, 7, "hello")).await;
    let first = receiver.received_at_least(1).await;
    gateway.kill();
    gateway.start_again().await;
    let received = receiver.received_at_least(2).await;
    assert_eq!(received[1].header("webhook-id"), first[0].header("webhook-id"));
    assert_signed(&received[1]);
}

#[tokio::test]
async fn a_dead_receiver_delays_no_other() {
    let bot = BotApi::start().await;
    let (dead, alive) = (Receiver::start().await, Receiver::start().await);
    dead.answer_with(&[500; 1_000]);
    let gateway = builder(&bot).start().await;
    for number in 1..=20 {
        accept_with_callback(&gateway, &message(number, number, "hello"), &dead.url("/result")).await;
    }
    dead.received_at_least(1).await;
    accept_with_callback(&gateway, &message(100, 100, "hello"), &alive.url("/result")).await;
    alive.received_at_least(1).await;
}

#[tokio::test]
async fn a_private_address_is_refused_in_every_spelling_unless_it_is_listed() {
    let receiver = Receiver::start().await;
    let port = receiver.url("").rsplit(':').next().expect("it has a port").to_owned();
    let bot = BotApi::start().await;
    let gateway = bot.configure(Gateway::builder()).set("callbacks.secret", SECRET).start().await;
    let hosts = [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::80ff:fffe]",
        "10.0.0.1",
        "169.254.169.254",
        "[fd00::1]",
        "[fe80::1]",
    ];
    let mut accepted = 0;
    for (number, host) in (1..).zip(hosts) {
        let url = format!("http://{host}:{port}/");
        let escaped = url.replace(':', "%3A").replace('/', "%2F");
        let update = message(number, number, "hello");
        let answer = gateway.post(&format!("/webhook?callback_url={escaped}"), &update).await;
        match answer.status {
            200 => accepted += 1,
            _ => assert_eq!(answer.expect(400).error()["param"], "callback_url", "for {url}"),
        }
    }
    // What was not refused at once is when it is to be sent, with the line to add.
    eventually(DEADLINE, || async {
        let log = gateway.log();
        let refusal = |line: &&String| line.contains("[callbacks]") && line.contains("private_networks");
        let refused = log.iter().filter(refusal).count();
        if refused >= accepted { Ok(()) } else { Err(format!("{refused} of {accepted} were refused")) }
    })
    .await;
    assert_eq!(receiver.received().len(), 0);
}

#[tokio::test]
async fn a_callback_url_that_may_not_be_called_is_refused_with_its_update() {
    let bot = BotApi::start().await;
    let gateway = bot.configure(Gateway::builder()).start().await;
    let update = message(1, 7, "hello");
    let answer = gateway.post("/webhook?callback_url=http%3A%2F%2F10.0.0.1%2Fx", &update).await;
    let error = answer.expect(400).error();
    assert_eq!(error["param"], "callback_url", "{error}");
    assert!(error["message"].as_str().is_some_and(|told| told.contains("private_networks")), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_given_up_is_called_back_as_no_success() {
    let bot = BotApi::start().await;
    let (receiver, platform) = (Receiver::start().await, Receiver::start().await);
    let denied = json!({"ok": false, "error_code": 401, "description": "Unauthorized"});
    (0..1_000).for_each(|_| platform.answer_with_json(&denied));
    let gateway = builder(&bot)
        .set("plugins.telegram.origins", vec![platform.url("")])
        .set("plugins.telegram.config.api_base", platform.url("").as_str())
        .set("delivery.retry.max_age", "1s")
        .set("delivery.retry.max_asked_delay", "100ms")
        .set("delivery.retry.first_delay", "50ms")
        .env("CALLBACK_URL", &receiver.url("/result"))
        .start()
        .await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let result = receiver.received_at_least(1).await[0].json();
    assert_eq!((&result["task_id"], &result["success"]), (&json!(task), &json!(false)), "{result}");
    let error = result["error"].as_str().expect("an error");
    assert!(error.contains("not delivered: given up after") && error.contains("sendMessage"), "{error}");
    let letters = gateway.get("/admin/dead-letters").await.expect(200).json();
    assert!(letters[0]["error"].as_str().is_some_and(|why| error.contains(why)), "{letters}");
}

#[tokio::test]
async fn without_a_url_nothing_is_posted_and_the_task_ends_as_ever() {
    let bot = BotApi::start().await;
    let gateway = builder(&bot).start().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    assert_eq!(gateway.ended(&task).await["state"], "completed");
}

#[tokio::test]
async fn a_result_is_posted_though_the_bot_has_no_token() {
    let receiver = Receiver::start().await;
    let builder =
        Gateway::builder().plugin("telegram").set("callbacks.private_networks", vec!["127.0.0.0/8"]);
    let gateway = builder.env("CALLBACK_URL", &receiver.url("/result")).start().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let result = receiver.received_at_least(1).await[0].json();
    assert_eq!(result["task_id"], task.as_str());
    // Whoever takes the results sends the answer on, as the webhook gateways' document has it.
    assert_eq!(result["messages"][0]["text"], "hello");
}
