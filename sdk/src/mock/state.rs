//! Everything that the mock host knows, in one thread-local value. It is borrowed for the length of a closure and never
//! while the test's or the adapter's code runs.

use super::{
    Outgoing, Webhook,
    agent::{Script, Submission, TaskLog},
};
use crate::{
    agents::Agent, host::Level, http, mailbox::Reason, manifest::Plugin, response::Response, sys::raw,
    task::SubmitError,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    panic::resume_unwind,
    time::Duration,
};

pub(super) type Server = Box<dyn FnMut(&Outgoing) -> Result<Response, http::Error>>;
pub(super) type ScriptFn = Box<dyn FnMut(&Submission) -> Script>;

pub(super) struct State {
    pub(super) now_ms: u64,
    pub(super) config: String,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) logs: Vec<(Level, String)>,
    pub(super) random: u64,
    pub(super) agents: Vec<Agent>,
    pub(super) script: Option<ScriptFn>,
    pub(super) submit_fault: Option<SubmitError>,
    pub(super) submissions: Vec<Submission>,
    pub(super) tasks: BTreeMap<String, TaskLog>,
    pub(super) server: Option<Server>,
    pub(super) answers: VecDeque<Result<Response, http::Error>>,
    pub(super) sent: Vec<Outgoing>,
    /// Origins granted beyond the manifest's.
    pub(super) granted: Vec<String>,
    pub(super) webhooks: Vec<Webhook>,
    pub(super) result_url: bool,
    pub(super) kv: BTreeMap<String, Entry>,
    pub(super) kv_version: u64,
    pub(super) store_fault: Option<String>,
    /// Bytes of keys and values that `kv` takes.
    pub(super) store_quota: usize,
    pub(super) outbox_fault: Option<String>,
    pub(super) pace: BTreeMap<String, Pace>,
    pub(super) close_after: Option<(Duration, Reason)>,
    pub(super) exchange: Exchange,
}

pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    pub(super) version: u64,
    pub(super) expires_ms: u64,
}

#[derive(Default)]
pub(super) struct Pace {
    pub(super) grants: Vec<u64>,
    pub(super) paused_until: u64,
    /// Nothing of it matters after this.
    pub(super) idle_after: u64,
}

/// What lives as long as one exchange.
#[derive(Default)]
pub(super) struct Exchange {
    pub(super) imports: usize,
    pub(super) lives_for: usize,
    /// Origins that may be reached; none outside of an exchange, where a test may reach any.
    pub(super) origins: Option<Vec<String>>,
    pub(super) follows: Vec<Follow>,
    pub(super) sessions: Vec<String>,
    pub(super) frames: VecDeque<(u64, raw::types::Frame)>,
    pub(super) closed: Option<(u64, raw::mailbox::Reason)>,
    /// From then on nothing else is told.
    pub(super) closed_told: bool,
    pub(super) head: Option<(u16, Vec<(String, String)>)>,
    pub(super) pieces: Vec<Vec<u8>>,
    pub(super) ended_cleanly: bool,
    pub(super) writes_left: Option<usize>,
    pub(super) frames_sent: Vec<raw::types::Frame>,
    /// Frames that the peer takes before it goes away.
    pub(super) frames_left: Option<usize>,
    pub(super) close_code: Option<(u16, String)>,
}

impl Exchange {
    /// The WebSocket's peer goes away, if it has not gone before.
    pub(super) fn peer_goes(&mut self, at_ms: u64) {
        if self.closed.is_none_or(|(before_ms, _)| at_ms < before_ms) {
            self.closed = Some((at_ms, raw::mailbox::Reason::PeerGone));
        }
    }

    /// How many tasks and sessions are followed.
    pub(super) fn followed(&self) -> usize {
        self.follows.iter().filter(|follow| !follow.of_session).count() + self.sessions.len()
    }
}

/// A place in a task's log.
pub(super) struct Follow {
    pub(super) task: String,
    pub(super) next: usize,
    /// Followed as part of a session: there is no `ended`.
    pub(super) of_session: bool,
    pub(super) ended: bool,
}

/// The panic that ends an exchange whose host dies.
pub(super) struct Killed;

impl Default for State {
    fn default() -> Self {
        Self {
            now_ms: 1_700_000_000_000,
            config: "{}".to_owned(),
            secrets: BTreeMap::new(),
            logs: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            agents: Vec::new(),
            script: None,
            submit_fault: None,
            submissions: Vec::new(),
            tasks: BTreeMap::new(),
            server: None,
            answers: VecDeque::new(),
            sent: Vec::new(),
            granted: Vec::new(),
            webhooks: Vec::new(),
            result_url: false,
            kv: BTreeMap::new(),
            kv_version: 0,
            store_fault: None,
            store_quota: usize::MAX,
            outbox_fault: None,
            pace: BTreeMap::new(),
            close_after: None,
            exchange: Exchange { lives_for: usize::MAX, ..Exchange::default() },
        }
    }
}

impl State {
    /// Starts an exchange of the plugin whose host dies after so many calls.
    pub(super) fn open_exchange<A: Plugin>(&mut self, lives_for: usize) {
        let mut origins = A::manifest().origins;
        origins.extend(self.granted.iter().cloned());
        let closed = self.close_after.map(|(after, reason)| {
            let reason = match reason {
                Reason::PeerGone => raw::mailbox::Reason::PeerGone,
                Reason::Draining => raw::mailbox::Reason::Draining,
                Reason::Deadline => raw::mailbox::Reason::Deadline,
            };
            (self.now_ms + crate::sys::millis64(after), reason)
        });
        self.exchange = Exchange { lives_for, closed, origins: Some(origins), ..Exchange::default() };
    }

    /// The entry under a key, unless its time is over.
    pub(super) fn kv_entry(&mut self, key: &str) -> Option<&mut Entry> {
        if self.kv.get(key).is_some_and(|entry| entry.expires_ms <= self.now_ms) {
            self.kv.remove(key);
        }
        self.kv.get_mut(key)
    }
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

pub(super) fn install(state: State) {
    STATE.set(Some(state));
}

pub(super) fn uninstall() {
    STATE.set(None);
}

/// Gives the state to a closure, for a test or for the host's own needs.
pub(super) fn with<T>(look: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(|state| {
        look(state.as_mut().expect("no host on this thread: keep a `Mock::new()` in a variable"))
    })
}

/// Gives the state to a closure for an adapter's call of an import, after which the host may die.
pub(super) fn import<T>(call: impl FnOnce(&mut State) -> T) -> T {
    let result = with(call);
    count_import();
    result
}

/// Counts a call of an import. Apart from [`import`] for those that run code of the test's.
pub(super) fn count_import() {
    let dies = with(|state| {
        state.exchange.imports += 1;
        state.exchange.imports == state.exchange.lives_for
    });
    if dies {
        resume_unwind(Box::new(Killed));
    }
}
