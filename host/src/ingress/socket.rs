//! WebSocket connections of plugins: the upgrade, messages both ways, pings, and an orderly end.
//!
//! Invariant: a client that does not read makes the plugin wait and nobody else, one that sends faster than the plugin takes,
//! or pings faster than it reads, waits itself; none is held in memory beyond `websocket.buffer`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use bytesize::ByteSize;
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as SocketError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::error::ApiError;
use super::server::Place;
use crate::exchanges::{Answers, Frames, SocketFrame, SocketPeer, ToPeer};

/// What is read at once. Each connection holds so much.
const READ: usize = 4 << 10;
/// Frames that wait go out together up to this size.
const WRITE: usize = 32 << 10;

/// `[websocket]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSocketLimits {
    /// Time between two pings.
    #[serde(with = "humantime_serde")]
    pub ping: Duration,
    /// Longest time without any sign of life of the client.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Largest message of a client.
    pub message: ByteSize,
    /// Messages that may wait, in each direction.
    pub buffer: ByteSize,
    /// How long a client gets to answer a close.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
}

impl WebSocketLimits {
    /// What no type can say.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, time) in
            [("ping", self.ping), ("idle_timeout", self.idle_timeout), ("close_timeout", self.close_timeout)]
        {
            if time.is_zero() {
                return Err((key, "must be longer than nothing".into()));
            }
        }
        if self.idle_timeout <= self.ping {
            let ping = humantime::format_duration(self.ping);
            return Err(("idle_timeout", format!("must be longer than the time between pings, {ping}")));
        }
        for (key, size) in [("message", self.message), ("buffer", self.buffer)] {
            if size.as_u64() == 0 || size.as_u64() > u32::MAX.into() {
                return Err((key, "must be from 1B to 4GiB".into()));
            }
        }
        Ok(())
    }

    /// [`WebSocketLimits::buffer`] in bytes.
    pub(super) fn room(&self) -> usize {
        usize::try_from(self.buffer.as_u64()).unwrap_or(usize::MAX)
    }
}

/// A request that asks for a WebSocket, and may have one.
#[derive(Debug)]
pub(super) struct Upgrade {
    accept: HeaderValue,
    on_upgrade: OnUpgrade,
}

