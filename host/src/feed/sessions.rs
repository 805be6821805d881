//! Sessions of the feed: who is connected, and who was a while ago.
//!
//! A session without a client for `feed.session_timeout` is forgotten. What that means to a client is the same on every
//! node, whether it was ever there: see [`super::Feed::open`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use tokio::time::Instant;

use crate::domain::SessionId;

#[derive(Debug)]
pub(super) struct Sessions {
    table: Mutex<Table>,
    timeout: Duration,
    most_idle: usize,
    known: Gauge,
    connections: Gauge,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<SessionId, Known>,
    /// Those that lost their last client, with the time of it. One that got another since is here for nothing.
    idle: VecDeque<(Instant, SessionId)>,
    connections: usize,
}

#[derive(Debug)]
struct Known {
    connections: usize,
    idle_since: Option<Instant>,
}

impl Sessions {
    pub(super) fn new(timeout: Duration, most_idle: usize, known: Gauge, connections: Gauge) -> Self {
        Self { table: Mutex::default(), timeout, most_idle, known, connections }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of a session came; it goes when what is returned is dropped.
    pub(super) fn connect(self: &Arc<Self>, session: SessionId) -> Connected {
        let mut table = self.table();
        let known = table.known.entry(session.clone()).or_insert(Known { connections: 0, idle_since: None });
        known.connections += 1;
        known.idle_since = None;
        table.connections += 1;
        self.connections.set(table.connections as f64);
        self.known.set(table.known.len() as f64);
        Connected { sessions: Arc::clone(self), session }
    }

    /// Something was done in a session. One without a client is remembered from now on.
    pub(super) fn touch(&self, session: &SessionId) {
        let mut table = self.table();
        let known = table.known.entry(session.clone()).or_insert(Known { connections: 0, idle_since: None });
        if known.connections == 0 {
            self.idle(&mut table, session.clone());
        }
        self.known.set(table.known.len() as f64);
    }

    fn idle(&self, table: &mut Table, session: SessionId) {
        let now = Instant::now();
        if let Some(known) = table.known.get_mut(&session) {
            known.idle_since = Some(now);
        }
        table.idle.push_back((now, session));
        while table.idle.len() > self.most_idle {
            Self::forget_first(table);
        }
    }

    /// The first in the line of those that are idle is forgotten, if it still is.
    fn forget_first(table: &mut Table) -> Option<SessionId> {
        let (since, session) = table.idle.pop_front()?;
        let idle = table.known.get(&session).is_some_and(|known| known.idle_since == Some(since));
        idle.then(|| table.known.remove(&session))?;
        Some(session)
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        let mut table = self.table();
        while table.idle.front().is_some_and(|(since, _)| now.duration_since(*since) >= self.timeout) {
            if let Some(session) = Self::forget_first(&mut table) {
                tracing::debug!(session = session.name(), "a session of the feed was idle for too long");
            }
        }
        self.known.set(table.known.len() as f64);
    }

    /// Clients that are connected.
    pub(super) fn connections(&self) -> usize {
        self.table().connections
    }

    fn disconnect(&self, session: &SessionId) {
        let mut table = self.table();
        table.connections -= 1;
        if let Some(known) = table.known.get_mut(session) {
            known.connections -= 1;
            if known.connections == 0 {
                self.idle(&mut table, session.clone());
            }
        }
        self.connections.set(table.connections as f64);
        self.known.set(table.known.len() as f64);
    }
}

/// A client's place in the count.
#[derive(Debug)]
pub(super) struct Connected {
    sessions: Arc<Sessions>,
    session: SessionId,
}

impl Connected {
    pub(super) fn session(&self) -> &SessionId {
        &self.session
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.sessions.disconnect(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);

    fn sessions(most_idle: usize) -> Arc<Sessions> {
        Arc::new(Sessions::new(TIMEOUT, most_idle, Gauge::noop(), Gauge::noop()))
    }

    fn session(name: &str) -> SessionId {
        SessionId::new("", name).unwrap()
    }

    fn known(sessions: &Sessions) -> usize {
        sessions.expire();
        sessions.table().known.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_forgotten_when_it_had_no_client_for_the_timeout() {
        let sessions = sessions(10);
        let (first, second) = (sessions.connect(session("a")), sessions.connect(session("a")));
        assert_eq!((sessions.connections(), known(&sessions)), (2, 1));
        drop(first);
        tokio::time::advance(TIMEOUT * 2).await;
        assert_eq!((sessions.connections(), known(&sessions)), (1, 1));
        drop(second);
        tokio::time::advance(TIMEOUT / 2).await;
        let back = sessions.connect(session("a"));
        drop(back);
        tokio::time::advance(TIMEOUT - Duration::from_secs(1)).await;
        assert_eq!(known(&sessions), 1);
        sessions.touch(&session("a"));
        tokio::time::advance(TIMEOUT - Duration::from_secs(1)).await;
        assert_eq!(known(&sessions), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((sessions.connections(), known(&sessions), sessions.table().idle.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_remembered_than_may_be() {
        let sessions = sessions(2);
        for name in ["a", "b", "c", "d"] {
            drop(sessions.connect(session(name)));
        }
        let stays = sessions.connect(session("e"));
        assert_eq!((known(&sessions), sessions.table().idle.len()), (3, 2));
        drop(stays);
    }
}
