//! A real HTTP server over TCP for tests, which answers and breaks as the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the server does with a request, step by step. After the last one the connection waits for another request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Writes these bytes.
    Send(String),
    /// Waits.
    Wait(Duration),
    /// Never says anything again, and waits for the other side to close the connection.
    Hang,
    /// Closes the connection in order.
    Close,
    /// Closes it with a reset.
    Reset,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Number of its connection, from 0.
    pub(crate) connection: usize,
    /// Request line and headers.
    pub(crate) head: String,
    /// Its body.
    pub(crate) body: String,
}

impl Seen {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

type Script = dyn Fn(&Seen, usize) -> Vec<Step> + Send + Sync;

/// The server; stops when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    /// Serves by a script, which is given each request and the number of requests before it.
    pub(crate) async fn start(script: impl Fn(&Seen, usize) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, script): (Arc<Mutex<Vec<Seen>>>, Arc<Script>) = (Arc::default(), Arc::new(script));
        let all = Arc::clone(&seen);
        let (end, ended) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serve(stream, connection, Arc::clone(&script), Arc::clone(&all));
                let end = end.clone();
                connections.spawn(async move {
                    serving.await;
                    end.send_modify(|ended| *ended += 1);
                });
            }
        });
        Self { address, seen, ended, _task: AbortOnDropHandle::new(task) }
    }

    /// Serves the same answer always.
    pub(crate) async fn answering(answer: String) -> Self {
        Self::start(move |_, _| vec![Step::Send(answer.clone())]).await
    }

    /// Its origin, by address.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What came in so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Connections that have ended so far, by whichever side.
    pub(crate) fn ended(&self) -> usize {
        *self.ended.borrow()
    }

    /// Waits until so many connections have ended.
    pub(crate) async fn ended_at_least(&self, count: usize) {
        let mut ended = self.ended.clone();
        let waited = tokio::time::timeout(DEADLINE, ended.wait_for(|ended| *ended >= count)).await;
        waited.expect("the connections end in time").unwrap();
    }
}

/// A whole answer that leaves the connection open.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

async fn serve(mut stream: TcpStream, connection: usize, script: Arc<Script>, all: Arc<Mutex<Vec<Seen>>>) {
    let mut buffer = Vec::new();
    while let Some(seen) = request(&mut stream, connection, &mut buffer).await {
        let before = {
            let mut all = all.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        for step in script(&seen, before) {
            match step {
                Step::Send(bytes) => {
                    if stream.write_all(bytes.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Hang => while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {},
                Step::Close => {
                    let _ = stream.shutdown().await;
                    return;
                }
                Step::Reset => {
                    stream.set_zero_linger().unwrap();
                    return;
                }
            }
        }
    }
}

async fn request(stream: &mut TcpStream, connection: usize, buffer: &mut Vec<u8>) -> Option<Seen> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let seen = Seen { connection, head, body: String::new() };
            let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).unwrap();
                buffer.drain(..end + 4 + length);
                return Some(Seen { body, ..seen });
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
