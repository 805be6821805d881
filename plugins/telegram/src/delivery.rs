//! Following a task, and when to show what of it.
//!
//! While the task runs, what is shown is a courtesy: a step that can't be done at once is skipped. Once it has ended, the
//! answer is owed: every step waits for its turn, and what can't be done now is left to the host to call for again.

use crate::{
    Telegram,
    address::Address,
    answer::{Answer, Shown},
    callback::Outcome,
    chunk::{self, Chunk},
    config::Config,
    words,
};
use plugway_sdk::prelude::*;
use std::time::{Duration, SystemTime};

/// Telegram shows "typing…" for about this long.
const TYPING: Duration = Duration::from_secs(5);
/// A draft goes away after 30 s.
const DRAFT_AGE: Duration = Duration::from_secs(20);

impl Delivery for Telegram {
    type Address = Address;

    fn deliver(&self, task: TaskRef, address: Address) -> Result<(), Failure> {
        let config: Config = host::config()?;
        let answer = Answer::open(&task, address.clone(), &config)?;
        if answer.is_done() {
            return Ok(());
        }
        let mut show = Show::new(&config, &address, answer);
        let mut outcome = Outcome::default();
        let end = show.follow(&task, &mut outcome)?;
        let text = end.text(&show.text);
        let chunks = chunk::split(&text);
        show.answer.finish(&chunks)?;
        outcome.messages(&show.answer, address.chat_id);
        outcome.report(&task, address.callback_url.as_deref())?;
        if show.answer.is_mute() {
            info!("no secret `bot_token` is granted: the answer to {} is not sent to the chat", task.id);
        }
        show.answer.close()
    }

    fn given_up(&self, task: TaskRef, address: Address, reason: &str) -> Result<()> {
        Ok(Outcome::given_up(&task, reason).report(&task, address.callback_url.as_deref())?)
    }
}

/// How a task ended.
enum End {
    Answered(String),
    Failed(plugway_sdk::Failed),
    Cancelled,
}

impl End {
    /// What the chat should say. `written` is what the agent said piece by piece.
    fn text(self, written: &str) -> String {
        let with_note = |note: &str| {
            let open = chunk::open_fence(written);
            match (written.trim_end(), open) {
                ("", _) => note.to_owned(),
                (written, None) => format!("{written}\n\n{note}"),
                (written, Some(fence)) => format!("{written}\n{fence}\n\n{note}"),
            }
        };
        match self {
            Self::Answered(text) if !text.trim().is_empty() => text,
            Self::Answered(_) if !written.trim().is_empty() => written.to_owned(),
            Self::Answered(_) => words::NO_ANSWER.to_owned(),
            Self::Failed(failed) => with_note(&words::failure(&failed)),
            Self::Cancelled => with_note(words::STOPPED),
        }
    }
}

/// What is shown of a task that runs.
struct Show {
    answer: Answer,
    /// What the present run has said, and as much of it as was split into messages.
    text: String,
    chunks: Vec<Chunk>,
    pieces: u32,
    attempt: u32,
    /// Something was said since it was shown.
    fresh: bool,
    /// Whether to show growth at all.
    grows: bool,
    /// Whether to show it as a draft; and when that was done last, while it stands.
    drafts: bool,
    drafted: Option<SystemTime>,
    min_pieces: u32,
    interval: Duration,
    next_step: SystemTime,
    next_typing: SystemTime,
}

impl Show {
    fn new(config: &Config, address: &Address, answer: Answer) -> Self {
        let now = host::now();
        let interval = config.edit_interval(address.group);
        // What was shown before a restart is read again first, in no time: nothing to show until that is through.
        let (step, typing) =
            if answer.has_begun() { (interval, TYPING) } else { (Duration::ZERO, Duration::ZERO) };
        let grows = address.stream && !answer.is_mute();
        Self {
            answer,
            text: String::new(),
            chunks: Vec::new(),
            pieces: 0,
            attempt: 0,
            fresh: false,
            grows,
            drafts: config.drafts && !address.group,
            drafted: None,
            min_pieces: config.min_tokens,
            interval,
            next_step: now + step,
            next_typing: now + typing,
        }
    }

