//! The connection that all calls share, and the task that makes it anew when it is lost.
//!
//! A call waits for a connection, and for its answer, `timeout` together. While Redis is away calls wait for it as long
//! as it is away for no longer than that, so that nobody notices a short restart; later they fail at once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::failure::{Cause, Failure};
use super::scripts::Scripts;
use crate::domain::millis;

/// Longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Commands that may wait to be put on the wire; beyond it callers wait.
const PIPELINE: usize = 4096;
/// Oldest version that has all that the scripts use.
const OLDEST: u32 = 7;

/// Whether a call may be made again when the connection was lost before its answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Made twice it comes to the same.
    Yes,
    /// It would count twice, or hide what the first one came to.
    No,
}

enum State {
    Up { line: MultiplexedConnection, generation: u64 },
    Down { since: Instant, why: Failure, generation: u64 },
}

/// What goes over the wire at once.
#[derive(Clone, Copy)]
enum Request<'a> {
    One(&'a Cmd),
    /// So many.
    Many(&'a Pipeline, usize),
}

impl Request<'_> {
    async fn send(
        self,
        mut line: MultiplexedConnection,
        scripts: &Scripts,
    ) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::One(cmd) => {
                let answer = line.send_packed_command(cmd).await.and_then(Value::extract_error);
                let answer = match answer {
                    Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                        // Somebody has flushed them.
                        load(&mut line, scripts).await?;
                        line.send_packed_command(cmd).await.and_then(Value::extract_error)
                    }
                    other => other,
                };
                Ok(vec![answer?])
            }
            Self::Many(pipeline, count) => {
                let answers = line.send_packed_commands(pipeline, 0, count).await?;
                answers.into_iter().map(Value::extract_error).collect()
            }
        }
    }
}

/// Handle of the connection; cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    at: Arc<str>,
    timeout: Duration,
    scripts: Scripts,
    state: watch::Sender<State>,
    /// Redis refused to write, and nobody was allowed to since.
    refused: AtomicBool,
    closed: AtomicBool,
}

/// Pauses between attempts to connect, each twice as long as the one before, up to a bound.
pub(super) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: SHORTEST_PAUSE }
    }
}

impl Pauses {
    /// A connection has held for so long. One that is lost as soon as it is made is no reason to hurry.
    pub(super) fn held_for(&mut self, length: Duration) {
        if length > LONGEST_PAUSE {
            *self = Self::default();
        }
    }

    /// Waits for the next pause, or a little less, so that nodes don't come all at once.
    pub(super) async fn pause(&mut self) {
        sleep(self.next.mul_f64(0.75 + rand::random::<f64>() / 4.0)).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("at", &self.shared.at).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects, trying again for up to `patience`.
    ///
    /// # Errors
    /// The last attempt's; at once where waiting will not help.
    pub(super) async fn open(client: Client, timeout: Duration, patience: Duration) -> Result<Self, Failure> {
        let at: Arc<str> = address(&client).into();
        let scripts = Scripts::new();
        let until = Instant::now() + patience;
        let mut pause = SHORTEST_PAUSE;
        let line = loop {
            match connect(&client, &at, timeout, &scripts).await {
                Ok(line) => break line,
                Err(failure) if failure.may_pass() && Instant::now() + pause < until => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(failure) => return Err(failure),
            }
        };
        metrics::gauge!("plugway_redis_up").set(1.0);
        let state = watch::Sender::new(State::Up { line, generation: 1 });
        let (refused, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { shared: Arc::new(Shared { client, at, timeout, scripts, state, refused, closed }) })
    }

    /// Makes lost connections anew until told to stop.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let keep = async {
            let mut pauses = Pauses::default();
            loop {
                let up_since = Instant::now();
                let mut changes = self.shared.state.subscribe();
                if changes.wait_for(|state| matches!(state, State::Down { .. })).await.is_err() {
                    return;
                }
                pauses.held_for(up_since.elapsed());
                self.reconnect(&mut pauses).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep => {}
        }
    }

