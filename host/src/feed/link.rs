//! The link to Redis: hears the channels, writes what it hears into the feed's log while it holds the lease, and reads the
//! log into the ring.
//!
//! One task does all of it, and waits for nothing but news. Whatever breaks, all connections are made anew; what was heard
//! and not written outlives that.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Msg, RedisError, RedisResult};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::heard::{Batch, Heard};
use super::log::{self, Asked, Keys, Logged, Stride};
use super::{FeedId, Inner, event};

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest time that a read of the log waits for news.
const READ: Duration = Duration::from_secs(5);
/// Between two signs of life asked for where channels are silent.
const PING: Duration = Duration::from_secs(10);
/// What a node that has just come leaves to those that have heard for longer.
const SETTLE: Duration = Duration::from_millis(200);
/// Shortest pause before a lease is asked for that somebody has.
const SOON: Duration = Duration::from_millis(2);
/// Pause after a write that Redis refused.
const REFUSED: Duration = Duration::from_millis(500);
/// First and longest pause between two tries to connect. What is published between Redis' return and the next try is
/// lost.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Events in one write, and their bytes.
const WRITE: (usize, usize) = (128, 1 << 20);
/// Between two lines of the log about the same thing.
const QUIET: Duration = Duration::from_secs(10);

pub(super) struct Link {
    inner: Arc<Inner>,
    client: Client,
    keys: Keys,
    heard: Heard,
    /// When the connections were lost.
    lost: Option<Instant>,
    rubbish: Rarely,
    refused: Rarely,
    overflow: Rarely,
    stride: Stride,
}

/// Whether the log is this node's to write.
#[derive(Clone, Copy, Debug)]
enum Lease {
    /// It is not; ask for it then.
    Ask(Instant),
    /// It is, once the ring has reached this event.
    CatchingUp { up_to: FeedId, renew: Instant },
    /// It is.
    Held { renew: Instant },
}

/// What a command came to.
enum Done {
    Asked(Asked),
    Renewed(bool),
    Written { write: u64, result: RedisResult<bool> },
}

type Command = BoxFuture<'static, RedisResult<Done>>;

impl Link {
    pub(super) fn new(inner: Arc<Inner>, client: Client) -> Self {
        let config = &inner.config;
        let most = usize::try_from(config.heard.as_u64()).unwrap_or(usize::MAX);
        let heard = Heard::new(most, config.lease * 3);
        let keys = inner.keys.clone();
        let [rubbish, refused, overflow] = Default::default();
        Self { inner, client, keys, heard, lost: None, rubbish, refused, overflow, stride: Stride::new() }
    }

