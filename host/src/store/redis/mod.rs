//! The store that many gateways share: one Redis, version 7 or newer.
//!
//! Every change is one Lua script, so it happens wholly or not at all, and only Redis' clock counts. Leases outlive the
//! process that took them. All keys begin with `{prefix}`, a hash tag: they are in one slot of a cluster, and two
//! prefixes don't see each other. What is durable is what Redis is set to keep; a warning says so if that is nothing.

mod appender;
mod failure;
mod kv;
mod link;
mod log;
mod notices;
mod open;
mod outbox;
mod pace;
mod queue;
mod reply;
mod scripts;
mod subscriber;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Backlog, Lease, Notices, Pace, Retention, Store, StoreError, Swept};
use crate::domain::{Clock, Steady, TaskId};
use appender::Appender;
use failure::Failure;
use link::{Again, Link};
pub use open::check_url;
use reply::{Misread, Read, Words};
use scripts::Script;
use subscriber::Subscriber;

/// How the store is opened.
#[derive(Clone)]
pub struct Options {
    /// `redis://`, `rediss://` or `unix://`, with user, password and database.
    pub url: String,
    /// What all keys begin with, in braces.
    pub prefix: String,
    /// How long a call may take, and how long Redis may be away before calls fail at once.
    pub timeout: Duration,
    /// How long the start waits for Redis.
    pub connect_timeout: Duration,
    /// Tasks that may be accepted and not started, on all nodes together; more are refused.
    pub queue_limit: u64,
    /// Events that the log keeps of one task, about; the first ones go when there are more.
    pub log_events: u64,
    /// Bytes of events that may wait to be logged; beyond it callers wait.
    pub pending_bytes: usize,
    /// Bytes of notices that may wait for the hub; beyond it they are dropped and it reads the log.
    pub notice_bytes: usize,
    /// Time of stamps, leases and waits. The system's: Redis' own is taken, since the nodes' differ.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            prefix: "plugway".into(),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            queue_limit: 10_000,
            log_events: 100_000,
            pending_bytes: 16 << 20,
            notice_bytes: 16 << 20,
            clock: Clock::System,
        }
    }
}

impl fmt::Debug for Options {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The store over one Redis.
pub struct RedisStore {
    line: Arc<Line>,
    appender: Appender,
    subscriber: Subscriber,
    queue_limit: u64,
    claims: queue::Claims,
    deliveries: queue::Claims,
    /// Ends of tasks that were sent, and of which nobody knows whether they arrived.
    unsure: Mutex<HashSet<Lease>>,
    _background: DropGuard,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("line", &self.line).finish_non_exhaustive()
    }
}

/// What every part of the store calls Redis through.
struct Line {
    link: Link,
    /// `{prefix}`.
    base: String,
    clock: Clock,
    steady: Steady,
    ready: Ready,
}

/// Whom to wake.
#[derive(Debug, Default)]
struct Ready {
    tasks: Notify,
    deliveries: Notify,
}

impl Ready {
    /// As the scripts say it: 1 for tasks, 2 for deliveries.
    fn wake(&self, who: u64) {
        if who & 1 != 0 {
            self.tasks.notify_one();
        }
        if who & 2 != 0 {
            self.deliveries.notify_one();
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("link", &self.link).field("base", &self.base).finish_non_exhaustive()
    }
}

impl Line {
    /// Runs a script, with whatever arguments are added to it, and wakes whom it says.
    async fn run(
        &self,
        pick: impl Fn(&scripts::Scripts) -> &Script,
        arguments: impl FnOnce(&mut Cmd),
        again: Again,
    ) -> Result<Words, Failure> {
        let script = pick(self.link.scripts());
        let (wall, steady) = match &self.clock {
            Clock::System => (String::new(), String::new()),
            Clock::Manual(_) => (self.clock.now_ms().to_string(), self.steady.now_ms().to_string()),
        };
        let mut cmd = script.call(&self.base, (&wall, &steady));
        arguments(&mut cmd);
        let answer = self.link.call(&cmd, again, script.adds).await?;
        self.understood(|| {
            let mut words = Words::of(answer)?;
            self.ready.wake(words.number()?);
            Ok(words)
        })
    }

    /// Several calls that only read.
    async fn read(&self, pipeline: &Pipeline) -> Result<std::vec::IntoIter<Value>, Failure> {
        self.link.read(pipeline).await.map(Vec::into_iter)
    }

    /// An answer that can't be read is told with Redis' name.
    fn understood<T>(&self, read: impl FnOnce() -> Read<T>) -> Result<T, Failure> {
        read().map_err(|error| self.misread(&error))
    }

    fn misread(&self, error: &Misread) -> Failure {
        Failure::Unreadable { at: Arc::clone(self.link.at()), why: error.to_string().into() }
    }

    /// A key of something that an owner names.
    fn owned_key(&self, kind: &str, owner: &str, name: &str) -> String {
        format!("{}:{kind}:{}:{owner}:{name}", self.base, owner.len())
    }

    /// A key of the store.
    fn key(&self, kind: &str, name: &str) -> String {
        format!("{}:{kind}:{name}", self.base)
    }

    /// The wall clock as of a `TIME` in the same pipeline.
    fn now_ms(&self, time: Value) -> Result<u64, Failure> {
        self.understood(|| {
            let mut words = Words::of(time)?;
            let (seconds, micros): (u64, u64) = (words.number()?, words.number()?);
            Ok(match &self.clock {
                Clock::System => seconds * 1_000 + micros / 1_000,
                Clock::Manual(_) => self.clock.now_ms(),
            })
        })
    }
}

fn task_id(digits: &str) -> Read<TaskId> {
    TaskId::from_digits(digits).ok_or_else(|| reply::misread(format!("{digits:?} is no task")))
}

#[async_trait]
impl Store for RedisStore {
    async fn probe(&self) -> Result<(), StoreError> {
        self.appender.flush(None).await?;
        self.line.run(|scripts| &scripts.probe, |_| {}, Again::Yes).await?;
        Ok(())
    }

    async fn sweep(&self, retention: Retention) -> Result<Swept, StoreError> {
        Ok(sweep::sweep(&self.line, retention).await?)
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        let (line, base) = (&self.line, &self.line.base);
        let mut pipeline = redis::pipe();
        pipeline.cmd("HMGET").arg(format!("{base}:meta")).arg("queued").arg("deliveries");
        pipeline.cmd("ZCARD").arg(format!("{base}:running"));
        pipeline.cmd("ZCARD").arg(format!("{base}:dead"));
        let answers = line.read(&pipeline).await?;
        Ok(line.understood(|| {
            let mut answers = Words::of(Value::Array(answers.collect()))?;
            let mut meta = answers.words()?;
            let mut counted =
                || Ok::<_, Misread>(meta.maybe_number::<i64>()?.unwrap_or(0).max(0).unsigned_abs());
            Ok(Backlog {
                queued: counted()?,
                deliveries: counted()?,
                running: answers.number()?,
                dead: answers.number()?,
            })
        })?)
    }

    fn notices(&self) -> Option<Box<dyn Notices>> {
        Some(Box::new(self.subscriber.notices()))
    }

    fn pace(&self) -> Option<&dyn Pace> {
        Some(self)
    }

    fn watch(&self, task: TaskId) {
        self.subscriber.watch(task);
    }

    fn unwatch(&self, task: TaskId) {
        self.subscriber.unwatch(task);
    }

    async fn close(&self) {
        self.appender.close().await;
        self.line.link.close();
    }
}

fn background() -> (CancellationToken, DropGuard) {
    let stop = CancellationToken::new();
    (stop.clone(), stop.drop_guard())
}
