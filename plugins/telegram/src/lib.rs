//! Telegram bots for Plugway: an update comes in by webhook and becomes a task; the task's answer grows in the chat by
//! edits, and stands there whole, in order and once.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `webhook` | the route: who may come in, what an update becomes, the answer to Telegram |
//! | `update`, `command` | what Telegram sends, what the bot itself answers |
//! | `session` | which session a chat is in (`/new` starts another) |
//! | `delivery` | following a task, and when to show what |
//! | `answer`, `said` | the messages that make up one answer: sent once, edited, deleted; their text |
//! | `ledger` | what of it is in the chat already, kept across restarts |
//! | `flood` | Telegram's limits, and the pauses that it asks for, kept across restarts |
//! | `bot` | the Bot API: calls, and what its answers mean |
//! | `chunk` | text to messages |
//! | `markdown`, `inline` | Markdown to MarkdownV2: blocks, and what stands in a line |
//! | `callback` | the result callback |
//!
//! Invariant: a message is sent only after the intent to send it is stored, and its id is stored before anything else is
//! done. Whoever comes after a crash edits what is there; only a send of which nobody can know is made again, and said so.

mod address;
mod answer;
mod bot;
mod callback;
mod chunk;
mod command;
mod config;
mod delivery;
mod flood;
mod inline;
mod ledger;
mod markdown;
mod said;
mod session;
mod update;
mod webhook;
mod words;

#[cfg(test)]
mod tests;

use config::Config;

/// The adapter.
struct Telegram;

plugway_sdk::export!(
    Telegram: http + delivery,
    routes = ["POST /webhook" by plugin],
    origins = ["https://api.telegram.org"],
    secrets = ["bot_token", "webhook_secret"],
    config = Config,
    validate = Config::validate,
);
