//! Each section's keys as types, with their bounds, and what keys mean together.

use std::time::Duration;

use super::{
    Auth, Backend, Cluster, Config, Drain, Grpc, Http, Hub, Log, LogFormat, Node, NodeId, Outbox, Policy, PushLimits,
    Queue, Secret, Socket, Sync,
    reader::{Reader, duration},
};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// The whole configuration; `None` where a value could not be read (the reader has the mistakes).
pub(super) fn read(r: &mut Reader) -> Option<Config> {
    // every section is read before any `?`, so that all mistakes are told at once
    let (node, socket, outbox, hub) = (node(r), socket(r), outbox(r), hub(r));
    let (http, grpc, auth, push) = (http(r), grpc(r), auth(r), push(r));
    let (queue, drain, cluster, log) = (queue(r), drain(r), cluster(r), log(r));
    let config = Config {
        node: node?,
        socket: socket?,
        outbox: outbox?,
        hub: hub?,
        http: http?,
        grpc: grpc?,
        auth: auth?,
        push: push?,
        queue: queue?,
        drain: drain?,
        cluster: cluster?,
        log: log?,
    };
    together(r, &config);
    Some(config)
}

/// What is wrong only beside another key.
fn together(r: &mut Reader, config: &Config) {
    for (section, address) in [("http", config.http.listen), ("grpc", config.grpc.listen)] {
        if !address.ip().is_loopback() && config.auth.keys.is_empty() && !config.auth.insecure {
            let what = format!(
                "{address} can be reached from other machines and anyone could push: set [auth] keys, listen on 127.0.0.1, \
                 or say [auth] insecure = true"
            );
            r.fault(section, "listen", what);
        }
    }
    if config.socket.ping_interval >= config.socket.idle_timeout {
        r.fault("socket", "ping_interval", "it must be less than idle_timeout, or idle peers are never asked");
    }
    if config.push.max_content as u64 + KIB > config.outbox.max_bytes as u64 {
        r.fault(
            "push",
            "max_content",
            "a frame of that size does not fit [outbox] max_bytes: leave 1KiB for its envelope",
        );
    }
    if config.queue.backend == Backend::Nsq && config.queue.nsqd.is_empty() {
        r.fault("queue", "nsqd", "backend = nsq needs at least one nsqd (host:port)");
    }
    if config.queue.nsqd_http.len() > config.queue.nsqd.len() {
        r.fault("queue", "nsqd_http", "it has more entries than nsqd; give the same nsqds in the same order");
    }
    if config.cluster.tls_cert.is_some() != config.cluster.tls_key.is_some() {
        r.fault("cluster", "tls_cert", "tls_cert and tls_key go together");
    }
    if !config.cluster.etcd.is_empty() && config.queue.backend == Backend::Embedded {
        r.fault("cluster", "etcd", "several nodes need a queue they share: set [queue] backend = nsq");
    }
}

fn node(r: &mut Reader) -> Option<Node> {
    let id = node_id(r);
    // nothing to choose yet, so that nothing is kept
    let all = |text: &str| (text == "all").then_some(());
    let roles = r.parse("node", "roles", "all: nodes with a part of the roles are not built yet", all);
    let workers = r.number("node", "workers", 0, 64);
    let shutdown_timeout = r.time("node", "shutdown_timeout", MS * 100, HOUR);
    roles?;
    Some(Node { id: id?, workers: workers?, shutdown_timeout: shutdown_timeout? })
}

fn node_id(r: &mut Reader) -> Option<NodeId> {
    let given = r.text("node", "id");
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if given.is_empty() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
        let host = host.unwrap_or_default();
        let id: String = host.trim().chars().map(|c| if fits(c) { c } else { '-' }).take(64).collect();
        return Some(NodeId(if id.is_empty() { "oxipush".into() } else { id }));
    }
    if given.len() > 64 || !given.chars().all(fits) {
        let what = format!("{given:?} cannot name an NSQ channel: take 1 to 64 of a-z, A-Z, 0-9, '.', '-' and '_'");
        r.fault("node", "id", what);
        return None;
    }
    Some(NodeId(given))
}

