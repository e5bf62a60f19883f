//! What the node shares with others through Redis: the connection, and the directory.

use std::sync::Arc;

use crate::{
    cluster::{Cluster, Directory},
    config::Config,
    hub::Hub,
    lifecycle::Tasks,
    push::Address,
    redis_client::{RedisClient, RedisOpenError},
    telemetry::Metrics,
};

/// The connection to Redis, if the configuration names one.
pub(super) async fn start_redis(
    config: &Config,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<Option<RedisClient>, RedisOpenError> {
    if config.redis.urls.is_empty() {
        return Ok(None);
    }
    RedisClient::start(&config.redis, tasks, metrics).await.map(Some)
}

/// The directory, if the configuration has one.
pub(super) fn start_directory(
    config: &Config,
    redis: Option<&RedisClient>,
    cluster: &Cluster,
    hub: &Hub,
    tasks: &Tasks,
    metrics: &Metrics,
) -> Option<Directory> {
    let of = hub.clone();
    let has_clients = Box::new(move |address: &Address| of.clients_of(address) > 0);
    let directory = Directory::start(config, redis, cluster.readers.clone(), has_clients, tasks, metrics)?;
    let told = directory.clone();
    hub.when_address_left(Box::new(move |kind, name| told.left(kind, name)));
    Some(directory)
}
