//! Which nodes hold a card or a room, in the Redis that they share: docs/adr/0021.
//!
//! A node writes its entries before it tells a client that it has joined, and renews a lease. Where a node that holds clients has no
//! lease, or Redis does not answer, any node may hold the address, and every node gets the push.

mod entries;
mod keys;
mod lookup;
mod presence;
mod scripts;
mod writer;

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};

use crate::{
    config::{Config, DirectoryBackend},
    lifecycle::Tasks,
    push::{Address, AddressKind},
    redis_client::RedisClient,
    telemetry::Metrics,
};

pub use entries::{Announcement, HasClients};
pub use lookup::HoldingNodes;
pub use presence::{PresenceNews, SharedPresence};

use super::Cluster;
use entries::Entries;
use keys::{DirectoryKeys, PARTITIONS};
use lookup::Lookup;
use writer::EntryWriter;

/// The directory as this node uses it; a cheap clone.
#[derive(Clone)]
pub struct Directory {
    node: Arc<str>,
    redis: RedisClient,
    entries: Arc<Entries>,
    lookup: Arc<Lookup>,
    notes: watch::Receiver<Vec<String>>,
}

impl Directory {
    /// Starts to write what this node holds; `None`: there is no directory. `readers` are the ids of the nodes that may hold clients. `has_clients` says whether an address has clients on this node; [`Directory::left`] has to be told when the last of
    /// them leaves.
    pub fn start(
        config: &Config,
        redis: Option<&RedisClient>,
        cluster: &Cluster,
        has_clients: HasClients,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Option<Self> {
        let redis = redis.filter(|_| config.directory.backend == DirectoryBackend::Redis)?;
        // of a process before this one, of the same id
        let relied_until = Instant::now() + config.directory.lease + config.redis.timeout * 2;
        let entries = Arc::new(Entries::new(has_clients, relied_until, metrics.directory_entries.clone()));
        let (noting, notes) = watch::channel(Vec::new());
        if config.node.roles.has_socket() {
            let writer = EntryWriter::new(
                config.node.id.as_str().into(),
                &config.directory,
                config.redis.timeout,
                redis.clone(),
                Arc::clone(&entries),
                metrics.directory_ready.clone(),
                noting,
            );
            let cancelled = tasks.cancelled();
            tasks.spawn("directory", async move {
                cancelled.run_until_cancelled(writer.run()).await;
            });
        }
        let node = config.node.id.as_str().into();
        let distrust = config.directory.lease + config.redis.timeout * 2;
        let lookup = Arc::new(Lookup::new(redis.clone(), cluster.readers.clone(), cluster.gone.clone(), distrust));
        Some(Self { node, redis: redis.clone(), entries, lookup, notes })
    }

    /// A client is on its way into an address: it may be let in, and told so, once that is [`Announcement::entered`].
    pub fn announce(&self, address: Address) -> Announcement {
        self.entries.announce(address)
    }

    /// The last client of an address left it. Called by threads that must not wait: it does not.
    pub fn left(&self, kind: AddressKind, name: &str) {
        self.entries.left(kind, name);
    }

    /// Redis says that this node holds an address, and it does not: it is taken out.
    pub fn take_out(&self, address: Address) {
        self.entries.take_out(address);
    }

    /// The node is not to be relied on any more: its last clients are gone. Where Redis is away its lease ends by itself.
    pub async fn leave(&self) {
        let keys = DirectoryKeys::new(self.redis.prefix());
        let commands: Vec<_> = (0..PARTITIONS)
            .map(|partition| redis::cmd("ZREM").arg(keys.nodes(partition)).arg(&*self.node).to_owned())
            .collect();
        let failed = self.redis.run_all(&commands).await.into_iter().find_map(Result::err);
        if let Some(error) = failed {
            tracing::debug!("the directory's lease ends by itself: {error}");
        }
    }

    /// Who holds each of `addresses`, within `[redis] timeout`.
    pub async fn holders(&self, addresses: &[Address]) -> Vec<HoldingNodes> {
        self.lookup.holders(addresses).await
    }

    /// Lines for `/readyz`: why every node reads every push.
    pub fn notes(&self) -> watch::Receiver<Vec<String>> {
        self.notes.clone()
    }
}
