//! config.ini and `OXIPUSH__SECTION__KEY`, validated into types; every mistake is told at once.
//!
//! The repository's config.ini is compiled in as the defaults, so that file and program cannot differ.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

mod directory;
mod events;
mod gopusher;
mod gpusher;
mod host;
mod identities;
mod ini;
mod key;
mod named;
mod origin;
mod peers;
mod reader;
mod redis;
mod reload;
mod roles;
mod source;
mod store;
mod subnet;
mod tables;

pub use self::redis::RedisUrl;
pub use directory::{DirectoryBackend, DirectoryConfig};
pub use events::{EventKind, EventKinds};
pub use gpusher::TagApp;
pub use host::{HostPort, HostPortError};
pub use key::{KeyConfig, LONGEST_SECRET, Scope, SecretDigest};
pub use peers::{PeersConfig, PeersTls};
pub use reload::{ConfigChanges, LIVE_KEYS, LoadedConfig};
pub use roles::{INGRESS, NodeRoles, SOCKET};
pub use source::{ConfigError, DEFAULTS, EffectiveSetting, environment, load, settings};
pub use store::{StreamBounds, StreamRule};
pub use subnet::Subnet;

/// The whole configuration, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // config.ini says what each key means, its unit and why
pub struct Config {
    pub node: NodeConfig,
    pub socket: SocketConfig,
    pub rooms: RoomsConfig,
    pub outbox: OutboxConfig,
    pub hub: HubConfig,
    pub http: HttpConfig,
    pub grpc: GrpcConfig,
    pub gpusher: GpusherConfig,
    pub auth: AuthConfig,
    pub token: TokenConfig,
    pub verify: VerifyConfig,
    pub push: PushLimits,
    pub queue: QueueConfig,
    pub redis: RedisConfig,
    pub directory: DirectoryConfig,
    pub store: StoreConfig,
    pub events: EventsConfig,
    pub drain: DrainConfig,
    pub cluster: ClusterConfig,
    pub peers: PeersConfig,
    pub log: LogConfig,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        #[allow(missing_docs)] // config.ini says what each key means, its unit and why
        pub struct $name { $(pub $field: $type),* }
    };
}

section! {
    /// `[node]`.
    NodeConfig { id: NodeId, roles: NodeRoles, workers: usize, shutdown_timeout: Duration, stuck_after: Duration }
}
section! {
    /// `[socket]`.
    SocketConfig {
        listen: SocketAddr, max_connections: usize, max_connections_per_address: usize, max_refusals: usize,
        trusted_proxies: Vec<Subnet>, allowed_origins: Vec<String>, handshake_timeout: Duration, join_timeout: Duration,
        ping_interval: Duration, idle_timeout: Duration, max_message: usize, message_timeout: Duration,
        max_messages_per_second: u32, message_burst: u16, join_cost: u16, handshake_rate: u32, handshake_burst: u32,
        max_rated_addresses: usize, max_connections_per_card: usize, anonymous: AnonymousClients, user_timeout: Duration, close_timeout: Duration,
        backlog: u32, max_cards: usize, max_pending: usize, go_push_listen: Option<SocketAddr>, gpush_listen: Option<SocketAddr>,
    }
}
impl SocketConfig {
    /// Where clients are served: key and address.
    pub fn listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let own = |key, address: Option<SocketAddr>| address.map(|address| (key, address));
        let of_dialects = [own("go_push_listen", self.go_push_listen), own("gpush_listen", self.gpush_listen)];
        [("listen", self.listen)].into_iter().chain(of_dialects.into_iter().flatten())
    }
}

