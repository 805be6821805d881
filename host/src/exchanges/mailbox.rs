//! What reaches an exchange while it runs: events of the tasks that it follows, frames of its WebSocket, and word that it
//! should end.
//!
//! Invariant: events of one task come each once and in order, however often the guest looks away, and so do frames;
//! neither keeps the other waiting. Being told to close repeats, and never counts as a wait.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bindings::{mailbox as wit, types};
use super::connection::Inbox;
use crate::domain::bounds::FOLLOWS;
use crate::domain::{Cursor, Position, SessionId, TaskId, sleep_until};
use crate::hub::{Entry, Follower, Hub, SessionFollower, Step};
use crate::store::StoreError;

/// Entries taken from a topic at once.
const BATCH: usize = 256;
/// About the pause before the next look into a log that can't be read.
const RETRY: Duration = Duration::from_secs(1);

/// When and why an exchange should end.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    /// The client went away.
    pub(crate) peer_gone: CancellationToken,
    /// The host shuts down.
    pub(crate) shutdown: CancellationToken,
    /// Too many generations of the plugin live, or its generation has drained for long enough.
    pub(crate) replaced: CancellationToken,
    /// From then on the guest is told that its time is up; somewhat later it is killed. None: its time is not bounded.
    pub(crate) deadline: Option<Instant>,
}

impl Closing {
    pub(super) fn reason(&self) -> Option<wit::Reason> {
        if self.peer_gone.is_cancelled() {
            Some(wit::Reason::PeerGone)
        } else if self.shutdown.is_cancelled() || self.replaced.is_cancelled() {
            Some(wit::Reason::Draining)
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(wit::Reason::Deadline)
        } else {
            None
        }
    }

    pub(super) async fn closed(&self) {
        tokio::select! {
            () = self.peer_gone.cancelled() => {}
            () = self.shutdown.cancelled() => {}
            () = self.replaced.cancelled() => {}
            () = sleep_until(self.deadline) => {}
        }
    }
}

/// The mailbox of one exchange.
#[derive(Debug)]
pub(crate) struct Mailbox {
    closing: Closing,
    told_closed: bool,
    follows: Vec<Follow>,
    /// None where there is no WebSocket.
    inbox: Option<Inbox>,
    /// An event was handed out last: a frame is next, if there is one.
    frame_is_next: bool,
    /// Frames that had arrived before there was a reason to close, and come before it is told; none: there is no reason.
    frames_before: Option<usize>,
}

/// A task or session that is followed.
struct Follow {
    name: Name,
    state: State,
    /// Taken from the topic, not yet handed to the guest.
    taken: VecDeque<Entry>,
    /// Comes after what was taken.
    after: Option<After>,
    /// A log that can't be read is waited for: the exchange's time is not bounded, and it may have other things to do.
    outlives_outages: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Task(TaskId),
    Session(SessionId),
}

enum Source {
    Task(Follower),
    Session(SessionFollower),
}

enum State {
    Resting(Box<Source>),
    /// Waits for the next entries. This outlives the call that began it: a guest that looks in for a moment at a time
    /// would otherwise never see the end of a look into the log.
    Waiting(BoxFuture<'static, Filled>),
}

/// What waiting brought, and the source back.
type Filled = (Box<Source>, Vec<Entry>, Result<Step, StoreError>);

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
    pub(crate) fn new(closing: Closing, inbox: Option<Inbox>) -> Self {
        Self {
            closing,
            told_closed: false,
            follows: Vec::new(),
            inbox,
            frame_is_next: false,
            frames_before: None,
        }
    }

    /// Follows a task from a place. Following it again moves the place.
    ///
    /// # Errors
    /// Too many are followed.
    pub(crate) fn follow(&mut self, hub: &Hub, task: TaskId, after: Position) -> Result<(), String> {
        self.add(Name::Task(task), || Source::Task(hub.follow(task, after)))
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
        self.add(Name::Session(session.clone()), || Source::Session(hub.follow_session(session, after)))
    }

