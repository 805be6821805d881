//! Clients in one thread: sockets that are read as they become readable, every chunk checked and timed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use plugway_figures::limits;
use plugway_figures::statistics::{micros, millis};
use plugway_figures::unframing::Unframing;

use crate::clock;
use crate::content::{Audit, Content};

/// Opened at once: what a server's queue of connections holds anywhere.
const BATCH: usize = 100;
/// Time for a server to accept connections before it is sent anything.
const SETTLE: Duration = Duration::from_millis(5);
/// Longest silence of all streams together.
const PATIENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 128 << 10;

/// What is asked, and what has to come.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) address: SocketAddr,
    pub(crate) request: Vec<u8>,
    pub(crate) content: Content,
    /// What the last line of a whole stream has in it.
    pub(crate) end: &'static str,
}

impl Call {
    /// So many streams at once, from their requests to their ends.
    pub(crate) fn run(&self, streams: usize) -> anyhow::Result<Received> {
        let mut open = Streams::open(self, streams)?;
        open.send(0..streams)?;
        open.finish()?;
        Ok(open.received)
    }
}

/// What clients have received.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Chunks with content, of all streams together.
    pub(crate) chunks: usize,
    /// From the request of each stream to its first chunk with content, in milliseconds.
    pub(crate) firsts: Vec<f64>,
    /// From the making of each chunk until a client read it, in microseconds; of those that say when they were made.
    pub(crate) ways: Vec<f64>,
}

impl Received {
    /// Takes in what others have received.
    pub(crate) fn add(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.firsts.extend(other.firsts);
        self.ways.extend(other.ways);
    }
}

struct Stream {
    stream: TcpStream,
    unframing: Unframing,
    audit: Audit,
    sent: Duration,
    chunks: usize,
    is_over: bool,
}

/// Streams of one server.
pub(crate) struct Streams<'a> {
    call: &'a Call,
    poll: Poll,
    events: Events,
    streams: Vec<Stream>,
    buffer: Vec<u8>,
    over: usize,
    pub(crate) received: Received,
}

impl<'a> Streams<'a> {
    /// Connects so many, and asks nothing yet.
    pub(crate) fn open(call: &'a Call, count: usize) -> anyhow::Result<Self> {
        limits::check_files(count)?;
        let mut streams = Self {
            call,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            streams: Vec::with_capacity(count),
            buffer: vec![0; BUFFER],
            over: 0,
            received: Received::default(),
        };
        for number in 0..count {
            if number.is_multiple_of(BATCH) {
                std::thread::sleep(SETTLE);
            }
            streams.connect().with_context(|| limits::connect_hint(call.address, count))?;
        }
        std::thread::sleep(SETTLE);
        Ok(streams)
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        let stream = std::net::TcpStream::connect(self.call.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(self.streams.len()), Interest::READABLE)?;
        self.streams.push(Stream {
            stream,
            unframing: Unframing::default(),
            audit: Audit::new(self.call.content.clone(), self.call.end),
            sent: Duration::ZERO,
            chunks: 0,
            is_over: false,
        });
        Ok(())
    }

    /// Sends the requests of these.
    pub(crate) fn send(&mut self, streams: Range<usize>) -> anyhow::Result<()> {
        for stream in &mut self.streams[streams] {
            stream.sent = clock::now();
            // A socket that nothing was written to takes this much at once.
            stream.stream.write_all(&self.call.request)?;
        }
        Ok(())
    }

    /// Reads until all streams have ended, and checks that each was whole.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        self.read_until(|streams| streams.over == streams.streams.len())
    }

    /// Reads until each of these has had so many chunks.
    pub(crate) fn read_chunks(&mut self, streams: Range<usize>, chunks: usize) -> anyhow::Result<()> {
        self.read_until(|all| all.streams[streams.clone()].iter().all(|stream| stream.chunks >= chunks))
    }

    /// How many have not ended.
    pub(crate) fn under_way(&self) -> usize {
        self.streams.len() - self.over
    }

    fn read_until(&mut self, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let mut heard = Instant::now();
        while !done(self) {
            if self.read()? {
                heard = Instant::now();
            }
            ensure!(heard.elapsed() < PATIENCE, "{} streams say nothing for {PATIENCE:?}", self.under_way());
        }
        Ok(())
    }

    /// Reads what there is, or what comes in a little while: whether anything came.
    fn read(&mut self) -> anyhow::Result<bool> {
        match self.poll.poll(&mut self.events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            result => result?,
        }
        for event in &self.events {
            let stream = &mut self.streams[event.token().0];
            while !stream.is_over {
                let length = match stream.stream.read(&mut self.buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error).context("a stream broke"),
                };
                stream.take(&self.buffer[..length], &mut self.received)?;
                self.over += usize::from(stream.is_over);
                // Less than there is room for is all that there was: see epoll(7). An end that comes later is told again.
                if length < self.buffer.len() && !event.is_read_closed() {
                    break;
                }
            }
        }
        Ok(!self.events.is_empty())
    }
}

impl Stream {
    fn take(&mut self, wire: &[u8], received: &mut Received) -> anyhow::Result<()> {
        let now = clock::now();
        let Self { unframing, audit, chunks, sent, .. } = self;
        let mut chunk = |made: Option<Duration>| {
            if *chunks == 0 {
                received.firsts.push(millis(now.saturating_sub(*sent)));
            }
            *chunks += 1;
            received.chunks += 1;
            received.ways.extend(made.map(|made| micros(now.saturating_sub(made))));
        };
        unframing.read(wire, |body| audit.read(body, &mut chunk))?;
        if unframing.is_ended() || wire.is_empty() {
            if !unframing.is_open() {
                bail!("the server closed the connection instead of answering");
            }
            audit.check()?;
            self.is_over = true;
        }
        Ok(())
    }
}
