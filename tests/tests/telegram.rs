//! Answers in Telegram: a message that grows while the agent writes, whole in the end, once, and where it belongs.

use plugway_tests::bot_api::{
    BotApi, CURSOR, Fault, Message, Outcome, Rule, SECRET, TOKEN, in_topic, message,
};
use plugway_tests::markdown::{essence, fences_closed, length};
use plugway_tests::{Builder, DEADLINE, Receiver, Reception, eventually};
use serde_json::{Value, json};

/// What echo answers to `/words N`.
fn words(count: usize) -> String {
    (1..=count).map(|number| format!("w{number}")).collect::<Vec<_>>().join(" ")
}

fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.text.as_str()).collect()
}

/// Calls that the Bot API refused, which a bot that knows its limits has none of.
async fn refused(bot: &BotApi) -> Vec<String> {
    let calls = bot.calls().await;
    let refused = calls.iter().filter(|call| matches!(call.outcome, Outcome::Answered(400..)));
    refused.map(|call| format!("{} {:?} {}", call.method, call.outcome, call.body)).collect()
}

/// About 10,000 characters: paragraphs, code fences that cross the limit of a message, what Markdown takes for marks, and
/// characters of two UTF-16 units.
fn long_text() -> String {
    let mut text = String::from("Here is the whole program, as you asked (version 2.0 - final!):\n\n");
    for section in 1..=6 {
        text.push_str(&format!(
            "Section {section}. It does a + b = c, and more; see [notes] #{section} \u{1f980}.\n\n"
        ));
        text.push_str("```rust\n");
        for line in 1..=31 {
            text.push_str(&format!(
                "    let value_{section}_{line:02} = compute(&[{line}, {section}])?; // step {line}\n"
            ));
        }
        text.push_str("```\n\n");
    }
    text.push_str("That is all. Tell me if anything is missing!");
    text
}

#[tokio::test]
async fn a_short_answer_is_one_message() {
    let bot = BotApi::start().await;
    let gateway = bot.gateway(|builder| builder).await;
    let task = bot.says(7, "hello there").await;
    assert_eq!(texts(&bot.settled(7).await), ["hello there"]);
    assert_eq!(gateway.ended(&task).await["state"], "completed");
    assert_eq!(refused(&bot).await, [""; 0]);
}

#[tokio::test]
async fn an_answer_is_edited_while_the_agent_writes_and_ends_without_cursor() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder.set("agents.echo.chunk_delay", "60ms")).await;
    bot.says(7, "/words 60").await;

    let messages = bot.settled(7).await;
    assert_eq!(texts(&messages), [words(60)]);
    let before = &messages[0].before;
    assert!(before.len() >= 2, "it grew: {before:?}");
    for text in before {
        let written = text.strip_suffix(CURSOR).unwrap_or_else(|| panic!("no cursor: {text:?}"));
        assert!(words(60).starts_with(written), "{written:?}");
    }
    assert!(before.windows(2).all(|pair| pair[0].len() <= pair[1].len()), "it only grows: {before:?}");
    let sends =
        bot.calls().await.into_iter().filter(|call| call.method == "sendMessage" && call.chat == Some(7));
    assert_eq!(sends.count(), 2, "one for this answer, one for the one that settled it");
    assert_eq!(refused(&bot).await, [""; 0]);
}

#[tokio::test]
async fn what_a_filter_keeps_in_is_in_no_edit() {
    let bot = BotApi::start().await;
    let tune = |builder: Builder| {
        builder.plugin("redact").set("filters", vec!["redact"]).set("agents.echo.chunk_delay", "150ms")
    };
    let _gateway = bot.gateway(tune).await;
    bot.says(7, "my card is 4111 1111 1111 1111 which nobody is to see in any edit of this long answer")
        .await;
    let messages = bot.settled(7).await;
    let answer = "my card is [CARD] which nobody is to see in any edit of this long answer";
    assert_eq!(texts(&messages), [answer]);
    assert!(!messages[0].before.is_empty(), "it was edited");
    for call in bot.calls().await {
        let said = call.body.to_string();
        assert!(!said.contains("4111") && !said.contains("1111 1"), "{} said {said}", call.method);
    }
}

#[tokio::test]
async fn the_first_message_waits_for_enough_of_the_answer() {
    let bot = BotApi::start().await;
    let tune = |builder: Builder| {
        builder.set("agents.echo.chunk_delay", "30ms").set("plugins.telegram.config.min_tokens", 20)
    };
    let _gateway = bot.gateway(tune).await;
    bot.says(7, "/words 40").await;
    let messages = bot.settled(7).await;
    let first = messages[0].before.first().expect("it grew");
    assert!(first.split_whitespace().filter(|word| word.starts_with('w')).count() >= 20, "{first:?}");
}

