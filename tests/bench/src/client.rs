//! HTTP/1.1 over bare sockets, as cheap as it gets: what the load costs is lost to what is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longest that an answer may take before a run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request as it goes over the wire.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    format!("{head}content-length: {length}\r\n\r\n{body}").into_bytes()
}

/// A connection that is kept between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Sends a request and reads the whole answer, which has to tell its length: status and body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        let (status, head, length) = self.head().await?;
        let end = head + length.context("an answer without content-length")?;
        while self.buffer.len() < end {
            self.read().await?;
        }
        Ok((status, &self.buffer[head..end]))
    }

    /// Sends a request and reads the head of its answer: the status.
    pub(crate) async fn begin(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        let (status, head, _) = self.head().await?;
        self.buffer.drain(..head);
        Ok(status)
    }

    /// Reads a stream of server-sent events to its end, and counts them.
    pub(crate) async fn count_events(&mut self) -> anyhow::Result<usize> {
        // An empty line ends an event; the lines of the chunked encoding end otherwise.
        const LAST_CHUNK: &[u8; 7] = b"\r\n0\r\n\r\n";
        let mut events = 0;
        let mut latest = [0; LAST_CHUNK.len()];
        loop {
            for byte in &self.buffer {
                events += usize::from(*byte == b'\n' && latest.last() == Some(&b'\n'));
                latest.rotate_left(1);
                latest[LAST_CHUNK.len() - 1] = *byte;
            }
            if latest == *LAST_CHUNK {
                return Ok(events);
            }
            self.buffer.clear();
            self.read().await?;
        }
    }

    async fn head(&mut self) -> anyhow::Result<(u16, usize, Option<usize>)> {
        self.buffer.clear();
        loop {
            self.read().await?;
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end])?;
                let status = head.get(9..12).context("no status line")?.parse()?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                return Ok((status, end + 4, length.map(str::parse).transpose()?));
            }
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        match tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => bail!("the server closed the connection"),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => bail!("no answer within {PATIENCE:?}"),
        }
    }
}

/// What a load came to.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// How long it lasted.
    pub(crate) lasted: Duration,
    /// Answers with status 200.
    pub(crate) answered: usize,
    /// Other answers.
    pub(crate) refused: usize,
    /// How long each answer took, in milliseconds.
    pub(crate) latencies: Vec<f64>,
}

impl Load {
    /// Answers with status 200 per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.lasted.as_secs_f64()
    }
}

/// Asks over and over, on as many connections, each for its next answer as soon as it has the last.
pub(crate) async fn load(
    address: SocketAddr,
    request: &[u8],
    connections: usize,
    length: Duration,
) -> anyhow::Result<Load> {
    let request: std::sync::Arc<[u8]> = request.into();
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address).await?);
    }
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for mut connection in open {
        let request = request.clone();
        clients.spawn(async move {
            let mut load = Load::default();
            let mut asked = began;
            while asked < began + length {
                let (status, _) = connection.ask(&request).await?;
                let now = Instant::now();
                load.latencies.push((now - asked).as_secs_f64() * 1e3);
                if status == 200 {
                    load.answered += 1;
                } else {
                    load.refused += 1;
                }
                asked = now;
            }
            anyhow::Ok(load)
        });
    }
    let mut total = Load::default();
    while let Some(load) = clients.join_next().await {
        let load = load??;
        total.answered += load.answered;
        total.refused += load.refused;
        total.latencies.extend(load.latencies);
    }
    total.lasted = began.elapsed();
    Ok(total)
}
