//! The answer to one HTTP request: a head, and a body that ends cleanly or is cut off.
//!
//! Invariant: exactly one head is sent. A body that the guest did not finish is cut off, so that the client can tell
//! a failure from an end; the flag that says so stands beside the channel, since a full channel swallows an error.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::domain::bounds::{ANSWER_OWN_HEADERS, HTTP_HEADER_BYTES, HTTP_HEADERS};

/// Pieces of a body that may wait for the client before `write` waits.
const PIECES: usize = 256;

/// Largest piece; what the guest writes at once is cut into such, so that `PIECES` bounds what waits.
const PIECE: usize = 4 << 10;
/// What waits is handed to the client in one write up to this size, so that a client that lags costs less, not more.
const WRITE: usize = 32 << 10;

/// Where the guest's answer goes.
#[derive(Debug)]
pub(crate) struct Responder {
    head: Option<oneshot::Sender<Response<ExchangeBody>>>,
    /// Cancelled when the client is gone.
    peer_gone: CancellationToken,
}

impl Responder {
    /// A responder, and where its answer arrives.
    pub(crate) fn new(peer_gone: CancellationToken) -> (Self, oneshot::Receiver<Response<ExchangeBody>>) {
        let (head, receiver) = oneshot::channel();
        (Self { head: Some(head), peer_gone }, receiver)
    }

    /// Whether an answer was begun.
    pub(crate) fn is_answered(&self) -> bool {
        self.head.is_none()
    }

    /// Sends a whole answer.
    ///
    /// # Errors
    /// What is wrong with it, for the plugin's author.
    pub(crate) fn send(
        &mut self,
        status: u16,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Result<(), String> {
        let (status, headers) = self.check(status, headers)?;
        self.answer(status, headers, ExchangeBody::full(body.into()));
        Ok(())
    }

    /// Sends a head whose body follows.
    ///
    /// # Errors
    /// What is wrong with it, for the plugin's author.
    pub(crate) fn start(&mut self, status: u16, headers: &[(String, String)]) -> Result<Body, String> {
        let (status, headers) = self.check(status, headers)?;
        let (pieces, receiver) = mpsc::channel(PIECES);
        let finished = Arc::new(AtomicBool::new(false));
        let body = ExchangeBody(Kind::Stream {
            pieces: receiver,
            finished: finished.clone(),
            gone: Some(self.peer_gone.clone().drop_guard()),
            flushed: false,
        });
        self.answer(status, headers, body);
        Ok(Body { pieces, finished })
    }

    fn check(&self, status: u16, headers: &[(String, String)]) -> Result<(StatusCode, HeaderMap), String> {
        if self.is_answered() {
            return Err("the request was answered already".into());
        }
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| !status.is_informational())
            .ok_or_else(|| format!("status: {status} is no final HTTP status"))?;
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > HTTP_HEADERS || bytes > HTTP_HEADER_BYTES {
            let count = headers.len();
            return Err(format!(
                "headers: {count} of {bytes} bytes; {HTTP_HEADERS} of {HTTP_HEADER_BYTES} bytes are the limit"
            ));
        }
        let mut map = HeaderMap::with_capacity(headers.len());
        for (name, value) in headers {
            let parsed =
                HeaderName::try_from(name).map_err(|_| format!("header name {name:?} is not valid"))?;
            if ANSWER_OWN_HEADERS.contains(&parsed.as_str()) {
                return Err(format!("header {name:?} is the host's own"));
            }
            if parsed == http::header::CONTENT_LENGTH {
                // The host knows it better.
                continue;
            }
            let value = HeaderValue::try_from(value)
                .map_err(|_| format!("the value of header {name:?} is not valid"))?;
            map.append(parsed, value);
        }
        Ok((status, map))
    }

    fn answer(&mut self, status: StatusCode, headers: HeaderMap, body: ExchangeBody) {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if let Some(head) = self.head.take() {
            // A client that has gone takes no answer.
            let _ = head.send(response);
        }
    }
}

/// The guest's end of a streamed body.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it, which needs it public")]
pub struct Body {
    pieces: mpsc::Sender<Bytes>,
    finished: Arc<AtomicBool>,
}

impl Body {
    /// Hands a piece on, waiting while the client is slower. False once the client is gone.
    pub(crate) async fn write(&self, bytes: Vec<u8>) -> bool {
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let sent = match self.pieces.try_send(piece) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(piece)) => self.pieces.send(piece).await.is_ok(),
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            };
            if !sent {
                return false;
            }
        }
        !self.pieces.is_closed()
    }

    /// Ends the body cleanly.
    pub(crate) fn finish(self) {
        self.finished.store(true, Ordering::Release);
    }
}

/// The client's end of an answer's body.
#[derive(Debug)]
pub struct ExchangeBody(Kind);

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Stream {
        pieces: mpsc::Receiver<Bytes>,
        finished: Arc<AtomicBool>,
        /// Tells the guest when hyper drops the body before its end.
        gone: Option<DropGuard>,
        /// What came before the cut has had time to go out.
        flushed: bool,
    },
}

impl ExchangeBody {
    /// A body that is there at once.
    pub fn full(bytes: Bytes) -> Self {
        Self(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }
}

/// A piece, and those that wait behind it. One that is alone is not copied.
fn join_waiting(first: Bytes, pieces: &mut mpsc::Receiver<Bytes>) -> Bytes {
    let Ok(second) = pieces.try_recv() else { return first };
    // As much as waits now, so that small pieces of many clients don't hold room for large ones.
    let waiting = (2 + pieces.len()) * first.len().max(second.len());
    let mut write = BytesMut::with_capacity(waiting.min(WRITE + PIECE));
    write.extend_from_slice(&first);
    write.extend_from_slice(&second);
    while write.len() < WRITE {
        let Ok(piece) = pieces.try_recv() else { break };
        write.extend_from_slice(&piece);
    }
    write.freeze()
}

/// The guest ended without finishing its answer.
#[derive(Debug, thiserror::Error)]
#[error("the plugin ended without finishing its answer")]
pub struct CutOff;

impl http_body::Body for ExchangeBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream { pieces, finished, gone, flushed } => match ready!(pieces.poll_recv(cx)) {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(join_waiting(piece, pieces))))),
                None => {
                    if let Some(gone) = gone.take() {
                        gone.disarm();
                    }
                    if finished.load(Ordering::Acquire) {
                        return Poll::Ready(None);
                    }
                    if !std::mem::replace(flushed, true) {
                        // An error makes hyper forget what it has not written yet: it gets a turn to do so.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Err(CutOff)))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Kind::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Stream { .. } => SizeHint::default(),
        }
    }
}
