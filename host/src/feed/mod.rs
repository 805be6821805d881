//! The agent feed: what pipelines publish on Redis channels, put before clients by the thousands, each in a session that
//! also shows the turns of its own commands.
//!
//! One node at a time, by a lease, writes what it hears into the feed's log, a capped Redis stream; all nodes read that
//! log into a ring. So an event has the same id everywhere, and a client goes on where it was, wherever it comes back.

mod dialect;
mod event;
mod figures;
mod follower;
mod heard;
mod id;
mod link;
mod log;
mod ring;
mod sessions;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use redis::aio::MultiplexedConnection;
use redis::{IntoConnectionInfo as _, ProtocolVersion};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use event::Type;
pub use follower::{Broadcast, Filter, Follower, Standing};
pub use id::{FeedId, Place, SessionPlace};

use crate::domain::{Clock, SessionId};
use crate::egress::{Secret, SecretRef};
use crate::hub::Hub;
use crate::store::{Store, StoreError};
use figures::Figures;
use follower::Opening;
use link::Link;
use log::Keys;
use ring::{Entry, Ring};
use sessions::Sessions;
use turns::From;

/// Clients that read the log at once because they have fallen behind; others wait.
const BEHIND: usize = 4;
/// Tries to read the log, and the pause between them.
const TRIES: (u32, Duration) = (5, Duration::from_millis(100));

/// `[feed]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedConfig {
    /// The Redis that pipelines publish on: "env:NAME", "file:PATH", or the URL; empty: the store's, if it is one.
    pub redis_url: SecretRef,
    /// Channels that are listened to.
    pub channels: Vec<String>,
    /// Agent that runs commands; empty: the default one.
    pub agent: String,
    /// Largest payload of a channel.
    pub payload: ByteSize,
    /// Largest `query` and `symbol` of a command.
    pub query: ByteSize,
    /// Events that the log keeps.
    pub log_events: u64,
    /// Bytes of them.
    pub log_bytes: ByteSize,
    /// Bytes of what was heard and is not known to be in the log.
    pub heard: ByteSize,
    /// Events in memory.
    pub ring_events: usize,
    /// Bytes of them.
    pub ring_bytes: ByteSize,
    /// Signals that a client gets when it comes while Redis is away.
    pub cached_signals: usize,
    /// A session without a client for so long is forgotten.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// Sessions without a client that are remembered.
    pub idle_sessions: usize,
    /// How long the node that writes the log may be silent before another one takes over.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Streams that one address may have open; 0: any number.
    pub connections_per_address: u32,
    /// Commands and openings of streams by one address in a minute; 0: any number.
    pub requests_per_minute: u32,
}

impl FeedConfig {
    /// Checks what no type can say.
    ///
    /// # Errors
    /// The setting, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let positive = [
            ("payload", self.payload.as_u64()),
            ("query", self.query.as_u64()),
            ("log_events", self.log_events),
            ("log_bytes", self.log_bytes.as_u64()),
            ("heard", self.heard.as_u64()),
            ("ring_events", self.ring_events as u64),
            ("ring_bytes", self.ring_bytes.as_u64()),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err((name, "must be at least 1".to_owned()));
            }
        }
        if self.heard < self.payload {
            return Err(("heard", "must be at least feed.payload".to_owned()));
        }
        if self.lease < Duration::from_millis(100) {
            return Err(("lease", "must be at least 100ms".to_owned()));
        }
        if self.session_timeout.is_zero() {
            return Err(("session_timeout", "must be longer than nothing".to_owned()));
        }
        if self.channels.is_empty() || self.channels.iter().any(String::is_empty) {
            return Err(("channels", "must name at least one channel, and none without a name".to_owned()));
        }
        Ok(())
    }
}

/// What the feed needs of the rest of the gateway.
#[derive(Debug)]
pub struct Parts {
    /// Where pipelines publish; none: nowhere, and the feed shows sessions' turns alone.
    pub redis: Option<Secret>,
    /// Before the names of the feed's keys (`store.prefix`); gateways of the same prefix share a feed.
    pub prefix: String,
    /// Events of tasks.
    pub hub: Hub,
    /// Tasks of sessions.
    pub store: Arc<dyn Store>,
    /// Time stamps.
    pub clock: Clock,
}

/// The feed can't be had as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("feed.redis_url: {0}")]
pub struct FeedError(String);

/// A client can't be let onto the feed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its place is of another stream.
    #[error("Last-Event-ID is no id of this stream")]
    OtherStream,
    /// The store can't tell whose its place is.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How the feed stands to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisState {
    /// There is none in the configuration.
    NotConfigured,
    /// It is out of reach.
    Disconnected,
    /// Events flow.
    Connected,
}

/// Handle of the feed.
#[derive(Clone)]
pub struct Feed {
    inner: Arc<Inner>,
}

