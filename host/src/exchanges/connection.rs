//! The WebSocket of an exchange: frames on their way in both directions, each direction bounded by bytes.
//!
//! Invariant: frames keep their order, and a close comes behind all that was sent before it. Whoever sends waits while the
//! other side has too much to take.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::bindings::types;
use crate::domain::bounds::{CLOSE_REASON, is_close_code};

/// What a frame counts for beside its own bytes.
const OVERHEAD: usize = 128;

/// A frame of text or bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketFrame {
    /// UTF-8.
    Text(String),
    /// Anything.
    Binary(Bytes),
}

impl SocketFrame {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// What goes to the client.
#[derive(Debug)]
pub enum ToPeer {
    /// A frame.
    Frame(SocketFrame),
    /// The end, with a code of RFC 6455 and a reason of at most 123 bytes. Nothing follows.
    Close(u16, String),
}

/// Something on its way, with its share of the bytes that may wait; the share is given back when it is taken.
#[derive(Debug)]
struct Queued<T> {
    what: T,
    _share: Option<OwnedSemaphorePermit>,
}

/// One end of a direction, for whoever sends.
#[derive(Debug)]
struct Sender<T> {
    queue: mpsc::UnboundedSender<Queued<T>>,
    room: Arc<Semaphore>,
    most: usize,
}

impl<T> Sender<T> {
    fn new(most: usize) -> (Self, mpsc::UnboundedReceiver<Queued<T>>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let most = most.clamp(1, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        (Self { queue, room: Arc::new(Semaphore::new(most)), most }, receiver)
    }

    /// Waits for room. False once nobody takes it any more.
    async fn send(&self, what: T, bytes: usize) -> bool {
        // What is larger than the room goes when there is nothing else.
        let share = u32::try_from((bytes + OVERHEAD).min(self.most)).unwrap_or(u32::MAX);
        let share = tokio::select! {
            biased;
            share = self.room.clone().acquire_many_owned(share) => share.ok(),
            () = self.queue.closed() => None,
        };
        share.is_some() && self.queue.send(Queued { what, _share: share }).is_ok()
    }
}

/// The guest's way out: what `connection` does.
#[derive(Debug)]
pub(crate) struct Outlet {
    sender: Sender<ToPeer>,
    closed: bool,
}

impl Outlet {
    /// Sends a frame, waiting while the client is slower. False once the client is gone or the connection was closed.
    pub(crate) async fn send(&self, frame: types::Frame) -> bool {
        let frame = match frame {
            types::Frame::Text(text) => SocketFrame::Text(text),
            types::Frame::Binary(bytes) => SocketFrame::Binary(bytes.into()),
        };
        let bytes = frame.len();
        !self.closed && self.sender.send(ToPeer::Frame(frame), bytes).await
    }

    /// Closes the connection, once.
    ///
    /// # Errors
    /// What is wrong with the code or the reason, for the plugin's author.
    pub(crate) fn close(&mut self, code: u16, reason: String) -> Result<(), String> {
        if !is_close_code(code) {
            return Err(format!("code: {code} is none that may be sent; use 1000, 1011, or 3000 to 4999"));
        }
        if reason.len() > CLOSE_REASON {
            return Err(format!("reason: has {} bytes, at most {CLOSE_REASON} are allowed", reason.len()));
        }
        if self.closed {
            return Err("the connection was closed already".into());
        }
        self.end(code, reason);
        Ok(())
    }

    /// Closes the connection unless it is closed.
    pub(super) fn end(&mut self, code: u16, reason: String) {
        if !std::mem::replace(&mut self.closed, true) {
            // A client that has gone needs no close.
            let _ = self.sender.queue.send(Queued { what: ToPeer::Close(code, reason), _share: None });
        }
    }
}

/// What came from the client and the guest has not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: mpsc::UnboundedReceiver<Queued<SocketFrame>>,
    /// Taken from the queue while the guest waited for anything at all.
    next: Option<Queued<SocketFrame>>,
}

impl Inbox {
    /// How many frames are there.
    pub(crate) fn len(&self) -> usize {
        self.queue.len() + usize::from(self.next.is_some())
    }

    /// The next frame, if it is there.
    pub(crate) fn take(&mut self) -> Option<types::Frame> {
        let queued = self.next.take().or_else(|| self.queue.try_recv().ok())?;
        Some(match queued.what {
            SocketFrame::Text(text) => types::Frame::Text(text),
            SocketFrame::Binary(bytes) => types::Frame::Binary(bytes.into()),
        })
    }

