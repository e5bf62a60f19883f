//! `[peers]`: how the nodes of a cluster ask each other.

use std::{net::SocketAddr, time::Duration};

use super::{
    Config, Secret, identities, key,
    reader::SectionReader,
    tables::{HOUR, MIB, MS},
};
use crate::wire::dialect::PresentCards;

/// Two samples of names (1 MiB together), and what is around them: no node's answer of how many are there is larger.
const LEAST_ANSWER: u64 = 2 * MIB;

/// `[peers]`. Files are read already.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // config.ini says what each key means, its unit and why
pub struct PeersConfig {
    /// `None`: this node asks nobody and answers nobody.
    pub listen: Option<SocketAddr>,
    pub key: Option<Secret>,
    pub tls: Option<PeersTls>,
    pub timeout: Duration,
    pub max_answer: usize,
    pub max_questions: usize,
    pub max_connections: usize,
    pub max_orders: usize,
    pub counts_cache: Duration,
    pub presence_cache: Duration,
    pub presence_rooms: usize,
}

/// Both sides of a connection between nodes show a certificate (mTLS). All are PEM.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct PeersTls {
    pub ca: String,
    pub cert: String,
    pub key: Secret,
    /// The name in the other nodes' certificates; `None`: the host of the address that each advertises.
    pub name: Option<String>,
}

pub(super) fn read(r: &mut SectionReader<'_>) -> PeersConfig {
    let s = "peers";
    PeersConfig {
        listen: r.optional_address(s, "listen"),
        key: secret(r),
        tls: tls(r),
        timeout: r.time(s, "timeout", MS * 10, HOUR),
        max_answer: r.bytes(s, "max_answer", LEAST_ANSWER, 1024 * MIB),
        max_questions: r.number(s, "max_questions", 1, 1_000_000),
        max_connections: r.number(s, "max_connections", 1, 1_000_000),
        max_orders: r.number(s, "max_orders", 1, 1_000_000),
        counts_cache: r.time(s, "counts_cache", Duration::ZERO, HOUR),
        presence_cache: r.time(s, "presence_cache", Duration::ZERO, HOUR),
        presence_rooms: r.number(s, "presence_rooms", 1, 1_000_000),
    }
}

/// `key`, or what `key_file` holds.
fn secret(r: &mut SectionReader<'_>) -> Option<Secret> {
    let s = "peers";
    let given = Some(r.secret(s, "key")).filter(|secret| !secret.expose().is_empty());
    let (at, secret) = match (given, r.path(s, "key_file")) {
        (Some(_), Some(_)) => {
            r.reject(s, "key_file", "key is set too: give only one of them");
            return None;
        }
        (given, None) => ("key", given?),
        (None, Some(path)) => match key::of_file(&path) {
            Ok(secret) => ("key_file", Secret(secret)),
            Err(error) => {
                r.reject(s, "key_file", error);
                return None;
            }
        },
    };
    if let Some(error) = key::error_in(secret.expose()) {
        r.reject(s, at, format!("it {error}"));
    }
    Some(secret)
}

fn tls(r: &mut SectionReader<'_>) -> Option<PeersTls> {
    let s = "peers";
    let given = ["tls_ca", "tls_cert", "tls_key"].map(|key| r.path(s, key).is_some());
    let name = r.optional(s, "tls_name");
    if given == [false; 3] {
        if name.is_some() {
            r.reject(s, "tls_name", "it does nothing without tls_ca, tls_cert and tls_key");
        }
        return None;
    }
    if given != [true; 3] {
        r.reject(
            s,
            "tls_ca",
            "tls_ca, tls_cert and tls_key go together: each node shows its certificate to the others",
        );
        return None;
    }
    let ca = identities::certificates(r, s, "tls_ca");
    let cert = identities::certificates(r, s, "tls_cert");
    let key = identities::file(r, s, "tls_key");
    if key.as_ref().is_some_and(|key| !key.contains("PRIVATE KEY-----")) {
        r.reject(s, "tls_key", "the file has no private key in PEM (-----BEGIN PRIVATE KEY-----)");
    }
    Some(PeersTls { ca: ca?, cert: cert?, key: Secret(key?), name })
}

/// What is wrong only beside other keys.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let peers = &config.peers;
    let Some(listen) = peers.listen else {
        if config.cluster.advertise_peers.is_some() {
            r.reject("cluster", "advertise_peers", "there is nothing to advertise: set [peers] listen");
        }
        return;
    };
    if config.cluster.etcd.is_empty() {
        r.reject("peers", "listen", "nodes find each other in etcd: set [cluster] etcd, or leave this empty");
    }
    let largest = largest_answer(config);
    if peers.max_answer < largest {
        let what = format!(
            "{} bytes: with [push] max_name = {} and [socket] max_cards = {} a node's own answer may have {largest}; the others would \
             take none of it",
            peers.max_answer, config.push.max_name, config.socket.max_cards
        );
        r.reject("peers", "max_answer", what);
    }
    if listen.ip().is_loopback() {
        return;
    }
    let least = key::LEAST_SECRET;
    match &peers.key {
        None if peers.tls.is_none() => {
            let what = format!(
                "{listen} can be reached from other machines, and anyone could ask who is connected: set key (openssl rand \
                 -base64 32), the same at all nodes, or tls_ca, tls_cert and tls_key, or listen on 127.0.0.1"
            );
            r.reject("peers", "listen", what);
        }
        Some(key) if key.expose().len() < least => {
            let what = format!(
                "it has {} characters, and [peers] listen = {listen} can be reached from other machines: take {least} or more \
                 (openssl rand -base64 32)",
                key.expose().len()
            );
            r.reject("peers", "key", what);
        }
        _ => {}
    }
}

