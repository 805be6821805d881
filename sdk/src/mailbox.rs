//! What reaches an exchange while it runs, and the events of one task as an iterator.
//!
//! Messages are handed out in the order in which they arrived. [`Events`] takes only its own task's; what it reads past on
//! the way is set aside and comes out of [`next`] or of another `Events` later.

use crate::{
    error::{Error, Result},
    event::{Event, EventKind},
    ids::{Cursor, TaskId},
    sys::{self, millis64, raw::mailbox as wit},
    task::error_of,
};
use std::{cell::RefCell, collections::VecDeque, fmt, time::Duration};

/// A message of the mailbox.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[cfg_attr(
    target_pointer_width = "64",
    expect(clippy::large_enum_variant, reason = "the event is the common case, and is moved out at once")
)]
pub enum Message {
    /// A followed task reports.
    Event(Event),
    /// The followed task is over, and all its events were delivered.
    Ended(TaskId),
    /// The WebSocket peer sent this.
    Frame(Frame),
    /// Events of a followed task are lost.
    Gap(Gap),
    /// The host wants the exchange to end. Repeats.
    Closed(Reason),
}

/// Events of a followed task that are lost: neither memory nor the log has them any more, and following again from before
/// them reports the gap again. What follows them comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Whose they are.
    pub task: TaskId,
    /// Position of the first one.
    pub first: u64,
    /// Position of the last one.
    pub last: u64,
}

/// A WebSocket frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// UTF-8.
    Text(String),
    /// Anything.
    Binary(Vec<u8>),
}

/// Why an exchange is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The client went away.
    PeerGone,
    /// The host shuts down, or a newer generation of the plugin serves.
    Draining,
    /// The exchange's time is up.
    Deadline,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::PeerGone => "the peer is gone",
            Self::Draining => "draining",
            Self::Deadline => "time is up",
        })
    }
}

thread_local! {
    static ASIDE: RefCell<VecDeque<Message>> = const { RefCell::new(VecDeque::new()) };
}

/// The next message, in order of arrival. None once `timeout` has passed without one; without a timeout it waits for ever.
pub fn next(timeout: Option<Duration>) -> Option<Message> {
    let aside = ASIDE.with_borrow_mut(VecDeque::pop_front);
    aside.or_else(|| arrive(timeout))
}

/// Lets time pass; what arrives meanwhile is set aside for later.
///
/// # Errors
/// [`Error::Closed`] as soon as the host closes the exchange.
///
/// ```
/// # use plugway_sdk::{host, mailbox, mock::Mock};
/// # use std::time::Duration;
/// # let _mock = Mock::new();
/// let before = host::now();
/// mailbox::wait(Duration::from_secs(3600))?;
/// assert_eq!(host::now().duration_since(before).unwrap().as_secs(), 3600);
/// # Ok::<(), plugway_sdk::Error>(())
/// ```
pub fn wait(time: Duration) -> Result<()> {
    let until = crate::host::now() + time;
    loop {
        let left = until.duration_since(crate::host::now()).unwrap_or_default();
        if left.is_zero() {
            return Ok(());
        }
        match arrive(Some(left)) {
            None => return Ok(()),
            Some(Message::Closed(reason)) => return Err(Error::Closed(reason)),
            Some(other) => ASIDE.with_borrow_mut(|aside| aside.push_back(other)),
        }
    }
}

/// Forgets what was set aside. An exchange starts with an empty mailbox; natively the thread outlives it.
pub(crate) fn clear() {
    ASIDE.with_borrow_mut(VecDeque::clear);
}

fn arrive(timeout: Option<Duration>) -> Option<Message> {
    Some(match sys::mailbox::next(timeout.map(millis64))? {
        wit::Message::Event(event) => Message::Event(Event::from_raw(event)),
        wit::Message::Ended(task) => Message::Ended(task.into()),
        wit::Message::Frame(wit::Frame::Text(text)) => Message::Frame(Frame::Text(text)),
        wit::Message::Frame(wit::Frame::Binary(bytes)) => Message::Frame(Frame::Binary(bytes)),
        wit::Message::Gap(gap) => {
            Message::Gap(Gap { task: gap.task.into(), first: gap.first, last: gap.last })
        }
        wit::Message::Closed(reason) => Message::Closed(match reason {
            wit::Reason::PeerGone => Reason::PeerGone,
            wit::Reason::Draining => Reason::Draining,
            wit::Reason::Deadline => Reason::Deadline,
        }),
    })
}

/// The events of one task, each once and in order, up to its end.
///
/// Where events are lost there is an [`Error::Gap`], after which the events behind the gap follow. When the host closes the
/// exchange, the iterator yields [`Error::Closed`] and ends.
#[derive(Debug)]
pub struct Events {
    task: TaskId,
    last: Option<Cursor>,
    refused: Option<Error>,
    over: bool,
}

/// What [`Events::next_within`] found.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[cfg_attr(
    target_pointer_width = "64",
    expect(clippy::large_enum_variant, reason = "the event is the common case, and is moved out at once")
)]
pub enum Next {
    /// The task reports.
    Event(Event),
    /// The time has passed without an event.
    Quiet,
    /// The task is over.
    Ended,
}