    /// Ready once a frame is there. Never after the client has gone: that is told elsewhere.
    pub(crate) fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.next.is_none() {
            match self.queue.poll_recv(cx) {
                Poll::Ready(Some(queued)) => self.next = Some(queued),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

/// The client's side of an exchange's WebSocket. Dropped, the guest is told that its peer has gone.
#[derive(Debug)]
pub struct SocketPeer {
    to_guest: Sender<SocketFrame>,
    from_guest: mpsc::UnboundedReceiver<Queued<ToPeer>>,
    _gone: tokio_util::sync::DropGuard,
}

impl SocketPeer {
    /// Both halves, for tasks that wait for either.
    pub fn split(&mut self) -> (Frames<'_>, Answers<'_>) {
        (Frames(&self.to_guest), Answers(&mut self.from_guest))
    }
}

/// The way to the guest.
#[derive(Debug)]
pub struct Frames<'a>(&'a Sender<SocketFrame>);

impl Frames<'_> {
    /// Hands a frame on, waiting while the guest is slower. False once it has ended.
    pub async fn send(&self, frame: SocketFrame) -> bool {
        let bytes = frame.len();
        self.0.send(frame, bytes).await
    }
}

/// The way from the guest.
#[derive(Debug)]
pub struct Answers<'a>(&'a mut mpsc::UnboundedReceiver<Queued<ToPeer>>);

impl Answers<'_> {
    /// What is to be sent next; none if the exchange came to an end without a close.
    pub async fn next(&mut self) -> Option<ToPeer> {
        self.0.recv().await.map(|queued| queued.what)
    }

    /// The same without waiting.
    pub fn ready(&mut self) -> Option<ToPeer> {
        self.0.try_recv().ok().map(|queued| queued.what)
    }
}

/// A connection with `room` bytes of frames that may wait in each direction.
pub(super) fn connection(room: usize, peer_gone: CancellationToken) -> (Outlet, Inbox, SocketPeer) {
    let ((to_guest, inbox), (to_peer, from_guest)) = (Sender::new(room), Sender::new(room));
    (
        Outlet { sender: to_peer, closed: false },
        Inbox { queue: inbox, next: None },
        SocketPeer { to_guest, from_guest, _gone: peer_gone.drop_guard() },
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(text: &str) -> types::Frame {
        types::Frame::Text(text.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sends_waits_while_the_other_side_has_too_much_to_take() {
        let (outlet, mut inbox, mut peer) = connection(1_000, CancellationToken::new());
        let (frames, mut answers) = peer.split();
        let soon = Duration::from_secs(1);
        assert!(outlet.send(text(&"x".repeat(600))).await);
        assert!(tokio::time::timeout(soon, outlet.send(text(&"y".repeat(600)))).await.is_err(), "it is full");
        assert!(matches!(answers.ready(), Some(ToPeer::Frame(SocketFrame::Text(text))) if text.len() == 600));
        assert!(outlet.send(text(&"z".repeat(5_000))).await, "one that is too large goes alone");
        assert!(tokio::time::timeout(soon, outlet.send(text(""))).await.is_err());

        for _ in 0..7 {
            assert!(frames.send(SocketFrame::Binary(Bytes::new())).await);
        }
        let full = frames.send(SocketFrame::Binary(Bytes::new()));
        assert!(tokio::time::timeout(soon, full).await.is_err(), "small frames count too");
        assert!(inbox.take().is_some());
        assert!(frames.send(SocketFrame::Binary(Bytes::new())).await);
        assert_eq!(inbox.len(), 7);
    }

    #[tokio::test]
    async fn a_close_comes_last_and_once_and_only_with_a_code_that_may_be_sent() {
        let (mut outlet, _inbox, mut peer) = connection(1_000, CancellationToken::new());
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert!(outlet.close(code, String::new()).unwrap_err().starts_with("code: "), "{code}");
        }
        assert!(outlet.close(1000, "x".repeat(124)).unwrap_err().starts_with("reason: "));
        assert!(outlet.send(text("last")).await);
        outlet.close(4000, "x".repeat(123)).unwrap();
        assert!(!outlet.send(text("too late")).await);
        assert!(outlet.close(1000, String::new()).is_err());
        let (_, mut answers) = peer.split();
        assert!(matches!(answers.next().await, Some(ToPeer::Frame(_))));
        assert!(matches!(answers.next().await, Some(ToPeer::Close(4000, _))));
        assert!(answers.ready().is_none());
    }

    #[tokio::test]
    async fn a_guest_that_waits_for_room_hears_that_its_peer_has_gone() {
        let gone = CancellationToken::new();
        let (outlet, _inbox, peer) = connection(100, gone.clone());
        assert!(outlet.send(text("fills it")).await);
        let waiting = async { outlet.send(text("waits")).await };
        let leaving = async {
            tokio::task::yield_now().await;
            drop(peer);
        };
        assert!(!tokio::join!(waiting, leaving).0);
        assert!(gone.is_cancelled());
    }
}
