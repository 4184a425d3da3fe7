//! Where a request comes from: the connection's other end or, when that is a proxy that the operator trusts, whom the
//! proxies name in `x-forwarded-for`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Addresses of a request's `x-forwarded-for` that are looked at, from the end.
const HOPS_MAX: usize = 20;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    first: IpAddr,
    prefix: u32,
}

impl Network {
    /// `10.0.0.0/8`, `fd00::/8`, or an address alone.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().ok()?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        let network = Self { first, prefix };
        // Bits after the prefix are a mistake: which network was meant?
        (prefix <= bits && network.start(first) == first).then_some(network)
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.start(address) == self.first
    }

    /// The first address of the network of this size that `address` is in.
    fn start(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix.min(32)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix.min(128)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }
}

/// Whether one of the networks has the address.
pub(crate) fn is_trusted(networks: &[Network], address: IpAddr) -> bool {
    networks
        .iter()
        .any(|network| network.contains(address.to_canonical()))
}

/// Where a request comes from that `peer` sent. Each proxy adds whom it heard from at the end, so that is read backwards: the
/// first one that is no trusted proxy is the client, and whatever stands before was written by the client itself.
pub(crate) fn client_address(networks: &[Network], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(networks, client) {
        return client;
    }
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops.take(HOPS_MAX) {
        // What can't be read was not written by a proxy that is to be trusted.
        let Some(address) = std::str::from_utf8(hop).ok().and_then(hop_address) else {
            break;
        };
        client = address.to_canonical();
        if !is_trusted(networks, client) {
            break;
        }
    }
    client
}

/// An address, maybe with a port, as some proxies write it.
fn hop_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return Some(socket.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_prefixes() {
        for good in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "192.0.2.1",
            "::1",
            "fd00::/8",
            "1.2.3.4/32",
        ] {
            assert!(Network::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "localhost",
            "10.0.0.0/",
            "fd01::/8",
            "10/8",
        ] {
            assert!(Network::parse(bad).is_none(), "{bad}");
        }
        let inside = |network: &str, address: &str| {
            Network::parse(network)
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(inside("10.0.0.0/8", "10.255.0.1") && !inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("0.0.0.0/0", "9.9.9.9") && !inside("0.0.0.0/0", "::1"));
        assert!(inside("fd00::/8", "fdff::1") && !inside("fd00::/8", "fe00::1"));
    }

    #[test]
    fn only_what_trusted_proxies_say_counts() {
        let networks: Vec<Network> = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|text| Network::parse(text).unwrap())
            .collect();
        let client = |peer: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, line.parse().unwrap());
            }
            client_address(&networks, peer.parse().unwrap(), &headers).to_string()
        };
        for (peer, lines, expected) in [
            ("192.0.2.1", &["198.51.100.9"][..], "192.0.2.1"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("::ffff:127.0.0.1", &["198.51.100.9"], "198.51.100.9"),
            ("127.0.0.1", &["198.51.100.9"], "198.51.100.9"),
            // The client's own claims stand before what the proxies add.
            (
                "127.0.0.1",
                &["10.0.0.7, 203.0.113.5, 198.51.100.9"],
                "198.51.100.9",
            ),
            (
                "127.0.0.1",
                &["203.0.113.5", "198.51.100.9, 10.0.0.2"],
                "198.51.100.9",
            ),
            ("10.0.0.1", &["2001:db8::7, fd00::2, 10.0.0.2"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.9:4711"], "198.51.100.9"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["203.0.113.5, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
    }
}
