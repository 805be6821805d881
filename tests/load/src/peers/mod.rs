//! The servers that are compared: each started with all that it needs, with a way to publish and clients that follow.

mod nchan;
mod plugway;
mod python;
pub(crate) mod raw;
mod redis;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::ChildStdin;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use plugway_figures::mark::Mark;
use plugway_figures::process::Server;

use crate::clients::{self, Clients, Received};
use crate::event::{self, Clock};
use crate::publish::{Channel, Posts};
use crate::workshop::Workshop;

/// Padding of the first event, before it is known what a server makes of it.
const PADDING: usize = 40;
/// Events that it takes to find out.
pub(crate) const CALIBRATION: u64 = 2;
/// Time for what streams begin with to have come.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest wait for a server to subscribe.
const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A loop that sends to each socket in turn, in a process of its own.
    Raw,
    /// The gateway's agent feed.
    Plugway,
    /// nchan on nginx, one worker.
    Nchan,
    /// FastAPI with sse-starlette and redis, one worker of uvicorn.
    Python,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Raw, Self::Plugway, Self::Nchan, Self::Python];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw send loop",
            Self::Plugway => "Plugway",
            Self::Nchan => "nchan",
            Self::Python => "FastAPI",
        }
    }

    /// What it needs and isn't there, in a sentence. Installs what needs no password.
    pub(crate) fn missing(self, workshop: &Workshop) -> Option<String> {
        match self {
            Self::Raw => None,
            Self::Plugway => redis::missing().or_else(|| plugway::missing(workshop)),
            Self::Nchan => nchan::missing(),
            Self::Python => python::missing(workshop),
        }
    }

    /// Starts one for so many clients.
    pub(crate) fn start(self, workshop: &Workshop, clients: usize) -> anyhow::Result<Peer> {
        let peer = match self {
            Self::Raw => raw::start(workshop, clients),
            Self::Plugway => plugway::start(workshop, clients),
            Self::Nchan => nchan::start(workshop, clients),
            Self::Python => python::start(workshop),
        };
        peer.with_context(|| format!("{} can't be started", self.title()))
    }
}

/// Starts so many gateways that keep their data in one Redis, for so many clients together.
pub(crate) fn nodes(workshop: &Workshop, nodes: usize, clients: usize) -> anyhow::Result<Peer> {
    plugway::start_nodes(workshop, nodes, clients).context("Plugway can't be started on Redis")
}

/// Where a server's events come from.
#[derive(Debug)]
enum Feed {
    Pipe(ChildStdin),
    Channel(Channel),
    Posts(Posts),
}

impl Feed {
    fn send(&mut self, mark: Mark, documents: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Pipe(pipe) => {
                let mut text = String::new();
                for (number, document) in (mark.number..).zip(documents) {
                    text += &format!("id: {number:08}\nevent: signal\ndata: {document}\n\n");
                }
                Ok(pipe.write_all(text.as_bytes())?)
            }
            Self::Channel(channel) => channel.send(documents),
            Self::Posts(posts) => posts.send(documents),
        }
    }

    fn confirm(&mut self, documents: usize) -> anyhow::Result<()> {
        match self {
            Self::Pipe(_) => Ok(()),
            Self::Channel(channel) => {
                let heard = channel.confirm(documents)?;
                ensure!(heard > 0, "nobody is subscribed to the channel");
                Ok(())
            }
            Self::Posts(posts) => posts.confirm(documents),
        }
    }
}

/// What publishes to a server: numbers, stamps and sends events.
#[derive(Debug)]
struct Publisher {
    feed: Feed,
    next: u32,
    padding: usize,
}

impl Publisher {
    /// So many events at once; [`Feed::confirm`] has to follow.
    fn send(&mut self, events: usize, clock: Clock) -> anyhow::Result<()> {
        let mark = |number| Mark { number, made: clock.now() };
        let first = mark(self.next);
        let documents: Vec<_> =
            (self.next..).take(events).map(|number| event::document(mark(number), self.padding)).collect();
        self.next += u32::try_from(events)?;
        self.feed.send(first, &documents)
    }
}

/// A server, or several as one, without clients yet.
pub(crate) struct Peer {
    servers: Vec<Server>,
    /// What they need that is not counted as theirs.
    redis: Option<Server>,
    path: &'static str,
    publisher: Publisher,
}

impl Peer {
    fn new(servers: Vec<Server>, path: &'static str, feed: Feed) -> Self {
        let publisher = Publisher { feed, next: 0, padding: PADDING };
        Self { servers, redis: None, path, publisher }
    }

