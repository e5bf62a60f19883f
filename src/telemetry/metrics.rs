//! The counters of one gateway, shown at `/metrics` as Prometheus's text or OpenMetrics.
//!
//! Families with a label cost a look-up; a hot path keeps a clone of the counter it needs.

use std::{
    hash::Hash,
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64},
    },
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter, family::Family, gauge, histogram},
    registry::Registry,
};

use super::{
    labels::{
        AppendOutcome, BuildLabels, CallOutOutcome, CallerLabels, ClientErrorLabels, CloseLabels, ConnectLabels,
        DirectoryRoute, DisconnectLabels, DropReason, EventOutcome, EventRequestOutcome, ForwardOutcome,
        GrpcCloseReason, IdentityOutcome, JobOutcome, JwksFetchOutcome, LineDropReason, MergeTarget, NodeRole, NsqSide,
        OfferOutcome, PeerAnswerOutcome, PeerOutcome, PushLabels, PushOption, RebalanceOutcome, RedisOutcome,
        RefusedConnectLabels, ReloadOutcome, RequestLabels, WakeOutcome,
    },
    process::ProcessCollector,
    push_traces::PushTraces,
    stages::PublishTimes,
};

/// A counter of 64 bits.
pub(crate) type Counter = counter::Counter<u64, AtomicU64>;
/// A gauge of 64 bits.
pub(crate) type Gauge = gauge::Gauge<i64, AtomicI64>;
/// Of seconds, in buckets.
pub(crate) type Histogram = histogram::Histogram;

/// The log is the process's: so are its numbers, whoever shows them.
static DROPPED_LINES: LazyLock<Family<LineDropReason, Counter>> = LazyLock::new(|| zeros(LineDropReason::ALL));

/// Counts lines of the log that nobody sees.
pub(super) fn dropped_lines(reason: LineDropReason) -> Counter {
    DROPPED_LINES.get_or_create_owned(&reason)
}

