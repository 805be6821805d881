//! A recording proxy before `telegram-test-api`.
//!
//! The server behind it decides what a bot may call and keeps what was sent. The proxy adds what that server lacks of
//! the Bot API (the secret header and redelivery of pushes, chat actions, lengths, entities, flood control), injects
//! faults, and keeps what every chat shows, so that a test can ask for the outcome instead of the way to it.

mod chats;
mod door;
mod faults;
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

pub use chats::Message;
pub use faults::{Fault, Rule};
pub use proxy::{Call, Outcome, Push};

use crate::eventually::{DEADLINE, eventually};
use crate::gateway::{Builder, Gateway};
use door::Door;
use proxy::{Proxy, Target};

/// Token of the bot that the tests speak for.
pub const TOKEN: &str = "4711:a-token-that-no-log-may-show";

/// Secret of its webhook.
pub const SECRET: &str = "a-webhook-secret-that-no-log-may-show";

/// End of a message that is still being written.
pub const CURSOR: &str = " \u{258c}";

/// A Bot API with one bot.
#[derive(Debug)]
pub struct BotApi {
    proxy: Arc<Proxy>,
    door: Door,
    /// One message of a user at a time: the test server numbers them only once they were pushed.
    saying: Mutex<()>,
    _tasks: JoinSet<()>,
}

impl BotApi {
    /// Starts the server and the proxy before it.
    pub async fn start() -> Self {
        let proxy = Arc::new(Proxy::start(TOKEN).await);
        let mut tasks = JoinSet::new();
        let door = Door::open(Arc::clone(&proxy), &mut tasks).await;
        let push = json!({ "url": format!("{}/push", door.address()) });
        let (status, answer) = proxy.upstream().call("setWebhook", &push).await;
        assert_eq!(status, 200, "setWebhook answered {answer}");
        Self { proxy, door, saying: Mutex::new(()), _tasks: tasks }
    }

    /// Where bots reach it.
    pub fn address(&self) -> &str {
        self.door.address()
    }

    /// Configures the plugin `telegram` for this Bot API, streaming quickly.
    pub fn configure(&self, builder: Builder) -> Builder {
        builder
            .plugin("telegram")
            .set("plugins.telegram.origins", vec![self.address().to_owned()])
            .set("plugins.telegram.private_networks", vec!["127.0.0.0/8".to_owned()])
            .set("plugins.telegram.config.api_base", self.address())
            .set("plugins.telegram.config.edit_interval_ms", 1000)
            .set("plugins.telegram.config.min_tokens", 2)
            .set("delivery.retry.first_delay", "100ms")
            .env("TELEGRAM_BOT_TOKEN", TOKEN)
    }

    /// Pushes updates to the webhook at `url` from now on, with the secret.
    pub async fn push_to(&self, url: &str) {
        self.proxy.push_to(Target { url: url.to_owned(), secret: SECRET.to_owned() }).await;
    }

    /// Starts a gateway with the plugin `telegram` configured for this Bot API, as `tune` completes it, whose webhook has
    /// the secret.
    pub async fn gateway(&self, tune: impl FnOnce(Builder) -> Builder) -> Gateway {
        let builder = self.configure(Gateway::builder()).env("WEBHOOK_SECRET", SECRET);
        let gateway = tune(builder).same_port().start().await;
        self.push_to(&gateway.url("/webhook")).await;
        gateway
    }

    /// A user says `text` in a private chat; the gateway accepts it. Returns the task.
    pub async fn says(&self, chat: i64, text: &str) -> String {
        let push = self.say(&message(chat, text)).await;
        let answer = self.taken(push).await;
        answer["task_id"].as_str().unwrap_or_else(|| panic!("no task_id in {answer}")).to_owned()
    }

    /// A user sends this message (see [`message`]). Returns the number of its push.
    pub async fn say(&self, message: &Value) -> usize {
        let _turn = self.saying.lock().await;
        let before = self.proxy.pushes().await.len();
        self.proxy.upstream().say(message).await;
        eventually(DEADLINE, || async {
            let pushed = self.proxy.pushes().await.len();
            if pushed > before { Ok(()) } else { Err("the message is not pushed".to_owned()) }
        })
        .await;
        before
    }