section! {
    /// `[outbox]`.
    OutboxConfig { max_bytes: usize, policy: Policy, write_delay: Duration }
}
section! {
    /// `[rooms]`.
    RoomsConfig {
        max_rooms: usize, private: Vec<String>, presence: Vec<String>, presence_buffer: usize, client_push: Vec<String>,
        merge_window: Duration, merge_count: usize, merge_bytes: usize,
    }
}
section! {
    /// `[hub]`.
    HubConfig { inbox: usize, writes_per_turn: usize }
}
section! {
    /// `[http]`.
    HttpConfig {
        listen: SocketAddr, allowed_origins: Vec<String>, allowed_hosts: Vec<String>, max_body: usize,
        request_timeout: Duration, keep_alive: Duration, user_timeout: Duration, page: bool, console: bool,
        traced_pushes: usize, max_connections: usize, also: Vec<SocketAddr>, unknown_fields: UnknownFields,
    }
}
section! {
    /// `[grpc]`.
    GrpcConfig {
        listen: SocketAddr, max_message: usize, max_connections: usize, max_streams: u32, idle_timeout: Duration,
        ping_interval: Duration, message_timeout: Duration, max_unfinished: usize, max_unfinished_per_connection: usize,
        max_keyless_calls: usize, window: u32, max_metadata: u32, max_control_frames: usize, max_unacknowledged: usize,
        also: Vec<SocketAddr>,
    }
}
section! {
    /// `[gpusher]`.
    GpusherConfig { tags: Vec<TagApp>, username: String, password: Secret }
}
section! {
    /// `[auth]`, with every `[key.NAME]`.
    AuthConfig { keys: Vec<Secret>, insecure: bool, callers: Vec<KeyConfig> }
}
section! {
    /// `[token]`, with `[push] max_name`. Files are read already; `jwks` and `jwks_ca` are PEM or JSON that the verifier reads.
    TokenConfig {
        secret: Option<Secret>, public_key: Option<String>, jwks: Option<JwksSource>, jwks_ca: Option<String>,
        jwks_refresh: Duration, jwks_min_interval: Duration, jwks_timeout: Duration, jwks_max_bytes: usize,
        jwks_max_keys: usize, audience: Vec<String>, issuer: Vec<String>, leeway: Duration, max_life: Duration,
        card_claim: String, cards_claim: String, app_claim: String, rooms_claim: String, push_claim: String,
        max_token: usize, max_revocations: usize, max_verifications: usize, cookie: Option<String>, max_name: usize,
    }
}

impl TokenConfig {
    /// There is something to verify tokens with.
    pub fn has_key(&self) -> bool {
        self.secret.is_some() || self.public_key.is_some() || self.jwks.is_some()
    }
}

section! {
    /// `[verify]`, with `[push] max_name`. `ca` is PEM; `headers` are in lower case.
    VerifyConfig {
        url: Option<String>, form: CallOutForm, headers: Vec<String>, timeout: Duration, max_in_flight: usize, max_answer: usize,
        cache: Duration, cache_entries: usize, ca: Option<String>, max_name: usize,
    }
}
section! {
    /// `[push]`, with `[store] max_ttl`: the bounds of one push, in bytes and numbers.
    PushLimits { max_content: usize, max_cards: usize, max_name: usize, max_batch: usize, max_ttl: Duration }
}
section! {
    /// `[events]`. `ca` is PEM.
    EventsConfig {
        url: Option<String>, secret: Option<Secret>, kinds: EventKinds, batch: usize, timeout: Duration, max_in_flight: usize,
        max_backoff: Duration, buffer: usize, max_bytes: u64, memory_bytes: usize, max_watchers: usize, ca: Option<String>,
    }
}
section! {
    /// `[queue]`, with `[data]`, the tags of `[gpusher]`, the roles of `[node]`, and whether there is a `[directory]`.
    QueueConfig {
        backend: Backend, topic: String, channel: String, raw_key: Option<String>, nsqd: Vec<String>, nsqd_http: Vec<String>, lookupd: Vec<String>,
        lookup_interval: Duration, lookup_timeout: Duration, processors: usize, max_in_flight: usize, max_publishes: usize,
        publish_timeout: Duration, copies: usize, return_after: Duration, batch_bytes: usize, flush_interval: Duration, rebuild_after: Duration, max_attempts: u32,
        requeue_delay: Duration, job_timeout: Duration, sync: Sync, max_bytes: u64, max_age: Duration, memory_bytes: usize,
        replay_hold: Duration, copy_window: usize, dir: PathBuf, segment_bytes: u32, tag_topics: Vec<String>,
        roles: NodeRoles, node_topics: bool,
    }
}
section! {
    /// `[store]`, with every `[stream.NAME]` in the order of their names.
    StoreConfig {
        backend: StoreBackend, ttl: Duration, max_ttl: Duration, max_entries: usize, max_stream_bytes: u64, max_age: Option<Duration>,
        max_bytes: u64, max_streams: usize, max_devices: usize, device_idle: Duration, new_device: StreamStart, new_app: StreamStart,
        timeout: Duration, max_appends: usize, max_acks: usize, memory_bytes: usize, page_entries: usize, page_bytes: usize, max_pages: usize, sweep_interval: Duration,
        idempotency_ttl: Duration, max_idempotency_keys: usize, streams: Vec<StreamRule>,
    }
}
section! {
    /// `[redis]`. Without `urls` there is none.
    RedisConfig {
        urls: Vec<RedisUrl>, user: String, password: Secret, sentinel_master: Option<String>, sentinel_user: String,
        sentinel_password: Secret, cluster: bool, tls_ca: Option<PathBuf>, tls_cert: Option<PathBuf>, tls_key: Option<PathBuf>,
        prefix: String, timeout: Duration, check_interval: Duration, max_backoff: Duration, max_in_flight: usize,
    }
}
section! {
    /// `[drain]`.
    DrainConfig { rate: u32, reconnect_jitter: Duration, grace: Duration }
}
section! {
    /// `[cluster]`.
    ClusterConfig {
        etcd: Vec<String>, user: String, password: Secret, tls_ca: Option<PathBuf>, tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>, prefix: String, lease: Duration, max_backoff: Duration, timeout: Duration,
        advertise_socket: Option<String>, advertise_http: Option<String>, advertise_grpc: Option<String>,
        advertise_peers: Option<String>,
        allow_loopback: bool, weight: u32, gopusher_key: Option<String>, channel_grace: Duration,
        unready_after: Duration, client_url: Option<String>, load_interval: Duration,
    }
}
section! {
    /// `[log]`.
    LogConfig { level: String, format: LogFormat, buffer: usize, max_repeats: u32, repeat_period: Duration }
}

