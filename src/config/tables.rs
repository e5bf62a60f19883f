//! Each section's keys as types, with their bounds, and what keys mean together.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    AuthConfig, Backend, ClusterConfig, Config, DirectoryBackend, DrainConfig, EventKinds, GrpcConfig, HostPort,
    HttpConfig, HubConfig, LogConfig, LogFormat, NodeConfig, NodeId, OutboxConfig, Policy, PushLimits, QueueConfig,
    RoomsConfig, Secret, SocketConfig, Sync, UnknownFields, events, gpusher, identities, key, peers,
    reader::{SectionReader, duration},
    roles::{self, NodeRoles},
    store,
};

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const TIB: u64 = 1 << 40;
/// What gRPC puts before each message: a flag and four bytes of length.
const FRAME_HEAD: usize = 5;

/// The whole configuration, or what could be read of it (the reader has the mistakes).
pub(super) fn read(r: &mut SectionReader<'_>) -> Config {
    let push = push(r);
    let mut config = Config {
        node: node(r),
        socket: socket(r),
        rooms: rooms(r),
        outbox: outbox(r),
        hub: hub(r),
        http: http(r),
        grpc: grpc(r),
        gpusher: gpusher::read(r),
        auth: auth(r),
        token: identities::token(r, &push),
        verify: identities::verify(r, &push),
        push,
        queue: queue(r),
        redis: super::redis::read(r),
        directory: super::directory::read(r),
        store: store::read(r),
        events: events::read(r),
        drain: drain(r),
        cluster: cluster(r),
        peers: peers::read(r),
        log: log(r),
    };
    config.push.max_ttl = config.store.max_ttl;
    config.queue.roles = config.node.roles;
    config.queue.node_topics = config.directory.backend != DirectoryBackend::None;
    if !config.node.roles.has_socket() {
        // clients' events are told where they are
        config.events.kinds = EventKinds::default();
    }
    config.queue.tag_topics = config.gpusher.tags.iter().map(|known| known.tag.clone()).collect();
    // what stands in for a value that could not be read says nothing about the others
    if r.has_read_all() {
        together(r, &mut config);
    }
    config
}

/// What is wrong only beside another key.
fn together(r: &mut SectionReader<'_>, config: &mut Config) {
    if config.node.roles.has_socket() {
        identities::decide_anonymous(r, config);
    }
    store::together(r, config);
    let config = &*config;
    super::redis::together(r, config);
    super::directory::together(r, config);
    roles::together(r, config);
    for (section, key, address) in config.api_beyond_loopback().filter(|_| config.is_open()) {
        let what = format!(
            "{address} can be reached from other machines and anyone could push: set [auth] keys or a [key.NAME], listen on \
             127.0.0.1, or say [auth] insecure = true"
        );
        r.reject(section, key, what);
    }
    key::together(r, config);
    let clients = config.socket.listeners().map(|(key, address)| ("socket", key, address));
    let clients = clients.filter(|_| config.node.roles.has_socket());
    let peers = config.peers.listen.map(|address| ("peers", "listen", address));
    let listeners: Vec<_> = clients.chain(config.api_listeners()).chain(peers).collect();
    for (nth, (section, key, address)) in listeners.iter().enumerate() {
        let other = listeners[..nth].iter().find(|(_, _, other)| is_one_place(*other, *address));
        if let Some((other, of, at)) = other {
            r.reject(section, key, format!("{address} is taken by [{other}] {of} = {at}: give it another port"));
        }
    }
    drain_fits(r, config);
    gpusher::together(r, config);
    identities::together(r, config);
    events::together(r, config);
    peers::together(r, config);
    if config.socket.ping_interval >= config.socket.idle_timeout {
        r.reject("socket", "ping_interval", "it must be less than idle_timeout, or idle peers are never asked");
    }
    if config.push.max_content as u64 + KIB > config.outbox.max_bytes as u64 {
        r.reject(
            "push",
            "max_content",
            "a frame of that size does not fit [outbox] max_bytes: leave 1KiB for its envelope",
        );
    }
    let grpc = &config.grpc;
    if grpc.max_message + FRAME_HEAD > grpc.max_unfinished_per_connection {
        r.reject(
            "grpc",
            "max_unfinished_per_connection",
            "it must be more than max_message, or no such message can arrive",
        );
    }
    if grpc.max_unfinished_per_connection > grpc.max_unfinished {
        r.reject("grpc", "max_unfinished", "it must be at least max_unfinished_per_connection, which is a part of it");
    }
    if config.queue.backend == Backend::Nsq && config.queue.nsqd.is_empty() {
        r.reject("queue", "nsqd", "backend = nsq needs at least one nsqd (host:port)");
    }
    if let Some(what) = copies_problem(&config.queue) {
        r.reject("queue", "copies", what);
    }
    if config.queue.nsqd_http.len() > config.queue.nsqd.len() {
        r.reject("queue", "nsqd_http", "it has more entries than nsqd; give the same nsqds in the same order");
    }
    if config.cluster.tls_cert.is_some() != config.cluster.tls_key.is_some() {
        r.reject("cluster", "tls_cert", "tls_cert and tls_key go together");
    }
    if !config.cluster.etcd.is_empty() && config.queue.backend == Backend::Embedded {
        r.reject("cluster", "etcd", "several nodes need a queue they share: set [queue] backend = nsq");
    }
}

