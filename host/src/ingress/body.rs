//! Bodies of requests: read whole, within bounds of size, time, and of the memory that all of them share.
//!
//! Invariant: no byte of a body is kept without a share of `limits.bodies`, which is given back when the body is. Large
//! bodies never take the part that is kept for small ones, so that whoever sends some does not silence the others. A
//! body that is refused is read on for a moment, since closing a connection with bytes unread resets it, and the
//! client would lose the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use bytesize::ByteSize;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::HttpLimits;
use super::error::ApiError;

/// What memory is counted in; a u32 of these is 4 TiB.
const UNIT: u64 = 1 << 10;
/// Largest body that the kept part is for, in units.
const SMALL: u64 = 64;
/// The part of all that is kept for small bodies.
const KEPT: u64 = 8;
/// What a caller should wait when there is no memory for its body.
const RETRY: Duration = Duration::from_secs(2);
/// How long a refused body is read on.
const LINGER: Duration = Duration::from_secs(5);
/// How much of a refused body is read, as a multiple of `limits.body`.
const LINGER_BODIES: u64 = 4;

/// Reads bodies.
#[derive(Debug)]
pub(super) struct Bodies {
    limits: Arc<HttpLimits>,
    /// For every body.
    common: Arc<Semaphore>,
    /// For small bodies when there is no room in `common`.
    kept: Arc<Semaphore>,
    lingering: TaskTracker,
    stop: CancellationToken,
}

