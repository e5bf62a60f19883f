//! Who is in the rooms with presence on all nodes together, in the Redis that they share: docs/adr/0024.
//!
//! Each node writes which cards are in which rooms there. The script that writes a change says whether it is one of the cluster: the
//! card's first client in the room, or its last. Whoever wrote it tells it.

mod held;
mod writer;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    cluster::GoneNode,
    config::{Config, DirectoryBackend},
    lifecycle::Service,
    redis_client::RedisClient,
    telemetry::{Metrics, labels::DropReason},
    wire::dialect::PresenceChange,
};

use held::HeldCards;
use writer::PresenceWriter;

/// What is to be told of who is in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceNews {
    /// A card's first client in the cluster came into a room, or its last one left it.
    Cluster {
        /// With the node whose client it was.
        change: PresenceChange,
        /// When, in microseconds since 1970 by Redis's clock: of two changes of one card in one room the later one has more.
        at: u64,
        /// It was told as [`PresenceNews::Node`] already.
        is_told_here: bool,
    },
    /// While the nodes do not know of each other: the same of this node alone.
    Node(PresenceChange),
}

/// Writes who is in rooms on this node, and hears what that changes; a cheap clone.
#[derive(Clone)]
pub struct SharedPresence {
    held: Arc<HeldCards>,
}

impl SharedPresence {
    /// Starts to write; `None`: no room has presence, there is no directory, or this node holds no clients. `readers` are the ids of
    /// the living nodes that hold clients, `gone` the nodes that are gone. What is to be told comes to the returned end, until
    /// `service` is told to stop and all is written.
    pub fn start(
        config: &Config,
        redis: Option<&RedisClient>,
        readers: watch::Receiver<Vec<String>>,
        gone: watch::Receiver<Vec<GoneNode>>,
        service: &Service,
        metrics: &Metrics,
    ) -> Option<(Self, mpsc::Receiver<Vec<PresenceNews>>)> {
        let is_wanted = config.directory.backend == DirectoryBackend::Redis
            && config.node.roles.has_socket()
            && !config.rooms.presence.is_empty();
        let redis = redis.filter(|_| is_wanted)?.clone();
        let untold = metrics.drops.get_or_create_owned(&DropReason::Presence);
        let held = Arc::new(HeldCards::new(config.node.id.as_str(), config.rooms.presence_buffer, untold));
        // what waits there is told before more is asked for
        let (news, told) = mpsc::channel(1);
        let lease = config.directory.lease;
        let writer = PresenceWriter::new(config.node.id.as_str(), lease, redis, Arc::clone(&held), readers, gone, news);
        service.spawn_until_done("shared presence", writer.run(service.stopping().clone()));
        Some((Self { held }, told))
    }

    /// A card came into a room of this node, or left it. Called by threads that must not wait: it does not.
    pub fn note(&self, change: &PresenceChange) {
        self.held.note(change);
    }
}
