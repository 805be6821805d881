//! What the operator may set. Unknown names are refused, so that a typing error does not pass for a setting.

use plugway_sdk::{host, warn};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;

/// Telegram takes one message a second in a chat, and edits count.
const LEAST_EDIT_INTERVAL_MS: u64 = 1000;

/// Configuration of the Telegram plugin.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the Bot API is: Telegram's, or a server of your own. Its origin has to be granted.
    pub(crate) api_base: String,
    /// Agent that answers; the gateway's default if none.
    pub(crate) agent: Option<String>,
    /// Which messages of an answer reply to the question: none, the first, or all.
    #[serde(deserialize_with = "reply_to_mode")]
    pub(crate) reply_to_mode: ReplyTo,
    /// Whether an answer is shown while it grows. `?stream=` in the webhook's URL goes before it.
    pub(crate) stream: bool,
    /// Milliseconds between two edits of a growing answer: 1000 or more; in groups never below 3000.
    #[schemars(range(min = 1000))]
    pub(crate) edit_interval_ms: u64,
    /// Pieces of an answer that have to be there before its first message appears.
    pub(crate) min_tokens: u32,
    /// Users who may use the bot: ids or names, as a list or separated by commas.
    #[serde(deserialize_with = "names")]
    #[schemars(with = "Names")]
    pub(crate) allowed_users: Vec<String>,
    /// Chats in which everybody may use the bot: ids, as a list or separated by commas.
    #[serde(deserialize_with = "names")]
    #[schemars(with = "Names")]
    pub(crate) allowed_chats: Vec<String>,
    /// The bot's own name. In groups, commands that are meant for another bot are then left alone.
    pub(crate) bot_username: Option<String>,
    /// Shows a growing answer as a draft (`sendMessageDraft`) in private chats, rather than by edits.
    pub(crate) drafts: bool,
}

/// Which messages of an answer reply to the question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReplyTo {
    Off,
    #[default]
    First,
    All,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api_base: "https://api.telegram.org".to_owned(),
            agent: None,
            reply_to_mode: ReplyTo::First,
            stream: true,
            edit_interval_ms: 1500,
            min_tokens: 20,
            allowed_users: Vec::new(),
            allowed_chats: Vec::new(),
            bot_username: None,
            drafts: false,
        }
    }
}

impl Config {
    /// Rules beyond the types; and what the operator should hear once, when the plugin goes live.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let rest = ["https://", "http://"].iter().find_map(|scheme| self.api_base.strip_prefix(scheme));
        if rest.is_none_or(|host| host.trim_matches('/').is_empty()) {
            return Err(format!("api_base: {:?} is not an http or https URL", self.api_base));
        }
        if self.edit_interval_ms < LEAST_EDIT_INTERVAL_MS {
            let set = self.edit_interval_ms;
            return Err(format!(
                "edit_interval_ms: {set} is too short, Telegram takes one edit a second: set 1000 or more"
            ));
        }
        if let Some(chat) = self.allowed_chats.iter().find(|chat| chat.parse::<i64>().is_err()) {
            return Err(format!("allowed_chats: {chat:?} is no chat id"));
        }
        if self.allows_everyone() {
            warn!("allowed_users and allowed_chats are empty: everyone may use this bot");
        }
        if !host::has_secret("webhook_secret") {
            warn!("no secret `webhook_secret` is granted: anyone who knows the address can send updates");
        }
        if !host::has_secret("bot_token") {
            warn!("no secret `bot_token` is granted: answers are not sent to any chat");
        }
        Ok(())
    }

    pub(crate) fn allows_everyone(&self) -> bool {
        self.allowed_users.is_empty() && self.allowed_chats.is_empty()
    }

    /// Whether somebody may use the bot: as a user who is listed, or in a chat that is.
    pub(crate) fn allows(&self, chat: i64, user: Option<i64>, username: Option<&str>) -> bool {
        let is = |listed: &String, id: i64| listed.parse() == Ok(id);
        self.allows_everyone()
            || self.allowed_chats.iter().any(|listed| is(listed, chat))
            || self.allowed_users.iter().any(|listed| {
                user.is_some_and(|user| is(listed, user))
                    || username.is_some_and(|name| listed.trim_start_matches('@').eq_ignore_ascii_case(name))
            })
    }

    /// Whether a name, as in `/help@name`, is this bot's. Any is while the bot does not know its own.
    pub(crate) fn is_me(&self, name: &str) -> bool {
        self.bot_username.as_deref().is_none_or(|me| me.trim_start_matches('@').eq_ignore_ascii_case(name))
    }

    /// Time between two edits.
    pub(crate) fn edit_interval(&self, group: bool) -> Duration {
        let ms = if group { self.edit_interval_ms.max(3000) } else { self.edit_interval_ms };
        Duration::from_millis(ms)
    }
}

/// One name or id, or several in whichever form they come: the environment can only set a text.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum Names {
    One(Name),
    Many(Vec<Name>),
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum Name {
    Id(i64),
    Text(String),
}

fn names<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<String>, D::Error> {
    let names = Names::deserialize(source)
        .map_err(|_| serde::de::Error::custom("expected ids or names, as a list or separated by commas"))?;
    let texts = match names {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    };
    let texts = texts.into_iter().map(|name| match name {
        Name::Id(id) => id.to_string(),
        Name::Text(text) => text,
    });
    Ok(texts.flat_map(|text| split(&text)).collect())
}

fn split(text: &str) -> Vec<String> {
    text.split([',', ' ', '\n']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// What is no known mode is `first`, as it was in the gateway that this one follows.
fn reply_to_mode<'de, D: Deserializer<'de>>(source: D) -> Result<ReplyTo, D::Error> {
    let mode = String::deserialize(source)?;
    Ok(match mode.trim().to_ascii_lowercase().as_str() {
        "off" => ReplyTo::Off,
        "all" => ReplyTo::All,
        _ => ReplyTo::First,
    })
}
