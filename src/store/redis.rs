//! The store in Redis, which all nodes share.
//!
//! A stream is three keys of one slot (docs/adr/0020-redis-store.md), and each operation is one script on them, so that it is done
//! whole or not at all. Pushes and cursors go through tasks of this store's own, which send what waits together. Nothing is read
//! from replicas. While Redis is away all that needs it fails at once; what can wait for it (cursors) does, within its bounds.

mod append;
mod changes;
mod claims;
mod cursors;
mod device;
mod keys;
mod page;
mod reader;
mod revocations;
mod scripts;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{OpenStore, StoreControl, StoreError, StoreState, StoredPushes};
use crate::{
    bundles,
    config::{self, StreamBounds},
    lifecycle::{Deadline, Service, Tasks},
    push::Address,
    redis_client::{RedisCallError, RedisClient, RedisState},
    telemetry::Metrics,
};

use append::AppendQueue;
use changes::ChangePlaces;
use cursors::CursorQueue;
use keys::KeyNames;

/// See the module; a cheap clone.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<SharedRedisStore>,
}

/// What the clones and the tasks share.
struct SharedRedisStore {
    client: RedisClient,
    state: watch::Receiver<RedisState>,
    keys: KeyNames,
    config: config::StoreConfig,
    max_revocations: usize,
    /// How long a revocation is kept.
    revocation_life: Duration,
    /// It is a Redis Cluster.
    is_cluster: bool,
    appends: AppendQueue,
    cursors: CursorQueue,
    changes: ChangePlaces,
    metrics: Arc<Metrics>,
}

/// Stops the store's tasks.
pub(super) struct RedisControl {
    service: Service,
}

/// Starts the store on a Redis that is there or comes.
pub(super) async fn open(
    config: &config::Config,
    client: &RedisClient,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> OpenStore {
    client.learn(&scripts::all()).await;
    let shared = Arc::new(SharedRedisStore {
        client: client.clone(),
        state: client.state(),
        keys: KeyNames::new(client.prefix()),
        config: config.store.clone(),
        max_revocations: config.token.max_revocations,
        // as long as the verifier keeps them: clocks may differ
        revocation_life: config.token.max_life + config.token.leeway * 2,
        is_cluster: config.redis.cluster,
        appends: AppendQueue::new(config.store.max_appends, config.store.memory_bytes),
        cursors: CursorQueue::new(config.store.max_acks),
        changes: ChangePlaces::default(),
        metrics: metrics.clone(),
    });
    let service = tasks.service();
    let stopping = service.stopping().clone();
    service.spawn("redis store appends", append::run(shared.clone(), stopping.clone()));
    service.spawn("redis store cursors", cursors::run(shared.clone(), stopping));
    let (sender, state) = watch::channel(StoreState::NotReady("it is being opened".into()));
    tasks.spawn_until_done("redis store state", tell_state(client.state(), sender, tasks.cancelled()));
    let (_, bundles) = bundles::channel(1);
    OpenStore {
        store: super::Store::Redis(RedisStore { shared }),
        // what Redis stored comes to every node by the queue
        stored: StoredPushes { bundles },
        control: StoreControl { state, backend: super::ControlledStore::Redis(RedisControl { service }) },
    }
}

/// Tells the store's state as long as that of Redis is told.
async fn tell_state(
    mut redis: watch::Receiver<RedisState>,
    state: watch::Sender<StoreState>,
    cancelled: tokio_util::sync::CancellationToken,
) {
    loop {
        let now = match &*redis.borrow_and_update() {
            RedisState::Ready => StoreState::Ready,
            RedisState::NotReady(reason) => StoreState::NotReady(format!("Redis is away: {reason}")),
        };
        state.send_replace(now);
        let changed = cancelled.run_until_cancelled(redis.changed()).await;
        if !matches!(changed, Some(Ok(()))) {
            return;
        }
    }
}

impl SharedRedisStore {
    /// Why nothing can be done now.
    fn check(&self) -> Result<(), StoreError> {
        match &*self.state.borrow() {
            RedisState::Ready => Ok(()),
            RedisState::NotReady(reason) => Err(StoreError::Unavailable(format!("Redis is away: {reason}"))),
        }
    }

    /// When somebody who waits for the store is told that it did not answer.
    fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    fn bounds(&self, address: &Address) -> StreamBounds {
        self.config.bounds(address)
    }
}

impl RedisControl {
    pub(super) async fn close(self, deadline: Deadline) {
        if !self.service.stop_within(deadline).await {
            tracing::warn!("not all that waited for Redis was written in time: some acknowledgements may be repeated");
        }
    }
}

/// What the failure of a command means for who stores a push.
fn store_error(error: &RedisCallError) -> StoreError {
    match error {
        RedisCallError::Busy => {
            StoreError::Full("too many commands are on their way to Redis ([redis] max_in_flight): try again later")
        }
        RedisCallError::Refused { code, .. } if code == "OOM" => {
            StoreError::Full("Redis has no memory left (its maxmemory): try again later")
        }
        RedisCallError::Away(_)
        | RedisCallError::Unknown(_)
        | RedisCallError::Refused { .. }
        | RedisCallError::Unexpected(_) => StoreError::Unavailable(error.to_string()),
    }
}

/// As the scripts take it: milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
