//! What one address may do on the feed: so many streams at once, so many requests a minute. Off unless it is configured.
//!
//! Invariant: memory is bounded however many addresses there are. An address of IPv6 is its network of 64 bits, since that
//! is what one subscriber gets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::ApiError;

/// Addresses whose requests are counted at once.
const ADDRESSES: usize = 65_536;
const MINUTE: Duration = Duration::from_secs(60);
/// What who has too many streams open is told to wait.
const STREAMS_RETRY: Duration = Duration::from_secs(30);

/// Counts what addresses do.
#[derive(Debug)]
pub(super) struct PerAddress {
    connections: u32,
    per_minute: u32,
    open: Mutex<HashMap<IpAddr, u32>>,
    /// When the next request of an address would be on time, were they spread evenly.
    requests: Mutex<HashMap<IpAddr, Instant>>,
}

/// A place among the streams of an address.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    /// So many streams at once and requests a minute; 0: any number.
    pub(super) fn new(connections: u32, per_minute: u32) -> Arc<Self> {
        Arc::new(Self { connections, per_minute, open: Mutex::default(), requests: Mutex::default() })
    }

    /// Takes a place among the streams of an address; none: they are not counted.
    ///
    /// # Errors
    /// 429: it has as many as it may.
    pub(super) fn stream(self: &Arc<Self>, address: IpAddr) -> Result<Option<Permit>, ApiError> {
        if self.connections == 0 {
            return Ok(None);
        }
        let address = network(address);
        let mut open = lock(&self.open);
        let count = open.entry(address).or_insert(0);
        if *count >= self.connections {
            return Err(ApiError::too_many(
                format!(
                    "{} streams are open from your address, which is all that it may have (feed.connections_per_address); close one",
                    self.connections
                ),
                STREAMS_RETRY,
            ));
        }
        *count += 1;
        Ok(Some(Permit { limits: Arc::clone(self), address }))
    }

    /// Counts a request.
    ///
    /// # Errors
    /// 429: there were as many as may be in a minute.
    pub(super) fn request(&self, address: IpAddr, now: Instant) -> Result<(), ApiError> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let mut requests = lock(&self.requests);
        if requests.len() >= ADDRESSES {
            requests.retain(|_, due| *due > now);
            if requests.len() >= ADDRESSES {
                // Forgetting them all lets each have a minute's worth again, which is bounded as well.
                requests.clear();
            }
        }
        let due = requests.entry(network(address)).or_insert(now);
        let next = (*due).max(now) + MINUTE / self.per_minute;
        if next > now + MINUTE {
            let wait = next - (now + MINUTE);
            let message = format!(
                "your address made {} requests within a minute, which is all that it may (feed.requests_per_minute)",
                self.per_minute
            );
            return Err(ApiError::too_many(message, wait));
        }
        *due = next;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = lock(&self.limits.open);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_streams_and_gets_another_when_one_ends() {
        let limits = PerAddress::new(2, 0);
        let first = limits.stream(ip("2001:db8::1")).unwrap();
        let second = limits.stream(ip("2001:db8::2")).unwrap();
        assert_eq!(limits.stream(ip("2001:db8::3")).unwrap_err().status(), 429);
        assert!(limits.stream(ip("2001:db8:0:1::1")).is_ok() && limits.stream(ip("192.0.2.1")).is_ok());
        drop(first);
        assert!(limits.stream(ip("2001:db8::3")).is_ok());
        drop(second);
        assert!(lock(&limits.open).is_empty());
        assert!(PerAddress::new(0, 0).stream(ip("192.0.2.1")).unwrap().is_none());
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_evenly() {
        let limits = PerAddress::new(0, 6);
        let (now, at) = (Instant::now(), ip("192.0.2.1"));
        assert_eq!((0..10).filter(|_| limits.request(at, now).is_ok()).count(), 6);
        assert!(limits.request(ip("192.0.2.2"), now).is_ok());
        assert!(limits.request(at, now + Duration::from_secs(9)).is_err());
        assert!(limits.request(at, now + Duration::from_secs(10)).is_ok());
        assert!(limits.request(at, now + Duration::from_secs(11)).is_err());
        let later = now + Duration::from_secs(600);
        assert_eq!((0..10).filter(|_| limits.request(at, later).is_ok()).count(), 6);
    }

    #[test]
    fn addresses_are_bounded() {
        let limits = PerAddress::new(0, 1);
        let now = Instant::now();
        for n in 0..70_000_u32 {
            let _ = limits.request(IpAddr::V4(n.into()), now);
        }
        assert!(lock(&limits.requests).len() <= ADDRESSES);
    }
}
