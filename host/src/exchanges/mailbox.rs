//! What reaches an exchange while it runs: events of the tasks that it follows, and word that it should end.
//!
//! Invariant: events of one task come each once and in order, however often the guest looks away. Being told to close
//! repeats, and never counts as a wait.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::select_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bindings::{mailbox as wit, types};
use crate::domain::{Cursor, Position, SessionId, TaskId};
use crate::hub::{Entry, Follower, Hub, SessionFollower, Step};
use crate::store::StoreError;

/// Entries taken from a topic at once.
const BATCH: usize = 256;

/// Tasks and sessions that one exchange may follow at once.
pub(crate) const FOLLOWS: usize = 64;

/// When and why an exchange should end.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    /// The client went away.
    pub(crate) peer_gone: CancellationToken,
    /// The host shuts down.
    pub(crate) shutdown: CancellationToken,
    /// Too many generations of the plugin live.
    pub(crate) replaced: CancellationToken,
    /// From then on the guest is told that its time is up; somewhat later it is killed.
    pub(crate) deadline: Instant,
}

impl Closing {
    fn reason(&self) -> Option<wit::Reason> {
        if self.peer_gone.is_cancelled() {
            Some(wit::Reason::PeerGone)
        } else if self.shutdown.is_cancelled() || self.replaced.is_cancelled() {
            Some(wit::Reason::Draining)
        } else if Instant::now() >= self.deadline {
            Some(wit::Reason::Deadline)
        } else {
            None
        }
    }

    async fn closed(&self) {
        tokio::select! {
            () = self.peer_gone.cancelled() => {}
            () = self.shutdown.cancelled() => {}
            () = self.replaced.cancelled() => {}
            () = tokio::time::sleep_until(self.deadline) => {}
        }
    }
}

/// The mailbox of one exchange.
#[derive(Debug)]
pub(crate) struct Mailbox {
    closing: Closing,
    told_closed: bool,
    follows: Vec<Follow>,
}

#[derive(Debug)]
struct Follow {
    source: Source,
    /// Taken from the topic, not yet handed to the guest.
    taken: VecDeque<Entry>,
    /// Comes after what was taken.
    after: Option<After>,
}

#[derive(Debug)]
enum Source {
    Task(TaskId, Follower),
    Session(SessionId, Box<SessionFollower>),
}

#[derive(Debug)]
enum After {
    Gap { first: u64, last: u64 },
    Ended,
}

/// A message, and whether the guest earned a fresh CPU budget by it.
pub(crate) struct Received {
    /// None: the time passed without one.
    pub(crate) message: Option<wit::Message>,
    /// It received something, or really waited.
    pub(crate) new_step: bool,
}

impl Mailbox {
    /// An empty mailbox.
    pub(crate) fn new(closing: Closing) -> Self {
        Self { closing, told_closed: false, follows: Vec::new() }
    }

    /// Follows a task from a place. Following it again moves the place.
    ///
    /// # Errors
    /// Too many are followed.
    pub(crate) fn follow(&mut self, hub: &Hub, task: TaskId, after: Position) -> Result<(), String> {
        self.follows.retain(|follow| !matches!(follow.source, Source::Task(known, _) if known == task));
        self.add(Source::Task(task, hub.follow(task, after)))
    }

    /// Follows all tasks of a session from a place.
    ///
    /// # Errors
    /// Too many are followed.
    pub(crate) fn follow_session(
        &mut self,
        hub: &Hub,
        session: SessionId,
        after: Option<Cursor>,
    ) -> Result<(), String> {
        self.follows
            .retain(|follow| !matches!(&follow.source, Source::Session(known, _) if *known == session));
        let follower = Box::new(hub.follow_session(session.clone(), after));
        self.add(Source::Session(session, follower))
    }

    fn add(&mut self, source: Source) -> Result<(), String> {
        if self.follows.len() >= FOLLOWS {
            return Err(format!("an exchange follows at most {FOLLOWS} tasks and sessions"));
        }
        self.follows.push(Follow { source, taken: VecDeque::new(), after: None });
        Ok(())
    }