#[tokio::test]
async fn without_streaming_an_answer_is_sent_once_and_never_edited() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder.set("plugins.telegram.config.stream", false)).await;
    bot.says(7, "/words 30").await;
    let messages = bot.settled(7).await;
    assert_eq!(texts(&messages), [words(30)]);
    assert_eq!(messages[0].before, [""; 0]);
}

#[tokio::test]
async fn a_typing_action_shows_before_the_answer() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder).await;
    bot.says(7, "/sleep 500ms").await;
    assert_eq!(texts(&bot.settled(7).await), ["slept"]);
    let calls = bot.calls().await;
    let typing =
        calls.iter().position(|call| call.method == "sendChatAction" && call.body["action"] == "typing");
    let sent = calls.iter().position(|call| call.method == "sendMessage");
    assert!(typing.is_some() && typing < sent, "typing at {typing:?}, message at {sent:?}");
}

#[tokio::test]
async fn a_long_answer_with_code_arrives_in_whole_chunks() {
    for stream in [true, false] {
        let bot = BotApi::start().await;
        let _gateway = bot.gateway(|builder| builder.set("plugins.telegram.config.stream", stream)).await;
        let text = long_text();
        assert!((9_500..11_000).contains(&text.len()), "{}", text.len());
        bot.says(7, &text).await;

        let messages = bot.settled(7).await;
        assert!((3..=5).contains(&messages.len()), "{} messages", messages.len());
        let shown: String = messages.iter().map(|message| format!("{}\n", message.text)).collect();
        assert_eq!(essence(&shown), essence(&text), "all of it, in order, once");
        for message in &messages {
            assert!(length(&message.text) <= 4096);
            assert!(!message.text.contains(CURSOR.trim()), "cursor in {message:?}");
            assert!(fences_closed(&message.source), "fences of {message:?}");
        }
        assert_code_stays_code(&text, &messages);
        assert_eq!(refused(&bot).await, [""; 0]);
    }
}

/// Every line of code is whole, and inside a fence of the message that it is in.
fn assert_code_stays_code(text: &str, messages: &[Message]) {
    for code in text.lines().filter(|line| line.contains("let value_")) {
        let source = messages.iter().find(|message| message.source.lines().any(|line| line == code));
        let source = &source.unwrap_or_else(|| panic!("no message has the line {code:?}")).source;
        let fences =
            source.lines().take_while(|line| *line != code).filter(|line| line.starts_with("```")).count();
        assert_eq!(fences % 2, 1, "{code:?} is outside of a fence in {source:?}");
    }
}

#[tokio::test]
async fn what_markdown_takes_for_marks_arrives_as_written() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder).await;
    let texts = [
        "1 + 1 = 2. (a) [b] {c} #d | e! > f - g",
        "snake_case and 2 * 3 * 4 and ~home and a\\b",
        "> not a quote? - a list\n- an item\n# a heading\n1. first",
        "an `inline(code)` and an unclosed `tick",
        "```\nnever closed = true;",
        "https://example.org/a_b?c=d&e=f#g (really)",
        "\u{1f980}\u{1f980} \u{e9}\u{4e2d}",
    ];
    for (chat, text) in (20..).zip(texts) {
        bot.says(chat, text).await;
        let shown: String = bot.settled(chat).await.iter().map(|message| message.text.clone()).collect();
        assert_eq!(essence(&shown), essence(text), "of {text:?}");
    }
}

#[tokio::test]
async fn each_reply_mode_does_what_it_says() {
    let modes = [("off", 0), ("first", 1), ("all", usize::MAX), ("whatever", 1)];
    for (mode, replies) in modes {
        let bot = BotApi::start().await;
        let _gateway =
            bot.gateway(|builder| builder.set("plugins.telegram.config.reply_to_mode", mode)).await;
        let push = bot.say(&message(7, &long_text())).await;
        bot.taken(push).await;
        let messages = bot.settled(7).await;
        assert!(messages.len() > 2, "{} messages", messages.len());
        let asked = bot.pushes().await[push].update["message"]["message_id"].as_i64();
        let expected: Vec<_> = (0..messages.len()).map(|index| asked.filter(|_| index < replies)).collect();
        let found: Vec<_> = messages.iter().map(|message| message.reply_to).collect();
        assert_eq!(found, expected, "reply_to_mode {mode}");
    }
}