/// Why a push cannot have so many copies.
fn copies_problem(queue: &QueueConfig) -> Option<&'static str> {
    if queue.copies == 1 {
        return None;
    }
    if queue.backend == Backend::Embedded {
        return Some("the embedded queue has one log: take 1, or set backend = nsq");
    }
    if queue.nsqd.len() < queue.copies {
        return Some("each copy needs an nsqd of its own: name one more in nsqd");
    }
    if queue.copy_window == 0 {
        return Some("copies are told apart by copy_window, which is 0: clients would get each push twice");
    }
    None
}

/// Two listeners cannot have these at once.
fn is_one_place(one: SocketAddr, other: SocketAddr) -> bool {
    let a = one.ip();
    let b = other.ip();
    // `[::]` takes IPv4 too, 0.0.0.0 no IPv6
    let takes = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (a == b || takes(a, b) || takes(b, a))
}

/// A node that is full must be able to leave in time.
fn drain_fits(r: &mut SectionReader<'_>, config: &Config) {
    let shown = humantime::format_duration;
    let grace = config.drain.grace;
    let all = config.node.shutdown_timeout;
    let left = all.saturating_sub(grace);
    if left.is_zero() {
        let what = format!("it takes all of [node] shutdown_timeout = {}: give that more", shown(all));
        return r.reject("drain", "grace", what);
    }
    let rate = config.drain.rate;
    let clients = config.socket.max_connections;
    let takes = Duration::from_secs((clients as u64).div_ceil(u64::from(rate.max(1))));
    if rate > 0 && takes > left && config.node.roles.has_socket() {
        let what = format!(
            "{rate} in a second send {clients} connections ([socket] max_connections) away in {}, and [node] \
             shutdown_timeout leaves {}: take {} or more, 0 for all at once, or change one of those",
            shown(takes),
            shown(left),
            (clients as f64 / left.as_secs_f64()).ceil()
        );
        r.reject("drain", "rate", what);
    }
}

/// What NSQ takes in the name of a topic or channel.
pub(super) fn fits_nsq(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".-_".contains(c)
}

/// A topic's or channel's name of at most so many characters.
fn nsq_name(r: &mut SectionReader<'_>, key: &str, most: usize) -> String {
    let right = format!("1 to {most} of a-z, A-Z, 0-9, '.', '-' and '_'");
    r.matching("queue", key, &right, |text| (1..=most).contains(&text.len()) && text.chars().all(fits_nsq))
}

fn node(r: &mut SectionReader<'_>) -> NodeConfig {
    let s = "node";
    NodeConfig {
        id: node_id(r),
        roles: roles::read(r),
        workers: r.number(s, "workers", 0, 64),
        shutdown_timeout: r.time(s, "shutdown_timeout", MS * 100, HOUR),
        stuck_after: r.time(s, "stuck_after", MS * 500, HOUR),
    }
}

fn node_id(r: &mut SectionReader<'_>) -> NodeId {
    let given = r.text("node", "id");
    if given.is_empty() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
        let host = host.unwrap_or_default();
        let id: String = host.trim().chars().map(|c| if fits_nsq(c) { c } else { '-' }).take(64).collect();
        return NodeId(if id.is_empty() { "oxipush".into() } else { id });
    }
    if given.len() > 64 || !given.chars().all(fits_nsq) {
        let what = format!("{given:?} cannot name an NSQ channel: take 1 to 64 of a-z, A-Z, 0-9, '.', '-' and '_'");
        r.reject("node", "id", what);
    }
    NodeId(given)
}