macro_rules! metrics {
    ($($field:ident: $type:ty = $make:expr, $name:literal, $help:literal;)*) => {
        /// Every metric; docs/operations.md tells what to watch.
        pub struct Metrics {
            registry: Registry,
            pub(super) publish_times: PublishTimes,
            /// What became of the last pushes, which no metric can tell.
            pub(crate) traces: PushTraces,
            $(#[doc = $help] pub $field: $type,)*
        }

        impl Metrics {
            /// All at zero.
            pub fn new() -> Self {
                let mut registry = Registry::default();
                registry.register_collector(Box::new(ProcessCollector));
                let own = registry.sub_registry_with_prefix("oxipush");
                $(
                    let $field: $type = $make;
                    own.register($name, $help, $field.clone());
                )*
                Self { registry, publish_times: PublishTimes::new(), traces: PushTraces::new(0), $($field),* }
            }

            /// Name and help of each, for docs/operations.md's test.
            pub const NAMES: &[(&str, &str)] = &[$(($name, $help)),*];
        }
    };
}

metrics! {
    connections: Gauge = Gauge::default(), "connections", "Open client connections";
    max_connections: Gauge = Gauge::default(), "max_connections", "Connections that the clients' listener takes: its max_connections, or what file descriptors allow";
    groups: Gauge = Gauge::default(), "groups", "Cards with at least one connection";
    connects: Family<ConnectLabels, Counter> = Family::default(), "connects", "Handshakes that succeeded, by dialect";
    refused_connects: Family<RefusedConnectLabels, Counter> = Family::default(), "refused_connects", "Handshakes that were refused, by reason";
    joins: Counter = Counter::default(), "joins", "Joins that were answered";
    closes: Family<CloseLabels, Counter> = Family::default(), "closes", "Connections that ended, by close code (abnormal: without one)";
    client_errors: Family<ClientErrorLabels, Counter> = Family::default(), "client_errors", "Client messages answered with an error, by error";
    identities: Family<IdentityOutcome, Counter> = Family::default(), "identities", "What clients presented to prove who they are, by outcome";
    jwks_fetches: Family<JwksFetchOutcome, Counter> = Family::default(), "jwks_fetches", "Fetches of the issuer's key set, by outcome (good, failed)";
    call_outs: Family<CallOutOutcome, Counter> = Family::default(), "call_outs", "Clients that the call-out was asked about, by outcome (admitted, refused, failed, cached)";
    revocations: Gauge = Gauge::default(), "revocations", "Subjects whose earlier tokens are refused";
    forgotten_revocations: Counter = Counter::default(), "forgotten_revocations", "Revocations that made room for newer ones before their time";
    pushes: Family<PushLabels, Counter> = Family::default(), "pushes", "Pushes that came in, by source and outcome";
    push_options: Family<PushOption, Counter> = Family::default(), "push_options", "Admitted pushes with an option, by option (offline, ttl, idempotency_key)";
    disconnects: Family<DisconnectLabels, Counter> = Family::default(), "disconnects", "Orders to end clients that came in, by source and outcome";
    callers: Family<CallerLabels, Counter> = Family::default(), "callers", "Pushes by caller and outcome, and requests that a caller's key does not admit";
    requests: Family<RequestLabels, Counter> = Family::default(), "requests", "Refused HTTP and gRPC requests, by protocol and status";
    grpc_connections: Gauge = Gauge::default(), "grpc_connections", "Open gRPC connections";
    closed_grpc: Family<GrpcCloseReason, Counter> = Family::default(), "grpc_closes", "gRPC connections that the gateway closed or could not take, by reason (silent, idle, accept, flood, protocol)";
    deliveries: Counter = Counter::default(), "deliveries", "Frames of pushes that were handed to the kernel for a connection";
    offers: Family<OfferOutcome, Counter> = Family::default(), "offers", "Frames offered to an outbox, by outcome (queued, slow, gone)";
    drops: Family<DropReason, Counter> = zeros(DropReason::ALL), "drops", "What was not delivered, by reason";
    merging: Gauge = Gauge::default(), "merging", "Pushes that wait in a merge window";
    merges: Family<MergeTarget, Counter> = Family::default(), "merges", "Merge windows that ended, by target (room, everyone)";
    jobs: Family<JobOutcome, Counter> = zeros(JobOutcome::ALL), "jobs", "Jobs by outcome (finished, requeued, dropped)";
    jobs_in_flight: Gauge = Gauge::default(), "jobs_in_flight", "Jobs taken and neither finished nor requeued";
    publishes: Gauge = Gauge::default(), "publishes_waiting", "Publishes that wait for the queue's acknowledgement";
    publish_seconds: Histogram = Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]), "publish_seconds", "Time until the queue, or of a stored push the store, acknowledged it";
    queue_ready: Gauge = Gauge::default(), "queue_ready", "1 while the queue can be used";
    queue_records: Gauge = Gauge::default(), "queue_records", "Embedded queue: records not finished";
    queue_bytes: Gauge = Gauge::default(), "queue_bytes", "Embedded queue: bytes not finished";
    queue_syncs: Counter = Counter::default(), "queue_syncs", "Embedded queue: fsyncs of the log";
    queue_rebuilds: Family<NsqSide, Counter> = Family::default(), "queue_rebuilds", "nsq: connections built anew, by side (publisher, consumer)";
    copies_missing: Counter = Counter::default(), "copies_missing", "nsq: accepted pushes of which one nsqd took the only copy, though `[queue] copies = 2`";
    queue_seconds: Histogram = Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0]), "queue_seconds", "nsq: time from nsqd's stamp of a message to its hand-out";
    store_entries: Gauge = Gauge::default(), "store_entries", "Stored pushes, counted in each stream that has them";
    store_bytes: Gauge = Gauge::default(), "store_bytes", "Bytes that they take in the store's log";
    store_streams: Gauge = Gauge::default(), "store_streams", "Streams: cards and rooms with stored pushes or cursors";
    store_devices: Gauge = Gauge::default(), "store_devices", "Devices and apps that have a cursor in a card's stream";
    store_wakes: Family<WakeOutcome, Counter> = Family::default(), "store_wakes", "Pushes in a shared store that nodes were to be told of, by outcome (told, dropped)";
    store_appends: Family<AppendOutcome, Counter> = zeros(AppendOutcome::ALL), "store_appends", "Pushes that were to be stored, by outcome (stored, refused, failed)";
    redis_ready: Gauge = Gauge::default(), "redis_ready", "1 while Redis can be used";
    redis_connects: Counter = Counter::default(), "redis_connects", "Connections to Redis that were made";
    redis_commands: Family<RedisOutcome, Counter> = zeros(RedisOutcome::ALL), "redis_commands", "Commands to Redis, by outcome (done, refused, away, unknown)";
    directory_entries: Gauge = Gauge::default(), "directory_entries", "Cards and rooms of this node that are in the directory, or are to be";
    directory_ready: Gauge = Gauge::default(), "directory_ready", "1 while the directory has all cards and rooms of this node";
    directory_routes: Family<DirectoryRoute, Counter> = zeros(DirectoryRoute::ALL), "directory_routes", "Pushes to cards and rooms that this node published, by route (nodes, nobody, every_node)";
    directory_forwards: Family<ForwardOutcome, Counter> = zeros(ForwardOutcome::ALL), "directory_forwards", "Pushes whose client was gone from this node, by outcome (sent_on, nobody, failed)";
    directory_drained: Counter = Counter::default(), "directory_drained", "Pushes for nodes that are gone which this node took and sent on";
    events: Family<EventOutcome, Counter> = zeros(EventOutcome::ALL), "events", "Events for the back end, by outcome (accepted, delivered, refused, full, unread, failed, lost)";
    event_requests: Family<EventRequestOutcome, Counter> = Family::default(), "event_requests", "Requests to the webhook of events, by outcome (taken, refused, failed)";
    events_waiting: Gauge = Gauge::default(), "events_waiting", "Messages of clients on the disk that the back end has not acknowledged";
    event_bytes: Gauge = Gauge::default(), "event_bytes", "Their bytes on the disk";
    node_roles: Family<NodeRole, Gauge> = Family::default(), "node_roles", "1 for each role that this node has (ingress, socket)";
    rebalances: Family<RebalanceOutcome, Counter> = Family::default(), "rebalances", "Calls to rebalance that came in, by outcome (accepted, refused)";
    rebalanced: Counter = Counter::default(), "rebalanced_clients", "Clients of this node that a rebalance sent to others";
    registered: Gauge = Gauge::default(), "cluster_registered", "1 while this node's key is in etcd";
    etcd_errors: Counter = Counter::default(), "cluster_etcd_errors", "Calls to etcd that failed";
    channels_deleted: Counter = Counter::default(), "cluster_channels_deleted", "Channels of gone nodes that this node deleted";
    peer_questions: Family<PeerOutcome, Counter> = Family::default(), "peer_questions", "Questions to other nodes, by outcome (answered, or why the node is missing)";
    peer_answers: Family<PeerAnswerOutcome, Counter> = zeros(PeerAnswerOutcome::ALL), "peer_answers", "Questions of other nodes, by outcome (answered, stranger, failed)";
    peer_connections: Gauge = Gauge::default(), "peer_connections", "Open connections of other nodes";
    reloads: Family<ReloadOutcome, Counter> = zeros(ReloadOutcome::ALL), "reloads", "Times that the configuration was read again, by outcome (applied, refused)";
    dropped_lines: Family<LineDropReason, Counter> = DROPPED_LINES.clone(), "log_lines_dropped", "Lines of the log that were not written, by reason (repeated, full, failed)";
    build_info: Family<BuildLabels, Gauge> = this_build(), "build_info", "1; what runs stands in the labels";
    max_grpc_connections: Gauge = Gauge::default(), "max_grpc_connections", "gRPC connections that are taken at most";
    max_jobs_in_flight: Gauge = Gauge::default(), "max_jobs_in_flight", "Jobs that may be in flight: `[queue] max_in_flight`";
    max_publishes: Gauge = Gauge::default(), "max_publishes_waiting", "Publishes that may wait: `[queue] max_publishes`";
    max_queue_bytes: Gauge = Gauge::default(), "max_queue_bytes", "Embedded queue: bytes that may be not finished, `[queue] max_bytes`";
    max_outbox_bytes: Gauge = Gauge::default(), "max_outbox_bytes", "Bytes that may wait for one connection: `[outbox] max_bytes`";
    max_store_bytes: Gauge = Gauge::default(), "max_store_bytes", "Embedded store: bytes of stored pushes at most, `[store] max_bytes`";
    max_store_streams: Gauge = Gauge::default(), "max_store_streams", "Embedded store: streams at most, `[store] max_streams`";
    max_event_bytes: Gauge = Gauge::default(), "max_event_bytes", "Bytes of clients' messages that may wait on the disk: `[events] max_bytes`";
    max_revocations: Gauge = Gauge::default(), "max_revocations", "Subjects whose revocations are remembered: `[token] max_revocations`";
    offer_seconds: Histogram = stage_seconds(), "offer_seconds", "Time from a push's publish until a shard offered it to its clients; of one push in 16";
    write_seconds: Histogram = stage_seconds(), "write_seconds", "Time from then until the last of these clients had it written; of one push in 16";
    ack_seconds: Histogram = stage_seconds(), "ack_seconds", "Time until a client acknowledged a stored push that was written to it; of one push in 16";
}