    /// Shows the task until it ends.
    fn follow(&mut self, task: &TaskRef, outcome: &mut Outcome) -> Result<End, Failure> {
        let mut events = task.events();
        loop {
            let now = host::now();
            self.step(now)?;
            let event = match events.next_within(Some(self.time_to_next(now))) {
                Ok(Next::Event(event)) => event,
                Ok(Next::Ended) => return Ok(End::Answered(String::new())),
                Ok(_) => continue,
                Err(Error::Gap { first, last }) => {
                    warn!("events {first} to {last} of {} are lost: showing the answer at its end", task.id);
                    self.grows = false;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            outcome.note(&event);
            match event.kind {
                EventKind::Started(_) if event.attempt > self.attempt => {
                    self.attempt = event.attempt;
                    self.text.clear();
                    self.chunks.clear();
                    self.pieces = 0;
                    self.fresh = false;
                }
                EventKind::ResponseChunk(chunk) => {
                    self.text.push_str(&chunk.text);
                    self.pieces += 1;
                    self.fresh = true;
                }
                EventKind::Completed(done) => return Ok(End::Answered(done.text)),
                EventKind::Failed(failed) => return Ok(End::Failed(failed)),
                EventKind::Cancelled(_) => return Ok(End::Cancelled),
                _ => {}
            }
        }
    }

    /// Whether there is growth to show; it takes a few pieces to begin with.
    fn has_news(&self) -> bool {
        self.grows && self.fresh && (self.answer.has_begun() || self.pieces >= self.min_pieces)
    }

    fn time_to_next(&self, now: SystemTime) -> Duration {
        let sign = self.drafted.map_or(self.next_typing, |at| at + DRAFT_AGE);
        let next = if self.has_news() { sign.min(self.next_step) } else { sign };
        next.duration_since(now).unwrap_or_default().max(Duration::from_millis(1))
    }

    /// Does what is due. A draft is a sign of life as "typing…" is, but has to be repeated before it goes away.
    fn step(&mut self, now: SystemTime) -> Result<(), Failure> {
        self.fresh |= self.drafted.is_some_and(|at| now >= at + DRAFT_AGE);
        if self.has_news() && now >= self.next_step {
            self.next_step = now + self.interval;
            self.show(now)?;
        }
        if self.drafted.is_none() && now >= self.next_typing {
            self.next_typing = now + TYPING;
            self.answer.typing();
        }
        Ok(())
    }

    fn show(&mut self, now: SystemTime) -> Result<(), Failure> {
        chunk::split_on(&mut self.chunks, &self.text);
        let Some(tail) = self.chunks.last() else { return Ok(()) };
        let mut shown = match self.answer.show(&self.chunks, !self.drafts) {
            // Said at the end, when the callback can tell of it.
            Err(Failure::Permanent(why)) => {
                info!("nothing can be shown: {why}");
                Shown::Lost
            }
            shown => shown?,
        };
        if self.drafts && shown == Shown::Yes {
            shown = self.answer.draft(&tail.source);
            if shown == Shown::Lost {
                (self.drafts, self.drafted, shown) = (false, None, Shown::Partly);
            } else if shown == Shown::Yes {
                self.drafted = Some(now);
            }
        }
        match shown {
            Shown::Yes => self.fresh = false,
            Shown::Partly => {}
            Shown::Skipped(pause) => {
                self.next_step = self.next_step.max(now + pause);
                self.next_typing = self.next_typing.max(now + pause);
                return Ok(());
            }
            // Once is enough: the answer itself will be sent for certain.
            Shown::Lost => {
                self.grows = false;
                return Ok(());
            }
        }
        self.next_typing = now + TYPING;
        Ok(())
    }
}