/// A body, and its share of the budget, to be held for as long.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The whole body.
    pub(super) bytes: Bytes,
    /// None for an empty one.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Reads bodies within the limits, and refused ones until `stop` at the latest.
    pub(super) fn new(limits: Arc<HttpLimits>, stop: CancellationToken) -> Self {
        let semaphore = |bytes: ByteSize| {
            let units = usize::try_from(units(bytes.as_u64())).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
        };
        let common = room_for_one(limits.bodies);
        let kept = ByteSize(limits.bodies.as_u64() - common.as_u64());
        Self { common: semaphore(common), kept: semaphore(kept), limits, lingering: TaskTracker::new(), stop }
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413, 408, 503 or 400: it is too large, too slow, there is no memory for it, or it broke off.
    pub(super) async fn read(&self, headers: &HeaderMap, body: &mut Body) -> Result<Held, ApiError> {
        let declared = content_length(headers);
        if declared == Some(0) || !has_body(headers) {
            return Ok(Held::default());
        }
        if declared.is_some_and(|declared| declared > self.limits.body.as_u64()) {
            return Err(self.too_large());
        }
        // What is declared is only looked for, not reserved: connections that send nothing must not hold all of it.
        if declared.is_some_and(|declared| !self.has_room(units(declared))) {
            return Err(no_memory());
        }
        match tokio::time::timeout(self.limits.body_timeout, self.collect(body)).await {
            Ok(result) => result,
            Err(_) => {
                let limit = humantime::format_duration(self.limits.body_timeout);
                Err(ApiError::request_timeout(format!(
                    "the body did not come within {limit} (limits.body_timeout)"
                )))
            }
        }
    }

    async fn collect(&self, body: &mut Body) -> Result<Held, ApiError> {
        // Copied together as they come: small pieces would cost many times what they hold.
        let mut bytes = BytesMut::new();
        let mut share = None;
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| ApiError::bad_request("body", format!("the body can't be read: {error}")))?;
            let Ok(piece) = frame.into_data() else { continue };
            let length = (bytes.len() + piece.len()) as u64;
            if length > self.limits.body.as_u64() {
                return Err(self.too_large());
            }
            share = Some(self.grow(share, units(length)).ok_or_else(no_memory)?);
            bytes.extend_from_slice(&piece);
        }
        Ok(Held { bytes: bytes.freeze(), permit: share })
    }

    fn has_room(&self, units: u64) -> bool {
        let room = |part: &Semaphore| units <= part.available_permits() as u64;
        room(&self.common) || (units <= SMALL && room(&self.kept))
    }

    /// A share of so many units in place of a smaller one, if there is room.
    fn grow(&self, share: Option<OwnedSemaphorePermit>, units: u64) -> Option<OwnedSemaphorePermit> {
        let take = |part: &Arc<Semaphore>, units: u64| {
            part.clone().try_acquire_many_owned(u32::try_from(units).ok()?).ok()
        };
        if let Some(mut share) = share {
            let more = units.saturating_sub(share.num_permits() as u64);
            if more == 0 {
                return Some(share);
            }
            let part = share.semaphore().clone();
            if (units <= SMALL || Arc::ptr_eq(&part, &self.common))
                && let Some(more) = take(&part, more)
            {
                share.merge(more);
                return Some(share);
            }
        }
        take(&self.common, units).or_else(|| take(&self.kept, units).filter(|_| units <= SMALL))
    }

    /// Reads on what is left of the body of a request that is being refused, beside its answer.
    pub(super) fn linger(&self, headers: &HeaderMap, mut body: Body) {
        // Who waits to be told to go on has not sent anything.
        if !has_body(headers) || headers.contains_key(header::EXPECT) || http_body::Body::is_end_stream(&body)
        {
            return;
        }
        let (until, stop) = (Instant::now() + LINGER, self.stop.clone());
        let most = self.limits.body.as_u64().saturating_mul(LINGER_BODIES);
        self.lingering.spawn(async move {
            let drain = async {
                let mut read = 0;
                while read < most
                    && let Some(Ok(frame)) = body.frame().await
                {
                    read += frame.data_ref().map_or(0, Bytes::len) as u64;
                }
            };
            tokio::select! {
                // The connection may be gone, it may have read enough, or the gateway stops: either way it is over.
                _ = tokio::time::timeout_at(until, drain) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn too_large(&self) -> ApiError {
        let bound: ByteSize = self.limits.body;
        ApiError::too_large("body", format!("the body is larger than {bound} (limits.body)"))
    }
}

/// The largest body that ever finds room where all bodies have so much.
pub(super) fn room_for_one(bodies: ByteSize) -> ByteSize {
    ByteSize(bodies.as_u64() - bodies.as_u64() / KEPT)
}

fn no_memory() -> ApiError {
    metrics::counter!("plugway_bodies_refused_total").increment(1);
    ApiError::unavailable("too many bodies are under way (limits.bodies); try again later", RETRY)
}

/// Units that so many bytes take.
fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || content_length(headers).is_some_and(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn bodies(body: u64, bodies: u64) -> Bodies {
        let limits = HttpLimits {
            body: ByteSize::kib(body),
            bodies: ByteSize::kib(bodies),
            body_timeout: Duration::from_secs(30),
            header: ByteSize::kib(32),
            header_timeout: Duration::from_secs(30),
            connections: 1,
            trusted_proxies: Vec::new(),
        };
        Bodies::new(Arc::new(limits), CancellationToken::new())
    }

    fn of_length(length: usize) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from(length))])
    }

    fn chunked() -> HeaderMap {
        HeaderMap::from_iter([(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))])
    }

    async fn read(bodies: &Bodies, headers: &HeaderMap, length: usize) -> Result<Held, StatusCode> {
        bodies.read(headers, &mut Body::from(vec![0; length])).await.map_err(|error| error.status())
    }

    /// What is free, in KiB.
    fn free(bodies: &Bodies) -> (usize, usize) {
        (bodies.common.available_permits(), bodies.kept.available_permits())
    }

    #[tokio::test]
    async fn bodies_share_a_budget_and_give_it_back() {
        let bodies = bodies(112, 256);
        for headers in [of_length(112 << 10), chunked()] {
            let first = read(&bodies, &headers, 112 << 10).await.unwrap();
            let second = read(&bodies, &headers, 112 << 10).await.unwrap();
            assert_eq!(second.bytes.len(), 112 << 10);
            assert_eq!(free(&bodies), (0, 32));
            assert_eq!(read(&bodies, &headers, 70 << 10).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
            drop(first);
            assert_eq!(read(&bodies, &headers, 70 << 10).await.unwrap().bytes.len(), 70 << 10);
            drop(second);
            assert_eq!(free(&bodies), (224, 32));
        }
    }

    #[tokio::test]
    async fn small_bodies_find_room_when_large_ones_have_taken_theirs() {
        let bodies = bodies(224, 256);
        let large = read(&bodies, &chunked(), 224 << 10).await.unwrap();
        for headers in [of_length(20 << 10), chunked()] {
            let small = read(&bodies, &headers, 20 << 10).await.unwrap();
            assert_eq!(free(&bodies), (0, 12));
            assert_eq!(read(&bodies, &headers, 20 << 10).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
            drop(small);
        }
        drop(large);
        assert_eq!(free(&bodies), (224, 32));
    }

    #[tokio::test]
    async fn a_body_that_outgrows_the_part_for_small_ones_moves_or_ends() {
        let bodies = bodies(160, 1_024);
        let grown = |length: u64| bodies.grow(bodies.grow(None, 40), length);
        assert_eq!(bodies.common.available_permits(), 896);
        let all = bodies.common.clone().acquire_many_owned(896).await.unwrap();
        assert!(grown(65).is_none());
        assert_eq!(grown(64).unwrap().num_permits(), 64);
        let small = bodies.grow(None, 40);
        drop(all);
        let moved = bodies.grow(small, 65).unwrap();
        assert_eq!((moved.num_permits(), free(&bodies)), (65, (896 - 65, 128)));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_keeps_nothing() {
        let bodies = bodies(8, 16);
        for headers in [of_length((8 << 10) + 1), chunked()] {
            let error = read(&bodies, &headers, (8 << 10) + 1).await.unwrap_err();
            assert_eq!(error, StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(free(&bodies), (14, 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_and_gives_its_share_back() {
        let bodies = bodies(8, 16);
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"some"))]);
        let mut body = Body::from_stream(futures::StreamExt::chain(pieces, futures::stream::pending()));
        let error = bodies.read(&chunked(), &mut body).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(free(&bodies), (14, 2));
    }
}
