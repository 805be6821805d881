//! A session's turns: the events of its tasks, one behind the other, until there is none left to wait for.

use std::sync::Arc;

use async_stream::stream;
use futures::stream::BoxStream;

use super::Inner;
use crate::domain::{Cursor, Position, SessionId, TaskId, back_off, millis};
use crate::hub::{self, Step};
use crate::store::StoreError;

/// Events taken from a task at once.
const BATCH: usize = 64;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// With what is under way, and what was accepted within the session's timeout.
    Recent,
    /// Behind an event.
    Event(Cursor),
    /// With the turn behind this one.
    Turn(TaskId),
}

/// What a session tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A turn begins.
    Begun(TaskId),
    /// Events of one task.
    Events(Vec<hub::Entry>),
    /// Events of a task are gone.
    Gap { task: TaskId, attempt: u32, first: u64, last: u64 },
}

/// A session's events. Ends when all turns have ended; whoever hears of another one asks again. What the store can't
/// tell at the moment is waited for.
pub(super) fn turns(inner: Arc<Inner>, session: SessionId, from: From) -> BoxStream<'static, Told> {
    Box::pin(stream! {
        let mut failures = 0;
        let mut current = None;
        let mut done = None;
        match from {
            From::Event(cursor) => current = Some(inner.hub.follow(cursor.task, cursor.position)),
            From::Turn(task) => done = Some(task),
            From::Recent => loop {
                match recent(&inner, &session).await {
                    Ok(before) => break done = Some(before),
                    Err(error) => pause(&session, &error, &mut failures).await,
                }
            },
        }
        loop {
            let Some(follower) = &mut current else {
                match inner.store.session_tasks(&session, done, 1).await {
                    Ok(tasks) => {
                        failures = 0;
                        let Some(task) = tasks.first().copied() else { return };
                        current = Some(inner.hub.follow(task, Position::START));
                        yield Told::Begun(task);
                    }
                    Err(error) => pause(&session, &error, &mut failures).await,
                }
                continue;
            };
            let (task, mut entries) = (follower.task(), Vec::new());
            match follower.next(&mut entries, BATCH).await {
                Ok(Step::Events { .. }) => {
                    failures = 0;
                    yield Told::Events(entries);
                }
                Ok(Step::Gap { attempt, first, last }) => yield Told::Gap { task, attempt, first, last },
                Ok(Step::Ended) => {
                    done = Some(task);
                    current = None;
                }
                Err(error) => pause(&session, &error, &mut failures).await,
            }
        }
    })
}

/// A place before the session's first turn that has not ended, or that was accepted within its timeout.
async fn recent(inner: &Inner, session: &SessionId) -> Result<TaskId, StoreError> {
    let since = first_of(inner.clock.now_ms().saturating_sub(millis(inner.config.session_timeout)));
    let open = inner.store.open_tasks(session, None).await?;
    let before_open = open
        .first()
        .map(|task| TaskId::from_bytes(u128::from_be_bytes(task.to_bytes()).saturating_sub(1).to_be_bytes()));
    Ok(before_open.map_or(since, |before| before.min(since)))
}

/// A place before all tasks of a millisecond: ids begin with it.
fn first_of(ms: u64) -> TaskId {
    TaskId::from_bytes((u128::from(ms) << 80).to_be_bytes())
}

async fn pause(session: &SessionId, error: &StoreError, failures: &mut u32) {
    if *failures == 0 {
        tracing::warn!(session = session.name(), %error, "the session's log can't be read, its stream waits");
    }
    *failures = failures.saturating_add(1);
    tokio::time::sleep(back_off(*failures)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_time_lie_behind_its_place() {
        let now = crate::domain::Clock::System.now_ms();
        let task = TaskId::new();
        assert!(first_of(now - 1_000) < task && task < first_of(now + 10_000));
    }
}
