//! What reaches an exchange while it runs, and the events of one task as an iterator.
//!
//! Messages are handed out in the order in which they arrived. [`Events`] takes only its own task's; what it reads past on
//! the way is set aside and comes out of [`next`] or of another `Events` later.

use crate::{
    error::{Error, Result},
    event::Event,
    ids::{Cursor, TaskId},
    sys::{self, millis64, raw::mailbox as wit},
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
    /// This exchange read too late to get these events; following again after the last cursor reads them back.
    Gap(Gap),
    /// The host wants the exchange to end. Repeats.
    Closed(Reason),
}

/// Events of a followed task that this exchange read too late to get.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Whose they are.
    pub task: TaskId,
    /// First position that is missing.
    pub first: u64,
    /// Last position that is missing.
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
/// A gap is read back from the log. What the log no longer has is [`Error::Gap`], after which the events behind the gap
/// follow. When the host closes the exchange, the iterator yields [`Error::Closed`] and ends.
#[derive(Debug)]
pub struct Events {
    task: TaskId,
    last: Option<Cursor>,
    read_back: bool,
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
        let mut events =
            Self { task: task.clone(), last: after, read_back: false, refused: None, over: false };
        events.refused = events.seek().err();
        events
    }

    fn seek(&self) -> Result<()> {
        let after = self.last.as_ref().map(Cursor::as_str);
        sys::tasks::follow(self.task.as_str(), after).map_err(Error::NotFound)
    }

    /// The place after the last event that was read.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.last.as_ref()
    }

    /// The next event, waiting no longer than the timeout; none waits for ever.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the task is unknown, [`Error::Closed`] when the host closes the exchange: both end it.
    /// [`Error::Gap`] if events are lost: it goes on behind them.
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
        while !self.over {
            let message = match self.take_aside() {
                Some(message) => message,
                None => match arrive(timeout) {
                    Some(message) => message,
                    None => return Ok(Next::Quiet),
                },
            };
            match message {
                Message::Event(event) if event.task == self.task => {
                    self.last = Some(event.cursor.clone());
                    self.read_back = false;
                    return Ok(Next::Event(event));
                }
                Message::Ended(task) if task == self.task => self.over = true,
                Message::Gap(gap) if gap.task == self.task => {
                    if self.read_back {
                        self.read_back = false;
                        return Err(Error::Gap { first: gap.first, last: gap.last });
                    }
                    self.read_back = true;
                    self.seek().inspect_err(|_| self.over = true)?;
                }
                Message::Closed(reason) => {
                    self.over = true;
                    return Err(Error::Closed(reason));
                }
                other => ASIDE.with_borrow_mut(|aside| aside.push_back(other)),
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
