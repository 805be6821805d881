//! Telegram fails, the network fails, the gateway dies: the answer is still whole, in order and there once.

use std::time::Duration;

use plugway_tests::bot_api::{
    BotApi, CURSOR, Fault, Message, Outcome, Rule, SECRET, in_topic, message as said,
};
use plugway_tests::update::message;
use plugway_tests::{Builder, DEADLINE, Gateway, eventually};

const SHORT: Duration = Duration::from_millis(1_200);

/// What echo answers to `/words N`.
fn words(count: usize) -> String {
    (1..=count).map(|number| format!("w{number}")).collect::<Vec<_>>().join(" ")
}

fn slowly(builder: Builder) -> Builder {
    builder.set("agents.echo.chunk_delay", "60ms")
}

/// The answer is there, whole and once. Each send whose reply was lost may have left one more message: nobody can know.
async fn assert_answered_once(bot: &BotApi, chat: i64, answer: &str, what: &str) {
    let messages = bot.settled(chat).await;
    let whole = messages.iter().filter(|message| message.text == answer).count();
    let lost = bot.lost(chat).await;
    assert!(whole >= 1, "{what}: no message is the whole answer: {messages:#?}");
    assert!(messages.len() <= 1 + lost, "{what}: more than one message ({lost} replies lost): {messages:#?}");
    if lost == 0 {
        assert!(messages.iter().all(|message| !message.text.ends_with(CURSOR)), "{what}: {messages:#?}");
    }
    assert!(bot.impatient().await.is_empty(), "{what}: calls before retry_after was over");
}

/// An answer of 60 words, with this fault of this method's call of this number.
async fn survives(method: &'static str, fault: Fault, after: usize) {
    let bot = BotApi::start().await;
    let gateway = bot.gateway(slowly).await;
    bot.fail(Rule::next(method, fault.clone()).after(after)).await;
    let task = bot.says(7, "/words 60").await;
    gateway.ended(&task).await;
    bot.chat_when(7, |messages| messages.iter().any(|message| message.text == words(60))).await;
    bot.assert_failed_as_told().await;
    let what = format!("{fault:?} at {method} {after}");
    assert_answered_once(&bot, 7, &words(60), &what).await;
}

#[tokio::test]
async fn flood_control_of_the_first_message_is_waited_for() {
    survives("sendMessage", Fault::FloodControl(1), 0).await;
}

#[tokio::test]
async fn flood_control_of_an_edit_is_waited_for() {
    survives("editMessageText", Fault::FloodControl(2), 1).await;
}

#[tokio::test]
async fn an_error_of_telegrams_servers_is_no_end() {
    survives("sendMessage", Fault::Status(502), 0).await;
    survives("editMessageText", Fault::Status(500), 1).await;
}

#[tokio::test]
async fn a_refused_connection_is_no_end() {
    survives("sendChatAction", Fault::ClosedAfter(SHORT), 0).await;
    survives("sendMessage", Fault::ClosedAfter(SHORT), 0).await;
    survives("editMessageText", Fault::ClosedAfter(SHORT), 1).await;
}

#[tokio::test]
async fn a_connection_cut_before_an_edit_is_no_end() {
    survives("editMessageText", Fault::CutBefore, 1).await;
}

#[tokio::test]
async fn a_connection_cut_after_an_edit_leaves_one_answer() {
    survives("editMessageText", Fault::CutAfter, 1).await;
}

#[tokio::test]
async fn a_connection_cut_before_a_message_is_no_end() {
    survives("sendMessage", Fault::CutBefore, 0).await;
}

#[tokio::test]
async fn faults_of_the_last_edit_leave_no_cursor() {
    for fault in [Fault::FloodControl(1), Fault::Status(502), Fault::CutBefore, Fault::CutAfter] {
        let bot = BotApi::start().await;
        // No edit comes before the last one, which is therefore the first.
        let tune = |builder| slowly(builder).set("plugins.telegram.config.edit_interval_ms", 5_000);
        let _gateway = bot.gateway(tune).await;
        bot.fail(Rule::next("editMessageText", fault.clone())).await;
        bot.says(7, "/words 30").await;
        bot.chat_when(7, |messages| messages.iter().any(|message| message.text == words(30))).await;
        bot.assert_failed_as_told().await;
        assert_answered_once(&bot, 7, &words(30), &format!("{fault:?} at the last edit")).await;
    }
}

#[tokio::test]
async fn a_message_whose_reply_was_lost_may_come_twice_which_is_logged_and_counted() {
    let bot = BotApi::start().await;
    let gateway = bot.gateway(|builder| builder.set("plugins.telegram.config.stream", false)).await;
    bot.fail(Rule::next("sendMessage", Fault::CutAfter)).await;
    bot.says(7, "/words 20").await;
    bot.chat_when(7, |messages| messages.iter().any(|message| message.text == words(20))).await;
    bot.assert_failed_as_told().await;
    let messages = bot.settled(7).await;
    assert!(messages.iter().all(|message| message.text == words(20)), "{messages:#?}");
    assert!(messages.len() <= 2, "{messages:#?}");
    gateway.logged(&["warn", "telegram", "twice"]).await;
}

#[tokio::test]
async fn entities_that_telegram_refuses_are_sent_as_plain_text() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder.set("plugins.telegram.config.stream", false)).await;
    let refusal = Fault::Refused("can't parse entities: Character '_' is reserved");
    bot.fail(Rule::next("sendMessage", refusal)).await;
    let text = "a *bold* claim, some_snake_case and `code`";
    bot.says(7, text).await;
    bot.chat_when(7, |messages| !messages.is_empty()).await;
    bot.assert_failed_as_told().await;
    let messages = bot.settled(7).await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    let Message { text: shown, parse_mode, .. } = &messages[0];
    assert_eq!((shown.as_str(), parse_mode.as_deref()), (text, None));
}

