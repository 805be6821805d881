//! The messages that make up one answer, and the calls that bring them into line with its text.
//!
//! Invariant: the ledger says "sending" before a message leaves, and knows its id before anything else happens.

use crate::{
    address::Address,
    bot::{Bot, Problem, Refusal},
    chunk::Chunk,
    config::{Config, ReplyTo},
    flood,
    ledger::{Ledger, Sent},
    said::{Mark, Said},
    words,
};
use plugway_sdk::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

/// Stands for the id of a message that can't be edited: the user has deleted it, or the server did not tell its id.
const GONE: i64 = 0;

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const ACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to wait for a turn or a pause here; beyond it the host calls again later.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(65);
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
    /// Done, but nobody can read what came of it.
    Unread(String),
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
    /// What each message shows, as far as it is known.
    shows: Vec<Option<Mark>>,
    /// Telegram did not take the formatting of a text that grows: the next ones go without, up to the last.
    plain_growth: bool,
    /// Whose formatting it did not take.
    refused: Vec<Mark>,
    /// What messages said that are not to change again, so that they need not be rendered again.
    spoken: Vec<Said>,
    /// What the whole answer says, for the callback.
    pub(crate) said: Vec<Said>,
}

impl Answer {
    pub(crate) fn open(task: &TaskRef, address: Address, config: &Config) -> Result<Self, Failure> {
        let ledger = Ledger::open(&task.id)?;
        let mark = |hash| Mark { hash, grows: false };
        let shows = ledger.page.sent.iter().map(|sent| sent.hash.map(mark)).collect();
        let answer = Self {
            bot: Bot::new(config),
            chat: address.chat_id,
            thread: address.thread,
            address,
            ledger,
            mute: !host::has_secret("bot_token"),
            shows,
            plain_growth: false,
            refused: Vec::new(),
            spoken: Vec::new(),
            said: Vec::new(),
        };
        if !answer.is_done() {
            flood::recall(answer.chat)?;
        }
        Ok(answer)
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
        if !self.mute && flood::turn_outside_of_chats() {
            _ = self.bot.call("sendChatAction", &self.to_chat(json!({"action": "typing"})), ACTION_TIMEOUT);
        }
    }

