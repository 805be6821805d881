//! Hearing what other nodes do: a connection of its own that is subscribed to a channel of the whole gateway, and to one
//! for each task that is watched.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::super::Notice;
use super::failure::Failure;
use super::link::Pauses;
use super::notices::{Inbox, Receiver};
use super::reply::{Read, misread, number};
use super::{Line, log, task_id};
use crate::domain::{SessionId, TaskId};

/// A connection on which nothing was heard for so long is asked whether it lives.
const QUIET: Duration = Duration::from_secs(5);
/// Attempts that fail though Redis is there, before anybody is told.
const MANY: u32 = 8;
/// Channels that are subscribed to at once.
const CHANNELS: usize = 512;

/// Handle of the task that listens.
#[derive(Debug)]
pub(super) struct Subscriber {
    wanted: Arc<Wanted>,
    inbox: Arc<Inbox>,
}

/// Which tasks are watched, and by how many.
#[derive(Debug, Default)]
struct Wanted {
    tasks: Mutex<Watched>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    counts: HashMap<TaskId, usize>,
    /// Those to look at.
    changed: HashSet<TaskId>,
}

impl Wanted {
    fn change<T>(&self, change: impl FnOnce(&mut Watched) -> T) -> T {
        let changed = change(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
        changed
    }

    fn change_all(&self) {
        self.change(|watched| watched.changed = watched.counts.keys().copied().collect());
    }

    /// What is to be looked at: whether each is watched.
    fn take(&self) -> Vec<(TaskId, bool)> {
        let mut watched = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = std::mem::take(&mut watched.changed);
        changed.into_iter().map(|task| (task, watched.counts.contains_key(&task))).collect()
    }
}

impl Subscriber {
    pub(super) fn start(line: Arc<Line>, bytes: usize, stop: CancellationToken) -> Self {
        let (wanted, inbox) = (Arc::new(Wanted::default()), Arc::new(Inbox::new(bytes)));
        let listener = Listener { line, wanted: Arc::clone(&wanted), inbox: Arc::clone(&inbox) };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = listener.run() => {}
            }
        });
        Self { wanted, inbox }
    }

    pub(super) fn notices(&self) -> Receiver {
        let receiver = Receiver::new(Arc::clone(&self.inbox));
        self.wanted.change_all();
        receiver
    }

    pub(super) fn watch(&self, task: TaskId) {
        self.wanted.change(|watched| {
            *watched.counts.entry(task).or_insert(0) += 1;
            watched.changed.insert(task);
        });
    }

    pub(super) fn unwatch(&self, task: TaskId) {
        self.wanted.change(|watched| {
            if let Some(count) = watched.counts.get_mut(&task) {
                *count -= 1;
                if *count == 0 {
                    watched.counts.remove(&task);
                    watched.changed.insert(task);
                }
            }
        });
    }
}

struct Listener {
    line: Arc<Line>,
    wanted: Arc<Wanted>,
    inbox: Arc<Inbox>,
}

/// A connection, and what it is subscribed to.
struct Subscribed {
    sink: PubSubSink,
    stream: PubSubStream,
    tasks: HashSet<TaskId>,
    /// Those of which the hub was told that they are watched.
    announced: HashSet<TaskId>,
    /// Those of which it has to be told yet.
    unannounced: VecDeque<TaskId>,
}

