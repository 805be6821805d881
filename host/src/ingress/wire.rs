//! A stream's connection: whole frames go out in as few writes as the socket takes, with a deadline for each, and
//! whatever the peer says is thrown away.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;

use super::handover::Connection;
use super::server::Place;
use crate::hub::Frame;

/// Largest write.
const WRITE: usize = 64 << 10;
/// Most frames of one write.
const SLICES: usize = 128;
/// Ends a body in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long a write may wait without getting on.
    pub(super) write_timeout: Duration,
    /// Bytes that the peer may send, none of which mean anything.
    pub(super) received: usize,
}

/// The connection, with its bounds.
pub(super) struct Wire {
    outlet: Outlet,
    bounds: Bounds,
    _place: Place,
}

/// Where a connection's frames go out. Whoever shares it sees to it that only one writes at a time.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    socket: Arc<TcpStream>,
    chunked: bool,
}

/// Frames of which the first bytes may be written already.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    frames: Vec<Frame>,
    /// Of the first frame.
    written: usize,
}

impl Outlet {
    /// Writes as much as the socket takes at once; what it does not take, or all that is left when it fails, is
    /// returned.
    pub(super) fn offer(&self, frames: &[Frame]) -> Option<Unwritten> {
        let (mut parts, mut written) = (frames, 0);
        let result = self.try_frames(&mut parts, &mut written);
        (!matches!(result, Ok(true))).then(|| Unwritten { frames: parts.to_vec(), written })
    }

    fn try_frames(&self, parts: &mut &[Frame], written: &mut usize) -> io::Result<bool> {
        if self.chunked {
            self.try_write(parts, written, |frame| frame.chunk())
        } else {
            self.try_write(parts, written, Frame::payload)
        }
    }

    /// Writes until all of it is written (true) or the socket takes no more; parts that are written are taken off.
    ///
    /// # Errors
    /// The connection is of no use any more.
    fn try_write<T>(
        &self,
        parts: &mut &[T],
        written: &mut usize,
        bytes: impl Fn(&T) -> &[u8],
    ) -> io::Result<bool> {
        while let Some(first) = parts.first() {
            let result = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let (mut count, mut room) = (0, WRITE);
                let left = std::iter::once(&bytes(first)[*written..]).chain(parts[1..].iter().map(&bytes));
                for (slice, part) in slices.iter_mut().zip(left) {
                    if room == 0 {
                        break;
                    }
                    *slice = IoSlice::new(&part[..part.len().min(room)]);
                    room -= slice.len();
                    count += 1;
                }
                match &slices[..count] {
                    // A plain write costs the kernel a tenth less.
                    [slice] => self.socket.try_write(slice),
                    slices => self.socket.try_write_vectored(slices),
                }
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => *written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            while let Some(length) =
                parts.first().map(|part| bytes(part).len()).filter(|length| *length <= *written)
            {
                *written -= length;
                *parts = &parts[1..];
            }
        }
        Ok(true)
    }
}

impl Wire {
    pub(super) fn new(connection: Connection, bounds: Bounds) -> Self {
        let Connection { socket, chunked, place } = connection;
        Self { outlet: Outlet { socket: Arc::new(socket), chunked }, bounds, _place: place }
    }

    /// Where its frames go out.
    pub(super) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Writes all of them, as much at a time as one write holds.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(super) async fn frames(&mut self, mut frames: &[Frame]) -> io::Result<()> {
        let mut written = 0;
        self.all(|outlet| outlet.try_frames(&mut frames, &mut written)).await
    }

    /// Writes what is left of frames.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(super) async fn rest(&mut self, Unwritten { frames, mut written }: Unwritten) -> io::Result<()> {
        let mut frames = &*frames;
        self.all(|outlet| outlet.try_frames(&mut frames, &mut written)).await
    }

    /// Ends the answer in good order.
    pub(super) async fn end(mut self) {
        if self.outlet.chunked {
            let (mut parts, mut written) = (&[LAST_CHUNK][..], 0);
            let last = self.all(|outlet| outlet.try_write(&mut parts, &mut written, |bytes| bytes)).await;
            if last.is_err() {
                return;
            }
        }
        // Dropping it closes it just as well.
        let _ = socket2::SockRef::from(&*self.outlet.socket).shutdown(std::net::Shutdown::Write);
    }

    /// Tries, and waits for the socket in between, until all is written.
    async fn all(&mut self, mut write: impl FnMut(&Outlet) -> io::Result<bool>) -> io::Result<()> {
        while !write(&self.outlet)? {
            Box::pin(self.writable()).await?;
        }
        Ok(())
    }

    /// Waits until the socket takes more.
    async fn writable(&mut self) -> io::Result<()> {
        let limit = self.bounds.write_timeout;
        let wait = poll_fn(|cx| match self.poll_left(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => self.outlet.socket.poll_write_ready(cx),
        });
        match tokio::time::timeout(limit, wait).await {
            Ok(result) => result,
            Err(_) => {
                metrics::counter!("plugway_connections_stalled_total").increment(1);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Waits until the peer is gone, or has sent more than it may. What it sends is thrown away.
    pub(super) async fn left(&mut self) {
        poll_fn(|cx| self.poll_left(cx)).await;
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.outlet.socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match self.outlet.socket.try_read(&mut [0; 1024]) {
                Ok(n) if n > 0 && n <= self.bounds.received => self.bounds.received -= n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}