fn socket(r: &mut SectionReader<'_>) -> SocketConfig {
    let s = "socket";
    SocketConfig {
        listen: r.address(s, "listen"),
        max_connections: r.number(s, "max_connections", 1, 100_000_000),
        max_connections_per_address: r.number(s, "max_connections_per_address", 0, 100_000_000),
        max_refusals: r.number(s, "max_refusals", 0, 1_000_000),
        trusted_proxies: r.each(s, "trusted_proxies", "a network (say 10.0.0.0/8)", |text| text.parse().ok()),
        allowed_origins: r.origins(s, "allowed_origins"),
        handshake_timeout: r.time(s, "handshake_timeout", MS * 10, HOUR),
        join_timeout: r.time(s, "join_timeout", MS * 10, HOUR),
        ping_interval: r.time(s, "ping_interval", MS * 10, HOUR),
        idle_timeout: r.time(s, "idle_timeout", MS * 20, HOUR * 24),
        max_message: r.bytes(s, "max_message", 128, 64 * MIB),
        message_timeout: r.time(s, "message_timeout", MS * 10, HOUR),
        max_messages_per_second: r.number(s, "max_messages_per_second", 1, 1_000_000),
        anonymous: identities::anonymous(r),
        message_burst: r.number(s, "message_burst", 1, u16::MAX),
        join_cost: r.number(s, "join_cost", 1, u16::MAX),
        handshake_rate: r.number(s, "handshake_rate", 0, 1_000_000),
        handshake_burst: r.number(s, "handshake_burst", 1, 1_000_000),
        max_rated_addresses: r.number(s, "max_rated_addresses", 1, 10_000_000),
        max_connections_per_card: r.number(s, "max_connections_per_card", 0, 100_000_000),
        user_timeout: r.time(s, "user_timeout", MS * 100, HOUR),
        close_timeout: r.time(s, "close_timeout", MS * 10, HOUR),
        backlog: r.number(s, "backlog", 1, 65_535),
        max_cards: r.number(s, "max_cards", 1, 1000),
        max_pending: r.number(s, "max_pending", 1, 1000),
        go_push_listen: r.optional_address(s, "go_push_listen"),
        gpush_listen: r.optional_address(s, "gpush_listen"),
    }
}

fn rooms(r: &mut SectionReader<'_>) -> RoomsConfig {
    let s = "rooms";
    RoomsConfig {
        max_rooms: r.number(s, "max_rooms", 1, 100_000),
        private: r.list(s, "private"),
        presence: r.list(s, "presence"),
        presence_buffer: r.number(s, "presence_buffer", 1, 10_000_000),
        client_push: r.list(s, "client_push"),
        merge_window: r.time(s, "merge_window", Duration::ZERO, MS * 10_000),
        merge_count: r.number(s, "merge_count", 1, 10_000),
        merge_bytes: r.bytes(s, "merge_bytes", KIB, TIB),
    }
}

fn outbox(r: &mut SectionReader<'_>) -> OutboxConfig {
    let policies =
        [("disconnect", Policy::Disconnect), ("drop_oldest", Policy::DropOldest), ("conflate", Policy::Conflate)];
    OutboxConfig {
        max_bytes: r.bytes("outbox", "max_bytes", KIB, 1024 * MIB),
        policy: r.choice("outbox", "policy", policies),
        write_delay: r.time("outbox", "write_delay", Duration::ZERO, MS * 1000),
    }
}

fn hub(r: &mut SectionReader<'_>) -> HubConfig {
    HubConfig {
        inbox: r.number("hub", "inbox", 1, 1_000_000),
        writes_per_turn: r.number("hub", "writes_per_turn", 1, 1_000_000),
    }
}

fn http(r: &mut SectionReader<'_>) -> HttpConfig {
    let s = "http";
    HttpConfig {
        listen: r.address(s, "listen"),
        allowed_origins: r.origins(s, "allowed_origins"),
        allowed_hosts: r.each(s, "allowed_hosts", "a host's name (without http:// and port)", |text| {
            (!text.contains(['/', ':', '*'])).then(|| text.to_owned())
        }),
        max_body: r.bytes(s, "max_body", KIB, 1024 * MIB),
        request_timeout: r.time(s, "request_timeout", MS * 10, HOUR),
        keep_alive: r.time(s, "keep_alive", MS * 1000, HOUR),
        user_timeout: r.time(s, "user_timeout", MS * 100, HOUR),
        page: r.switch(s, "page"),
        console: r.switch(s, "console"),
        traced_pushes: r.number(s, "traced_pushes", 0, 10_000_000),
        max_connections: r.number(s, "max_connections", 1, 10_000_000),
        also: r.addresses(s, "also"),
        unknown_fields: r.choice(
            s,
            "unknown_fields",
            [("refuse", UnknownFields::Refuse), ("ignore", UnknownFields::Ignore)],
        ),
    }
}