impl Listener {
    async fn run(self) {
        let mut pauses = Pauses::default();
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let failure = match self.connect().await {
                Ok(mut subscribed) => {
                    if failures >= MANY {
                        info!(redis = %self.line.link.at(), "notices of other nodes arrive again");
                    }
                    failures = 0;
                    self.wanted.change_all();
                    // What was missed may have been something to do.
                    self.line.ready.wake(3);
                    let failure = self.listen(&mut subscribed).await;
                    self.inbox.lose();
                    metrics::counter!("plugway_redis_notices_lost_total").increment(1);
                    failure
                }
                Err(failure) => failure,
            };
            debug!("notices of other nodes are cut off: {failure}");
            // The other connection tells of a Redis that is away.
            if failures < MANY && self.line.link.is_up() {
                failures += 1;
                if failures == MANY {
                    warn!("notices of other nodes don't arrive, streams are late: {failure}");
                }
            }
            pauses.held_for(began.elapsed());
            pauses.pause().await;
        }
    }

    async fn connect(&self) -> Result<Subscribed, Failure> {
        let connect = async {
            let (mut sink, stream) = self.line.link.client().get_async_pubsub().await?.split();
            sink.subscribe(format!("{}:notices", self.line.base)).await?;
            let (tasks, announced, unannounced) = Default::default();
            Ok(Subscribed { sink, stream, tasks, announced, unannounced })
        };
        self.bounded(connect).await
    }

    /// Bounds a call in time.
    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, redis::RedisError>>,
    ) -> Result<T, Failure> {
        let (at, after) = (self.line.link.at(), self.line.link.timeout());
        match timeout(after, call).await {
            Ok(outcome) => outcome.map_err(|error| Failure::of(at, &error)),
            Err(_) => Err(Failure::Slow { at: Arc::clone(at), after }),
        }
    }

    /// Passes on what is heard until the connection is lost.
    async fn listen(&self, subscribed: &mut Subscribed) -> Failure {
        loop {
            while !subscribed.unannounced.is_empty() && self.inbox.has_room() {
                self.announce(subscribed);
            }
            tokio::select! {
                heard = timeout(QUIET, subscribed.stream.next()) => match heard {
                    Ok(Some(message)) => self.hear(subscribed, &message),
                    Ok(None) => {
                        let at = Arc::clone(self.line.link.at());
                        return Failure::Away { at, why: "the connection was closed".into() };
                    }
                    Err(_) => {
                        if let Err(failure) = self.bounded(subscribed.sink.ping::<redis::Value>()).await {
                            return failure;
                        }
                    }
                },
                () = self.wanted.changed.notified() => {
                    if let Err(failure) = self.adjust(subscribed).await {
                        return failure;
                    }
                }
                () = self.inbox.drained.notified(), if !subscribed.unannounced.is_empty() => {}
            }
        }
    }

    fn announce(&self, subscribed: &mut Subscribed) {
        let Some(task) = subscribed.unannounced.pop_front() else { return };
        if subscribed.tasks.contains(&task) {
            subscribed.announced.insert(task);
            self.push(subscribed, Notice::Watching(task));
        }
    }

    fn push(&self, subscribed: &mut Subscribed, notice: Notice) {
        if !self.inbox.push(notice) {
            debug!("notices came faster than they were taken: they begin anew");
            metrics::counter!("plugway_redis_notices_lost_total").increment(1);
            subscribed.unannounced.extend(subscribed.announced.drain());
        }
    }

    /// Subscribes to what is watched, and no more to what is not.
    async fn adjust(&self, subscribed: &mut Subscribed) -> Result<(), Failure> {
        let (watched, others): (Vec<_>, Vec<_>) = self.wanted.take().into_iter().partition(|(_, is)| *is);
        let others: Vec<_> =
            others.into_iter().map(|(task, _)| task).filter(|task| subscribed.tasks.remove(task)).collect();
        for tasks in others.chunks(CHANNELS) {
            self.bounded(subscribed.sink.unsubscribe(self.channels(tasks))).await?;
            for task in tasks {
                subscribed.announced.remove(task);
            }
        }
        let new: Vec<_> =
            watched.iter().map(|(task, _)| *task).filter(|task| !subscribed.tasks.contains(task)).collect();
        for tasks in new.chunks(CHANNELS) {
            self.bounded(subscribed.sink.subscribe(self.channels(tasks))).await?;
            subscribed.tasks.extend(tasks);
        }
        subscribed.unannounced.extend(watched.into_iter().map(|(task, _)| task));
        Ok(())
    }

    fn channels(&self, tasks: &[TaskId]) -> Vec<String> {
        tasks.iter().map(|task| self.line.key("task", &task.digits())).collect()
    }

    fn hear(&self, subscribed: &mut Subscribed, message: &Msg) {
        match self.understand(subscribed, message) {
            Ok(Some(notice)) => self.push(subscribed, notice),
            Ok(None) => {}
            Err(error) => {
                warn!(redis = %self.line.link.at(), channel = message.get_channel_name(), %error, "a notice can't be read");
            }
        }
    }

    fn understand(&self, subscribed: &Subscribed, message: &Msg) -> Read<Option<Notice>> {
        let text = std::str::from_utf8(message.get_payload_bytes()).map_err(|_| misread("it is no UTF-8"))?;
        let channel = message.get_channel_name().strip_prefix(&self.line.base).unwrap_or_default();
        if let Some(task) = channel.strip_prefix(":task:") {
            let task = task_id(task)?;
            // Of one that was not announced yet the hub reads the log.
            let known = subscribed.announced.contains(&task);
            return if known { log::published(task, text).map(Notice::Events).map(Some) } else { Ok(None) };
        }
        let (kind, rest) = text.split_at_checked(1).ok_or_else(|| misread("it is empty"))?;
        match kind {
            "W" => {
                self.line.ready.wake(number(rest)?);
                Ok(None)
            }
            "S" => {
                let (woken, session) = rest.split_at_checked(1).ok_or_else(|| misread("it is cut off"))?;
                self.line.ready.wake(number(woken)?);
                let session = SessionId::from_key(session).map_err(|error| misread(error.to_string()))?;
                Ok(Some(Notice::SessionGrew(session)))
            }
            "C" => {
                let (task, reason) = rest.split_at_checked(32).ok_or_else(|| misread("it is cut off"))?;
                Ok(Some(Notice::Cancel { task: task_id(task)?, reason: reason.to_owned() }))
            }
            // From a newer gateway.
            _ => Ok(None),
        }
    }
}
