//! The client's address, also behind proxies that are trusted.

use std::net::IpAddr;

use hyper::header::HeaderMap;

use crate::config::Subnet;

/// The address that `peer` stands for: itself, unless it is a trusted proxy; then the rightmost address of
/// X-Forwarded-For that is not one of the trusted proxies. What stands left of that may be forged.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Subnet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    let mut client = peer;
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(address) = parse(entry.trim()) else { break };
        client = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    client
}

fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(entry, |(address, _)| address);
    let address = bare.parse().ok().or_else(|| entry.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// Whether `address` is that of a proxy which tells whom it stands for.
pub(super) fn is_trusted(address: IpAddr, trusted: &[Subnet]) -> bool {
    trusted.iter().any(|subnet| subnet.contains(address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use hyper::header::{HeaderMap, HeaderName, HeaderValue};

    use super::{Subnet, client};

    fn subnet(address: &str, bits: u8) -> Subnet {
        format!("{address}/{bits}").parse().unwrap()
    }

    fn seen(peer: &str, forwarded: &[&str], trusted: &[Subnet]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(HeaderName::from_static("x-forwarded-for"), HeaderValue::from_str(line).unwrap());
        }
        client(peer.parse().unwrap(), &headers, trusted).to_string()
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        let trusted = [subnet("10.0.0.0", 8), subnet("fd00::", 8)];
        assert_eq!(seen("1.2.3.4", &["9.9.9.9"], &trusted), "1.2.3.4");
        assert_eq!(seen("10.1.1.1", &["9.9.9.9"], &trusted), "9.9.9.9");
        assert_eq!(seen("::ffff:10.1.1.1", &["9.9.9.9"], &trusted), "9.9.9.9");
        assert_eq!(seen("fd00::1", &["[2001:db8::1]:443"], &trusted), "2001:db8::1");
        assert_eq!(seen("10.1.1.1", &["9.9.9.9"], &[]), "10.1.1.1");
        assert_eq!(seen("10.1.1.1", &["9.9.9.9"], &[subnet("0.0.0.0", 0)]), "9.9.9.9");
    }

    #[test]
    fn the_rightmost_untrusted_address_counts() {
        let trusted = [subnet("10.0.0.0", 8)];
        assert_eq!(seen("10.1.1.1", &["6.6.6.6, 9.9.9.9, 10.2.2.2"], &trusted), "9.9.9.9");
        assert_eq!(seen("10.1.1.1", &["6.6.6.6", "9.9.9.9"], &trusted), "9.9.9.9");
        assert_eq!(seen("10.1.1.1", &["rubbish"], &trusted), "10.1.1.1");
        assert_eq!(seen("10.1.1.1", &["rubbish, 10.3.3.3"], &trusted), "10.3.3.3");
        assert_eq!(seen("10.1.1.1", &[], &trusted), "10.1.1.1");
    }
}