#[tokio::test]
async fn an_answer_in_a_forum_topic_stays_in_it() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder).await;
    let push = bot.say(&in_topic(-1001, 33, "hello topic")).await;
    bot.taken(push).await;
    let messages = bot.chat_when(-1001, |messages| texts(messages) == ["hello topic"]).await;
    assert_eq!(messages[0].thread, Some(33));
    let typing = bot.calls().await.into_iter().find(|call| call.method == "sendChatAction");
    assert!(typing.is_none_or(|call| call.body["message_thread_id"] == 33));
}

#[tokio::test]
async fn a_task_that_fails_leaves_one_message_without_cursor() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder).await;
    bot.says(7, "/fail out of coffee").await;
    let messages = bot.settled(7).await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(!messages[0].text.is_empty() && !messages[0].text.contains(CURSOR.trim()), "{messages:?}");
}

#[tokio::test]
async fn the_bots_own_commands_are_answered_without_the_agent() {
    let bot = BotApi::start().await;
    let gateway = bot.gateway(|builder| builder).await;
    for (chat, command) in [(31, "/start"), (32, "/help"), (33, "/new")] {
        let push = bot.say(&message(chat, command)).await;
        let answer = bot.taken(push).await;
        assert!(answer.get("task_id").is_none(), "{command}: {answer}");
        let shown = bot.chat_when(chat, |messages| !messages.is_empty()).await;
        assert_ne!(texts(&shown), [command], "echo would have said that");
    }
    assert_eq!(gateway.accepted_tasks().await, 0.0);
}

#[tokio::test]
async fn a_user_can_cancel_what_runs() {
    let bot = BotApi::start().await;
    let gateway = bot.gateway(|builder| builder).await;
    let task = bot.says(7, "/sleep 60s").await;
    gateway.stream(&format!("/stream/{task}")).await.until(|event| event.progress() == "started").await;
    let push = bot.say(&message(7, "/cancel")).await;
    bot.taken(push).await;
    assert_eq!(gateway.ended(&task).await["state"], "cancelled");
    assert!(!texts(&bot.settled(7).await).contains(&"slept"));
}

#[tokio::test]
async fn chats_do_not_wait_for_each_other() {
    let bot = BotApi::start().await;
    let _gateway = bot.gateway(|builder| builder.set("workers.count", 16)).await;
    let chats: Vec<i64> = (100..110).collect();
    for chat in &chats {
        bot.says(*chat, &format!("/words {chat}")).await;
    }
    for chat in &chats {
        let count = usize::try_from(*chat).expect("it is positive");
        bot.chat_when(*chat, |messages| texts(messages) == [words(count)]).await;
    }
}

#[tokio::test]
async fn no_secret_shows_in_logs_figures_or_descriptions() {
    let bot = BotApi::start().await;
    let gateway =
        bot.gateway(|builder| builder.set("telemetry.level", "info,plugway=debug,plugin=debug")).await;
    bot.fail(Rule::next("sendMessage", Fault::Status(502))).await;
    let task = bot.says(7, "hello").await;
    bot.chat_when(7, |messages| !messages.is_empty()).await;
    bot.assert_failed_as_told().await;
    let mut shown = gateway.log();
    for path in ["/metrics", "/admin/plugins", "/ready", &format!("/tasks/{task}")] {
        shown.push(gateway.get(path).await.expect(200).text());
    }
    for text in shown {
        for secret in [TOKEN, SECRET] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_result_is_posted_to_the_callback_beside_the_answer_in_the_chat() {
    let (bot, receiver) = (BotApi::start().await, Receiver::start().await);
    let tune = |builder: Builder| {
        builder
            .set("callbacks.private_networks", vec!["127.0.0.0/8"])
            .env("CALLBACK_URL", &receiver.url("/result"))
    };
    let _gateway = bot.gateway(tune).await;
    let task = bot.says(7, "/words 8").await;
    let messages = bot.settled(7).await;
    assert_eq!(texts(&messages), [words(8)]);
    let result: Value = eventually(DEADLINE, || async {
        let received = receiver.received();
        let ours = received.iter().map(Reception::json).find(|body| body["task_id"] == task.as_str());
        ours.ok_or_else(|| format!("{received:?}"))
    })
    .await;
    assert_eq!(result["success"], json!(true));
    assert_eq!(result["messages"][0]["chat_id"], 7);
    assert_eq!(result["messages"][0]["text"], words(8));
}