    async fn reconnect(&self, pauses: &mut Pauses) {
        let shared = &*self.shared;
        loop {
            pauses.pause().await;
            match connect(&shared.client, &shared.at, shared.timeout, &shared.scripts).await {
                Ok(line) => {
                    shared.state.send_if_modified(|state| match state {
                        State::Down { since, generation, .. } => {
                            let away =
                                humantime::format_duration(Duration::from_millis(millis(since.elapsed())));
                            info!(redis = %shared.at, %away, "redis is back");
                            metrics::counter!("plugway_redis_reconnects_total").increment(1);
                            metrics::gauge!("plugway_redis_up").set(1.0);
                            *state = State::Up { line, generation: *generation + 1 };
                            true
                        }
                        _ => false,
                    });
                    return;
                }
                Err(failure) => {
                    shared.state.send_if_modified(|state| {
                        if let State::Down { why, .. } = state {
                            *why = failure;
                        }
                        false
                    });
                }
            }
        }
    }

    /// Whether there is a connection, as far as anybody has noticed.
    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.shared.state.borrow(), State::Up { .. })
    }

    pub(super) fn scripts(&self) -> &Scripts {
        &self.shared.scripts
    }

    /// Where Redis is, without the password.
    pub(super) fn at(&self) -> &Arc<str> {
        &self.shared.at
    }

    pub(super) fn client(&self) -> &Client {
        &self.shared.client
    }

    pub(super) fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// From now on nothing is written.
    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }

    /// Makes a call that writes. What Redis refuses is logged once, until it lets `adds` calls through again.
    pub(super) async fn call(&self, cmd: &Cmd, again: Again, adds: bool) -> Result<Value, Failure> {
        if self.is_closed() {
            return Err(Failure::Closed);
        }
        let answered =
            self.attempt(again, Request::One(cmd)).await.map(|mut answers| answers.pop().unwrap_or_default());
        match &answered {
            Ok(_) if adds && self.shared.refused.swap(false, Ordering::Relaxed) => {
                info!(redis = %self.shared.at, "redis takes writes again");
            }
            Err(failure @ Failure::Refused { .. }) if !self.shared.refused.swap(true, Ordering::Relaxed) => {
                warn!("{failure}");
            }
            _ => {}
        }
        answered
    }

    /// Makes several calls that only read, one behind the other on the wire: an answer each.
    pub(super) async fn read(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        let count = pipeline.cmd_iter().count();
        let answers = self.attempt(Again::Yes, Request::Many(pipeline, count)).await?;
        if answers.len() == count {
            Ok(answers)
        } else {
            let why = format!("{} answers to {count} calls", answers.len()).into();
            Err(Failure::Unreadable { at: Arc::clone(&self.shared.at), why })
        }
    }

    async fn attempt(&self, again: Again, request: Request<'_>) -> Result<Vec<Value>, Failure> {
        let shared = &*self.shared;
        let until = Instant::now() + shared.timeout;
        loop {
            let (line, generation) = self.line(until).await?;
            let failure = match timeout_at(until, request.send(line, &shared.scripts)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::of(&shared.at, &error),
                Err(_) => Failure::Slow { at: Arc::clone(&shared.at), after: shared.timeout },
            };
            if failure.is_of_the_line() {
                self.lost(generation, &failure);
                if again == Again::Yes && Instant::now() < until {
                    continue;
                }
            }
            return Err(failure);
        }
    }

    /// The connection, once there is one.
    async fn line(&self, until: Instant) -> Result<(MultiplexedConnection, u64), Failure> {
        let mut changes = self.shared.state.subscribe();
        loop {
            let patience = match &*changes.borrow_and_update() {
                State::Up { line, generation } => return Ok((line.clone(), *generation)),
                State::Down { since, .. } => until.min(*since + self.shared.timeout),
            };
            // The sender is here, so the wait ends by a change or by the time.
            if timeout_at(patience, changes.changed()).await.is_err() {
                return match &*changes.borrow() {
                    State::Up { line, generation } => Ok((line.clone(), *generation)),
                    State::Down { why, .. } => Err(why.clone()),
                };
            }
        }
    }

    fn lost(&self, lost: u64, failure: &Failure) {
        self.shared.state.send_if_modified(|state| match state {
            State::Up { generation, .. } if *generation == lost => {
                warn!("{failure}; trying to connect again");
                metrics::gauge!("plugway_redis_up").set(0.0);
                *state = State::Down { since: Instant::now(), why: failure.clone(), generation: lost };
                true
            }
            _ => false,
        });
    }
}

