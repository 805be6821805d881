//! How a connection leaves the HTTP library: that one reads the request and writes the head and the first piece of the
//! answer; from then on the connection is the stream's own, and nothing of the library is left in memory.
//!
//! A connection that was handed over is never used for another request, which the answer's head says.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http::{HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::Frame;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::server::Place;

/// Somebody wants the connection, once what comes before is written; nobody does at first.
const WANTED: u8 = 1;
/// The library was given all that it has to write.
const GIVEN: u8 = 2;
/// It has written it.
const FREE: u8 = 3;

/// A connection after the first piece of its answer.
#[derive(Debug)]
pub(super) struct Connection {
    /// Where the rest of the answer goes.
    pub(super) socket: TcpStream,
    /// Whether the answer is in chunks; else it ends with the connection.
    pub(super) chunked: bool,
    /// Its place among the open connections.
    pub(super) place: Place,
}

/// Goes on with an answer: spawns what writes the rest.
type Rest = Box<dyn FnOnce(Connection, &TaskTracker) + Send>;

/// The wish to go on with an answer by oneself, as an extension of a response.
#[derive(Clone)]
pub(super) struct Wish {
    inner: Arc<Mutex<Option<(Bytes, Rest)>>>,
}

/// An answer of which hyper writes the head and a first piece, not empty, and `rest` what follows. It gets the
/// connection if the request is one that takes a body and if the answer is still a success when all layers are
/// through with it; the answer ends after the first piece else.
pub(super) fn response(
    first: Bytes,
    rest: impl FnOnce(Connection, &TaskTracker) + Send + 'static,
) -> Response<Body> {
    let alone = futures::stream::once(std::future::ready(Ok::<_, Infallible>(first.clone())));
    let mut response = Response::new(Body::from_stream(alone));
    response.extensions_mut().insert(Wish { inner: Arc::new(Mutex::new(Some((first, Box::new(rest))))) });
    response
}

/// What the parts of one connection know of its handing over.
#[derive(Default)]
pub(super) struct Handover {
    state: AtomicU8,
    rest: Mutex<Option<(bool, Rest)>>,
}

impl Handover {
    /// Grants the wish of a response, if it has one and may.
    pub(super) fn arrange(
        self: &Arc<Self>,
        method: &Method,
        version: Version,
        response: &mut Response<Body>,
    ) {
        let Some(wish) = response.extensions_mut().remove::<Wish>() else { return };
        if method != Method::GET || response.status() != StatusCode::OK {
            return;
        }
        let Some((first, rest)) = wish.inner.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let chunked = version >= Version::HTTP_11;
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some((chunked, rest));
        self.state.store(WANTED, Ordering::Relaxed);
        *response.body_mut() = Body::new(Beginning { first: Some(first), handover: Arc::clone(self) });
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        // Else the library would promise a client of HTTP/1.0 to keep the connection.
        *response.version_mut() = version;
    }

    /// Says that all that was given to the library is written.
    pub(super) fn flushed(&self) {
        self.step(GIVEN, FREE);
    }

    /// All parts of a connection run in one task, so that nothing has to be ordered.
    fn step(&self, from: u8, to: u8) {
        if self.state.load(Ordering::Relaxed) == from {
            self.state.store(to, Ordering::Relaxed);
        }
    }

    /// Whether the library is done and somebody waits for the connection.
    pub(super) fn is_due(&self) -> bool {
        self.state.load(Ordering::Relaxed) == FREE
    }

    /// Goes on with the answer on a connection that the library has let go.
    pub(super) fn go_on(&self, socket: TcpStream, place: Place, tracker: &TaskTracker) {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((chunked, rest)) = rest {
            rest(Connection { socket, chunked, place }, tracker);
        }
    }
}

/// The first piece of an answer; more never comes from here.
struct Beginning {
    first: Option<Bytes>,
    handover: Arc<Handover>,
}

impl http_body::Body for Beginning {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => {
                // The library may ask again after it has written.
                self.handover.step(WANTED, GIVEN);
                Poll::Pending
            }
        }
    }
}