    /// Shows a text that grows as a draft. `Lost` if drafts don't work here.
    pub(crate) fn draft(&mut self, text: &str) -> Shown {
        if !self.turn(Duration::ZERO) {
            return Shown::Skipped(Duration::ZERO);
        }
        let said = self.text(text, true);
        let mut body =
            json!({"draft_id": self.address.message_id.max(1), "can_stop": true, "keep_on_stop": true});
        said.put_into(&mut body);
        match self.bot.call("sendMessageDraft", &self.to_chat(body), ACTION_TIMEOUT) {
            Ok(_) => Shown::Yes,
            Err(Problem::Flood(pause)) => {
                flood::pause(self.chat, pause);
                Shown::Skipped(pause)
            }
            Err(Problem::NotDone(_) | Problem::Unknown(_) | Problem::Unread(_)) => {
                Shown::Skipped(Duration::ZERO)
            }
            Err(Problem::Refused(Refusal::Other, _)) if said.formatted => {
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
            let grows = index == last;
            if !self.says(index, Mark::of(&chunk.source, grows)) {
                let shown = self.place(index, self.text(&chunk.source, grows), Patience::Skip)?;
                return Ok(if shown == Shown::Yes && index + 1 < until { Shown::Partly } else { shown });
            }
        }
        Ok(Shown::Yes)
    }

    /// Brings the chat to the whole answer, and waits for it.
    pub(crate) fn finish(&mut self, chunks: &[Chunk]) -> Result<(), Failure> {
        for (index, chunk) in chunks.iter().enumerate() {
            if !self.mute && !self.says(index, Mark::of(&chunk.source, false)) {
                self.place(index, self.text(&chunk.source, false), Patience::Wait)?;
            }
        }
        while !self.mute && self.shows.len() > chunks.len() {
            self.remove_last()?;
        }
        self.said = chunks.iter().enumerate().map(|(index, chunk)| self.spoken(index, chunk)).collect();
        Ok(())
    }

    /// What message number `index` says in the end.
    fn spoken(&mut self, index: usize, chunk: &Chunk) -> Said {
        let mark = Mark::of(&chunk.source, false);
        if let Some(said) = self.spoken.iter().position(|said| said.mark == mark) {
            return self.spoken.swap_remove(said);
        }
        let mut said = Said::new(&chunk.source, false);
        if self.ledger.page.sent.get(index).is_some_and(|sent| sent.plain) {
            said.unformat();
        }
        said
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

    fn says(&self, index: usize, mark: Mark) -> bool {
        self.shows.get(index).copied().flatten() == Some(mark)
    }

    /// A chunk as it is sent, as far as Telegram takes it.
    fn text(&self, source: &str, grows: bool) -> Said {
        let mut text = Said::new(source, grows);
        if (grows && self.plain_growth) || self.refused.contains(&text.mark) {
            text.unformat();
        }
        text
    }

    /// Makes message number `index` say this.
    fn place(&mut self, index: usize, mut text: Said, patience: Patience) -> Result<Shown, Failure> {
        if let Some(sent) = self.ledger.page.sent.get_mut(index)
            && sent.id != GONE
        {
            let id = sent.id;
            if sent.hash.take().is_some() {
                self.ledger.save()?;
            }
            self.shows[index] = None;
            match self.call("editMessageText", json!({"message_id": id}), Some(&mut text), patience)? {
                Called::Done(_) => {
                    self.note(index, id, text);
                    return Ok(Shown::Yes);
                }
                Called::Skipped(pause) => return Ok(Shown::Skipped(pause)),
                Called::Unread(_) | Called::Lost => return Ok(Shown::Lost),
                Called::NoMessage => {
                    info!("message {id} in chat {} is gone, sending it anew", self.chat);
                    self.ledger.page.sent[index].id = GONE;
                }
            }
        }
        self.send(index, text, patience)
    }

    /// Takes note of what message number `index` says now. The ledger has it with what is stored next.
    fn note(&mut self, index: usize, id: i64, text: Said) {
        let hash = (!text.mark.grows).then_some(text.mark.hash);
        let (sent, mark) = (Sent { id, hash, plain: text.refused }, Some(text.mark));
        if index < self.shows.len() {
            (self.ledger.page.sent[index], self.shows[index]) = (sent, mark);
        } else {
            self.ledger.page.sent.push(sent);
            self.shows.push(mark);
        }
        if !text.mark.grows {
            self.spoken.push(text);
        }
    }

    fn send(&mut self, index: usize, mut text: Said, patience: Patience) -> Result<Shown, Failure> {
        let mut body = json!({});
        if let Some(id) = self.replies_to(index) {
            body["reply_parameters"] = json!({"message_id": id, "allow_sending_without_reply": true});
        }
        let called = self.call("sendMessage", body, Some(&mut text), patience);
        let grows = text.mark.grows;
        let sending = std::mem::take(&mut self.ledger.page.sending);
        let shown = match called {
            Ok(Called::Done(result)) => {
                let id = result["message_id"].as_i64().unwrap_or(GONE);
                self.note(index, id, text);
                // Without an id it can't be edited, so it had better be the last word.
                Ok(if id == GONE && grows { Shown::Lost } else { Shown::Yes })
            }
            Ok(Called::Unread(why)) => {
                self.note(index, GONE, text);
                // What can't be edited is sent again when the answer is there.
                if grows {
                    self.ledger.maybe_twice(&why);
                    Ok(Shown::Lost)
                } else {
                    self.ledger.unread(&why);
                    Ok(Shown::Yes)
                }
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
            if !self.turn(turn) {
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
                    flood::pause(self.chat, pause);
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
                Err(Problem::Unread(why)) if sends => return Ok(Called::Unread(why)),
                Err(Problem::Unknown(why) | Problem::Unread(why)) => {
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
                Err(Problem::Refused(Refusal::Other, why)) if is_formatted(text.as_deref()) => {
                    info!("Telegram does not take the message, sending it as plain text: {why}");
                    if let Some(text) = &mut text {
                        self.refused.push(text.mark);
                        self.plain_growth |= text.mark.grows;
                        text.unformat();
                    }
                    if patience == Patience::Skip {
                        return Ok(Called::Skipped(Duration::ZERO));
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

    fn turn(&self, longest: Duration) -> bool {
        flood::turn(self.chat, self.address.group, longest)
    }
}

fn is_formatted(text: Option<&Said>) -> bool {
    text.is_some_and(|text| text.formatted)
}
