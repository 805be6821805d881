//! Where a request came from: the peer's address, or what the proxies that the operator trusts say of it.
//!
//! Invariant: only a trusted proxy is believed, and only about the hop that it saw itself. Everything to the left of
//! that in `X-Forwarded-For` was written by the caller.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// The caller's address.
pub(super) fn address(peer: SocketAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let trusted = |ip: &IpAddr| trusted_proxies.iter().any(|net| net.contains(ip));
    let mut client = peer.ip().to_canonical();
    // Proxies add on the right, each in a field of its own or not.
    let fields: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let hops = fields.iter().rev().flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops {
        if !trusted(&client) {
            break;
        }
        let Some(hop) = std::str::from_utf8(hop).ok().and_then(|hop| parse(hop.trim())) else { break };
        client = hop;
    }
    client
}

/// An address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse(hop: &str) -> Option<IpAddr> {
    let bare =
        || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6);
    let ip = hop.parse::<IpAddr>().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|hop| hop.ip()));
    ip.or_else(bare).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seen_from(peer: &str, fields: &[&str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(field.as_bytes()).unwrap());
        }
        address(SocketAddr::new(peer.parse().unwrap(), 1), &headers, &trusted).to_string()
    }

    #[test]
    fn the_hop_that_a_trusted_proxy_saw_is_the_client() {
        assert_eq!(seen_from("10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(seen_from("10.0.0.1", &["203.0.113.7, 10.0.0.2"]), "203.0.113.7");
        assert_eq!(seen_from("10.0.0.1", &["203.0.113.7", "10.0.0.2"]), "203.0.113.7");
        assert_eq!(seen_from("10.0.0.1", &["10.0.0.3,10.0.0.2"]), "10.0.0.3", "the farthest proxy");
        assert_eq!(seen_from("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_callers_write_themselves_is_not_believed() {
        assert_eq!(seen_from("203.0.113.7", &["198.51.100.1"]), "203.0.113.7", "no proxy of ours");
        assert_eq!(seen_from("10.0.0.1", &["198.51.100.1, 203.0.113.7"]), "203.0.113.7");
        assert_eq!(seen_from("10.0.0.1", &["198.51.100.1", "203.0.113.7"]), "203.0.113.7");
        // An unreadable hop hides who wrote what is left of it.
        for unreadable in ["unknown", "", "203.0.113", "\u{fc}", "203.0.113.7:80:80", "[203.0.113.7]"] {
            let field = format!("198.51.100.1, {unreadable}, 10.0.0.2");
            assert_eq!(seen_from("10.0.0.1", &[&field]), "10.0.0.2", "for {unreadable:?}");
            assert_eq!(
                seen_from("10.0.0.1", &["198.51.100.1", unreadable]),
                "10.0.0.1",
                "for {unreadable:?}"
            );
        }
    }

    #[test]
    fn addresses_may_have_ports_and_are_canonical() {
        assert_eq!(seen_from("10.0.0.1", &["203.0.113.7:4711"]), "203.0.113.7");
        assert_eq!(seen_from("fd00::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(seen_from("fd00::1", &["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(seen_from("fd00::1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(seen_from("::ffff:10.0.0.1", &["203.0.113.7, ::ffff:10.0.0.2"]), "203.0.113.7");
        assert_eq!(seen_from("::ffff:203.0.113.7", &["198.51.100.1"]), "203.0.113.7");
    }
}
