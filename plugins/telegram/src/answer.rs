//! The messages that make up one answer, and the calls that bring them into line with its text.
//!
//! Invariant: the ledger says "sending" before a message leaves, and knows its id before anything else happens.

use crate::{
    address::Address,
    bot::{Bot, Problem, Refusal},
    chunk::Chunk,
    config::{Config, ReplyTo},
    ledger::{Ledger, Sent},
    said::Said,
    words,
};
use plugway_sdk::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

/// Stands for the id of a message that can't be edited: the user has deleted it, or the server did not tell its id.
const GONE: i64 = 0;

const SECOND: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const ACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to wait for a turn or a pause here; beyond it the host calls again later.
const LONGEST_WAIT: Duration = Duration::from_secs(65);
/// Waits after something did not work, before the host is asked to call again later.
const PAUSES: [u64; 6] = [1, 2, 4, 8, 15, 30];

/// How much a call matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It shows progress: skipped where it can't be done at once.
    Skip,
    /// It is the answer: it waits.
    Wait,
}

/// What came of showing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It is in the chat.
    Yes,
    /// One step of several is done.
    Partly,
    /// Not now; not before this time if there is one.
    Skipped(Duration),
    /// Nobody knows whether a message arrived: no more attempts before the end.
    Lost,
}

fn not_done(method: &str, why: &str) -> Failure {
    Failure::retry(Duration::from_secs(30), format!("{method}: {why}"))
}

/// What a call that was insisted on found.
enum Called {
    Done(Value),
    Skipped(Duration),
    Lost,
    /// The message is gone.
    NoMessage,
}

/// One answer in one chat.
#[derive(Debug)]
pub(crate) struct Answer {
    bot: Bot,
    chat: i64,
    thread: Option<i64>,
    address: Address,
    ledger: Ledger,
    /// Without a token nothing can be said in the chat; whoever takes the result callback may do it.
    mute: bool,
    /// Hash of what each message shows, as far as it is known.
    shows: Vec<Option<u64>>,
    /// Telegram did not take the formatting of a text that grows: the next ones go without, up to the last.
    plain_growth: bool,
    /// What the last pass sent, for the callback.
    pub(crate) said: Vec<Said>,
}

impl Answer {
    pub(crate) fn open(task: &TaskRef, address: Address, config: &Config) -> Result<Self, Failure> {
        let ledger = Ledger::open(&task.id)?;
        let shows = ledger.page.sent.iter().map(|sent| sent.hash).collect();
        Ok(Self {
            bot: Bot::new(config),
            chat: address.chat_id,
            thread: address.thread,
            address,
            ledger,
            mute: !host::has_secret("bot_token"),
            shows,
            plain_growth: false,
            said: Vec::new(),
        })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.ledger.page.done
    }

    /// Whether nothing can be said in the chat at all.
    pub(crate) fn is_mute(&self) -> bool {
        self.mute
    }

    /// Whether any of it is in the chat.
    pub(crate) fn has_begun(&self) -> bool {
        !self.shows.is_empty()
    }

    /// "Typing…" for five seconds. Whether it works never matters.
    pub(crate) fn typing(&self) {
        if !self.mute && self.turn(&[("all", 30, SECOND)], Duration::ZERO) {
            _ = self.bot.call("sendChatAction", &self.to_chat(json!({"action": "typing"})), ACTION_TIMEOUT);
        }
    }

    /// Shows a text that grows as a draft. `Lost` if drafts don't work here.
    pub(crate) fn draft(&mut self, text: &str) -> Shown {
        if !self.chat_turn(Duration::ZERO) {
            return Shown::Skipped(Duration::ZERO);
        }
        let mut said = Said::new(text, true);
        if self.plain_growth {
            said.unformat();
        }
        let mut body =
            json!({"draft_id": self.address.message_id.max(1), "can_stop": true, "keep_on_stop": true});
        said.put_into(&mut body);
        match self.bot.call("sendMessageDraft", &self.to_chat(body), ACTION_TIMEOUT) {
            Ok(_) => Shown::Yes,
            Err(Problem::Flood(pause)) => {
                self.pause(pause);
                Shown::Skipped(pause)
            }
            Err(Problem::NotDone(_) | Problem::Unknown(_)) => Shown::Skipped(Duration::ZERO),
            Err(Problem::Refused(Refusal::Entities, _)) if said.formatted => {
                self.plain_growth = true;
                Shown::Skipped(Duration::ZERO)
            }
            Err(problem) => {
                info!("drafts do not work in chat {}, going on with edits: {problem:?}", self.chat);
                Shown::Lost
            }
        }
    }

