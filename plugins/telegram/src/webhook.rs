//! The route. Telegram sends an update again until it gets a 2xx, and holds back those behind it: so what is no task is
//! answered 200 as well, 400 is for what is no update, and 503 for when there is no room.

use crate::{
    Telegram,
    address::Address,
    command::{Command, Intent, intent},
    config::Config,
    flood,
    session::Place,
    update::{Message, Stopped, Update},
    words,
};
use plugway_sdk::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

const SECRET_HEADER: &str = "x-telegram-bot-api-secret-token";
const HOUR: Duration = Duration::from_secs(3600);

impl HttpAdapter for Telegram {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        authorize(&request)?;
        let update = read(&request)?;
        let options = Options::read(&request)?;
        let config: Config = host::config()?;
        let answer = match (&update.message, &update.stopped_message_generation) {
            (Some(message), _) => on_message(update.update_id, message, &options, &config)?,
            (None, Some(stopped)) => on_stop(stopped, &config)?,
            (None, None) => ignored(),
        };
        reply.json(200, &answer)
    }
}

fn read(request: &Request) -> Result<Update> {
    let update = request.json()?;
    // serde takes a list for a struct, by position.
    match request.body.trim_ascii_start().first() {
        Some(b'{') => Ok(update),
        _ => Err(Error::bad_request("expected a Telegram update, which is an object")),
    }
}

/// What the webhook's URL asks for.
struct Options {
    stream: Option<bool>,
    callback_url: Option<String>,
}

impl Options {
    fn read(request: &Request) -> Result<Self> {
        let callback_url = request.query("callback_url").map(|url| url.into_owned());
        if let Some(url) = &callback_url
            && let Err(why) = webhooks::check(url)
        {
            return Err(Error::field("callback_url", why));
        }
        Ok(Self { stream: request.query("stream").map(|_| request.flag("stream")), callback_url })
    }
}

fn authorize(request: &Request) -> Result<()> {
    if !host::has_secret("webhook_secret") {
        if pacing::acquire("warned/secret", 1, HOUR, Duration::ZERO)? {
            warn!("taking an update unverified: no secret `webhook_secret` is granted");
        }
        return Ok(());
    }
    match request.header(SECRET_HEADER) {
        Some(shown) if host::secret_equals("webhook_secret", shown) => Ok(()),
        _ => {
            warn!("refused an update from {}: wrong or no secret token", request.client);
            Err(Error::Unauthorized(format!("{SECRET_HEADER} is missing or wrong")))
        }
    }
}

fn ignored() -> Value {
    json!({"status": "ignored"})
}

fn on_message(update: i64, message: &Message, options: &Options, config: &Config) -> Result<Value> {
    let sender = message.from.as_ref();
    let attachments = message.attachments();
    if sender.is_some_and(|user| user.is_bot) || (message.words().trim().is_empty() && attachments.is_empty())
    {
        return Ok(ignored());
    }
    let username = sender.and_then(|user| user.username.as_deref());
    if !allowed(config, message.chat.id, sender.map(|user| user.id), username)? {
        return Ok(ignored());
    }
    let place = Place { chat: message.chat.id, topic: message.topic() };
    match intent(message, config) {
        Intent::Other => Ok(ignored()),
        Intent::Command(command) => on_command(update, command, message, place),
        Intent::Talk => submit(update, message, &attachments, place, options, config),
    }
}

fn allowed(config: &Config, chat: i64, user: Option<i64>, username: Option<&str>) -> Result<bool> {
    if config.allows_everyone() && pacing::acquire("warned/everyone", 1, HOUR, Duration::ZERO)? {
        warn!("allowed_users and allowed_chats are empty: everyone may use this bot");
    }
    let allowed = config.allows(chat, user, username);
    if !allowed {
        info!("ignored a message in chat {chat} from {user:?} ({username:?}): not allowed");
    }
    Ok(allowed)
}