fn grpc(r: &mut SectionReader<'_>) -> GrpcConfig {
    let s = "grpc";
    GrpcConfig {
        listen: r.address(s, "listen"),
        max_message: r.bytes(s, "max_message", KIB, 1024 * MIB),
        max_connections: r.number(s, "max_connections", 1, 10_000_000),
        max_streams: r.number(s, "max_streams", 1, 1_000_000),
        idle_timeout: r.time(s, "idle_timeout", MS * 100, HOUR * 24),
        ping_interval: r.time(s, "ping_interval", MS * 100, HOUR),
        message_timeout: r.time(s, "message_timeout", MS * 10, HOUR),
        max_unfinished: r.bytes(s, "max_unfinished", KIB, TIB),
        max_unfinished_per_connection: r.bytes(s, "max_unfinished_per_connection", KIB, TIB),
        max_keyless_calls: r.number(s, "max_keyless_calls", 1, 1_000_000),
        // at most what HTTP/2 can say
        window: r.bytes(s, "window", 64 * KIB, 1024 * MIB) as u32,
        max_metadata: r.bytes(s, "max_metadata", KIB, 16 * MIB) as u32,
        max_control_frames: r.number(s, "max_control_frames", 100, 1_000_000_000),
        max_unacknowledged: r.number(s, "max_unacknowledged", 1, 1_000_000),
        also: r.addresses(s, "also"),
    }
}

fn auth(r: &mut SectionReader<'_>) -> AuthConfig {
    let keys = r.list("auth", "keys");
    for (nth, error) in keys.iter().enumerate().filter_map(|(nth, secret)| Some((nth, key::error_in(secret)?))) {
        r.reject("auth", "keys", format!("key {} {error}", nth + 1));
    }
    AuthConfig {
        keys: keys.into_iter().map(Secret).collect(),
        insecure: r.switch("auth", "insecure"),
        callers: key::read(r),
    }
}

fn push(r: &mut SectionReader<'_>) -> PushLimits {
    PushLimits {
        max_content: r.bytes("push", "max_content", 1, 256 * MIB),
        max_cards: r.number("push", "max_cards", 1, 1_000_000),
        max_name: r.bytes("push", "max_name", 1, 64 * KIB),
        max_batch: r.number("push", "max_batch", 1, 1_000_000),
        // that of [store], once it is read
        max_ttl: Duration::ZERO,
    }
}

fn queue(r: &mut SectionReader<'_>) -> QueueConfig {
    let s = "queue";
    let host = |text: &str| is_host_and_port(text).then(|| text.to_owned());
    QueueConfig {
        backend: r.choice(s, "backend", [("embedded", Backend::Embedded), ("nsq", Backend::Nsq)]),
        // .live is appended, and NSQ takes 64 characters
        topic: nsq_name(r, "topic", 59),
        channel: nsq_name(r, "channel", 64),
        raw_key: r.optional(s, "raw_key"),
        nsqd: r.each(s, "nsqd", "host:port", host),
        nsqd_http: r.each(s, "nsqd_http", "host:port (without http://)", host),
        lookupd: r.each(s, "lookupd", "host:port (without http://)", host),
        lookup_interval: r.time(s, "lookup_interval", MS * 50, HOUR),
        lookup_timeout: r.time(s, "lookup_timeout", MS * 50, HOUR),
        processors: r.number(s, "processors", 1, 1024),
        max_in_flight: r.number(s, "max_in_flight", 1, 2500),
        max_publishes: r.number(s, "max_publishes", 1, 1_000_000),
        publish_timeout: r.time(s, "publish_timeout", MS * 10, HOUR),
        copies: r.number(s, "copies", 1, 2),
        return_after: r.time(s, "return_after", MS * 10, HOUR),
        batch_bytes: r.bytes(s, "batch_bytes", 1, 4 * MIB),
        flush_interval: r.time(s, "flush_interval", MS, MS * 1000),
        rebuild_after: r.time(s, "rebuild_after", MS * 100, MS * 600_000),
        max_attempts: r.number(s, "max_attempts", 1, 65_535),
        requeue_delay: r.time(s, "requeue_delay", Duration::ZERO, HOUR),
        job_timeout: r.time(s, "job_timeout", MS * 100, MS * 900_000),
        sync: r.parse(s, "sync", "always or a time (say 100ms)", Sync::Always, |text| match text {
            "always" => Some(Sync::Always),
            _ => duration(text).filter(|every| (MS..=HOUR).contains(every)).map(Sync::Every),
        }),
        max_bytes: r.size(s, "max_bytes", MIB, 1024 * TIB),
        max_age: r.time(s, "max_age", Duration::ZERO, YEAR),
        memory_bytes: r.bytes(s, "memory_bytes", 64 * KIB, TIB),
        replay_hold: r.time(s, "replay_hold", Duration::ZERO, HOUR),
        copy_window: r.number(s, "copy_window", 0, 16_777_216),
        dir: data_dir(r),
        tag_topics: Vec::new(),
        // those of [node], once they are read
        roles: NodeRoles::ALL,
        node_topics: false,
        // the bounds fit in 32 bits
        segment_bytes: u32::try_from(r.size("data", "segment_bytes", 64 * KIB, 64 * MIB)).unwrap_or(u32::MAX),
    }
}