fn socket(r: &mut Reader) -> Option<Socket> {
    let s = "socket";
    let listen = r.address(s, "listen");
    let max_connections = r.number(s, "max_connections", 1, 100_000_000);
    let max_connections_per_address = r.number(s, "max_connections_per_address", 0, 100_000_000);
    let trusted_proxies = r.each(s, "trusted_proxies", "a network (say 10.0.0.0/8)", |text| text.parse().ok());
    let allowed_origins = r.list(s, "allowed_origins");
    let handshake_timeout = r.time(s, "handshake_timeout", MS * 10, HOUR);
    let join_timeout = r.time(s, "join_timeout", MS * 10, HOUR);
    let ping_interval = r.time(s, "ping_interval", MS * 10, HOUR);
    let idle_timeout = r.time(s, "idle_timeout", MS * 20, HOUR * 24);
    let max_message = r.bytes(s, "max_message", 128, 64 * MIB);
    let max_messages_per_second = r.number(s, "max_messages_per_second", 1, 1_000_000);
    let user_timeout = r.time(s, "user_timeout", MS * 100, HOUR);
    let close_timeout = r.time(s, "close_timeout", MS * 10, HOUR);
    let backlog = r.number(s, "backlog", 1, 65_535);
    Some(Socket {
        listen: listen?,
        max_connections: max_connections?,
        max_connections_per_address: max_connections_per_address?,
        trusted_proxies,
        allowed_origins,
        handshake_timeout: handshake_timeout?,
        join_timeout: join_timeout?,
        ping_interval: ping_interval?,
        idle_timeout: idle_timeout?,
        max_message: max_message?,
        max_messages_per_second: max_messages_per_second?,
        user_timeout: user_timeout?,
        close_timeout: close_timeout?,
        backlog: backlog?,
    })
}

fn outbox(r: &mut Reader) -> Option<Outbox> {
    let max_bytes = r.bytes("outbox", "max_bytes", KIB, 1024 * MIB);
    let policies =
        [("disconnect", Policy::Disconnect), ("drop_oldest", Policy::DropOldest), ("conflate", Policy::Conflate)];
    let policy = r.choice("outbox", "policy", &policies);
    let write_delay = r.time("outbox", "write_delay", Duration::ZERO, MS * 1000);
    Some(Outbox { max_bytes: max_bytes?, policy: policy?, write_delay: write_delay? })
}

fn hub(r: &mut Reader) -> Option<Hub> {
    let inbox = r.number("hub", "inbox", 1, 1_000_000);
    let writes_per_turn = r.number("hub", "writes_per_turn", 1, 1_000_000);
    Some(Hub { inbox: inbox?, writes_per_turn: writes_per_turn? })
}

fn http(r: &mut Reader) -> Option<Http> {
    let s = "http";
    let listen = r.address(s, "listen");
    let allowed_origins = r.list(s, "allowed_origins");
    let max_body = r.bytes(s, "max_body", KIB, 1024 * MIB);
    let request_timeout = r.time(s, "request_timeout", MS * 10, HOUR);
    let page = r.switch(s, "page");
    let max_connections = r.number(s, "max_connections", 1, 10_000_000);
    Some(Http {
        listen: listen?,
        allowed_origins,
        max_body: max_body?,
        request_timeout: request_timeout?,
        page: page?,
        max_connections: max_connections?,
    })
}

fn grpc(r: &mut Reader) -> Option<Grpc> {
    let s = "grpc";
    let listen = r.address(s, "listen");
    let max_message = r.bytes(s, "max_message", KIB, 1024 * MIB);
    let max_connections = r.number(s, "max_connections", 1, 10_000_000);
    let max_streams = r.number(s, "max_streams", 1, 1_000_000);
    let max_unacknowledged = r.number(s, "max_unacknowledged", 1, 1_000_000);
    Some(Grpc {
        listen: listen?,
        max_message: max_message?,
        max_connections: max_connections?,
        max_streams: max_streams?,
        max_unacknowledged: max_unacknowledged?,
    })
}

fn auth(r: &mut Reader) -> Option<Auth> {
    let keys = r.list("auth", "keys").into_iter().map(Secret).collect();
    let insecure = r.switch("auth", "insecure");
    Some(Auth { keys, insecure: insecure? })
}

fn push(r: &mut Reader) -> Option<PushLimits> {
    let max_content = r.bytes("push", "max_content", 1, 256 * MIB);
    let max_cards = r.number("push", "max_cards", 1, 1_000_000);
    let max_name = r.bytes("push", "max_name", 1, 64 * KIB);
    let max_batch = r.number("push", "max_batch", 1, 1_000_000);
    Some(PushLimits { max_content: max_content?, max_cards: max_cards?, max_name: max_name?, max_batch: max_batch? })
}

