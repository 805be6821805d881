//! A stream's connection after the HTTP library has let it go: one small task that waits for the source, for a
//! heartbeat and for the peer's leaving, and writes.
//!
//! It keeps no queue and, while it waits, no buffer. While a write waits nothing is taken from the source, so that what
//! a slow client costs is what one write holds, and what is pending by then goes out together.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::handover::Connection;
use super::heartbeat::Heartbeat;
use super::sse::Source;
use crate::hub::Frame;

/// Largest write.
const WRITE: usize = 64 << 10;
/// Most frames of one write.
const SLICES: usize = 128;
/// Frames that there is room for while nothing is written.
const KEPT: usize = 4;
/// Ends a body in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long a write may wait without getting on.
    pub(super) write_timeout: Duration,
    /// Bytes that wait in the kernel for a peer that takes nothing.
    pub(super) unsent: u32,
    /// Bytes that the peer may send, none of which mean anything.
    pub(super) received: usize,
}

/// Writes a source's frames until it ends, the heartbeats close, or the peer is gone.
pub(super) async fn write(
    connection: Connection,
    bounds: Bounds,
    mut source: impl Source,
    mut heartbeat: Heartbeat,
) {
    let _open = OpenStream::begin();
    let mut wire = Wire::new(connection, bounds);
    let mut frames = Vec::new();
    loop {
        // Even one that is always ready lets others run.
        tokio::task::coop::consume_budget().await;
        let more = {
            let mut next = pin!(source.next(&mut frames));
            loop {
                // A source that is always ready must not keep a heartbeat, or the end, from being noticed.
                let beat = match heartbeat.has_changed() {
                    Ok(false) => {
                        tokio::select! {
                            biased;
                            more = next.as_mut() => break more,
                            beat = heartbeat.changed() => beat.is_ok(),
                            () = wire.left() => return,
                        }
                    }
                    changed => changed.is_ok(),
                };
                if !beat {
                    break false;
                }
                let frame = heartbeat.borrow_and_update().clone();
                if wire.frames(std::slice::from_ref(&frame)).await.is_err() {
                    return;
                }
            }
        };
        if wire.frames(&frames).await.is_err() {
            return;
        }
        if !more {
            return wire.end().await;
        }
        frames.clear();
        frames.shrink_to(KEPT);
    }
}

/// The connection, with its bounds.
struct Wire {
    socket: TcpStream,
    chunked: bool,
    bounds: Bounds,
    _permit: OwnedSemaphorePermit,
}

impl Wire {
    fn new(connection: Connection, bounds: Bounds) -> Self {
        let Connection { socket, chunked, permit } = connection;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(bounds.unsent) {
            tracing::debug!(%error, "the kernel does not bound what waits in it");
        }
        Self { socket, chunked, bounds, _permit: permit }
    }

    async fn frames(&mut self, frames: &[Frame]) -> io::Result<()> {
        if self.chunked {
            self.write(frames, |frame| frame.chunk()).await
        } else {
            self.write(frames, Frame::payload).await
        }
    }

    /// Ends the answer in good order.
    async fn end(mut self) {
        if self.chunked && self.write(&[LAST_CHUNK], |bytes| bytes).await.is_err() {
            return;
        }
        // Dropping it closes it just as well.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.socket).await;
    }

    /// Writes all of it, as much at a time as one write holds.
    ///
    /// # Errors
    /// The connection is of no use any more.
    async fn write<T>(&mut self, mut parts: &[T], bytes: impl Fn(&T) -> &[u8]) -> io::Result<()> {
        // Of the first part.
        let mut written = 0;
        while let Some(first) = parts.first() {
            let result = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let (mut count, mut room) = (0, WRITE);
                let left = std::iter::once(&bytes(first)[written..]).chain(parts[1..].iter().map(&bytes));
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
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Box::pin(self.writable()).await?,
                Err(error) => return Err(error),
            }
            while let Some(length) =
                parts.first().map(|part| bytes(part).len()).filter(|length| *length <= written)
            {
                written -= length;
                parts = &parts[1..];
            }
        }
        Ok(())
    }

    /// Waits until the socket takes more.
    async fn writable(&mut self) -> io::Result<()> {
        let limit = self.bounds.write_timeout;
        let wait = poll_fn(|cx| match self.poll_left(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => self.socket.poll_write_ready(cx),
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
    async fn left(&mut self) {
        poll_fn(|cx| self.poll_left(cx)).await;
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match self.socket.try_read(&mut [0; 1024]) {
                Ok(n) if n > 0 && n <= self.bounds.received => self.bounds.received -= n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

/// Counts open streams.
struct OpenStream;

impl OpenStream {
    fn begin() -> Self {
        metrics::gauge!("plugway_streams_open").increment(1.0);
        Self
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        metrics::gauge!("plugway_streams_open").decrement(1.0);
    }
}