fn data_dir(r: &mut SectionReader<'_>) -> PathBuf {
    r.path("data", "dir").unwrap_or_else(|| {
        r.reject("data", "dir", "it is empty; name a folder");
        PathBuf::new()
    })
}

fn drain(r: &mut SectionReader<'_>) -> DrainConfig {
    DrainConfig {
        rate: r.number("drain", "rate", 0, 10_000_000),
        reconnect_jitter: r.time("drain", "reconnect_jitter", Duration::ZERO, HOUR),
        grace: r.time("drain", "grace", Duration::ZERO, HOUR),
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.parse::<HostPort>().is_ok()
}

/// What `client_url` must be.
const CLIENT_URL: &str =
    "a ws:// or wss:// URL, with {node} in place of a node's id (say wss://{node}.push.example.org/ws)";

fn client_url(text: &str) -> bool {
    let rest = text.strip_prefix("ws://").or_else(|| text.strip_prefix("wss://"));
    rest.is_some_and(|rest| {
        // as its place in a URL takes any node's id
        let rest = rest.replace("{node}", "node");
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(['{', '}', ' ', '"', '\\', '#'])
    })
}

fn cluster(r: &mut SectionReader<'_>) -> ClusterConfig {
    let s = "cluster";
    let url = |text: &str| {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
        is_host_and_port(host.strip_suffix('/').unwrap_or(host)).then(|| text.to_owned())
    };
    ClusterConfig {
        etcd: r.each(s, "etcd", "http:// or https:// with host:port (say http://127.0.0.1:2379)", url),
        user: r.text(s, "user"),
        password: r.secret(s, "password"),
        tls_ca: r.path(s, "tls_ca"),
        tls_cert: r.path(s, "tls_cert"),
        tls_key: r.path(s, "tls_key"),
        prefix: r.matching(s, "prefix", "a path that begins with / and does not end with one", |text| {
            text.starts_with('/') && text.len() > 1 && !text.ends_with('/')
        }),
        lease: r.time(s, "lease", MS * 1000, HOUR),
        max_backoff: r.time(s, "max_backoff", MS * 100, HOUR),
        timeout: r.time(s, "timeout", MS * 100, HOUR),
        advertise_socket: r.optional(s, "advertise_socket"),
        advertise_http: r.optional(s, "advertise_http"),
        advertise_grpc: r.optional(s, "advertise_grpc"),
        advertise_peers: r.optional(s, "advertise_peers"),
        allow_loopback: r.switch(s, "allow_loopback"),
        weight: r.number(s, "weight", 1, 65_535),
        gopusher_key: r.optional(s, "gopusher_key"),
        channel_grace: r.time(s, "channel_grace", MS * 100, YEAR),
        unready_after: r.time(s, "unready_after", MS * 100, HOUR),
        client_url: r
            .unless_empty(s, "client_url", CLIENT_URL, None, |text| client_url(text).then(|| Some(text.to_owned()))),
        load_interval: r.time(s, "load_interval", MS * 100, HOUR),
    }
}

fn log(r: &mut SectionReader<'_>) -> LogConfig {
    LogConfig {
        level: r.matching("log", "level", "error, warn, info, debug or trace", |text| {
            ["error", "warn", "info", "debug", "trace"].contains(&text)
        }),
        format: r.choice("log", "format", [("text", LogFormat::Text), ("json", LogFormat::Json)]),
        buffer: r.bytes("log", "buffer", KIB, 1024 * MIB),
        max_repeats: r.number("log", "max_repeats", 0, 1_000_000),
        repeat_period: r.time("log", "repeat_period", MS * 1000, HOUR * 24),
    }
}