    /// The next message, waiting for it until the timeout.
    ///
    /// # Errors
    /// The log can't be read.
    pub(crate) async fn next(&mut self, timeout: Option<Duration>) -> Result<Received, StoreError> {
        let closed = self.closing.reason();
        // What had arrived before comes first; what arrives from now on does not put it off.
        let arrived = self.follows.iter().any(|follow| !follow.taken.is_empty());
        if let (Some(reason), false, false) = (closed, self.told_closed, arrived) {
            self.told_closed = true;
            return Ok(Received { message: Some(wit::Message::Closed(reason)), new_step: false });
        }
        if let Some(message) = self.take_ready() {
            return Ok(Received { message: Some(message), new_step: true });
        }
        if let Some(reason) = closed {
            return Ok(Received { message: Some(wit::Message::Closed(reason)), new_step: false });
        }
        if timeout == Some(Duration::ZERO) {
            return Ok(Received { message: None, new_step: false });
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            tokio::select! {
                biased;
                result = wait_for_any(&mut self.follows) => result?,
                () = self.closing.closed() => {
                    self.told_closed = true;
                    let message = self.closing.reason().map(wit::Message::Closed);
                    return Ok(Received { message, new_step: true });
                }
                () = sleep_until(deadline) => return Ok(Received { message: None, new_step: true }),
            }
            if let Some(message) = self.take_ready() {
                return Ok(Received { message: Some(message), new_step: true });
            }
        }
    }

    /// What is there without waiting or I/O. Topics take turns once what was taken from one is used up.
    fn take_ready(&mut self) -> Option<wit::Message> {
        for index in 0..self.follows.len() {
            let follow = &mut self.follows[index];
            if follow.taken.is_empty() && follow.after.is_none() {
                follow.try_fill();
            }
            if let Some(entry) = follow.taken.pop_front() {
                if follow.taken.is_empty() {
                    self.follows[index..].rotate_left(1);
                }
                return Some(wit::Message::Event(event(&entry)));
            }
            match follow.after.take() {
                Some(After::Gap { first, last }) => {
                    let task = follow.task().map(|task| task.to_string()).unwrap_or_default();
                    return Some(wit::Message::Gap(wit::Gap { task, first, last }));
                }
                Some(After::Ended) => {
                    let task = follow.task().map(|task| task.to_string()).unwrap_or_default();
                    self.follows.remove(index);
                    return Some(wit::Message::Ended(task));
                }
                None => {}
            }
        }
        None
    }
}

impl Follow {
    fn task(&self) -> Option<TaskId> {
        match &self.source {
            Source::Task(task, _) => Some(*task),
            Source::Session(_, follower) => follower.cursor().map(|cursor| cursor.task),
        }
    }

    fn try_fill(&mut self) {
        let mut batch = Vec::new();
        let step = match &mut self.source {
            Source::Task(_, follower) => follower.try_next(&mut batch, BATCH),
            Source::Session(_, follower) => follower.try_next(&mut batch, BATCH),
        };
        if let Some(step) = step {
            self.filled(step, batch);
        }
    }

    fn filled(&mut self, step: Step, batch: Vec<Entry>) {
        self.taken.extend(batch);
        match step {
            Step::Events { .. } => {}
            Step::Gap { first, last, .. } => self.after = Some(After::Gap { first, last }),
            Step::Ended => self.after = Some(After::Ended),
        }
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let step = match &mut self.source {
            Source::Task(_, follower) => follower.next(&mut batch, BATCH).await?,
            Source::Session(_, follower) => follower.next(&mut batch, BATCH).await?,
        };
        self.filled(step, batch);
        Ok(())
    }
}

/// Returns when one of the topics has something. Never without any.
async fn wait_for_any(follows: &mut [Follow]) -> Result<(), StoreError> {
    match follows {
        [] => std::future::pending().await,
        [one] => one.fill().await,
        many => select_all(many.iter_mut().map(|follow| Box::pin(follow.fill()))).await.0,
    }
}

/// An entry as the guest sees it.
fn event(entry: &Entry) -> types::Event {
    let event = entry.event();
    types::Event {
        task: event.task.to_string(),
        session: event.session.name().to_owned(),
        attempt: event.position.attempt,
        seq: event.position.seq,
        cursor: event.cursor().to_string(),
        kind: event.kind.as_str().to_owned(),
        at_ms: event.at_ms,
        data: event.data.to_string(),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