    /// Brings the chat one step nearer to a text that still grows; its last message ends in a cursor.
    pub(crate) fn show(&mut self, chunks: &[Chunk], tail: bool) -> Result<Shown, Failure> {
        let last = chunks.len().saturating_sub(1);
        let until = if tail { chunks.len() } else { last };
        for (index, chunk) in chunks[..until].iter().enumerate() {
            let mut text = Said::new(&chunk.source, index == last);
            if self.plain_growth && index == last {
                text.unformat();
            }
            if !self.says(index, &text) {
                let shown = self.place(index, &mut text, Patience::Skip, index < last)?;
                return Ok(if shown == Shown::Yes && index + 1 < until { Shown::Partly } else { shown });
            }
        }
        Ok(Shown::Yes)
    }

    /// Brings the chat to the whole answer, and waits for it.
    pub(crate) fn finish(&mut self, chunks: &[Chunk]) -> Result<(), Failure> {
        self.said.clear();
        for (index, chunk) in chunks.iter().enumerate() {
            let mut text = Said::new(&chunk.source, false);
            if !self.mute && !self.says(index, &text) {
                self.place(index, &mut text, Patience::Wait, true)?;
            }
            self.said.push(text);
        }
        while !self.mute && self.shows.len() > chunks.len() {
            self.remove_last()?;
        }
        Ok(())
    }

    /// All is in the chat.
    pub(crate) fn close(&mut self) -> Result<(), Failure> {
        self.ledger.page.done = true;
        self.ledger.save()
    }

    /// The id that a message of the answer replies to.
    pub(crate) fn replies_to(&self, index: usize) -> Option<i64> {
        let replies = match self.address.reply_to {
            ReplyTo::Off => false,
            ReplyTo::First => index == 0,
            ReplyTo::All => true,
        };
        replies.then_some(self.address.message_id)
    }

    fn says(&self, index: usize, text: &Said) -> bool {
        self.shows.get(index).copied().flatten() == Some(text.hash())
    }

    /// Makes message number `index` say this.
    fn place(
        &mut self,
        index: usize,
        text: &mut Said,
        patience: Patience,
        last_word: bool,
    ) -> Result<Shown, Failure> {
        if let Some(sent) = self.ledger.page.sent.get_mut(index)
            && sent.id != GONE
        {
            let id = sent.id;
            if sent.hash.take().is_some() {
                self.ledger.save()?;
            }
            self.shows[index] = None;
            match self.call("editMessageText", json!({"message_id": id}), Some(&mut *text), patience)? {
                Called::Done(_) => {
                    self.shows[index] = Some(text.hash());
                    return Ok(Shown::Yes);
                }
                Called::Skipped(pause) => return Ok(Shown::Skipped(pause)),
                Called::Lost => return Ok(Shown::Lost),
                Called::NoMessage => {
                    info!("message {id} in chat {} is gone, sending it anew", self.chat);
                    self.ledger.page.sent[index].id = GONE;
                }
            }
        }
        self.send(index, text, patience, last_word)
    }

    fn send(
        &mut self,
        index: usize,
        text: &mut Said,
        patience: Patience,
        last_word: bool,
    ) -> Result<Shown, Failure> {
        let mut body = json!({});
        if let Some(id) = self.replies_to(index) {
            body["reply_parameters"] = json!({"message_id": id, "allow_sending_without_reply": true});
        }
        let called = self.call("sendMessage", body, Some(&mut *text), patience);
        let sending = std::mem::take(&mut self.ledger.page.sending);
        let shown = match called {
            Ok(Called::Done(result)) => {
                let id = result["message_id"].as_i64().unwrap_or(GONE);
                let sent = Sent { id, hash: last_word.then(|| text.hash()) };
                if index < self.shows.len() {
                    self.ledger.page.sent[index] = sent;
                    self.shows[index] = Some(text.hash());
                } else {
                    self.ledger.page.sent.push(sent);
                    self.shows.push(Some(text.hash()));
                }
                // Without an id it can't be edited, so it had better be the last word.
                Ok(if id == GONE && !last_word { Shown::Lost } else { Shown::Yes })
            }
            Ok(Called::Skipped(pause)) => Ok(Shown::Skipped(pause)),
            Ok(Called::Lost | Called::NoMessage) => Ok(Shown::Lost),
            Err(failure) => Err(failure),
        };
        if sending {
            self.ledger.save()?;
        }
        shown
    }

    fn remove_last(&mut self) -> Result<(), Failure> {
        let Some(id) = self.ledger.page.sent.last().map(|sent| sent.id) else { return Ok(()) };
        let removed = if id == GONE {
            Ok(Called::NoMessage)
        } else {
            self.call("deleteMessage", json!({"message_id": id}), None, Patience::Wait)
        };
        if let Err(Failure::Permanent(why)) = &removed {
            info!("message {id} can't be deleted ({why}), emptying it");
            let mut text = Said::new(words::SUPERSEDED, false);
            self.call("editMessageText", json!({"message_id": id}), Some(&mut text), Patience::Wait)?;
        } else {
            removed?;
        }
        self.ledger.page.sent.pop();
        self.shows.pop();
        self.ledger.save()
    }

