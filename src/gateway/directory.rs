//! Joins the directory with the hub, which says what this node holds.

use crate::{
    cluster::{Cluster, Directory},
    config::Config,
    hub::Hub,
    lifecycle::Tasks,
    push::Address,
    redis_client::RedisClient,
    telemetry::Metrics,
};

/// The directory, if the configuration has one.
pub(super) fn start(
    config: &Config,
    redis: Option<&RedisClient>,
    cluster: &Cluster,
    hub: &Hub,
    tasks: &Tasks,
    metrics: &Metrics,
) -> Option<Directory> {
    let of = hub.clone();
    let has_clients = Box::new(move |address: &Address| of.clients_of(address) > 0);
    let directory = Directory::start(config, redis, cluster, has_clients, tasks, metrics)?;
    let told = directory.clone();
    hub.when_address_left(Box::new(move |kind, name| told.left(kind, name)));
    Some(directory)
}