impl Events {
    pub(crate) fn follow(task: &TaskId, after: Option<Cursor>) -> Self {
        let followed = sys::tasks::follow(task.as_str(), after.as_ref().map(Cursor::as_str));
        Self { task: task.clone(), last: after, refused: followed.map_err(error_of).err(), over: false }
    }

    /// The answer alone, piece by piece, as [`Pieces`].
    pub fn text(self) -> Pieces {
        Pieces { events: self, said: String::new(), over: false }
    }

    /// The place after the last event that was read.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.last.as_ref()
    }

    /// The next event, waiting no longer than the timeout; none waits for ever.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the task is unknown, [`Error::BadRequest`] if the cursor is not one of its own,
    /// [`Error::Internal`] if this exchange follows too many, [`Error::Unavailable`] if the store does not answer,
    /// [`Error::Closed`] when the host closes the exchange: all of them end it. [`Error::Gap`] if events are lost: it goes on
    /// behind them.
    ///
    /// ```
    /// # use plugway_sdk::{mock::{Mock, Script}, prelude::*};
    /// # use std::time::Duration;
    /// # let mock = Mock::new();
    /// # mock.agent(|_| Script::new().started().wait(Duration::from_secs(12)).completed("done"));
    /// let mut events = Task::message("take your time").submit()?.events();
    /// let mut ticks = 0;
    /// loop {
    ///     match events.next_within(Some(Duration::from_secs(5)))? {
    ///         Next::Event(event) if event.is_terminal() => break,
    ///         Next::Quiet => ticks += 1,
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(ticks, 2);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn next_within(&mut self, timeout: Option<Duration>) -> Result<Next> {
        if let Some(error) = self.refused.take() {
            self.over = true;
            return Err(error);
        }
        let until = timeout.map(|timeout| crate::host::now() + timeout);
        let mut left = timeout;
        while !self.over {
            let message = match self.take_aside() {
                Some(message) => message,
                None => match arrive(left) {
                    Some(message) => message,
                    None => return Ok(Next::Quiet),
                },
            };
            match message {
                Message::Event(event) if event.task == self.task => {
                    self.last = Some(event.cursor.clone());
                    return Ok(Next::Event(event));
                }
                Message::Ended(task) if task == self.task => self.over = true,
                Message::Gap(gap) if gap.task == self.task => {
                    return Err(Error::Gap { first: gap.first, last: gap.last });
                }
                Message::Closed(reason) => {
                    self.over = true;
                    return Err(Error::Closed(reason));
                }
                other => {
                    ASIDE.with_borrow_mut(|aside| aside.push_back(other));
                    // What is there for others does not make the wait for one's own longer.
                    left = until.map(|until| until.duration_since(crate::host::now()).unwrap_or_default());
                    if left == Some(Duration::ZERO) {
                        return Ok(Next::Quiet);
                    }
                }
            }
        }
        Ok(Next::Ended)
    }

    fn take_aside(&self) -> Option<Message> {
        ASIDE.with_borrow_mut(|aside| {
            let mine = aside.iter().position(|message| match message {
                Message::Event(event) => event.task == self.task,
                Message::Ended(task) | Message::Gap(Gap { task, .. }) => *task == self.task,
                Message::Frame(_) | Message::Closed(_) => false,
            })?;
            aside.remove(mine)
        })
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_within(None) {
                Ok(Next::Event(event)) => return Some(Ok(event)),
                Ok(Next::Ended) => return None,
                Ok(Next::Quiet) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The pieces of a task's answer as the agent says them; together they are the answer. An agent that says nothing before it
/// completes gives one piece.
///
/// Whatever keeps them from being the answer is an error, and the last item: [`Error::Failed`], [`Error::Cancelled`],
/// [`Error::Gap`], [`Error::Closed`]; and [`Error::Restarted`] where a new run of the task voids pieces that were handed out.
///
/// ```
/// # use plugway_sdk::{mock::{Mock, Script}, prelude::*};
/// # let mock = Mock::new();
/// mock.agent(|_| Script::new().started().chunks(["Good ", "morn"]).completed("Good morning"));
/// let pieces: Result<Vec<String>> = Task::message("Hi").submit()?.events().text().collect();
/// assert_eq!(pieces?, ["Good ", "morn", "ing"]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Pieces {
    events: Events,
    /// What was handed out.
    said: String,
    over: bool,
}

impl Pieces {
    /// The rest of an answer that the agent has completed with: what it has not said yet.
    fn rest(&self, text: &str) -> Option<String> {
        let rest = text.strip_prefix(self.said.as_str())?;
        (!rest.is_empty()).then(|| rest.to_owned())
    }

    fn piece(&mut self) -> Result<Option<String>> {
        while let Some(event) = self.events.next() {
            match event?.kind {
                EventKind::Started(_) if !self.said.is_empty() => return Err(Error::Restarted),
                EventKind::ResponseChunk(chunk) if !chunk.text.is_empty() => {
                    self.said.push_str(&chunk.text);
                    return Ok(Some(chunk.text));
                }
                EventKind::Completed(done) => {
                    self.over = true;
                    return Ok(self.rest(&done.text));
                }
                EventKind::Failed(failed) => return Err(failed.into()),
                EventKind::Cancelled(cancelled) => return Err(cancelled.into()),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl Iterator for Pieces {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let piece = self.piece().transpose();
        self.over |= !matches!(piece, Some(Ok(_)));
        piece
    }
}