/// The largest answer that cannot be sent in parts: one client with all its cards and apps, or the names of who is in a room beside
/// a sample.
fn largest_answer(config: &Config) -> usize {
    let name = config.push.max_name + 8;
    let client = 2 * name * config.socket.max_cards;
    let presence = PresentCards::MOST_CARDS * name + LEAST_ANSWER as usize / 2;
    client.max(presence) + 1024
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ConfigError, load, settings};
    use super::*;

    const CLUSTER: [(&str, &str); 3] =
        [("QUEUE__BACKEND", "nsq"), ("SOCKET__ANONYMOUS", "true"), ("CLUSTER__ETCD", "http://127.0.0.1:2379")];

    fn with(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(None, values.iter().map(|(name, value)| (format!("OXIPUSH__{name}"), (*value).to_owned())))
    }

    #[test]
    fn nobody_is_asked_unless_that_is_said() {
        assert_eq!(with(&[]).unwrap().peers.listen, None);
        let at = [("PEERS__LISTEN", "127.0.0.1:9003")];
        let peers = with(&[&CLUSTER[..], &at].concat()).unwrap().peers;
        assert_eq!(peers.timeout, Duration::from_millis(500));
        assert_eq!(peers.max_answer, 4 << 20);
        assert!(peers.key.is_none() && peers.tls.is_none(), "on loopback it needs neither");
    }

    #[test]
    fn beyond_loopback_nodes_prove_themselves_by_a_long_key_or_certificates() {
        let at = ("PEERS__LISTEN", "0.0.0.0:9003");
        let told = |more: &[(&str, &str)]| {
            with(&[&CLUSTER[..], &[at], more].concat()).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (more, expected) in [
            (&[][..], "[peers] listen: 0.0.0.0:9003 can be reached from other machines"),
            (&[("PEERS__KEY", "short")], "[peers] key: it has 5 characters"),
            (&[("PEERS__KEY", "a key with spaces in it")], "[peers] key: it has a space"),
            (&[("PEERS__KEY_FILE", "/no/such/file")], "[peers] key_file: /no/such/file: cannot be read"),
            (&[("PEERS__TLS_CA", "/no/such/file")], "[peers] tls_ca: tls_ca, tls_cert and tls_key go together"),
            (&[("PEERS__TLS_NAME", "peers")], "[peers] tls_name: it does nothing without"),
        ] {
            assert!(told(more).contains(expected), "{expected} is missing in\n{}", told(more));
        }
        assert_eq!(told(&[("PEERS__KEY", "0123456789abcdef")]), "");
    }

    #[test]
    fn what_says_nothing_without_another_key_is_told() {
        let told = |values: &[(&str, &str)]| with(values).unwrap_err().to_string();
        assert!(told(&[("PEERS__LISTEN", "127.0.0.1:9003")]).contains("[peers] listen: nodes find each other in etcd"));
        assert!(told(&[("CLUSTER__ADVERTISE_PEERS", "a:1")]).contains("[cluster] advertise_peers: there is nothing"));
        let twice = [("PEERS__LISTEN", "127.0.0.1:9002")];
        assert!(told(&[&CLUSTER[..], &twice].concat()).contains("127.0.0.1:9002 is taken by [grpc] listen"));
    }

    #[test]
    fn the_largest_answer_of_a_node_itself_is_taken() {
        let told = |more: &[(&str, &str)]| {
            let all = [&CLUSTER[..], &[("PEERS__LISTEN", "127.0.0.1:9003")], more].concat();
            with(&all).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(told(&[("PEERS__MAX_ANSWER", "2MiB")]), "");
        assert!(told(&[("PEERS__MAX_ANSWER", "1MiB")]).contains("[peers] max_answer"));
        let long = [("PUSH__MAX_NAME", "64KiB"), ("SOCKET__MAX_CARDS", "100")];
        assert!(
            told(&long).contains("[peers] max_answer: 4194304 bytes: with [push] max_name = 65536"),
            "{}",
            told(&long)
        );
        assert_eq!(told(&[&long[..], &[("PEERS__MAX_ANSWER", "16MiB")]].concat()), "");
    }

    #[test]
    fn the_key_is_not_shown() {
        let all = settings(None, [("OXIPUSH__PEERS__KEY".to_owned(), "hunter2".to_owned())]).unwrap();
        let shown = all.iter().find(|setting| setting.section == "peers" && setting.key == "key").unwrap();
        assert_eq!(shown.value, "***");
    }
}
