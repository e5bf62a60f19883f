//! The names that this node may be called by while no key guards it.
//!
//! Whoever owns a name can let it lead here, and then a browser's page under it is of the same origin as this node (DNS
//! rebinding): it could read and push. A page cannot know a key, so with keys any name will do.

use std::net::IpAddr;

use crate::config::Config;

/// Which hosts may be called.
pub(super) struct Hosts {
    /// Besides addresses and localhost.
    names: Vec<String>,
}

impl Hosts {
    pub(super) fn of(config: &Config) -> Self {
        let advertised = config.cluster.advertise_http.as_deref().map(host);
        let known = config.http.allowed_hosts.iter().map(String::as_str);
        Self { names: known.chain(advertised).chain([config.node.id.as_str()]).map(str::to_owned).collect() }
    }

    /// Whether a `Host` header's value may be called.
    pub(super) fn admit(&self, authority: &[u8]) -> bool {
        let Ok(authority) = std::str::from_utf8(authority) else { return false };
        let host = host(authority);
        host.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|name| host.eq_ignore_ascii_case(name))
    }
}

/// The host of `host`, `host:port` or `[address]:port`, without the dot that may end a name.
fn host(authority: &str) -> &str {
    if let Some((address, port)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return if port.is_empty() || port.starts_with(':') { address } else { authority };
    }
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hosts(settings: &[(&str, &str)]) -> Hosts {
        let settings = settings.iter().map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
        Hosts::of(&crate::config::load(None, settings).unwrap())
    }

    #[test]
    fn without_keys_only_addresses_localhost_and_the_nodes_own_names_may_be_called() {
        let own = [
            ("NODE__ID", "gateway-1"),
            ("HTTP__ALLOWED_HOSTS", "push.internal, Push2.internal"),
            ("CLUSTER__ADVERTISE_HTTP", "node7.internal:8081"),
        ];
        let hosts = hosts(&own);
        for (host, may) in [
            ("127.0.0.1:8081", true),
            ("10.1.2.3", true),
            ("[::1]:8081", true),
            ("[fe80::1]", true),
            ("localhost", true),
            ("LocalHost.:8081", true),
            ("gateway-1:8081", true),
            ("PUSH.internal", true),
            ("push2.internal:80", true),
            ("node7.internal", true),
            ("evil.example:8081", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("[::1].evil.example", false),
            ("gateway-2:8081", false),
            ("x", false),
            ("", false),
        ] {
            assert_eq!(hosts.admit(host.as_bytes()), may, "{host}");
        }
        assert!(!hosts.admit(b"\xff"));
    }
}