    fn add(&mut self, name: Name, source: impl FnOnce() -> Source) -> Result<(), String> {
        self.follows.retain(|follow| follow.name != name);
        if self.follows.len() >= FOLLOWS {
            return Err(format!("an exchange follows at most {FOLLOWS} tasks and sessions"));
        }
        let state = State::Resting(Box::new(source()));
        let outlives_outages = self.inbox.is_some();
        self.follows.push(Follow { name, state, taken: VecDeque::new(), after: None, outlives_outages });
        Ok(())
    }

    /// The next message, waiting for it until the timeout.
    ///
    /// # Errors
    /// The log can't be read.
    pub(crate) async fn next(&mut self, timeout: Option<Duration>) -> Result<Received, StoreError> {
        let closed = self.closing.reason();
        if closed.is_some() {
            self.note_arrived();
        }
        let arrived = self.frames_before.is_some_and(|frames| frames > 0)
            || self.follows.iter().any(|follow| !follow.taken.is_empty());
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
            // Begins what only waiting brings, or sees that it has come.
            let arrived = wait_for_any(&mut self.follows, &mut self.inbox).now_or_never().transpose()?;
            let message = arrived.and_then(|()| self.take_ready());
            return Ok(Received { new_step: message.is_some(), message });
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            tokio::select! {
                biased;
                result = wait_for_any(&mut self.follows, &mut self.inbox) => result?,
                () = self.closing.closed() => {
                    // A frame may have come between a look at the inbox and one at this.
                    self.note_arrived();
                    if let Some(message) = self.take_ready() {
                        return Ok(Received { message: Some(message), new_step: true });
                    }
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

    /// There is a reason to close. What had arrived before comes first; what arrives from now on does not put it off.
    fn note_arrived(&mut self) {
        if self.frames_before.is_none() {
            self.frames_before = Some(self.inbox.as_ref().map_or(0, Inbox::len));
        }
    }

    /// What is there without waiting or I/O. Frames and events take turns.
    fn take_ready(&mut self) -> Option<wit::Message> {
        let first = if self.frame_is_next { self.take_frame() } else { None };
        self.frame_is_next = false;
        first
            .or_else(|| {
                let event = self.take_event();
                self.frame_is_next = event.is_some();
                event
            })
            .or_else(|| self.take_frame())
    }

    fn take_frame(&mut self) -> Option<wit::Message> {
        let frame = self.inbox.as_mut()?.take()?;
        self.frames_before = self.frames_before.map(|frames| frames.saturating_sub(1));
        Some(wit::Message::Frame(frame))
    }

    /// Topics take turns once what was taken from one is used up.
    fn take_event(&mut self) -> Option<wit::Message> {
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

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("name", &self.name)
            .field("taken", &self.taken.len())
            .finish_non_exhaustive()
    }
}

impl Follow {
    fn task(&self) -> Option<TaskId> {
        match (&self.name, &self.state) {
            (Name::Task(task), _) => Some(*task),
            (_, State::Resting(source)) => source.task(),
            _ => None,
        }
    }

    fn try_fill(&mut self) {
        match &mut self.state {
            State::Resting(source) => {
                let mut batch = Vec::new();
                if let Some(step) = source.try_next(&mut batch) {
                    self.filled(step, batch);
                }
            }
            State::Waiting(_) => {
                // What can't be read now is tried again, and told, where the guest waits.
                let _ = self.poll_fill(&mut Context::from_waker(Waker::noop()));
            }
        }
    }

    /// Ready when there is something to hand out.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        if let State::Resting(_) = self.state {
            let state = std::mem::replace(&mut self.state, State::Waiting(Box::pin(std::future::pending())));
            if let State::Resting(source) = state {
                self.state = State::Waiting(Box::pin(wait(source)));
            }
        }
        loop {
            let State::Waiting(waiting) = &mut self.state else { return Poll::Pending };
            let (source, batch, step) = ready!(waiting.as_mut().poll(cx));
            if let (Err(error @ StoreError::Unavailable(_)), true) = (&step, self.outlives_outages) {
                tracing::debug!(%error, "the event log can't be read now, and is looked into again");
                // Not all of them at once.
                let pause = RETRY.mul_f64(rand::random_range(0.5..1.5));
                let again = async move {
                    tokio::time::sleep(pause).await;
                    wait(source).await
                };
                self.state = State::Waiting(Box::pin(again));
                continue;
            }
            self.state = State::Resting(source);
            self.filled(step?, batch);
            return Poll::Ready(Ok(()));
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
}

impl Source {
    fn task(&self) -> Option<TaskId> {
        match self {
            Self::Task(follower) => Some(follower.task()),
            Self::Session(follower) => follower.cursor().map(|cursor| cursor.task),
        }
    }

    fn try_next(&mut self, into: &mut Vec<Entry>) -> Option<Step> {
        match self {
            Self::Task(follower) => follower.try_next(into, BATCH),
            Self::Session(follower) => follower.try_next(into, BATCH),
        }
    }
}

async fn wait(mut source: Box<Source>) -> Filled {
    let mut batch = Vec::new();
    let step = match &mut *source {
        Source::Task(follower) => follower.next(&mut batch, BATCH).await,
        Source::Session(follower) => follower.next(&mut batch, BATCH).await,
    };
    (source, batch, step)
}

/// Returns when one of the topics has something, or a frame has arrived. Never without any.
async fn wait_for_any(follows: &mut [Follow], inbox: &mut Option<Inbox>) -> Result<(), StoreError> {
    poll_fn(|cx| {
        if let Some(inbox) = inbox
            && inbox.poll_arrived(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        for follow in &mut *follows {
            if let Poll::Ready(result) = follow.poll_fill(cx) {
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    })
    .await
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{Event, Kind, NewTask};
    use crate::hub::Config;
    use crate::store::sqlite::{Options, SqliteStore};
    use crate::store::{Store as _, TaskQueue as _};

    fn open_ended() -> Closing {
        Closing {
            peer_gone: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            replaced: CancellationToken::new(),
            deadline: Some(Instant::now() + Duration::from_secs(60)),
        }
    }

    /// A task that has ended, of which only the log knows.
    async fn ended_task(store: &SqliteStore) -> TaskId {
        let session = SessionId::new("plug", "s").unwrap();
        let new = NewTask {
            id: TaskId::new(),
            adapter: "plug".into(),
            agent: "echo".into(),
            session: session.clone(),
            input: "{}".into(),
            deliver: None,
            idempotency_key: None,
        };
        let task = store.submit(new).await.unwrap().task;
        let claim = store.claim(1, Duration::from_secs(30)).await.unwrap().items.remove(0);
        let position = Position { attempt: claim.task.attempt, seq: 1 };
        let (kind, data) = (Kind::Completed, "{}".into());
        store.finish(claim.lease, Event { task, session, position, kind, at_ms: 1, data }).await.unwrap();
        store.probe().await.unwrap();
        task
    }

    #[tokio::test]
    async fn a_guest_that_only_ever_looks_in_sees_what_the_log_has() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path(), Options::default()).unwrap());
        let task = ended_task(&store).await;
        let hub = Hub::new(store, Config::default());
        let mut mailbox = Mailbox::new(open_ended(), None);
        mailbox.follow(&hub, task, Position::START).unwrap();
        let mut messages = Vec::new();
        for _ in 0..10_000 {
            let received = mailbox.next(Some(Duration::ZERO)).await.unwrap();
            messages.extend(received.message);
            if messages.len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(
            matches!(&messages[..], [wit::Message::Event(event), wit::Message::Ended(_)] if event.kind == "completed"),
            "{messages:?}"
        );
    }
}