impl Config {
    /// Whether anyone may push and ask: no key is configured.
    pub fn is_open(&self) -> bool {
        self.auth.keys.is_empty() && self.auth.callers.is_empty()
    }

    /// The API's listeners that other machines reach, unless `[auth] insecure` lets them be: section, key and address.
    fn api_beyond_loopback(&self) -> impl Iterator<Item = (&'static str, &'static str, SocketAddr)> {
        let beyond = |(_, _, address): &(&str, &str, SocketAddr)| !address.ip().is_loopback() && !self.auth.insecure;
        self.api_listeners().filter(beyond)
    }

    /// Where the API is served: section, key and address.
    fn api_listeners(&self) -> impl Iterator<Item = (&'static str, &'static str, SocketAddr)> {
        let sections = [("http", self.http.listen, &self.http.also), ("grpc", self.grpc.listen, &self.grpc.also)];
        sections.into_iter().flat_map(|(section, listen, also)| {
            let also = also.iter().map(move |address| (section, "also", *address));
            [(section, "listen", listen)].into_iter().chain(also)
        })
    }
}

/// A node's stable name: valid as an NSQ channel, 1–64 of `[.a-zA-Z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub(crate) String);

impl NodeId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether clients may join that prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonymousClients {
    /// As any card: `anonymous = true`.
    Allowed,
    /// As any card, since the listener is one of loopback and nothing says that others reach it.
    ByDefault,
    /// Only in open rooms, and only those whose dialect has no cards: `anonymous = rooms`. A card is for who proves it.
    InRooms,
    /// Only with a token.
    Refused,
}

/// What a call-out is asked, and how its answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutForm {
    /// As docs/api.md shows it.
    Oxipush,
    /// As gpush asks its `authUrl`.
    Gpush,
}

/// What becomes of fields of a request that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// The request is refused.
    Refuse,
    /// They are passed over, as gopusher does.
    Ignore,
}

/// What happens when an outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The connection is closed with 3001.
    Disconnect,
    /// The oldest waiting frames make room.
    DropOldest,
    /// A waiting frame of the same collapse key is replaced; then as `DropOldest`.
    Conflate,
}

/// Where the issuer's key set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// It is fetched.
    Url(String),
    /// It is read.
    File(PathBuf),
}

/// Which queue holds the pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A durable log of this node.
    Embedded,
    /// nsqd.
    Nsq,
}

/// What keeps the pushes that outlast a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBackend {
    /// Not said: the checked configuration has one of the others.
    Auto,
    /// A log of this node.
    Embedded,
    /// A Redis that all nodes share.
    Redis,
    /// Nothing: `offline` and idempotency keys are refused.
    None,
}

