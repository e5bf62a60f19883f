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
pub use lookup::Holders;
pub use presence::{PresenceNews, SharedPresence};

use entries::Entries;
use lookup::Lookup;
use writer::Writer;

/// The directory as this node uses it; a cheap clone.
#[derive(Clone)]
pub struct Directory {
    entries: Arc<Entries>,
    lookup: Arc<Lookup>,
    notes: watch::Receiver<Vec<String>>,
}

impl Directory {
    /// Starts to write what this node holds; `None`: there is no directory. `readers` are the ids of the living nodes that hold
    /// clients. `has_clients` says whether an address has clients on this node; [`Directory::left`] has to be told when the last of
    /// them leaves.
    pub fn start(
        config: &Config,
        redis: Option<&RedisClient>,
        readers: watch::Receiver<Vec<String>>,
        has_clients: HasClients,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Option<Self> {
        let redis = redis.filter(|_| config.directory.backend == DirectoryBackend::Redis)?;
        let lease = config.directory.lease;
        // of a process before this one, of the same id
        let relied_until = Instant::now() + lease;
        let entries = Arc::new(Entries::new(has_clients, relied_until, metrics.directory_entries.clone()));
        let (noting, notes) = watch::channel(Vec::new());
        if config.node.roles.has_socket() {
            let writer = Writer::new(
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
        Some(Self { entries, lookup: Arc::new(Lookup::new(redis.clone(), readers)), notes })
    }

    /// A client is on its way into an address: it may be let in, and told so, once that is [`Announcement::entered`].
    pub fn announce(&self, address: Address) -> Announcement {
        self.entries.announce(address)
    }

    /// The last client of an address left it. Called by threads that must not wait: it does not.
    pub fn left(&self, kind: AddressKind, name: &str) {
        self.entries.left(kind, name);
    }

    /// Who holds each of `addresses`, within `[redis] timeout`.
    pub async fn holders(&self, addresses: &[Address]) -> Vec<Holders> {
        self.lookup.holders(addresses).await
    }

    /// Lines for `/readyz`: why every node reads every push.
    pub fn notes(&self) -> watch::Receiver<Vec<String>> {
        self.notes.clone()
    }
}