/// Where a client connects to, as the log and errors say it.
fn address(client: &Client) -> String {
    use redis::ConnectionAddr as Addr;
    let info = client.get_connection_info();
    let user = info.redis_settings().username().map(|user| format!("{user}@")).unwrap_or_default();
    let db = match info.redis_settings().db() {
        0 => String::new(),
        db => format!("/{db}"),
    };
    match info.addr() {
        Addr::TcpTls { .. } => format!("rediss://{user}{}{db}", info.addr()),
        Addr::Unix(path) => format!("unix://{}", path.display()),
        _ => format!("redis://{user}{}{db}", info.addr()),
    }
}

/// Makes a connection that can be used: the scripts are known, and it leads to a primary that has loaded its data.
async fn connect(
    client: &Client,
    at: &Arc<str>,
    timeout: Duration,
    scripts: &Scripts,
) -> Result<MultiplexedConnection, Failure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(PIPELINE);
    let connected = async {
        let mut line = client.get_multiplexed_async_connection_with_config(&config).await?;
        // Who may not ask takes what it gets.
        let info =
            line.send_packed_command(redis::cmd("INFO").arg("server")).await.and_then(Value::extract_error);
        if let Ok(Value::BulkString(info)) = info
            && let Some(version) = too_old(&String::from_utf8_lossy(&info))
        {
            let why = format!("is version {version}; {OLDEST}.0 or newer is needed").into();
            return Ok(Err(Failure::Refused { at: Arc::clone(at), why, cause: Cause::Lasting }));
        }
        load(&mut line, scripts).await?;
        let role = line.send_packed_command(&redis::cmd("ROLE")).await.and_then(Value::extract_error);
        Ok::<_, RedisError>(match role {
            Ok(Value::Array(role)) if role.first().is_some_and(is_replica) => {
                let error = RedisError::from((ErrorKind::Server(ServerErrorKind::ReadOnly), "replica"));
                Err(Failure::of(at, &error))
            }
            _ => Ok(line),
        })
    };
    let until = Instant::now() + timeout;
    match timeout_at(until, connected).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => Err(Failure::of(at, &error)),
        Err(_) => Err(Failure::Slow { at: Arc::clone(at), after: timeout }),
    }
}

/// The version in what Redis tells of itself, if that is too old.
fn too_old(info: &str) -> Option<&str> {
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"))?.trim();
    let major: u32 = version.split('.').next()?.parse().ok()?;
    (major < OLDEST).then_some(version)
}

fn is_replica(role: &Value) -> bool {
    matches!(role, Value::BulkString(name) if name.as_slice() == b"slave")
}

async fn load(line: &mut MultiplexedConnection, scripts: &Scripts) -> Result<(), RedisError> {
    let mut pipeline = redis::pipe();
    let mut count = 0;
    for script in scripts.all() {
        pipeline.add_command(script.load());
        count += 1;
    }
    for answer in line.send_packed_commands(&pipeline, 0, count).await? {
        answer.extract_error()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::too_old;

    #[test]
    fn a_version_before_7_is_told() {
        assert_eq!(too_old("# Server\r\nredis_version:6.2.14\r\nos:x\r\n"), Some("6.2.14"));
        assert_eq!(too_old("# Server\r\nredis_version:7.0.15\r\n"), None);
        assert_eq!(too_old("redis_version:10.1.0"), None);
        assert_eq!(too_old(""), None);
    }
}