/// Where who reads a stream for the first time begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStart {
    /// At the oldest push that is there.
    Oldest,
    /// Behind the newest.
    Head,
}

/// When the embedded queue fsyncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before a push is acknowledged.
    Always,
    /// At least this often.
    Every(Duration),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A key or password: never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub(crate) String);

impl Secret {
    /// The secret itself, for the comparison or call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "***" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(None, values.iter().map(|(name, value)| (format!("OXIPUSH__{name}"), (*value).to_owned())))
    }

    #[test]
    fn the_defaults_are_valid_and_the_ones_that_scripts_build_on() {
        let config = with(&[]).unwrap();
        assert_eq!(config.socket.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8081");
        assert_eq!(config.grpc.listen.to_string(), "127.0.0.1:9002");
        assert_eq!((config.queue.backend, config.queue.sync), (Backend::Embedded, Sync::Always));
        assert_eq!((config.queue.topic.as_str(), config.queue.batch_bytes), ("gopusher", 8 << 10));
        assert!(!config.node.id.as_str().is_empty());
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_section_and_key() {
        let bad = [
            ("QUEUE__BACKEND", "kafka"),
            ("QUEUE__TOPC", "x"),
            ("SOKET__LISTEN", "x"),
            ("SOCKET__LISTEN", "8080"),
            ("NODE__ID", "a:b"),
            ("NODE__ROLES", "sockets"),
            ("OUTBOX__MAX_BYTES", "12"),
            ("QUEUE__MAX_IN_FLIGHT", "70000"),
            ("QUEUE__SYNC", "sometimes"),
        ];
        let text = with(&bad).unwrap_err().to_string();
        for expected in [
            "[queue] backend: \"kafka\" is not embedded or nsq",
            "OXIPUSH__QUEUE__TOPC: there is no such key; did you mean topic?",
            "did you mean [socket]?",
            "[socket] listen: \"8080\" is not an address",
            "[node] roles: \"sockets\" is not ingress, socket, both, or empty for all",
            "[node] id: \"a:b\" cannot name an NSQ channel",
            "[outbox] max_bytes: \"12\" is not a size",
            "[queue] max_in_flight: \"70000\" is not a whole number from 1 to 2500",
            "[queue] sync: \"sometimes\" is not always or a time",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_read_is_no_second_mistake_beside_another_key() {
        // the least size would be too small for [push] max_content
        assert_eq!(with(&[("OUTBOX__MAX_BYTES", "12")]).unwrap_err().0.len(), 1);
    }

    #[test]
    fn an_etcd_that_cannot_be_one_is_refused() {
        let at = |etcd| with(&[("CLUSTER__ETCD", etcd), ("QUEUE__BACKEND", "nsq"), ("SOCKET__ANONYMOUS", "true")]);
        for etcd in ["http://10.0.0.1:2379", "https://etcd:2379/", "http://[::1]:2379,http://b:2379"] {
            assert!(at(etcd).is_ok(), "{etcd}");
        }
        for etcd in ["etcd:2379", "http://", "http://etcd", "http://no such:1", "http://etcd:99999", "http://etcd:1/x"]
        {
            let error = at(etcd).unwrap_err().to_string();
            assert!(error.contains("etcd") && error.contains("host:port"), "{error}");
        }
    }

    #[test]
    fn an_api_that_others_reach_needs_keys_or_the_word_insecure() {
        let open = ("HTTP__LISTEN", "0.0.0.0:8081");
        assert!(with(&[open]).unwrap_err().to_string().contains("[http] listen: 0.0.0.0:8081"));
        assert!(with(&[open, ("AUTH__KEYS", "0123456789abcdef")]).is_ok());
        assert!(with(&[open, ("AUTH__INSECURE", "true")]).is_ok());
        for (key, address) in [("HTTP__ALSO", "127.0.0.1:7799, 0.0.0.0:10068"), ("GRPC__ALSO", "0.0.0.0:10067")] {
            let section = key.to_lowercase().replace("__also", "");
            let told = with(&[(key, address)]).unwrap_err().to_string();
            assert!(told.contains(&format!("[{section}] also: 0.0.0.0:1006")), "{told}");
            assert!(with(&[(key, address), ("AUTH__KEYS", "0123456789abcdef")]).is_ok());
        }
    }

    #[test]
    fn clients_that_others_can_be_need_a_proof_or_the_word_anonymous() {
        let nsq = ("QUEUE__BACKEND", "nsq");
        for (key, value) in [
            ("SOCKET__LISTEN", "0.0.0.0:8080"),
            ("SOCKET__TRUSTED_PROXIES", "10.0.0.0/8"),
            ("SOCKET__GO_PUSH_LISTEN", "0.0.0.0:7777"),
            ("SOCKET__GPUSH_LISTEN", "0.0.0.0:9995"),
            ("CLUSTER__ETCD", "http://10.0.0.1:2379"),
            ("CLUSTER__ADVERTISE_SOCKET", "gateway:8080"),
            ("SOCKET__ANONYMOUS", "false"),
        ] {
            let told = with(&[nsq, (key, value)]).unwrap_err().to_string();
            for way in ["set [token]", "set [verify] url", "[socket] anonymous = true"] {
                let of = key.strip_prefix("SOCKET__").filter(|key| key.ends_with("LISTEN")).unwrap_or("LISTEN");
                let place = format!("[socket] {}: ", of.to_lowercase());
                assert!(told.contains(&place) && told.contains(way), "{key}: {told}");
            }
            if key != "SOCKET__ANONYMOUS" {
                let config = with(&[nsq, (key, value), ("SOCKET__ANONYMOUS", "true")]).unwrap();
                assert_eq!(config.socket.anonymous, AnonymousClients::Allowed, "{key}");
            }
        }
        assert_eq!(with(&[]).unwrap().socket.anonymous, AnonymousClients::ByDefault);
        let told = with(&[("SOCKET__ANONYMOUS", "maybe")]).unwrap_err().to_string();
        assert!(told.contains("not true, false or rooms"), "{told}");
        let in_rooms = ("SOCKET__ANONYMOUS", "rooms");
        assert!(with(&[in_rooms]).unwrap_err().to_string().contains("nobody could join a card"));
        let config =
            with(&[in_rooms, ("SOCKET__LISTEN", "0.0.0.0:8080"), ("VERIFY__URL", "http://127.0.0.1/")]).unwrap();
        assert_eq!(config.socket.anonymous, AnonymousClients::InRooms);
    }

    #[test]
    fn a_short_key_opens_no_api_that_others_reach() {
        let keys = ("AUTH__KEYS", "0123456789abcdef,k");
        let told = with(&[("GRPC__LISTEN", "0.0.0.0:9002"), keys]).unwrap_err().0;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("[auth] keys: key 2 has 1 characters") && told[0].contains("16 or more"), "{told:?}");
        assert!(with(&[keys]).is_ok(), "on loopback any key is as good as none");
        assert!(with(&[("AUTH__KEYS", "k\u{fc}")]).unwrap_err().to_string().contains("no header carries"));
    }

    #[test]
    fn all_of_ipv4_and_one_of_ipv6_are_two_places() {
        let values =
            [("SOCKET__LISTEN", "0.0.0.0:8080"), ("SOCKET__ANONYMOUS", "true"), ("HTTP__LISTEN", "[::1]:8080")];
        let values = values.map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_owned()));
        assert_eq!(load(None, values).map(|_| ()).map_err(|error| error.to_string()), Ok(()));
    }

    #[test]
    fn what_cannot_work_together_is_told() {
        for (values, told) in [
            (
                &[("HTTP__LISTEN", "127.0.0.1:8080")][..],
                "[http] listen: 127.0.0.1:8080 is taken by [socket] listen = 127.0.0.1:8080",
            ),
            (
                &[("SOCKET__LISTEN", "0.0.0.0:9002")],
                "[grpc] listen: 127.0.0.1:9002 is taken by [socket] listen = 0.0.0.0:9002",
            ),
            (
                &[("DRAIN__RATE", "10")],
                "[drain] rate: 10 in a second send 100000 connections ([socket] max_connections) away in 2h 46m 40s, and \
                 [node] shutdown_timeout leaves 30s: take 3334 or more",
            ),
            (
                &[("SOCKET__GPUSH_LISTEN", "127.0.0.1:8080")],
                "[socket] gpush_listen: 127.0.0.1:8080 is taken by [socket] listen = 127.0.0.1:8080",
            ),
            (
                &[("SOCKET__GO_PUSH_LISTEN", "127.0.0.1:8081")],
                "[http] listen: 127.0.0.1:8081 is taken by [socket] go_push_listen = 127.0.0.1:8081",
            ),
            (
                &[("HTTP__ALSO", "127.0.0.1:7799, 127.0.0.1:8080")],
                "[http] also: 127.0.0.1:8080 is taken by [socket] listen = 127.0.0.1:8080",
            ),
            (
                &[("HTTP__ALSO", "127.0.0.1:7799"), ("GRPC__ALSO", "127.0.0.1:7799")],
                "[grpc] also: 127.0.0.1:7799 is taken by [http] also = 127.0.0.1:7799",
            ),
            (
                &[("HTTP__ALSO", "127.0.0.1:7799, 127.0.0.1:7799")],
                "[http] also: 127.0.0.1:7799 is taken by [http] also = 127.0.0.1:7799",
            ),
            (&[("DRAIN__GRACE", "30s")], "[drain] grace: it takes all of [node] shutdown_timeout = 30s"),
            (
                &[("SOCKET__ALLOWED_ORIGINS", "example.org")],
                "[socket] allowed_origins: \"example.org\" can never be an origin",
            ),
            (
                &[("HTTP__ALLOWED_ORIGINS", "https://a.example, https://example.org/")],
                "[http] allowed_origins: \"https://example.org/\" can never be an origin",
            ),
        ] {
            assert!(
                with(values).unwrap_err().to_string().contains(told),
                "{values:?}: {:?}",
                with(values).unwrap_err()
            );
        }
        for right in [
            &[("HTTP__LISTEN", "127.0.0.2:8080")][..],
            &[("HTTP__LISTEN", "127.0.0.1:0"), ("GRPC__LISTEN", "127.0.0.1:0")],
            &[("DRAIN__RATE", "10"), ("SOCKET__MAX_CONNECTIONS", "300")],
        ] {
            assert!(with(right).is_ok(), "{right:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_by_what_it_is() {
        for (listen, told) in [
            ("localhost:8080", "is a host name"),
            ("gateway.example.org:80", "is a host name"),
            ("127.0.0.1", "has no port"),
            ("::1", "has no port"),
            (":8080", "write 0.0.0.0:8080"),
            ("*:8080", "write 0.0.0.0:8080"),
            ("http://127.0.0.1:8080", "is a URL"),
            ("127.0.0.1:80800", "has no port from 0 to 65535"),
            ("8080", "is not an address"),
            ("", "is not an address"),
        ] {
            let error = with(&[("SOCKET__LISTEN", listen)]).unwrap_err().to_string();
            assert!(error.contains(&format!("[socket] listen: {listen:?}")) && error.contains(told), "{error}");
        }
    }

    #[test]
    fn no_guess_is_far_away() {
        for (name, told) in [
            ("GIN__PORT", "there is no such section; there are [auth], [cluster]"),
            ("QUEU__BACKEND", "there is no such section; did you mean [queue]?"),
            ("SOCKET__LISTNE", "there is no such key; did you mean listen?"),
            ("SOCKET__MAX_BODY", "there is no such key; [http] has one"),
            ("SOCKET__PRODUCERADDR", "there is no such key; docs/operations.md lists them all"),
        ] {
            let error = with(&[(name, "1")]).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_file_overrides_the_defaults_and_the_environment_overrides_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.ini");
        std::fs::write(&path, "[queue]\ntopic = \"from-file\"\nprocessors = 7\n").unwrap();
        let env = [("OXIPUSH__QUEUE__PROCESSORS".to_owned(), "9".to_owned())];
        let config = load(Some(&path), env).unwrap();
        assert_eq!((config.queue.topic.as_str(), config.queue.processors), ("from-file", 9));
        std::fs::write(&path, "[queue]\nproducer = x\n").unwrap();
        assert!(load(Some(&path), []).unwrap_err().to_string().contains("[queue] producer: there is no such key"));
    }

    #[test]
    fn secrets_are_masked() {
        let config = with(&[("AUTH__KEYS", "hush,hush2"), ("CLUSTER__PASSWORD", "hush3")]).unwrap();
        assert_eq!(config.auth.keys.len(), 2);
        assert!(!format!("{config:?}").contains("hush"));
    }
}