    /// Links until it is told to stop, whatever becomes of Redis.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let error = match self.hold(&stop).await {
                Ok(()) => return,
                Err(error) => error,
            };
            self.lost.get_or_insert_with(Instant::now);
            failures = if self.inner.is_connected() && began.elapsed() > BACK_OFF.1 {
                0
            } else {
                failures.saturating_add(1)
            };
            self.inner.disconnected(&error);
            let pause = (BACK_OFF.0 * 2_u32.pow(failures.min(6))).min(BACK_OFF.1);
            let pause = pause.mul_f64(rand::random_range(0.5..=1.0));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Connects, and keeps the feed going until something breaks. Ok: it was told to stop.
    async fn hold(&mut self, stop: &CancellationToken) -> RedisResult<()> {
        let connect = self.connect();
        let (mut commands, reads, mut sink, mut messages) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = connect => connected?,
        };
        let heard_since = server_time(&mut commands).await?;
        self.open(&mut commands, heard_since).await?;
        self.inner.connected(&commands);

        let token = format!("{:032x}", rand::random::<u128>());
        let length = self.inner.config.lease;
        let mut lease = Lease::Ask(Instant::now() + SETTLE);
        let mut write_after = Instant::now();
        let mut ping = Instant::now() + PING;
        let mut command: Option<Command> = None;
        let mut reading = self.reading(&reads);
        loop {
            let now = Instant::now();
            self.heard.expire(now, !matches!(lease, Lease::Ask(_)));
            let held = matches!(lease, Lease::Held { .. });
            if held {
                self.count_given_up(now < write_after);
            }
            if command.is_none() {
                command = self.next_command(lease, &token, &commands, now >= write_after);
            }
            let idle = command.is_none();
            let wake = match lease {
                Lease::Ask(at) => at,
                Lease::CatchingUp { renew, .. } => renew,
                Lease::Held { renew } if self.heard.has_unwritten() => renew.min(write_after),
                Lease::Held { renew } => renew,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if !matches!(lease, Lease::Ask(_)) {
                        let release = log::release(commands.clone(), self.keys.clone(), token);
                        // Without it the lease ends by itself.
                        let _ = tokio::time::timeout(ANSWER, release).await;
                    }
                    return Ok(());
                }
                read = &mut reading => {
                    let yet = matches!(lease, Lease::Ask(_) | Lease::CatchingUp { .. });
                    self.show(read?, heard_since, yet);
                    reading = self.reading(&reads);
                }
                done = async { match &mut command { Some(command) => command.await, None => std::future::pending().await } } => {
                    command = None;
                    match done? {
                        Done::Asked(Asked::Held(left)) => {
                            lease = Lease::Ask(Instant::now() + left.clamp(SOON, length));
                        }
                        Done::Asked(Asked::Taken { up_to }) => {
                            let renew = now + length / 3;
                            lease = match up_to {
                                Some(up_to) => Lease::CatchingUp { up_to, renew },
                                None => Lease::Held { renew },
                            };
                        }
                        Done::Renewed(true) => {
                            let later = now + length / 3;
                            match &mut lease {
                                Lease::CatchingUp { renew, .. } | Lease::Held { renew } => *renew = later,
                                Lease::Ask(_) => {}
                            }
                        }
                        Done::Renewed(false) => lease = self.lost_lease(),
                        Done::Written { result: Ok(true), .. } => self.heard.written(),
                        Done::Written { write, result: Ok(false) } => {
                            self.heard.undo_write(write, now);
                            lease = self.lost_lease();
                        }
                        Done::Written { write, result: Err(error) } => {
                            self.heard.undo_write(write, now);
                            write_after = Instant::now() + REFUSED;
                            self.inner.figures.redis_errors.increment(1);
                            if let Some(times) = self.refused.now() {
                                tracing::warn!(%error, times, "redis refuses events of the feed: they wait");
                            }
                        }
                    }
                }
                // Heard at once, whatever can be written: what waits on the connection nothing would bound.
                message = messages.next() => {
                    let Some(message) = message else { return Err(closed()) };
                    let mut released = self.hear(&message);
                    for _ in 1..WRITE.0 {
                        let Some(Some(message)) = messages.next().now_or_never() else { break };
                        released |= self.hear(&message);
                    }
                    if released && let Lease::Ask(at) = &mut lease {
                        *at = Instant::now();
                    }
                }
                () = sleep_until(wake), if idle => {}
                () = sleep_until(ping) => {
                    // A silent connection may be dead, and nobody would say so.
                    let answer: RedisResult<redis::Value> =
                        tokio::time::timeout(ANSWER, sink.ping()).await.map_err(|_| late())?;
                    answer?;
                    ping = Instant::now() + PING;
                }
            }
            if let Lease::CatchingUp { up_to, renew } = lease
                && self.inner.ring.last() >= Some(up_to)
            {
                lease = Lease::Held { renew };
            }
        }
    }

    async fn connect(
        &self,
    ) -> RedisResult<(
        MultiplexedConnection,
        MultiplexedConnection,
        redis::aio::PubSubSink,
        impl Stream<Item = Msg> + Unpin + use<>,
    )> {
        let answering = |time: Duration| {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT))
                .set_response_timeout(Some(time))
        };
        let commands = self.client.get_multiplexed_async_connection_with_config(&answering(ANSWER)).await?;
        let reads =
            self.client.get_multiplexed_async_connection_with_config(&answering(READ + ANSWER)).await?;
        let subscribe = async {
            let (mut sink, stream) = self.client.get_async_pubsub().await?.split();
            sink.subscribe(&self.inner.config.channels).await?;
            sink.subscribe(&self.keys.lease).await?;
            RedisResult::Ok((sink, stream))
        };
        let (sink, stream) = tokio::time::timeout(CONNECT, subscribe).await.map_err(|_| late())??;
        Ok((commands, reads, sink, stream))
    }

    /// Finds out how the log stands to the ring.
    async fn open(&mut self, commands: &mut MultiplexedConnection, heard_since: u64) -> RedisResult<()> {
        let ring = &self.inner.ring;
        let shape = log::shape(commands, &self.keys).await?;
        let Some(last) = ring.last() else {
            let bounds = (self.inner.config.ring_events, self.inner.ring_bytes);
            let latest = log::latest(commands, &self.keys, bounds).await?;
            // What came before its first event it may have lost, in a flush as well.
            let floor = latest.first().map_or(shape.given, |logged| logged.id.before());
            ring.open(floor, latest.last().map_or(shape.given, |logged| logged.id));
            let now = Instant::now();
            let mut entries = Vec::new();
            for Logged { id, event } in latest {
                let Some((entry, digest)) = event else { continue };
                if let Some(digest) = digest {
                    self.heard.confirm(digest, id.is_since(heard_since), now);
                }
                entries.push(entry);
            }
            ring.fill(entries);
            self.lost = None;
            return Ok(());
        };
        let (now, lost) = (Instant::now(), self.lost.take());
        if shape.given < last {
            tracing::warn!(
                "the feed's log was lost with redis' memory: who comes back with an older id is told so"
            );
            self.heard.clear();
        } else if let Some(lost) = lost {
            self.heard.resume(lost, now);
        }
        match shape.first {
            Some(first) if first > last && !shape.whole => ring.broken_off(first.before()),
            _ => {}
        }
        Ok(())
    }

    fn reading(&self, reads: &MultiplexedConnection) -> BoxFuture<'static, RedisResult<Vec<Logged>>> {
        let last = self.inner.ring.last().unwrap_or_default();
        Box::pin(log::read(reads.clone(), self.keys.clone(), last, self.stride, READ))
    }

    /// What is to be asked of Redis next.
    fn next_command(
        &mut self,
        lease: Lease,
        token: &str,
        commands: &MultiplexedConnection,
        may_write: bool,
    ) -> Option<Command> {
        let now = Instant::now();
        let (connection, keys, token) = (commands.clone(), self.keys.clone(), token.to_owned());
        let length = self.inner.config.lease;
        match lease {
            Lease::Ask(at) if at <= now => {
                let floor = self.inner.ring.last().unwrap_or_default();
                let ask = log::ask(connection, keys, token, length, floor);
                Some(Box::pin(ask.map(|asked| match asked {
                    // A full Redis refuses even to say who has it.
                    Err(error) if !is_broken(&error) => {
                        tracing::debug!(%error, "redis refuses the lease of the feed's log");
                        Ok(Done::Asked(Asked::Held(REFUSED)))
                    }
                    asked => asked.map(Done::Asked),
                })))
            }
            Lease::CatchingUp { renew, .. } | Lease::Held { renew } if renew <= now => {
                let renew = log::renew(connection, keys, token, length);
                Some(Box::pin(renew.map(|renewed| renewed.map(Done::Renewed))))
            }
            Lease::Held { .. } if may_write && self.heard.has_unwritten() => {
                let Batch { write, gap, events } = self.heard.begin_write(WRITE.0, WRITE.1);
                let kept = (self.inner.config.log_events, self.inner.config.log_bytes.as_u64());
                let written = log::write(connection, keys, token, kept, gap, events);
                Some(Box::pin(written.map(move |result| match result {
                    Err(error) if is_broken(&error) => Err(error),
                    result => Ok(Done::Written { write, result }),
                })))
            }
            _ => None,
        }
    }

    fn lost_lease(&self) -> Lease {
        tracing::debug!("the lease of the feed's log was lost");
        Lease::Ask(Instant::now())
    }

    /// Shows what the log has to the clients.
    fn show(&mut self, read: Vec<Logged>, heard_since: u64, yet: bool) {
        if read.is_empty() {
            return;
        }
        self.stride.adapt(&read);
        let now = Instant::now();
        let mut entries = Vec::with_capacity(read.len());
        let mut waited = Vec::with_capacity(read.len());
        let mut last = None;
        for Logged { id, event } in read {
            last = Some(id);
            let Some((entry, digest)) = event else {
                self.inner.figures.payload_errors.increment(1);
                continue;
            };
            if let Some(digest) = digest {
                waited.extend(self.heard.confirm(digest, yet && id.is_since(heard_since), now));
            }
            if let Some(kind) = entry.kind {
                self.inner.figures.published(kind);
            }
            entries.push(entry);
        }
        self.inner.ring.publish(entries, last);
        let shown = now.elapsed();
        for heard in waited {
            self.inner.figures.latency.record((heard + shown).as_secs_f64() * 1e3);
        }
    }

    /// Tells that events are lost, if any are: those that nobody wrote and that this node, which writes now, has given up.
    fn count_given_up(&mut self, refused: bool) {
        let lost = self.heard.count_given_up();
        if lost == 0 {
            return;
        }
        self.inner.figures.overflow_errors.increment(lost);
        let why = if refused { "while redis took none" } else { "before it could be written" };
        if let Some(events) = self.overflow.more(lost) {
            tracing::warn!(
                events,
                "events of the feed are lost: more was heard than is kept (feed.heard) {why}; clients get a gap"
            );
        }
    }

    /// Notes what came over a channel. True: it says that the lease is free.
    fn hear(&mut self, message: &Msg) -> bool {
        let channel = message.get_channel_name();
        if channel == self.keys.lease {
            return true;
        }
        match event::read(channel, message.get_payload_bytes(), self.inner.payload) {
            Ok(Some(event)) => self.heard.hear(event, Instant::now()),
            Ok(None) => {}
            Err(error) => {
                self.inner.figures.payload_errors.increment(1);
                if let Some(times) = self.rubbish.now() {
                    tracing::warn!(channel, %error, times, "a payload is no event of the feed");
                }
            }
        }
        false
    }
}

/// Says a thing now and then, however often it happens.
#[derive(Debug, Default)]
pub(super) struct Rarely {
    last: Option<Instant>,
    times: u64,
}

impl Rarely {
    /// It happened. Some: it may be said, and this is how often it happened since it was last said.
    fn now(&mut self) -> Option<u64> {
        self.more(1)
    }

    /// It happened so many times more.
    fn more(&mut self, times: u64) -> Option<u64> {
        self.times += times;
        if self.last.is_some_and(|last| last.elapsed() < QUIET) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.times))
    }
}

/// The server's clock, in milliseconds since the Unix epoch.
async fn server_time(connection: &mut MultiplexedConnection) -> RedisResult<u64> {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    Ok(seconds * 1_000 + micros / 1_000)
}

/// Whether the connection is of no more use.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

fn late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn closed() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the server closed the connection").into()
}