/// Shown from the start on, with 0: an alert sees the first one, too.
fn zeros<L: Clone + Hash + Eq>(all: &[L]) -> Family<L, Counter> {
    let counters = Family::default();
    all.iter().for_each(|label| drop(counters.get_or_create_owned(label)));
    counters
}

fn stage_seconds() -> Histogram {
    Histogram::new([
        0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        30.0,
    ])
}

fn this_build() -> Family<BuildLabels, Gauge> {
    let builds = Family::<BuildLabels, Gauge>::default();
    let version = env!("CARGO_PKG_VERSION");
    builds.get_or_create_owned(&BuildLabels { version, arch: std::env::consts::ARCH }).set(1);
    builds
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Remembers about the last `most` pushes, too.
    #[must_use]
    pub(crate) fn tracing(self, most: usize) -> Self {
        Self { traces: PushTraces::new(most), ..self }
    }

    /// In OpenMetrics 1.0.
    pub fn openmetrics(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(std::fmt::Error) => String::new(),
        }
    }

    /// In Prometheus's classic text format 0.0.4, where a counter's HELP and TYPE name its samples, `_total` included.
    pub fn text(&self) -> String {
        let openmetrics = self.openmetrics();
        let mut text = String::with_capacity(openmetrics.len() + 512);
        let mut lines = openmetrics.lines().filter(|line| *line != "# EOF").peekable();
        while let Some(line) = lines.next() {
            let counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
            // HELP stands before its TYPE
            let of_counter =
                counter(line) || line.starts_with("# HELP ") && lines.peek().is_some_and(|next| counter(next));
            match line.match_indices(' ').nth(2).filter(|_| of_counter) {
                Some((end, _)) => text.extend([&line[..end], "_total", &line[end..], "\n"]),
                None => text.extend([line, "\n"]),
            }
        }
        text
    }
}

