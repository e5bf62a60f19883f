//! Who is connected: card → group → connections, in one shard for each worker thread.

use std::sync::Arc;

use crate::{config, telemetry::Metrics};

/// A handle on all shards; a cheap clone.
#[derive(Clone)]
pub struct Hub;

/// How many are there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Open client connections.
    pub connections: usize,
    /// Cards with at least one.
    pub groups: usize,
    /// Worker threads.
    pub workers: usize,
}

impl Hub {
    /// A hub for `workers` shards, which the socket server's workers bring to life.
    pub fn new(_config: &config::Hub, _outbox: &config::Outbox, _workers: usize, _metrics: &Arc<Metrics>) -> Self {
        todo!()
    }

    /// The live connections of a card on this node.
    pub fn connections(&self, _card: &str) -> usize {
        todo!()
    }

    /// How many are there now.
    pub fn census(&self) -> Census {
        todo!()
    }
}
