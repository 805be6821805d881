//! Which addresses may be connected to. Everything that is not plainly a host on the public internet is denied, unless
//! the operator listed its network. Source: the IANA special-purpose address registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}")]
pub(crate) struct DeniedAddress {
    /// The address.
    pub(crate) address: IpAddr,
    /// What it is, as "a loopback address".
    pub(crate) kind: &'static str,
    /// The network that would have to be allowed.
    pub(crate) network: IpNet,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, d: u16, e: u16, f: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), prefix)
}

/// Searched in order; the first that holds the address names it.
const DENIED_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "an unspecified address"),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a carrier-grade NAT address"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(168, 63, 129, 16, 32), "a cloud metadata address"),
    (v4(169, 254, 0, 0, 16), "a link-local or metadata address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "a protocol assignment address"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay address"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

const DENIED_V6: &[(Ipv6Net, &str)] = &[
    (v6(0, 0, 0, 0, 0, 0, 128), "an unspecified address"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback address"),
    (v6(0, 0, 0, 0, 0, 0, 96), "an IPv4-compatible address"),
    (v6(0, 0, 0, 0, 0, 0xffff, 96), "an IPv4-mapped address"),
    (v6(0, 0, 0, 0, 0xffff, 0, 96), "an IPv4-translated address"),
    (v6(0x64, 0xff9b, 0, 0, 0, 0, 96), "a NAT64 address"),
    (v6(0x64, 0xff9b, 1, 0, 0, 0, 48), "a NAT64 address"),
    (v6(0x100, 0, 0, 0, 0, 0, 64), "a discard address"),
    (v6(0x2001, 0, 0, 0, 0, 0, 32), "a Teredo address"),
    (v6(0x2001, 2, 0, 0, 0, 0, 48), "a benchmarking address"),
    (v6(0x2001, 0, 0, 0, 0, 0, 23), "a protocol assignment address"),
    (v6(0x2001, 0xdb8, 0, 0, 0, 0, 32), "a documentation address"),
    (v6(0x2002, 0, 0, 0, 0, 0, 16), "a 6to4 address"),
    (v6(0x3fff, 0, 0, 0, 0, 0, 20), "a documentation address"),
    (v6(0xfc00, 0, 0, 0, 0, 0, 7), "a unique-local address"),
    (v6(0xfe80, 0, 0, 0, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 0, 0, 0, 10), "a site-local address"),
    (v6(0xff00, 0, 0, 0, 0, 0, 8), "a multicast address"),
];

/// All of IPv6 that is given out to hosts.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 0, 0, 0, 3);

/// Judges an address.
///
/// # Errors
/// It is of a range that nobody on the public internet has, and none of the allowed networks holds it. An allowed IPv4
/// network also allows its addresses written as IPv4-mapped ones.
pub(crate) fn check(address: IpAddr, allowed: &[IpNet]) -> Result<(), DeniedAddress> {
    let mapped = match address {
        IpAddr::V6(address) => address.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    let listed = |address: &IpAddr| allowed.iter().any(|network| network.contains(address));
    if listed(&address) || mapped.as_ref().is_some_and(listed) {
        return Ok(());
    }
    let denied = |kind, network| Err(DeniedAddress { address, kind, network });
    match address {
        IpAddr::V4(v4) => match DENIED_V4.iter().find(|(network, _)| network.contains(&v4)) {
            Some((network, kind)) => denied(kind, IpNet::V4(*network)),
            None => Ok(()),
        },
        IpAddr::V6(v6) => match DENIED_V6.iter().find(|(network, _)| network.contains(&v6)) {
            Some((network, kind)) => denied(kind, IpNet::V6(*network)),
            None if GLOBAL_V6.contains(&v6) => Ok(()),
            None => denied("a reserved address", IpNet::from(address)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, allowed: &[&str]) -> Result<(), &'static str> {
        let allowed: Vec<IpNet> = allowed.iter().map(|network| network.parse().unwrap()).collect();
        check(text.parse().unwrap(), &allowed).map_err(|denied| denied.kind)
    }

    #[test]
    fn public_hosts_are_reached() {
        for address in
            ["8.8.8.8", "149.154.167.220", "1.1.1.1", "2606:4700::1111", "2001:67c:4e8::a", "2a00::1"]
        {
            assert_eq!(verdict(address, &[]), Ok(()), "{address}");
        }
    }

    #[test]
    fn everything_else_is_denied() {
        let table = [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "private"),
            ("100.64.0.1", "carrier-grade"),
            ("100.100.100.200", "carrier-grade"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "metadata"),
            ("169.254.169.254", "metadata"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "protocol"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4"),
            ("192.168.1.1", "private"),
            ("198.19.0.1", "benchmarking"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::7f00:1", "IPv4-compatible"),
            ("::8.8.8.8", "IPv4-compatible"),
            ("::ffff:127.0.0.1", "IPv4-mapped"),
            ("::ffff:8.8.8.8", "IPv4-mapped"),
            ("::ffff:0:127.0.0.1", "IPv4-translated"),
            ("64:ff9b::7f00:1", "NAT64"),
            ("64:ff9b:1::1", "NAT64"),
            ("100::1", "discard"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
            ("2001:2::1", "benchmarking"),
            ("2001:20::1", "protocol"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::", "6to4"),
            ("3fff::1", "documentation"),
            ("4000::1", "reserved"),
            ("5f00::1", "reserved"),
            ("fd00:ec2::254", "unique-local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ];
        for (address, kind) in table {
            let denied = verdict(address, &[]).unwrap_err();
            assert!(denied.contains(kind), "{address}: {denied}");
        }
    }

    #[test]
    fn a_listed_network_is_reached_and_nothing_beside_it() {
        assert_eq!(verdict("127.0.0.1", &["127.0.0.0/8"]), Ok(()));
        assert_eq!(verdict("::ffff:127.0.0.1", &["127.0.0.0/8"]), Ok(()));
        assert_eq!(verdict("10.1.2.3", &["10.1.0.0/16", "fd00::/8"]), Ok(()));
        assert_eq!(verdict("fd00::7", &["10.1.0.0/16", "fd00::/8"]), Ok(()));
        assert!(verdict("10.2.0.1", &["10.1.0.0/16"]).is_err());
        assert!(verdict("64:ff9b::7f00:1", &["127.0.0.0/8"]).is_err());
    }
}