/// Counts one more in a gauge for as long as it lives.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// One more in `gauge` until this is dropped.
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telemetry::labels::PushOutcome;

    #[test]
    fn the_classic_text_names_counters_as_their_samples() {
        let metrics = Metrics::new();
        metrics.pushes.get_or_create(&PushLabels { source: "http", outcome: PushOutcome::Accepted.word() }).inc();
        metrics.connections.set(3);
        metrics.publish_seconds.observe(0.5);
        let (classic, open) = (metrics.text(), metrics.openmetrics());
        for line in [
            "# HELP oxipush_pushes_total Pushes that came in, by source and outcome.",
            "# TYPE oxipush_pushes_total counter",
            "oxipush_pushes_total{source=\"http\",outcome=\"accepted\"} 1",
            "# TYPE oxipush_connections gauge",
            "oxipush_connections 3",
            "# TYPE oxipush_publish_seconds histogram",
            "oxipush_publish_seconds_count 1",
        ] {
            assert!(classic.lines().any(|told| told == line), "{line} is missing in {classic}");
        }
        assert!(!classic.contains("# EOF") && open.ends_with("# EOF\n"));
        assert!(open.contains("# TYPE oxipush_pushes counter\n"), "{open}");
        // those of the process change meanwhile
        let samples = |text: &str| {
            text.lines().filter(|line| line.starts_with("oxipush_")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(samples(&classic), samples(&open));
    }
}
