//! The addresses that others reach this node by: configured, or found from its listeners and its host.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::{net::TcpStream, sync::watch};
use url::Host;

use crate::config::{self, HostPort, NodeRoles};

use super::Listeners;

/// host:port of each listener, as others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Empty where nobody listens.
    pub(super) socket: String,
    pub(super) http: String,
    pub(super) grpc: String,
    pub(super) peers: Option<String>,
    /// Those that the configuration names, with their key: the ones that can be wrong.
    configured: Vec<(&'static str, String)>,
}

/// # Errors
/// An address that must not or cannot be advertised, and what to do.
pub(super) async fn advertised(
    config: &config::ClusterConfig,
    listeners: Listeners,
    roles: NodeRoles,
) -> Result<Addresses, String> {
    let mut configured = Vec::new();
    let allow_loopback = config.allow_loopback;
    let mut socket = String::new();
    if roles.has_socket() {
        socket = address("socket", &config.advertise_socket, listeners.socket, allow_loopback, &mut configured).await?;
    }
    let http = address("http", &config.advertise_http, listeners.http, allow_loopback, &mut configured).await?;
    let grpc = address("grpc", &config.advertise_grpc, listeners.grpc, allow_loopback, &mut configured).await?;
    let peers = match listeners.peers {
        Some(at) => Some(address("peers", &config.advertise_peers, at, allow_loopback, &mut configured).await?),
        None => None,
    };
    Ok(Addresses { socket, http, grpc, peers, configured })
}

/// How others reach one listener, as `given` or found.
async fn address(
    name: &'static str,
    given: &Option<String>,
    listener: SocketAddr,
    allow_loopback: bool,
    configured: &mut Vec<(&'static str, String)>,
) -> Result<String, String> {
    let address = match given {
        Some(given) => {
            check(name, given)?;
            configured.push((name, given.clone()));
            given.clone()
        }
        None => {
            SocketAddr::new(reachable(listener.ip()).await.ok_or_else(|| unknown(name))?, listener.port()).to_string()
        }
    };
    if is_loopback(&address) && !allow_loopback {
        return Err(format!(
            "the {name} address {address} is a loopback one, which other machines cannot reach: set [{name}] listen to an \
             address of this host, or [cluster] advertise_{name} to how others reach it, or [cluster] allow_loopback = \
             true when all nodes are on this machine"
        ));
    }
    Ok(address)
}

impl Addresses {
    /// Connects to each configured address once and adds a note for each that does not answer.
    pub(super) fn check(
        &self,
        notes: watch::Sender<Vec<String>>,
        timeout: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let configured = self.configured.clone();
        async move {
            for (name, address) in configured {
                let why = match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer in time".to_owned(),
                };
                let note = format!(
                    "the advertised {name} address {address} cannot be reached from here ({why}): if load balancers cannot \
                     either, correct [cluster] advertise_{name}"
                );
                tracing::warn!("{note}");
                notes.send_modify(|notes| notes.push(note));
            }
        }
    }
}

fn unknown(name: &str) -> String {
    format!("no address of this host could be found to advertise: set advertise_{name} to host:port")
}

fn check(name: &str, address: &str) -> Result<(), String> {
    let is_reachable = address.parse::<HostPort>().is_ok_and(|HostPort { host, port }| {
        let is_unspecified = match host {
            Host::Domain(_) => false,
            Host::Ipv4(ip) => ip.is_unspecified(),
            Host::Ipv6(ip) => ip.is_unspecified(),
        };
        port != 0 && !is_unspecified
    });
    if is_reachable {
        return Ok(());
    }
    Err(format!("advertise_{name} = {address}: write the host:port by which others reach this node"))
}

fn is_loopback(address: &str) -> bool {
    address.parse::<HostPort>().is_ok_and(|address| match address.host {
        Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    })
}

async fn reachable(listener: IpAddr) -> Option<IpAddr> {
    match listener.is_unspecified() {
        false => Some(listener),
        true => match routed(listener) {
            Some(ip) => Some(ip),
            None => named().await,
        },
    }
}

/// The source address of a packet that would leave this host; none is sent (the targets are documentation addresses).
fn routed(listener: IpAddr) -> Option<IpAddr> {
    let v4 = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
    let v6 = (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
    let ways: &[_] = if listener.is_ipv4() { &[v4] } else { &[v4, v6] };
    ways.iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind((*from, 0)).ok()?;
        socket.connect((*to, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
    })
}

/// What the host's own name means, for networks without a way out.
async fn named() -> Option<IpAddr> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    let mut addresses = tokio::net::lookup_host((name.trim(), 0)).await.ok()?;
    addresses.find(|address| !address.ip().is_loopback()).map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for address in ["127.0.0.1:80", "127.3.2.1:80", "[::1]:80", "localhost:80", "LOCALHOST:80"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["10.0.0.1:80", "gateway-1:80", "[2001:db8::1]:80"] {
            assert!(!is_loopback(address), "{address}");
        }
    }

    #[test]
    fn an_advertised_address_needs_a_host_and_a_port() {
        for address in ["gateway-1:8080", "10.0.0.1:1", "[2001:db8::1]:80"] {
            assert!(check("http", address).is_ok(), "{address}");
        }
        for address in
            ["", "gateway-1", ":80", "a:0", "a:99999", "2001:db8::1:80", "0.0.0.0:80", "a b:80", "http://a:80"]
        {
            let error = check("http", address).unwrap_err();
            assert!(error.contains("advertise_http"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_listener_on_a_given_address_is_advertised_as_it_is() {
        let listener = "203.0.113.7".parse().unwrap();
        assert_eq!(reachable(listener).await, Some(listener));
    }
}
