//! Following a session: its tasks' streams, one behind the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::follower::Wait;
use super::{Entry, Follower, Hub, Member, Registry, Step};
use crate::domain::{Cursor, Position, SessionId, TaskId};
use crate::store::{Store, StoreError};

/// Rings when a session gets another task.
#[derive(Debug, Default)]
pub(super) struct Bell {
    notify: Notify,
    times: AtomicU64,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.times.fetch_add(1, Ordering::Release);
        self.notify.notify_waiters();
    }
}

/// Hears of a session's growth, without a look into the store. Small and cheap to hold.
#[derive(Debug)]
pub struct SessionBell(Arc<Member<SessionId, Bell>>);

impl SessionBell {
    pub(super) fn new(hub: &Hub, session: &SessionId) -> Self {
        Self(Registry::enter(&hub.inner.sessions, session, Bell::default))
    }

    /// How often it rang since somebody first held it.
    pub fn times(&self) -> u64 {
        self.0.times.load(Ordering::Acquire)
    }

    /// Completes at the first ring after this call.
    pub fn rung(&self) -> Notified<'_> {
        self.0.notify.notified()
    }
}

/// Follows one session.
#[derive(Debug)]
pub struct SessionFollower {
    hub: Hub,
    session: SessionId,
    bell: Arc<Member<SessionId, Bell>>,
    /// Where to begin; not yet looked at.
    resume: Option<Cursor>,
    /// The task that is being heard.
    current: Option<Follower>,
    /// The last one that was heard to its end.
    done: Option<TaskId>,
}

impl SessionFollower {
    pub(super) fn new(hub: Hub, session: SessionId, resume: Option<Cursor>) -> Self {
        let bell = Registry::enter(&hub.inner.sessions, &session, Bell::default);
        Self { hub, session, bell, resume, current: None, done: None }
    }

    /// The session.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// The place to resume from.
    pub fn cursor(&self) -> Option<Cursor> {
        match &self.current {
            Some(current) if current.position() != Position::START => {
                Some(Cursor { task: current.task(), position: current.position() })
            }
            _ => self.done.map(|task| Cursor { task, position: LAST }).or(self.resume),
        }
    }

    /// Appends up to `max` (at least one) of the next entries to `into`, all of one task, waiting until there is one.
    /// Never [`Step::Ended`]. Cancel safe: what was not returned is not lost.
    ///
    /// # Errors
    /// The store could not be read; the follower stands where it stood.
    pub async fn next(&mut self, into: &mut Vec<Entry>, max: usize) -> Result<Step, StoreError> {
        let store = Arc::clone(&self.hub.inner.store);
        let wait = Wait::new(self.hub.inner.config.poll);
        if let Some(cursor) = self.resume {
            let status = store.status(cursor.task).await?;
            if status.is_some_and(|status| status.session == self.session) {
                self.current = Some(self.hub.follow(cursor.task, cursor.position));
            } else {
                self.done = Some(cursor.task);
            }
            self.resume = None;
        }
        loop {
            if let Some(current) = &mut self.current {
                match current.next(into, max).await? {
                    Step::Ended => {
                        self.done = Some(current.task());
                        self.current = None;
                    }
                    step => return Ok(step),
                }
            }
            let bell = Arc::clone(&self.bell);
            let rung = bell.notify.notified();
            match store.session_tasks(&self.session, self.done, 1).await?.first() {
                Some(task) => self.current = Some(self.hub.follow(*task, Position::START)),
                // Timeout or not, the store is asked again.
                None => drop(tokio::time::timeout(wait.for_others(), rung).await),
            }
        }
    }

    /// Appends up to `max` (at least one) of the next entries that the present task's ring has now.
    pub fn try_next(&mut self, into: &mut Vec<Entry>, max: usize) -> Option<Step> {
        self.current.as_mut()?.try_next(into, max).filter(|step| *step != Step::Ended)
    }
}

/// See [`Hub::session_end`].
pub(super) async fn end(hub: &Hub, session: &SessionId) -> Result<Option<Cursor>, StoreError> {
    let store = &hub.inner.store;
    // In this order: what is accepted meanwhile is among the open ones.
    let last = store.last_task(session).await?;
    let Some(task) = store.open_tasks(session, None).await?.first().copied() else {
        return Ok(last.map(|task| Cursor { task, position: LAST }));
    };
    let attempt = store.task(task).await?.map_or(0, |task| task.attempt);
    let logged = last_logged(store, task, attempt).await?;
    let heard = hub.inner.tasks.find(&task).and_then(|topic| topic.last());
    Ok(Some(Cursor { task, position: logged.max(heard.unwrap_or(Position::START)) }))
}

/// The last event that the log has of a run, found by looking whether there is any behind a place.
async fn last_logged(store: &Arc<dyn Store>, task: TaskId, attempt: u32) -> Result<Position, StoreError> {
    let is_behind = async |seq| {
        let behind = store.read(task, Position { attempt, seq }, 1).await?;
        Ok::<_, StoreError>(behind.first().is_some_and(|event| event.position.attempt == attempt))
    };
    if attempt == 0 || !is_behind(0).await? {
        return Ok(Position::START);
    }
    let (mut known, mut step) = (0, 1);
    while is_behind(known + step).await? {
        known += step;
        step *= 2;
    }
    // There is one behind `known`, and none behind `known + step`.
    while step > 1 {
        step /= 2;
        if is_behind(known + step).await? {
            known += step;
        }
    }
    Ok(Position { attempt, seq: known + 1 })
}

/// Behind every event of a task.
const LAST: Position = Position { attempt: u32::MAX, seq: u64::MAX };