    /// Waits until the gateway has taken the push, and returns its answer.
    pub async fn taken(&self, push: usize) -> Value {
        eventually(DEADLINE, || async {
            let push = self.proxy.pushes().await.swap_remove(push);
            push.answer.clone().ok_or_else(|| format!("the push is not taken: {push:?}"))
        })
        .await
    }

    /// All pushes so far.
    pub async fn pushes(&self) -> Vec<Push> {
        self.proxy.pushes().await
    }

    /// All calls so far.
    pub async fn calls(&self) -> Vec<Call> {
        self.proxy.calls().await
    }

    /// Calls that came while the chat was under flood control.
    pub async fn impatient(&self) -> Vec<Call> {
        let calls = self.calls().await;
        calls.into_iter().filter(|call| call.outcome == Outcome::Impatient).collect()
    }

    /// Messages sent whose reply was lost: each may have been sent once more.
    pub async fn lost(&self, chat: i64) -> usize {
        let calls = self.calls().await;
        let lost = |call: &&Call| {
            call.method == "sendMessage" && call.chat == Some(chat) && call.outcome == Outcome::CutAfter
        };
        calls.iter().filter(lost).count()
    }

    /// Fails calls by a rule.
    pub async fn fail(&self, rule: Rule) {
        self.proxy.faults().await.add(rule);
    }

    /// Fails this share of the writes with one of these faults, from a seed.
    pub async fn fail_at_random(&self, seed: u64, share: f64, faults: &[Fault]) {
        self.proxy.faults().await.at_random(seed, share, faults.to_vec());
    }

    /// Checks that every rule has failed the calls that it was to fail: that the test has tested something.
    ///
    /// # Panics
    ///
    /// When one hasn't.
    pub async fn assert_failed_as_told(&self) {
        let unspent = self.proxy.faults().await.unspent();
        assert!(unspent.is_empty(), "no call came that {unspent:?} could fail");
    }

    /// No more faults.
    pub async fn recover(&self) {
        self.proxy.faults().await.clear();
        self.door.reopen();
        eventually(DEADLINE, || async { self.door.connects().await.map_err(|error| error.to_string()) })
            .await;
    }

    /// Refuses connections from now on, until [`recover`](Self::recover).
    pub async fn close(&self) {
        self.door.close(Duration::MAX);
        eventually(DEADLINE, || async {
            match self.door.connects().await {
                Ok(()) => Err("connections are accepted still".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
    }

    /// What the chat shows, oldest first, after a check that the server behind the proxy keeps the same.
    pub async fn chat(&self, chat: i64) -> Vec<Message> {
        self.proxy.agreed().await;
        self.proxy.shown(chat).await
    }

    /// Waits until what the chat shows satisfies `test`.
    pub async fn chat_when(&self, chat: i64, test: impl Fn(&[Message]) -> bool) -> Vec<Message> {
        eventually(DEADLINE, || async {
            let messages = self.proxy.shown(chat).await;
            if test(&messages) { Ok(messages) } else { Err(format!("the chat shows {messages:#?}")) }
        })
        .await
    }

    /// What a private chat shows once everything that was said in it before is answered for good.
    ///
    /// Deliveries of a session run one after the other, so one more message, whose answer is complete, tells. The faults
    /// are cleared before, and that last answer is left out.
    pub async fn settled(&self, chat: i64) -> Vec<Message> {
        self.recover().await;
        let last = format!("last{}", self.proxy.pushes().await.len());
        self.says(chat, &last).await;
        self.chat_when(chat, |messages| messages.iter().any(|message| message.text == last)).await;
        let mut messages = self.chat(chat).await;
        messages.retain(|message| message.text != last);
        messages
    }
}

/// A text message of a person in a private chat, for [`BotApi::say`].
pub fn message(chat: i64, text: &str) -> Value {
    json!({
        "date": 1_700_000_000,
        "from": { "id": chat.abs(), "is_bot": false, "first_name": "Ada" },
        "chat": { "id": chat, "type": "private", "first_name": "Ada" },
        "text": text
    })
}

/// The same in a forum topic of a group.
pub fn in_topic(chat: i64, thread: i64, text: &str) -> Value {
    let mut message = message(chat, text);
    message["from"]["id"] = json!(77);
    message["chat"] = json!({ "id": chat, "type": "supergroup", "title": "Forum", "is_forum": true });
    message["message_thread_id"] = json!(thread);
    message["is_topic_message"] = json!(true);
    message
}
