//! `host:port`, as other machines are named.

use std::{net::SocketAddr, str::FromStr};

use url::Host;

/// A host (a name, an IPv4 address, or an IPv6 address in brackets) with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port; 0 is one here.
    pub port: u16,
}

/// The text is no `host:port`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host:port")]
pub struct HostPortError;

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError)?;
        let host = Host::parse(host).or_else(|_| unlike_an_url(text, host)).map_err(|()| HostPortError)?;
        let port = port.parse().map_err(|_| HostPortError)?;
        Ok(Self { host, port })
    }
}

/// What no URL has as its host, and a socket may: an IPv6 address with a zone, and a name whose last label is a number.
fn unlike_an_url(text: &str, host: &str) -> Result<Host, ()> {
    if let Ok(SocketAddr::V6(address)) = text.parse() {
        return Ok(Host::Ipv6(*address.ip()));
    }
    let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let has_letter = host.bytes().any(|byte| byte.is_ascii_alphabetic());
    (is_name && has_letter).then(|| Host::Domain(host.to_owned())).ok_or(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_has_a_port() {
        for text in
            ["nsqd:4150", "nsqd_1.internal:4150", "10.0.0.1:1", "[::1]:65535", "a:0", "[fe80::1%2]:4150", "nsqd.1:4150"]
        {
            assert!(text.parse::<HostPort>().is_ok(), "{text}");
        }
        for text in ["", "nsqd", ":4150", "a:65536", "::1:80", "a b:80", "http://a:80", "a/b:80", "999.0.0.1:80"] {
            assert_eq!(text.parse::<HostPort>(), Err(HostPortError), "{text}");
        }
    }
}