#[tokio::test]
async fn a_page_of_a_proxy_is_no_refusal() {
    for status in [302, 403, 413] {
        let bot = BotApi::start().await;
        let _gateway = bot.gateway(|builder| builder.set("plugins.telegram.config.stream", false)).await;
        bot.fail(Rule::next("sendMessage", Fault::Status(status))).await;
        bot.says(7, "/words 20").await;
        bot.chat_when(7, |messages| messages.iter().any(|message| message.text == words(20))).await;
        bot.assert_failed_as_told().await;
        assert_answered_once(&bot, 7, &words(20), &format!("a page with status {status}")).await;
    }
}

#[tokio::test]
async fn a_topic_that_is_gone_is_answered_outside_of_it() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder).await;
    bot.fail(Rule::next("sendMessage", Fault::Refused("message thread not found"))).await;
    let push = bot.say(&in_topic(-1001, 33, "hello topic")).await;
    bot.taken(push).await;
    let shown = bot.chat_when(-1001, |messages| messages.iter().any(|one| one.text == "hello topic")).await;
    bot.assert_failed_as_told().await;
    assert_eq!(shown.iter().map(|message| message.thread).collect::<Vec<_>>(), [None]);
}

#[tokio::test]
async fn a_bot_that_was_blocked_is_given_up_and_others_are_answered() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder).await;
    bot.fail(Rule::next("sendMessage", Fault::Refused("chat not found"))).await;
    bot.says(7, "hello?").await;
    eventually(DEADLINE, || async {
        let refused = bot.calls().await.iter().any(|call| call.outcome == Outcome::Answered(400));
        if refused { Ok(()) } else { Err("nothing was sent".to_owned()) }
    })
    .await;
    bot.says(8, "hello!").await;
    bot.chat_when(8, |messages| messages.iter().any(|message| message.text == "hello!")).await;
    assert_eq!(bot.chat(7).await, []);
}

#[tokio::test]
async fn a_storm_of_random_faults_leaves_one_whole_answer_in_every_chat() {
    let faults = [
        Fault::FloodControl(1),
        Fault::Status(502),
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::ClosedAfter(Duration::from_millis(300)),
    ];
    for seed in 1..=3 {
        let bot = BotApi::start().await;
        let gateway = bot.gateway(|builder| slowly(builder).set("workers.count", 8)).await;
        bot.fail_at_random(seed, 0.2, &faults).await;
        for chat in 100..108 {
            gateway.accept_as(&message(chat, chat, "/words 50"), SECRET).await;
        }
        for chat in 100..108 {
            bot.chat_when(chat, |messages| messages.iter().any(|message| message.text == words(50))).await;
        }
        for chat in 100..108 {
            assert_answered_once(&bot, chat, &words(50), &format!("seed {seed}, chat {chat}")).await;
        }
    }
}

/// Waits until the chat shows a message that was edited at least once and is still being written.
async fn growing(bot: &BotApi, chat: i64) {
    let edited = |messages: &[Message]| {
        messages.iter().any(|message| message.before.len() > 1 && message.text.ends_with(CURSOR))
    };
    bot.chat_when(chat, edited).await;
}

#[tokio::test]
async fn a_gateway_killed_in_the_middle_of_an_answer_finishes_it_in_the_same_message() {
    let bot = BotApi::start().await;
    let mut gateway = bot.gateway(|builder| builder.set("agents.echo.chunk_delay", "60ms")).await;
    bot.says(7, "/words 80").await;
    growing(&bot, 7).await;
    gateway.kill();
    gateway.start_again().await;
    bot.chat_when(7, |messages| messages.iter().any(|message| message.text == words(80))).await;
    assert_answered_once(&bot, 7, &words(80), "killed").await;
}

#[tokio::test]
async fn a_gateway_stopped_in_the_middle_of_an_answer_finishes_it_in_the_same_message() {
    let bot = BotApi::start().await;
    let mut gateway = bot.gateway(|builder| builder.set("agents.echo.chunk_delay", "60ms")).await;
    bot.says(7, "/words 80").await;
    growing(&bot, 7).await;
    assert!(gateway.stop().await.success());
    gateway.start_again().await;
    bot.chat_when(7, |messages| messages.iter().any(|message| message.text == words(80))).await;
    assert_answered_once(&bot, 7, &words(80), "stopped").await;
}

#[tokio::test]
async fn a_message_that_telegram_redelivers_after_a_restart_is_answered_once() {
    let bot = BotApi::start().await;
    let mut gateway = bot.gateway(slowly).await;
    gateway.kill();
    let push = bot.say(&said(7, "are you there")).await;
    eventually(DEADLINE, || async {
        let tries = bot.pushes().await[push].tries.clone();
        if tries.is_empty() { Err("no try yet".to_owned()) } else { Ok(()) }
    })
    .await;
    gateway.start_again().await;
    bot.taken(push).await;
    assert_answered_once(&bot, 7, "are you there", "redelivered").await;
}

#[tokio::test]
async fn an_answer_that_ended_while_telegram_was_away_is_delivered_when_it_is_back() {
    let bot = BotApi::start().await;
    let mut gateway: Gateway = bot.gateway(|builder| builder).await;
    bot.close().await;
    let task = gateway.accept_as(&message(1, 7, "/words 12"), SECRET).await;
    gateway.ended(&task).await;
    gateway.kill();
    gateway.start_again().await;
    bot.recover().await;
    assert_answered_once(&bot, 7, &words(12), "away").await;
}