fn queue(r: &mut Reader) -> Option<Queue> {
    let s = "queue";
    let host = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        (!host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()).then(|| text.to_owned())
    };
    let name = |most: usize| {
        move |text: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            ((1..=most).contains(&text.len()) && text.chars().all(fits)).then(|| text.to_owned())
        }
    };
    let backend = r.choice(s, "backend", &[("embedded", Backend::Embedded), ("nsq", Backend::Nsq)]);
    // .live is appended, and NSQ takes 64 characters
    let topic = r.parse(s, "topic", "1 to 59 of a-z, A-Z, 0-9, '.', '-' and '_'", name(59));
    let channel = r.parse(s, "channel", "1 to 64 of a-z, A-Z, 0-9, '.', '-' and '_'", name(64));
    let nsqd = r.each(s, "nsqd", "host:port", host);
    let nsqd_http = r.each(s, "nsqd_http", "host:port (without http://)", host);
    let lookupd = r.each(s, "lookupd", "host:port (without http://)", host);
    let lookup_interval = r.time(s, "lookup_interval", MS * 50, HOUR);
    let lookup_timeout = r.time(s, "lookup_timeout", MS * 50, HOUR);
    let processors = r.number(s, "processors", 1, 1024);
    let max_in_flight = r.number(s, "max_in_flight", 1, 2500);
    let max_publishes = r.number(s, "max_publishes", 1, 1_000_000);
    let publish_timeout = r.time(s, "publish_timeout", MS * 10, HOUR);
    let batch_bytes = r.bytes(s, "batch_bytes", 1, 4 * MIB);
    let flush_interval = r.time(s, "flush_interval", MS, MS * 1000);
    let rebuild_after = r.time(s, "rebuild_after", MS * 100, MS * 600_000);
    let max_attempts = r.number(s, "max_attempts", 1, 65_535);
    let requeue_delay = r.time(s, "requeue_delay", Duration::ZERO, HOUR);
    let job_timeout = r.time(s, "job_timeout", MS * 100, MS * 900_000);
    let sync = r.parse(s, "sync", "always or a time (say 100ms)", |text| match text {
        "always" => Some(Sync::Always),
        _ => duration(text).filter(|every| (MS..=HOUR).contains(every)).map(Sync::Every),
    });
    let max_bytes = r.size(s, "max_bytes", MIB, 1024 * TIB);
    let max_age = r.time(s, "max_age", Duration::ZERO, YEAR);
    let memory_bytes = r.bytes(s, "memory_bytes", 64 * KIB, TIB);
    let replay_hold = r.time(s, "replay_hold", Duration::ZERO, HOUR);
    let dir = r.path("data", "dir");
    if dir.is_none() {
        r.fault("data", "dir", "it is empty; name a folder");
    }
    Some(Queue {
        backend: backend?,
        topic: topic?,
        channel: channel?,
        nsqd,
        nsqd_http,
        lookupd,
        lookup_interval: lookup_interval?,
        lookup_timeout: lookup_timeout?,
        processors: processors?,
        max_in_flight: max_in_flight?,
        max_publishes: max_publishes?,
        publish_timeout: publish_timeout?,
        batch_bytes: batch_bytes?,
        flush_interval: flush_interval?,
        rebuild_after: rebuild_after?,
        max_attempts: max_attempts?,
        requeue_delay: requeue_delay?,
        job_timeout: job_timeout?,
        sync: sync?,
        max_bytes: max_bytes?,
        max_age: max_age?,
        memory_bytes: memory_bytes?,
        replay_hold: replay_hold?,
        dir: dir?,
    })
}

fn drain(r: &mut Reader) -> Option<Drain> {
    let rate = r.number("drain", "rate", 0, 10_000_000);
    let reconnect_jitter = r.time("drain", "reconnect_jitter", Duration::ZERO, HOUR);
    let grace = r.time("drain", "grace", Duration::ZERO, HOUR);
    Some(Drain { rate: rate?, reconnect_jitter: reconnect_jitter?, grace: grace? })
}

fn cluster(r: &mut Reader) -> Option<Cluster> {
    let s = "cluster";
    let url = |text: &str| {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
        (!host.is_empty()).then(|| text.to_owned())
    };
    let etcd = r.each(s, "etcd", "a URL (say http://127.0.0.1:2379)", url);
    let lease = r.time(s, "lease", MS * 1000, HOUR);
    let max_backoff = r.time(s, "max_backoff", MS * 100, HOUR);
    let timeout = r.time(s, "timeout", MS * 100, HOUR);
    let prefix = r.parse(s, "prefix", "a path that begins with / and does not end with one", |text| {
        (text.starts_with('/') && text.len() > 1 && !text.ends_with('/')).then(|| text.to_owned())
    });
    let allow_loopback = r.switch(s, "allow_loopback");
    let weight = r.number(s, "weight", 1, 65_535);
    let channel_grace = r.time(s, "channel_grace", MS * 100, YEAR);
    Some(Cluster {
        etcd,
        user: r.text(s, "user"),
        password: r.secret(s, "password"),
        tls_ca: r.path(s, "tls_ca"),
        tls_cert: r.path(s, "tls_cert"),
        tls_key: r.path(s, "tls_key"),
        prefix: prefix?,
        lease: lease?,
        max_backoff: max_backoff?,
        timeout: timeout?,
        advertise_socket: r.optional(s, "advertise_socket"),
        advertise_http: r.optional(s, "advertise_http"),
        advertise_grpc: r.optional(s, "advertise_grpc"),
        allow_loopback: allow_loopback?,
        weight: weight?,
        gopusher_key: r.optional(s, "gopusher_key"),
        channel_grace: channel_grace?,
    })
}

fn log(r: &mut Reader) -> Option<Log> {
    let level = r.parse("log", "level", "error, warn, info, debug or trace", |text| {
        ["error", "warn", "info", "debug", "trace"].contains(&text).then(|| text.to_owned())
    });
    let format = r.choice("log", "format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    Some(Log { level: level?, format: format? })
}