impl Upgrade {
    /// Reads a request's head.
    ///
    /// # Errors
    /// 426 if it asks for no WebSocket, 400 for one of another kind.
    pub(super) fn read(parts: &mut http::request::Parts) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        if !(has_word(headers, header::CONNECTION, "upgrade")
            && has_word(headers, header::UPGRADE, "websocket"))
        {
            return Err(ApiError::upgrade_required());
        }
        if parts.method != Method::GET {
            return Err(ApiError::bad_request("method", "a WebSocket is asked for with GET"));
        }
        if parts.version < Version::HTTP_11 {
            return Err(ApiError::bad_request("version", "a WebSocket needs HTTP/1.1"));
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(ApiError::websocket_version());
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        let key =
            key.ok_or_else(|| ApiError::bad_request("sec-websocket-key", "sec-websocket-key: is missing"))?;
        // 16 bytes in base64.
        if key.len() != 24 || !key.as_bytes().ends_with(b"==") {
            return Err(ApiError::bad_request(
                "sec-websocket-key",
                "sec-websocket-key: must be 16 bytes in base64",
            ));
        }
        let accept =
            HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| ApiError::internal())?;
        let on_upgrade = parts.extensions.remove::<OnUpgrade>().ok_or_else(ApiError::upgrade_required)?;
        Ok(Self { accept, on_upgrade })
    }

    /// Accepts it. `begin` is called with nothing but the certainty that the connection is open.
    pub(super) fn accept(
        self,
        limits: WebSocketLimits,
        place: Option<Place>,
        begin: impl FnOnce() -> SocketPeer + Send + 'static,
    ) -> Response {
        tokio::spawn(async move {
            let _place = place;
            match self.on_upgrade.await {
                Ok(upgraded) => serve(upgraded, begin(), &limits).await,
                Err(error) => tracing::debug!(%error, "a connection ended before it was a WebSocket"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        response
    }
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|found| found.trim().eq_ignore_ascii_case(word)))
}

/// The connection, and when anything last came from the client.
struct Watched {
    io: TokioIo<Upgraded>,
    life: Arc<Life>,
}

/// When a client last sent anything.
struct Life {
    opened: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

impl Life {
    fn sign(&self) {
        let passed = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.opened + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.life.sign();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

type Socket = WebSocketStream<Watched>;
type Sink = SplitSink<Socket, Message>;

/// Serves an open connection to its end.
async fn serve(upgraded: Upgraded, mut peer: SocketPeer, limits: &WebSocketLimits) {
    let message = usize::try_from(limits.message.as_u64()).unwrap_or(usize::MAX);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(WRITE)
        .max_message_size(Some(message))
        .max_frame_size(Some(message));
    let life = Arc::new(Life { opened: Instant::now(), last: AtomicU64::new(0) });
    let io = Watched { io: TokioIo::new(upgraded), life: Arc::clone(&life) };
    let socket = Socket::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sink, mut stream) = socket.split();
    let sink = Mutex::new(sink);
    let (frames, answers) = peer.split();
    let close = tokio::select! {
        close = receive(&mut stream, &sink, &frames, &life, limits.idle_timeout) => close,
        close = send(&sink, answers, limits.ping) => close,
    };
    // The guest is told that nobody listens any more, while the rest of the courtesies are exchanged.
    drop(peer);
    let Some(close) = close else { return };
    // A client that does not answer, or has gone, is left.
    let _ = timeout(limits.close_timeout, part(sink.into_inner(), stream, close)).await;
}

/// Closes a connection in an orderly way: says why, and waits for the client's close. Where that can't be told from rubbish,
/// all that comes is read until the client goes: what is left unread would take the reason from it.
async fn part(
    mut sink: Sink,
    mut stream: SplitStream<Socket>,
    (code, reason): (u16, String),
) -> Result<(), SocketError> {
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    sink.send(Message::Close(Some(frame))).await?;
    let mut is_orderly = false;
    while let Some(message) = stream.next().await {
        is_orderly = message?.is_close();
    }
    if is_orderly {
        return Ok(());
    }
    let Ok(mut socket) = sink.reunite(stream) else { return Ok(()) };
    let io = socket.get_mut();
    io.shutdown().await?;
    let mut rubbish = vec![0; READ];
    while io.read(&mut rubbish).await? > 0 {}
    Ok(())
}

/// How a connection is to be closed from here; none: it is over.
type Close = Option<(u16, String)>;

/// Hands the client's messages on, until it closes, goes, or breaks the rules.
async fn receive(
    stream: &mut SplitStream<Socket>,
    sink: &Mutex<Sink>,
    frames: &Frames<'_>,
    life: &Life,
    idle_timeout: Duration,
) -> Close {
    loop {
        let frame = match timeout_at(life.last() + idle_timeout, stream.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => SocketFrame::Text(text.as_str().to_owned()),
            Ok(Some(Ok(Message::Binary(bytes)))) => SocketFrame::Binary(bytes),
            Ok(Some(Ok(Message::Ping(_)))) => {
                // The library has its answer. The next one is read when that has gone.
                let answered = async { sink.lock().await.flush().await };
                match timeout_at(life.last() + idle_timeout, answered).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => return None,
                    Err(_) => {
                        metrics::counter!("plugway_sockets_idle_total").increment(1);
                        return None;
                    }
                }
            }
            // A close is answered by the library.
            Ok(Some(Ok(_))) => continue,
            Ok(Some(Err(error))) => return fault(&error),
            Ok(None) => return None,
            // A part of a message is a sign of life, too.
            Err(_) if life.last() + idle_timeout > Instant::now() => continue,
            Err(_) => {
                metrics::counter!("plugway_sockets_idle_total").increment(1);
                return None;
            }
        };
        if !frames.send(frame).await {
            // The guest has ended: what it said last is on its way to the client.
            std::future::pending::<()>().await;
        }
        // Nobody listened while the guest was busy.
        life.sign();
    }
}

/// What a client did wrong, in the words of RFC 6455; none: it has gone.
fn fault(error: &SocketError) -> Close {
    match error {
        SocketError::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
            Some((1009, format!("a message has more than {max_size} bytes")))
        }
        SocketError::Capacity(_) => Some((1009, "a message is too long".into())),
        SocketError::Utf8(_) => Some((1007, "a text is not UTF-8".into())),
        SocketError::Protocol(problem) => Some((1002, problem.to_string().chars().take(100).collect())),
        _ => None,
    }
}

/// Sends what the guest says, and pings in between, until either side has ended.
async fn send(sink: &Mutex<Sink>, mut answers: Answers<'_>, ping: Duration) -> Close {
    let mut pings = interval_at(Instant::now() + ping, ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_due = |pings: &mut tokio::time::Interval| pings.tick().now_or_never().is_some();
    loop {
        let next = tokio::select! {
            next = answers.next() => Some(next.unwrap_or_else(|| ToPeer::Close(1011, "internal error".into()))),
            _ = pings.tick() => None,
        };
        let Some(mut answer) = next else {
            if sink.lock().await.send(Message::Ping(Bytes::new())).await.is_err() {
                return None;
            }
            continue;
        };
        // What waits goes out together; the library writes whenever it has enough.
        loop {
            // Taken for each anew: the answer to a ping, and whatever comes behind that ping, waits for one frame at most.
            let mut sink = sink.lock().await;
            let fed = match answer {
                ToPeer::Frame(SocketFrame::Text(text)) => sink.feed(Message::Text(text.into())).await,
                ToPeer::Frame(SocketFrame::Binary(bytes)) => sink.feed(Message::Binary(bytes)).await,
                ToPeer::Close(code, reason) => return sink.flush().await.is_ok().then_some((code, reason)),
            };
            if fed.is_err() || is_due(&mut pings) && sink.feed(Message::Ping(Bytes::new())).await.is_err() {
                return None;
            }
            match answers.ready() {
                Some(next) => answer = next,
                None => break,
            }
        }
        if sink.lock().await.flush().await.is_err() {
            return None;
        }
    }
}
