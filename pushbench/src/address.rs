//! `ws://`, `http://` addresses, and the loopback addresses that connections come from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use crate::Result;

/// Connections are spread over 127.0.0.2 and its followers: each has some 28,000 ports of its own, and those of the run
/// before still wait.
const LOOPBACK_SOURCES: u8 = 16;

/// Where to connect, and what to ask for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    /// For the Host header.
    pub(crate) host: String,
    /// With its query; empty when the address has none.
    pub(crate) path: String,
}

impl Address {
    pub(crate) fn parse(text: &str, scheme: &str) -> Result<Self> {
        let rest = text
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("://"))
            .ok_or_else(|| format!("{text}: must begin with {scheme}:// (TLS is not spoken)"))?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let socket = host
            .to_socket_addrs()
            .map_err(|error| format!("{text}: {error}; give host and port"))?
            .next()
            .ok_or_else(|| format!("{text}: the host has no address"))?;
        let path = if path == "/" { "" } else { path };
        Ok(Self { socket, host: host.into(), path: path.into() })
    }

    /// The source address of the connection of this number, where the target is on loopback.
    pub(crate) fn source(&self, number: u32) -> Option<SocketAddr> {
        match self.socket.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                let last = 2 + (number % u32::from(LOOPBACK_SOURCES)) as u8;
                Some(SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), 0))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_split_into_socket_host_and_path() {
        let address = Address::parse("ws://127.0.0.1:8080/ws?x=1", "ws").unwrap();
        assert_eq!(address.socket, "127.0.0.1:8080".parse().unwrap());
        assert_eq!((address.host.as_str(), address.path.as_str()), ("127.0.0.1:8080", "/ws?x=1"));
        assert_eq!(Address::parse("http://127.0.0.1:1/", "http").unwrap().path, "");
    }

    #[test]
    fn other_schemes_and_missing_ports_are_refused() {
        assert!(Address::parse("wss://127.0.0.1:1/ws", "ws").is_err());
        assert!(Address::parse("ws://127.0.0.1/ws", "ws").is_err());
    }

    #[test]
    fn connections_come_from_several_loopback_addresses() {
        let address = Address::parse("ws://127.0.0.1:8080/ws", "ws").unwrap();
        assert_eq!(address.source(0).unwrap().ip().to_string(), "127.0.0.2");
        assert_eq!(address.source(15).unwrap().ip().to_string(), "127.0.0.17");
        assert_eq!(address.source(16), address.source(0));
        assert_eq!(Address::parse("ws://192.0.2.1:8080", "ws").unwrap().source(1), None);
    }
}