struct Inner {
    config: FeedConfig,
    payload: usize,
    ring_bytes: usize,
    client: Option<redis::Client>,
    keys: Keys,
    hub: Hub,
    store: Arc<dyn Store>,
    clock: Clock,
    ring: Ring,
    sessions: Arc<Sessions>,
    figures: Figures,
    redis: AtomicU8,
    /// It was said that Redis is out of reach.
    warned: AtomicBool,
    /// What clients that have fallen behind read over, while there is one.
    commands: Mutex<Option<MultiplexedConnection>>,
    behind: Semaphore,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("redis", &self.redis()).finish_non_exhaustive()
    }
}

/// A client that wants to come in.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Its session, if it names one.
    pub session: Option<SessionId>,
    /// Where it was, if it was here before.
    pub place: Option<Place>,
    /// What it wants to see.
    pub filter: Filter,
    /// It may see the session that it names, and no other.
    pub bound: bool,
}

/// What who has fallen behind gets from the log.
struct Behind {
    /// Events between its place and `from` are gone.
    gap: bool,
    from: FeedId,
    entries: Vec<Entry>,
    /// Its place now.
    at: FeedId,
}

impl Feed {
    /// A feed that is not linked to Redis yet.
    ///
    /// # Errors
    /// The URL is none. It is not told, since it may hold a password.
    pub fn new(config: FeedConfig, parts: Parts) -> Result<Self, FeedError> {
        let client = parts.redis.as_ref().map(client).transpose()?;
        let figures = Figures::new();
        let (timeout, most_idle) = (config.session_timeout, config.idle_sessions);
        let sessions =
            Sessions::new(timeout, most_idle, figures.sessions.clone(), figures.connections.clone());
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let state = if client.is_some() { RedisState::Disconnected } else { RedisState::NotConfigured };
        let inner = Inner {
            payload: bytes(config.payload),
            ring_bytes: bytes(config.ring_bytes),
            ring: Ring::new(config.ring_events, bytes(config.ring_bytes), config.cached_signals),
            keys: Keys::new(&parts.prefix),
            config,
            client,
            hub: parts.hub,
            store: parts.store,
            clock: parts.clock,
            sessions: Arc::new(sessions),
            figures,
            redis: AtomicU8::new(state as u8),
            warned: AtomicBool::new(false),
            commands: Mutex::default(),
            behind: Semaphore::new(BEHIND),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Keeps the feed going until it is told to stop: the link to Redis, and the sessions' clean-up.
    pub async fn run(self, stop: CancellationToken) {
        let link = async {
            match &self.inner.client {
                Some(client) => Link::new(Arc::clone(&self.inner), client.clone()).run(stop.clone()).await,
                None => stop.cancelled().await,
            }
        };
        let pause = (self.inner.config.session_timeout / 8)
            .clamp(Duration::from_millis(100), Duration::from_secs(30));
        let sessions = async {
            let mut ticks = tokio::time::interval(pause);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => self.inner.sessions.expire(),
                }
            }
        };
        tokio::join!(link, sessions);
    }

    /// Lets a client in.
    ///
    /// It is shown the feed from its place on, or from now on; and the turns of its session: those behind its place, or
    /// else those that have not ended and those that were accepted within `feed.session_timeout`. Without a session it
    /// gets one of its own.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, wish: Wish) -> Result<Follower, OpenError> {
        let inner = &self.inner;
        let Wish { session, place, filter, bound } = wish;
        let (place, said) = match place {
            Some(Place { feed, session }) => (Some(feed), session),
            None => (None, None),
        };
        let mut opening = Opening::default();
        let (session, from) = match (said, session) {
            (None, Some(session)) => (session, Some(From::Recent)),
            (None, None) => (fresh_session(), None),
            (Some(SessionPlace::Named(said)), session) => {
                if session.is_some_and(|session| session != said) {
                    return Err(OpenError::OtherStream);
                }
                (said, Some(From::Recent))
            }
            (Some(SessionPlace::Said(cursor)), session) => {
                let status = inner.store.status(cursor.task).await?;
                match (status.map(|status| status.session), session) {
                    (Some(found), None) if found.owner().is_empty() => (found, Some(From::Event(cursor))),
                    (Some(found), Some(session)) if found == session => (session, Some(From::Event(cursor))),
                    // Long forgotten; or another session's, and whoever may see one session alone is not told which.
                    (found, Some(session)) if bound || found.is_none() => {
                        opening.gap = true;
                        (session, Some(From::Turn(cursor.task)))
                    }
                    (None, None) if !bound => {
                        opening.gap = true;
                        (fresh_session(), None)
                    }
                    _ => return Err(OpenError::OtherStream),
                }
            }
        };
        let mut at = place.flatten();
        match at {
            Some(named) => {
                if inner.is_beyond(named).await == Some(true) {
                    opening.gap = true;
                    at = inner.ring.last();
                }
            }
            None => at = inner.ring.last(),
        }
        if place.flatten().is_none() && self.redis() == RedisState::Disconnected {
            opening.signals = inner.ring.signals();
        }
        let connected = inner.sessions.connect(session);
        let bell = inner.hub.session_bell(connected.session());
        Ok(Follower::new(self.clone(), connected, bell, at, from, filter, opening))
    }

    /// A session that nobody has used before.
    pub fn fresh_session() -> SessionId {
        fresh_session()
    }

    /// Notes that a command was accepted in a session, whether it is `new` or was accepted before.
    pub fn commanded(&self, session: &SessionId, new: bool) {
        self.inner.figures.commands.increment(u64::from(new));
        self.inner.sessions.touch(session);
    }

    /// Clients that are connected to this node.
    pub fn connections(&self) -> usize {
        self.inner.sessions.connections()
    }

    /// How it stands to Redis.
    pub fn redis(&self) -> RedisState {
        let state = self.inner.redis.load(Ordering::Relaxed);
        [RedisState::NotConfigured, RedisState::Disconnected]
            .into_iter()
            .find(|known| *known as u8 == state)
            .unwrap_or(RedisState::Connected)
    }

    /// Its settings.
    pub fn config(&self) -> &FeedConfig {
        &self.inner.config
    }
}

