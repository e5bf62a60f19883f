//! Networks in CIDR form.

use std::{net::IpAddr, str::FromStr};

use ipnet::{AddrParseError, IpNet, Ipv4Net};

/// Bits of the prefix under which IPv6 shows IPv4 addresses, `::ffff:0:0/96`.
const MAPPED: u8 = 96;

/// A network in CIDR form; a bare address is a network of one. One of IPv4 addresses mapped into IPv6 is that of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet(IpNet);

/// The text is no network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a network")]
pub struct SubnetError(#[from] AddrParseError);

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse()?,
        };
        let IpAddr::V4(address) = network.addr().to_canonical() else { return Ok(Self(network)) };
        let bits = if network.addr().is_ipv6() { network.prefix_len().checked_sub(MAPPED) } else { None };
        let mapped = bits.and_then(|bits| Ipv4Net::new(address, bits).ok());
        Ok(Self(mapped.map_or(network, IpNet::V4)))
    }
}

impl Subnet {
    /// Whether `address` is of this network; an IPv4 address mapped into IPv6 counts as itself.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own_addresses_only() {
        let net: Subnet = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.2.3".parse().unwrap()) && net.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!net.contains("10.2.0.1".parse().unwrap()) && !net.contains("fe80::1".parse().unwrap()));
        let all: Subnet = "::/0".parse().unwrap();
        assert!(all.contains("fe80::1".parse().unwrap()));
        let mapped: Subnet = "::ffff:10.1.0.0/112".parse().unwrap();
        assert!(mapped.contains("10.1.2.3".parse().unwrap()) && !mapped.contains("10.2.0.1".parse().unwrap()));
        let one: Subnet = "192.168.0.1".parse().unwrap();
        assert!(one.contains("192.168.0.1".parse().unwrap()) && !one.contains("192.168.0.2".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.0/x", "example.org", "::/129"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
