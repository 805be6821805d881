//! Thousands of clients in one thread: sockets that are read as they become readable, every event counted, checked for
//! its number, and timed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use plugway_figures::limits;
use plugway_figures::mark::{Found, find};
use plugway_figures::unframing::Unframing;

use crate::audit::Audit;
use crate::event::Clock;

/// Opened at once: what a server's queue of connections holds anywhere.
const BATCH: usize = 100;
/// One in so many is checked line by line.
const AUDITED: usize = 100;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 128 << 10;
/// Up to a minute, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

struct Client {
    stream: TcpStream,
    unframing: Unframing,
    /// The beginning of a mark.
    kept: Vec<u8>,
    /// Number of the next event, once there was one.
    next: Option<u32>,
    audit: Option<Audit>,
}

/// The request for a stream.
pub(crate) fn request(path: &str, address: SocketAddr) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n")
}

/// What clients have received.
#[derive(Debug)]
pub(crate) struct Received {
    /// Events, of all clients together.
    pub(crate) events: u64,
    /// Bytes of streams, with their framing.
    pub(crate) bytes: u64,
    /// From the moment before an event was published until a client read it, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
}

impl Received {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { events: 0, bytes: 0, latencies: Histogram::new_with_bounds(1_000, LONGEST, 3)? })
    }

    /// The latency below which `percent` of all lie.
    pub(crate) fn latency(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_percentile(percent))
    }
}

/// Clients that follow the streams of a server, or of several.
pub(crate) struct Clients {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    received: Received,
    clock: Clock,
    padding: usize,
}

impl Clients {
    /// Opens `count` streams at `path`, spread over `addresses`, and waits until all have begun.
    pub(crate) fn open(
        addresses: &[SocketAddr],
        path: &str,
        count: usize,
        padding: usize,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        limits::check_files(count)?;
        let mut clients = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::with_capacity(count),
            buffer: vec![0; BUFFER],
            received: Received::new()?,
            clock,
            padding,
        };
        while clients.clients.len() < count {
            for _ in 0..BATCH.min(count - clients.clients.len()) {
                let address = addresses[clients.clients.len() % addresses.len()];
                clients.connect(address, path).with_context(|| limits::connect_hint(address, count))?;
            }
            let deadline = Instant::now() + PATIENCE;
            while !clients.clients.iter().rev().take(BATCH).all(|client| client.unframing.is_open()) {
                ensure!(Instant::now() < deadline, "a stream has not begun within {PATIENCE:?}");
                clients.read(Duration::from_millis(100))?;
            }
        }
        Ok(clients)
    }

    fn connect(&mut self, address: SocketAddr, path: &str) -> anyhow::Result<()> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.write_all(request(path, address).as_bytes())?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let number = self.clients.len();
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        self.clients.push(Client {
            stream,
            unframing: Unframing::default(),
            kept: Vec::new(),
            next: None,
            audit: number.is_multiple_of(AUDITED).then(Audit::default),
        });
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.clients.len()
    }

    /// Waits until all clients together have received `until` events since the last [`take`](Self::take).
    pub(crate) fn wait(&mut self, until: u64) -> anyhow::Result<()> {
        let mut deadline = Instant::now() + PATIENCE;
        while self.received.events < until {
            let before = self.received.events;
            self.read(Duration::from_millis(100))?;
            if self.received.events > before {
                deadline = Instant::now() + PATIENCE;
            }
            if Instant::now() > deadline {
                bail!("{} of {until} events came, then none within {PATIENCE:?}", self.received.events);
            }
        }
        ensure!(self.received.events == until, "more events came than were published");
        Ok(())
    }

    /// Reads what comes until `end`.
    pub(crate) fn read_until(&mut self, end: Instant) -> anyhow::Result<()> {
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.read(left)?;
        }
        Ok(())
    }

    /// What was received since the last call.
    pub(crate) fn take(&mut self) -> anyhow::Result<Received> {
        Ok(std::mem::replace(&mut self.received, Received::new()?))
    }

    /// From now on events have this padding; there must be none under way.
    pub(crate) fn set_padding(&mut self, padding: usize) {
        self.padding = padding;
    }

    /// An error unless those clients that are checked line by line have seen `published` events each, all of them whole.
    pub(crate) fn audit(&mut self, published: u64) -> anyhow::Result<()> {
        // The line that ends the last one may be on its way.
        self.read_until(Instant::now() + Duration::from_millis(200))?;
        for audit in self.clients.iter().filter_map(|client| client.audit.as_ref()) {
            ensure!(audit.whole == published, "{} whole events of {published} came", audit.whole);
        }
        Ok(())
    }

    /// Waits at most `timeout` for something to read, and reads it.
    fn read(&mut self, timeout: Duration) -> anyhow::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            let client = &mut self.clients[event.token().0];
            // Less than there is room for is all that there was: see epoll(7). An end that comes later is told again.
            loop {
                let length = match client.stream.read(&mut self.buffer) {
                    Ok(0) => bail!("the server closed a stream"),
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error).context("a stream broke"),
                };
                let now = self.clock.now();
                client.take(&self.buffer[..length], now, self.padding, &mut self.received)?;
                if length < self.buffer.len() && !event.is_read_closed() {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Client {
    fn take(
        &mut self,
        wire: &[u8],
        now: Duration,
        padding: usize,
        received: &mut Received,
    ) -> anyhow::Result<()> {
        if self.unframing.is_open() {
            received.bytes += wire.len() as u64;
        }
        let Self { unframing, kept, next, audit, .. } = self;
        unframing.read(wire, |body| {
            if let Some(audit) = audit {
                audit.read(body, padding)?;
            }
            if kept.is_empty() {
                let forgotten = scan(body, now, padding, next, received)?;
                kept.extend_from_slice(&body[forgotten..]);
            } else {
                kept.extend_from_slice(body);
                let forgotten = scan(kept, now, padding, next, received)?;
                kept.drain(..forgotten);
            }
            Ok(())
        })?;
        ensure!(!unframing.is_ended(), "the stream ended");
        Ok(())
    }
}

/// Counts the events in `text`: how much of it is done with.
fn scan(
    text: &[u8],
    now: Duration,
    padding: usize,
    next: &mut Option<u32>,
    received: &mut Received,
) -> anyhow::Result<usize> {
    let mut from = 0;
    loop {
        match find(&text[from..], padding) {
            Found::Nothing(forgotten) => return Ok(from + forgotten),
            Found::Broken => {
                bail!("an event is not what was sent: {:?}", String::from_utf8_lossy(&text[from..]))
            }
            Found::Mark(mark, end) => {
                from += end;
                let expected = next.unwrap_or(mark.number);
                ensure!(mark.number == expected, "event {} came where {expected} was next", mark.number);
                *next = Some(expected + 1);
                received.events += 1;
                let latency = now.saturating_sub(mark.made).as_nanos();
                received.latencies.saturating_record(u64::try_from(latency).unwrap_or(LONGEST));
            }
        }
    }
}
