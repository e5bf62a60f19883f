//! Shows the configured bounds beside what they bound, for alerts.

use crate::{
    config::Config,
    telemetry::{Gauge, Metrics},
};

/// Shows the bounds of `config` from now on.
pub(super) fn show(config: &Config, metrics: &Metrics) {
    show_one(&metrics.max_grpc_connections, config.grpc.max_connections);
    show_one(&metrics.max_jobs_in_flight, config.queue.max_in_flight);
    show_one(&metrics.max_publishes, config.queue.max_publishes);
    show_one(&metrics.max_queue_bytes, config.queue.max_bytes);
    show_one(&metrics.max_outbox_bytes, config.outbox.max_bytes);
    show_one(&metrics.max_store_bytes, config.store.max_bytes);
    show_one(&metrics.max_store_streams, config.store.max_streams);
    show_one(&metrics.max_event_bytes, config.events.max_bytes);
    show_one(&metrics.max_revocations, config.token.max_revocations);
}

fn show_one(gauge: &Gauge, bound: impl TryInto<i64>) {
    gauge.set(bound.try_into().unwrap_or(i64::MAX));
}