    /// Calls a method until it has an outcome. With `Skip` there is one try.
    fn call(
        &mut self,
        method: &str,
        body: Value,
        mut text: Option<&mut Said>,
        patience: Patience,
    ) -> Result<Called, Failure> {
        let sends = method == "sendMessage";
        let mut pauses = PAUSES.iter().copied().map(Duration::from_secs);
        loop {
            let turn = if patience == Patience::Wait { LONGEST_WAIT } else { Duration::ZERO };
            if !self.chat_turn(turn) {
                return match patience {
                    Patience::Skip => Ok(Called::Skipped(Duration::ZERO)),
                    Patience::Wait => {
                        Err(Failure::retry(LONGEST_WAIT, "the chat's turn does not come in time"))
                    }
                };
            }
            let mut body = self.to_chat(body.clone());
            if let Some(text) = &text {
                text.put_into(&mut body);
            }
            if sends && !self.ledger.page.sending {
                self.ledger.page.sending = true;
                self.ledger.save()?;
            }
            let pause = match self.bot.call(method, &body, CALL_TIMEOUT) {
                Ok(result) => return Ok(Called::Done(result)),
                Err(Problem::Flood(pause)) => {
                    self.pause(pause);
                    if patience == Patience::Skip {
                        return Ok(Called::Skipped(pause));
                    }
                    if pause > LONGEST_WAIT {
                        return Err(Failure::retry(pause, format!("{method}: Telegram asks for a pause")));
                    }
                    pause
                }
                Err(Problem::NotDone(why)) => {
                    debug!("{method} was not done: {why}");
                    if patience == Patience::Skip {
                        return Ok(Called::Skipped(Duration::ZERO));
                    }
                    pauses.next().ok_or_else(|| not_done(method, &why))?
                }
                Err(Problem::Unknown(why)) => {
                    if sends {
                        self.ledger.maybe_twice(&why);
                        self.ledger.save()?;
                    }
                    if patience == Patience::Skip {
                        return Ok(if sends { Called::Lost } else { Called::Skipped(Duration::ZERO) });
                    }
                    pauses.next().ok_or_else(|| not_done(method, &why))?
                }
                Err(Problem::Denied(why)) => {
                    error!("the Bot API can't be used: {why}");
                    return Err(Failure::retry(Duration::from_secs(60), format!("{method}: {why}")));
                }
                Err(Problem::Refused(Refusal::NotModified, _)) => return Ok(Called::Done(Value::Null)),
                Err(Problem::Refused(Refusal::NoMessage, _)) if !sends => return Ok(Called::NoMessage),
                Err(Problem::Refused(Refusal::Entities, why))
                    if text.as_ref().is_some_and(|text| text.formatted) =>
                {
                    info!("Telegram does not take the formatting, sending plain text: {why}");
                    if patience == Patience::Skip {
                        self.plain_growth = true;
                        return Ok(Called::Skipped(Duration::ZERO));
                    }
                    if let Some(text) = &mut text {
                        text.unformat();
                    }
                    Duration::ZERO
                }
                Err(Problem::Refused(Refusal::Thread, _)) if self.thread.is_some() => {
                    self.thread = None;
                    Duration::ZERO
                }
                Err(Problem::Refused(Refusal::Moved(chat), _)) if self.chat != chat => {
                    info!("chat {} has become {chat}", self.chat);
                    self.chat = chat;
                    Duration::ZERO
                }
                Err(Problem::Refused(_, why)) => return Err(Failure::Permanent(why)),
            };
            mailbox::wait(pause)?;
        }
    }

    fn to_chat(&self, mut body: Value) -> Value {
        body["chat_id"] = self.chat.into();
        if let Some(thread) = self.thread
            && body.get("message_id").is_none()
        {
            body["message_thread_id"] = thread.into();
        }
        body
    }

    fn chat_key(&self) -> String {
        format!("chat/{}", self.chat)
    }

    /// A turn within Telegram's limits: one message a second in a chat, 20 a minute in a group, 30 a second in all.
    fn chat_turn(&self, longest: Duration) -> bool {
        let (chat, group) = (self.chat_key(), format!("group/{}", self.chat));
        let mut limits = vec![(chat.as_str(), 1, SECOND)];
        if self.address.group {
            limits.push((group.as_str(), 20, Duration::from_secs(60)));
        }
        limits.push(("all", 30, SECOND));
        self.turn(&limits, longest)
    }

    fn turn(&self, limits: &[(&str, u32, Duration)], longest: Duration) -> bool {
        pacing::acquire_all(limits, longest).unwrap_or_else(|error| {
            warn!("no turn in chat {}: {error}", self.chat);
            false
        })
    }

    /// Nobody says anything in the chat before the time is over; what is longer than a day is asked about again.
    fn pause(&self, time: Duration) {
        let longest = Duration::from_millis(plugway_sdk::bounds::PACING_PAUSE_MS.into());
        if let Err(error) = pacing::pause(&self.chat_key(), time.min(longest)) {
            warn!("a pause in chat {} is not kept: {error}", self.chat);
        }
    }
}