impl Inner {
    fn is_connected(&self) -> bool {
        self.redis.load(Ordering::Relaxed) == RedisState::Connected as u8
    }

    fn connected(&self, commands: &MultiplexedConnection) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = Some(commands.clone());
        self.redis.store(RedisState::Connected as u8, Ordering::Relaxed);
        // Who waits at a place that the log may not have come to looks again.
        self.ring.wake();
        let back = self.warned.swap(false, Ordering::Relaxed);
        tracing::info!(channels = ?self.config.channels, back, "the feed is linked to redis");
    }

    /// Says so once, however long it lasts.
    fn disconnected(&self, error: &redis::RedisError) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.redis.store(RedisState::Disconnected as u8, Ordering::Relaxed);
        self.figures.redis_errors.increment(1);
        if self.warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, "redis is still out of reach");
        } else {
            tracing::warn!(%error, "redis is out of reach: the feed's clients get the last signals until it is back");
        }
    }

    /// Whether a place is one that the log has not come to, so that waiting for what is behind it would be in vain. None
    /// where only Redis could tell, and it can't be asked.
    async fn is_beyond(&self, place: FeedId) -> Option<bool> {
        if place <= self.ring.last()? {
            return Some(false);
        }
        // Another node may have shown what has not come here yet.
        let mut connection = self.connection()?;
        let shape = log::shape(&mut connection, &self.keys).await.ok()?;
        Some(place > shape.given)
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is behind a place that lies below the ring's floor: what the log has, a gap where it has lost something.
    async fn behind(&self, place: FeedId, floor: FeedId) -> Behind {
        let gone = Behind { gap: true, from: floor, entries: Vec::new(), at: floor };
        // Never closed.
        let _permit = self.behind.acquire().await;
        for _ in 0..TRIES.0 {
            let Some(connection) = self.connection() else { return gone };
            match self.page(connection, place, floor).await {
                Ok(page) => return page,
                Err(error) => {
                    tracing::debug!(%error, "the feed's log can't be read");
                    tokio::time::sleep(TRIES.1).await;
                }
            }
        }
        gone
    }

    async fn page(
        &self,
        mut connection: MultiplexedConnection,
        place: FeedId,
        floor: FeedId,
    ) -> redis::RedisResult<Behind> {
        let logged = log::behind(&mut connection, &self.keys, place).await?;
        // Looked at afterwards: what was cut off meanwhile is missing from the page as well.
        let shape = log::shape(&mut connection, &self.keys).await?;
        let reaches_back = place >= shape.first.map_or(floor, FeedId::before)
            || (place == FeedId::START && shape.whole && shape.first.is_some());
        let at = logged.last().map_or(floor, |logged| logged.id);
        let from = logged.first().map_or(floor, |logged| logged.id.before());
        let entries = logged.into_iter().filter_map(|logged| Some(logged.event?.0)).collect();
        Ok(Behind { gap: !reaches_back, from, entries, at })
    }
}

/// Checks a URL without connecting.
///
/// # Errors
/// It is none.
pub fn check_url(url: &Secret) -> Result<(), FeedError> {
    client(url).map(|_| ())
}

/// What connects to a URL. The error does not show it, since it may hold a password.
fn client(url: &Secret) -> Result<redis::Client, FeedError> {
    let open = || {
        let info = url.expose().into_connection_info()?;
        // Pub/Sub is read as it comes over the older protocol.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        redis::Client::open(info.set_redis_settings(settings))
    };
    open().map_err(|error: redis::RedisError| {
        let reason = error.to_string().replace(url.expose(), "[hidden]");
        FeedError(format!("is no address of a redis, as redis://127.0.0.1:6379: {reason}"))
    })
}

fn fresh_session() -> SessionId {
    let name = format!("sess-{}", Uuid::now_v7().simple());
    SessionId::new("", &name).unwrap_or_else(|_| SessionId::fresh(""))
}
