//! `host:port`, as other machines are named.

use std::str::FromStr;

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
        let host = Host::parse(host).map_err(|_| HostPortError)?;
        let port = port.parse().map_err(|_| HostPortError)?;
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_has_a_port() {
        for text in ["nsqd:4150", "nsqd_1.internal:4150", "10.0.0.1:1", "[::1]:65535", "a:0"] {
            assert!(text.parse::<HostPort>().is_ok(), "{text}");
        }
        for text in ["", "nsqd", ":4150", "a:65536", "::1:80", "a b:80", "http://a:80", "a/b:80", "999.0.0.1:80"] {
            assert_eq!(text.parse::<HostPort>(), Err(HostPortError), "{text}");
        }
    }
}