    /// One that listens to a channel of this Redis. Waits until it does.
    fn on_redis(servers: Vec<Server>, path: &'static str, redis: Server) -> anyhow::Result<Self> {
        let mut channel = Channel::open(redis.address(), "channel:signals")?;
        let began = Instant::now();
        loop {
            channel.send(&["{}".to_owned()])?;
            if channel.confirm(1)? > 0 {
                break;
            }
            if began.elapsed() > PATIENCE {
                let logs: Vec<_> = servers.iter().map(Server::log).collect();
                bail!("nobody subscribes to channel:signals; the log is: {}", logs.join("\n"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { redis: Some(redis), ..Self::new(servers, path, Feed::Channel(channel)) })
    }

    /// Opens so many streams.
    pub(crate) fn follow(&mut self, clients: usize, clock: Clock) -> anyhow::Result<Clients> {
        let addresses: Vec<SocketAddr> = self.servers.iter().map(Server::address).collect();
        let follow = || {
            let mut clients = Clients::open(&addresses, self.path, clients, self.publisher.padding, clock)?;
            clients.read_until(Instant::now() + SETTLE)?;
            clients.take()?;
            anyhow::Ok(clients)
        };
        follow().with_context(|| format!("streams can't be opened; the log is: {}", self.log()))
    }

    /// Opens so many streams that nobody will read.
    pub(crate) fn mute(&self, count: usize) -> anyhow::Result<Vec<TcpStream>> {
        let open = |server: &Server| {
            let mut stream = TcpStream::connect(server.address())?;
            stream.write_all(clients::request(self.path, server.address()).as_bytes())?;
            anyhow::Ok(stream)
        };
        self.servers.iter().cycle().take(count).map(open).collect()
    }

    /// What the servers wrote.
    fn log(&self) -> String {
        self.servers.iter().map(Server::log).collect::<Vec<_>>().join("\n")
    }

    /// Pads events so that they have [`event::WIRE`] bytes on the wire: how many they have then.
    pub(crate) fn calibrate(&mut self, clients: &mut Clients, clock: Clock) -> anyhow::Result<u64> {
        let mut wire = 0;
        for event in 1..=CALIBRATION {
            let received = self.burst(clients, 1, 1, clock)?;
            wire = received.bytes / clients.count() as u64;
            if event < CALIBRATION {
                let missing = event::WIRE as i64 - i64::try_from(wire)?;
                let padding = i64::try_from(self.publisher.padding)? + missing;
                self.publisher.padding = usize::try_from(padding).unwrap_or(0);
                clients.set_padding(self.publisher.padding);
            }
        }
        Ok(wire)
    }

    /// Publishes so many bursts, each when all clients have the one before: what they received.
    pub(crate) fn burst(
        &mut self,
        clients: &mut Clients,
        bursts: usize,
        events: usize,
        clock: Clock,
    ) -> anyhow::Result<Received> {
        for burst in 1..=bursts {
            self.publisher.send(events, clock)?;
            clients.wait((burst * events * clients.count()) as u64)?;
            self.publisher.feed.confirm(events)?;
        }
        clients.take()
    }

    /// Publishes so many events, one every `pause`, whether clients keep up or not: what they received.
    pub(crate) fn pace(
        &mut self,
        clients: &mut Clients,
        events: usize,
        pause: Duration,
        clock: Clock,
    ) -> anyhow::Result<Received> {
        let publisher = &mut self.publisher;
        thread::scope(|scope| {
            let publishing = scope.spawn(|| {
                let mut next = Instant::now();
                for _ in 0..events {
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                    next += pause;
                    publisher.send(1, clock)?;
                    publisher.feed.confirm(1)?;
                }
                anyhow::Ok(())
            });
            let received = clients.wait((events * clients.count()) as u64);
            match publishing.join() {
                Ok(published) => published?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            received
        })?;
        clients.take()
    }

    /// CPU time that the servers have used. An error if one has ended.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<Duration> {
        self.servers.iter_mut().try_for_each(Server::check)?;
        self.servers.iter().map(Server::cpu).sum()
    }

    /// CPU time that its Redis has used; none if it has none.
    pub(crate) fn redis_cpu(&self) -> anyhow::Result<Option<Duration>> {
        self.redis.as_ref().map(Server::cpu).transpose()
    }

    /// Memory of the servers, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        self.servers.iter().map(Server::memory).sum()
    }
}
