//! Live fan-out: who follows a task sees its events as they happen, and those before from the log, in one line.
//!
//! A task that runs here has a topic: a ring of its latest events, each encoded once. A follower is a cursor into it,
//! with no queue of its own, so that a slow one costs nothing but its cursor. A topic lives as long as somebody
//! publishes to it or follows it. Of a task that runs on another node the topic has what that one logged, as the store's
//! notices bring it.

mod follower;
mod frame;
mod registry;
mod session;
#[cfg(test)]
mod tests;
mod topic;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use follower::{Follower, Step};
pub use frame::Frame;
pub(crate) use registry::{Member, Registry};
pub use session::{SessionBell, SessionFollower};
pub use topic::{Entry, FRAME_OVERHEAD};

use crate::domain::{Cursor, Event, Position, SessionId, TaskId};
use crate::store::{Notice, Store, StoreError};
use topic::Topic;

/// What a topic may hold, and how followers look after themselves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Events in a ring.
    pub ring_events: usize,
    /// Bytes in a ring ([`Entry::weight`]); the latest event is there whatever it weighs.
    pub ring_bytes: usize,
    /// Longest time between two looks into the store of a follower with nothing to hear. Whoever writes to the store
    /// says so: this is a net below.
    pub poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { ring_events: 1000, ring_bytes: 4 << 20, poll: Duration::from_secs(30) }
    }
}

/// Handle of the live fan-out.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    config: Config,
    tasks: Arc<Registry<TaskId, Topic>>,
    sessions: Arc<Registry<SessionId, session::Bell>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("topics", &self.topics()).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub whose past is in the store.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Self {
        let inner = Inner { store, config, tasks: Arc::default(), sessions: Arc::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The publishing side of a task that runs here.
    pub fn publisher(&self, task: TaskId) -> Publisher {
        let topic = self.topic(task);
        topic.join();
        Publisher { topic }
    }

    /// Follows a task that exists, from behind a place ([`Position::START`]: from its beginning).
    pub fn follow(&self, task: TaskId, after: Position) -> Follower {
        Follower::new(self.clone(), task, after)
    }

    /// Follows a session: the streams of its tasks one behind the other in the order of their acceptance, those that
    /// are yet to come too. It never ends, and any of its events' cursors resumes it exactly. A turn that was
    /// cancelled while it waited is heard after the turns before it.
    ///
    /// A cursor of a task that is not, or no longer, of this session resumes at the session's first task that was
    /// submitted later.
    pub fn follow_session(&self, session: SessionId, after: Option<Cursor>) -> SessionFollower {
        SessionFollower::new(self.clone(), session, after)
    }

    /// The place behind all that has happened in a session; none: nothing has.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn session_end(&self, session: &SessionId) -> Result<Option<Cursor>, StoreError> {
        session::end(self, session).await
    }

    /// The bell that rings whenever a session gets another task.
    pub fn session_bell(&self, session: &SessionId) -> SessionBell {
        SessionBell::new(self, session)
    }

    /// Says that a task was accepted in a session.
    pub fn session_grew(&self, session: &SessionId) {
        if let Some(bell) = self.inner.sessions.find(session) {
            bell.ring();
        }
    }

    /// Says that the log or the record of a task changed without its publisher, as when it was cancelled in the queue.
    pub fn task_changed(&self, task: TaskId) {
        if let Some(topic) = self.inner.tasks.find(&task) {
            topic.wake();
        }
    }

    /// Takes in what was done to the store on another node.
    pub fn hear(&self, notice: Notice) {
        match notice {
            Notice::Watching(task) => {
                if let Some(topic) = self.inner.tasks.find(&task) {
                    topic.watching();
                }
            }
            Notice::Events(events) => {
                let Some(topic) = events.first().and_then(|event| self.inner.tasks.find(&event.task)) else {
                    return;
                };
                for event in events {
                    topic.publish(Entry::new(Arc::new(event)));
                }
            }
            Notice::SessionGrew(session) => self.session_grew(&session),
            Notice::Lost => {
                self.inner.tasks.all().iter().for_each(|topic| topic.lost());
                self.inner.sessions.all().iter().for_each(|session| session.ring());
            }
            // Whoever runs the task hears of it.
            Notice::Cancel { .. } => {}
        }
    }

    /// Topics that somebody publishes to or follows.
    pub fn topics(&self) -> usize {
        self.inner.tasks.lock().len()
    }

    fn topic(&self, task: TaskId) -> Arc<Member<TaskId, Topic>> {
        let Config { ring_events, ring_bytes, .. } = self.inner.config;
        Registry::enter(&self.inner.tasks, &task, || Topic::new(ring_events, ring_bytes))
    }
}

/// Publishes the events of one run. Dropping it says that no more will come from here.
#[derive(Debug)]
pub struct Publisher {
    topic: Arc<Member<TaskId, Topic>>,
}

impl Publisher {
    /// Shows an event to everybody who follows. Events come in the order of their positions; one that is not after
    /// the latest is of a run that somebody else has taken over, and is dropped. Never waits.
    pub fn publish(&self, event: Arc<Event>) {
        self.topic.publish(Entry::new(event));
    }

    /// Says that no more will come from here.
    pub fn end(self) {}
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.topic.leave();
    }
}