fn submit(
    update: i64,
    message: &Message,
    attachments: &[Value],
    place: Place,
    options: &Options,
    config: &Config,
) -> Result<Value> {
    let address = Address {
        chat_id: message.chat.id,
        group: message.chat.is_group(),
        thread: place.topic,
        message_id: message.message_id,
        reply_to: config.reply_to_mode,
        stream: options.stream.unwrap_or(config.stream),
        callback_url: options.callback_url.clone(),
    };
    let mut task = Task::message(message.words())
        .session(place.session()?)
        .idempotency_key(update.to_string())
        .metadata("platform", "telegram")
        .metadata("chat_id", message.chat.id)
        .metadata("message_id", message.message_id)
        .deliver(&address, Moment::Start);
    if let Some(user) = &message.from {
        task = task.metadata("user_id", user.id);
        task = user.username.iter().fold(task, |task, name| task.metadata("username", name));
        task = user.language_code.iter().fold(task, |task, code| task.metadata("language", code));
    }
    if let Some(replied) = &message.reply_to_message {
        task = task.metadata("reply_to", json!({"message_id": replied.message_id, "text": replied.text}));
    }
    if !attachments.is_empty() {
        task = task.attachments(attachments);
    }
    if let Some(agent) = &config.agent {
        task = task.agent(agent);
    }
    match task.submit() {
        Ok(task) => {
            let mut answer = json!({"status": "accepted", "task_id": task.id});
            if options.stream == Some(true) {
                answer["streaming"] = true.into();
            }
            Ok(answer)
        }
        // A 4xx would make Telegram send the same message again and again.
        Err(error @ (SubmitError::Refused(_) | SubmitError::Invalid(_))) => {
            info!("refused update {update}: {error}");
            Ok(say(message, place, "refused", &words::refusal(&error)))
        }
        Err(SubmitError::UnknownAgent(name)) => Err(Error::unavailable(format!(
            "no agent has the name {name:?} that this plugin is configured with"
        ))),
        Err(error) => Err(error.into()),
    }
}

fn on_command(update: i64, command: Command, message: &Message, place: Place) -> Result<Value> {
    let text = match command {
        Command::Start => words::WELCOME,
        Command::Help => words::HELP,
        Command::New => {
            place.renew(update)?;
            words::NEW
        }
        Command::Cancel => {
            if cancel(update, place)? {
                words::CANCELLING
            } else {
                words::NOTHING_TO_CANCEL
            }
        }
    };
    Ok(say(message, place, "handled", text))
}

/// Cancels what runs. The same update again gets the same answer, though by then nothing runs.
fn cancel(update: i64, place: Place) -> Result<bool> {
    let key = format!("cancelled/{update}");
    if kv::get(&key)?.is_some() {
        return Ok(true);
    }
    let stopped = plugway_sdk::cancel_session(&place.session()?)? > 0;
    if stopped {
        kv::put(&key, b"1", Some(HOUR))?;
    }
    Ok(stopped)
}

/// A message by the answer to the webhook: Telegram carries it out if it gets the answer, and asks again if it does not.
/// So it is said once, and costs no request. It counts towards the chat's limit, so the next message has to wait.
fn say(message: &Message, place: Place, status: &str, text: &str) -> Value {
    flood::turn(place.chat, message.chat.is_group(), Duration::ZERO);
    let mut answer = json!({"status": status, "method": "sendMessage", "chat_id": place.chat, "text": text});
    if let Some(topic) = place.topic {
        answer["message_thread_id"] = topic.into();
    }
    if message.chat.is_group() {
        answer["reply_parameters"] =
            json!({"message_id": message.message_id, "allow_sending_without_reply": true});
    }
    answer
}

/// The stop button of a draft. It is shown in private chats only, so whoever presses it has asked what is being answered, and has the chat's id and name.
fn on_stop(stopped: &Stopped, config: &Config) -> Result<Value> {
    let chat = &stopped.chat;
    if !allowed(config, chat.id, Some(chat.id), chat.username.as_deref())? {
        return Ok(ignored());
    }
    let place = Place { chat: chat.id, topic: stopped.message_thread_id };
    let count = plugway_sdk::cancel_session(&place.session()?)?;
    Ok(json!({"status": "handled", "cancelled": count}))
}
