//! A stream's connection after the HTTP library has let it go: one small task that waits for the source, for a
//! heartbeat and for the peer's leaving, and writes. While many streams show the same, a group writes for them.
//!
//! It keeps no queue and, while it waits, no buffer. While a write waits nothing is taken from the source, so that what
//! a slow client costs is what one write holds, and what is pending by then goes out together.

use std::pin::pin;

use super::handover::Connection;
use super::heartbeat::Heartbeat;
use super::multicast::{Departure, Membership, Relative, Shared};
use super::sse::Source;
use super::wire::{Bounds, Wire};

/// Frames that there is room for while nothing is written.
const KEPT: usize = 4;

/// How a time in a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The stream goes on by itself.
    Group,
    /// The stream has to end.
    Stream,
    /// The peer is gone.
    Peer,
}

/// Writes a source's frames until it ends, the heartbeats close, or the peer is gone.
pub(super) async fn write<S: Source>(
    connection: Connection,
    bounds: Bounds,
    mut source: S,
    mut heartbeat: Heartbeat,
    relative: Relative<S::Shared>,
) {
    let _open = OpenStream::begin();
    let mut wire = Wire::new(connection, bounds);
    let mut frames = Vec::new();
    loop {
        // Even one that is always ready lets others run.
        tokio::task::coop::consume_budget().await;
        let membership =
            source.place().and_then(|place| relative.join(wire.outlet(), place, || source.shared()));
        if let Some(membership) = membership {
            let left = stay(&membership, &mut wire, &mut source, &mut heartbeat).await;
            let Departure { place, unwritten, ended } = membership.leave();
            source.move_to(place);
            if left == Left::Peer {
                return;
            }
            if let Some(unwritten) = unwritten
                && Box::pin(wire.rest(unwritten)).await.is_err()
            {
                return;
            }
            if ended || left == Left::Stream {
                return wire.end().await;
            }
        }
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

/// Lets the group write, until the stream has to do so by itself.
async fn stay<S: Source>(
    membership: &Membership<<S::Shared as Shared>::Place>,
    wire: &mut Wire,
    source: &mut S,
    heartbeat: &mut Heartbeat,
) -> Left {
    let mut own = pin!(source.own());
    let mut out = pin!(membership.out());
    loop {
        tokio::select! {
            biased;
            () = out.as_mut() => return Left::Group,
            () = own.as_mut() => return Left::Group,
            beat = heartbeat.changed() => match beat {
                Ok(()) => {
                    let frame = heartbeat.borrow_and_update().clone();
                    membership.write(&frame);
                }
                Err(_) => return Left::Stream,
            },
            () = wire.left() => return Left::Peer,
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
