//! Who is connected: address → group → clients, in one shard for each worker thread.
//!
//! A shard belongs to one thread and has no locks; [`Work`] reaches it through its bounded inbox. The index (address → shards)
//! is shared by all threads, so that a push for an address wakes only the shards that hold it.

mod burst;
mod client;
mod client_id;
mod disconnect;
mod fanout;
mod group;
mod index;
mod membership;
mod outbox;
mod registry;
mod shard;
mod slab;
mod tally;
mod unclaimed;
mod writer;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    bundles::{self, Bundles},
    config,
    push::{Address, AddressKind},
    telemetry::Metrics,
};

pub use burst::Burst;
pub use client::{Client, Flush, Sink};
pub use client_id::ClientId;
pub use disconnect::{DisconnectPart, DisconnectRun, Work};
pub use fanout::{Completion, Fanout, Outcome, Part, Recipients};
pub use outbox::{Item, Offer, Offered, Outbox};
pub use shard::Shard;
pub use slab::ClientKey;
pub use unclaimed::UnclaimedShard;
pub use writer::WriteBudget;

pub(crate) use index::shrink;

use client_id::ProcessNumber;
use index::Index;

/// Shards that one index entry can name.
const MAX_WORKERS: usize = 64;

/// A handle on all shards; a cheap clone.
#[derive(Clone)]
pub struct Hub {
    core: Arc<Core>,
}

/// What all threads share.
struct Core {
    index: Index,
    inboxes: Vec<mpsc::Sender<Vec<Work>>>,
    /// Inboxes of the shards that no worker thread has brought to life yet.
    unclaimed: Mutex<Vec<Bundles<Work>>>,
    connections: AtomicUsize,
    /// Connections with frames that wait, of each shard: told only while `counting`.
    waiting: Box<[AtomicUsize]>,
    counting: AtomicBool,
    process: ProcessNumber,
    started: Instant,
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// The bounds of shards and outboxes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that may wait for one connection.
    pub max_bytes: usize,
    /// What happens when they are full.
    pub policy: config::Policy,
    /// How long a shard gathers frames before it writes.
    pub write_delay: Duration,
    /// Writes a shard does before it yields.
    pub writes_per_turn: usize,
}

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
    /// A hub for `workers` shards (0: one for each core; at most 64), which the socket server's workers bring to life.
    pub fn new(
        config: &config::HubConfig,
        outbox: &config::OutboxConfig,
        workers: usize,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let workers = match workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            many => many,
        };
        if workers > MAX_WORKERS {
            tracing::warn!(workers, "more workers than a hub can have; {MAX_WORKERS} are started");
        }
        let workers = workers.min(MAX_WORKERS);
        let (inboxes, mut unclaimed): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| bundles::channel(config.inbox.max(1))).unzip();
        // taken from the end, so that the first worker sits on the first shard
        unclaimed.reverse();
        let limits = Limits {
            max_bytes: outbox.max_bytes,
            policy: outbox.policy,
            write_delay: outbox.write_delay,
            writes_per_turn: config.writes_per_turn.max(1),
        };
        Self {
            core: Arc::new(Core {
                index: Index::new(),
                inboxes,
                unclaimed: Mutex::new(unclaimed),
                connections: AtomicUsize::new(0),
                waiting: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
                counting: AtomicBool::new(false),
                process: ProcessNumber::draw(),
                started: Instant::now(),
                limits,
                metrics: Arc::clone(metrics),
            }),
        }
    }

    /// The live connections of a card on this node.
    pub fn connections(&self, card: &str) -> usize {
        self.core.index.clients(AddressKind::Card, card)
    }

    /// How many are there now.
    pub fn census(&self) -> Census {
        Census {
            connections: self.core.connections.load(Ordering::Relaxed),
            groups: self.core.index.groups(AddressKind::Card),
            workers: self.workers(),
        }
    }

    /// Bytes that may wait for one connection.
    pub fn outbox_bytes(&self) -> usize {
        self.core.limits.max_bytes
    }

    /// Lets the shards count for [`Hub::waiting`], from their next turn on.
    pub fn count_waiting(&self, count: bool) {
        self.core.counting.store(count, Ordering::Relaxed);
    }

    /// Connections with frames that wait to be written; what was offered is counted by the time its outcome is told.
    pub fn waiting(&self) -> usize {
        self.core.waiting.iter().map(|shard| shard.load(Ordering::Relaxed)).sum()
    }

    /// Worker threads, each with a shard.
    pub fn workers(&self) -> usize {
        self.core.inboxes.len()
    }

    /// The shard that has the client, and its number there; `None`: it was never this node's. It may be gone.
    pub fn place(&self, client: ClientId) -> Option<(usize, ClientKey)> {
        self.core.process.place(client)
    }

    /// The shards that hold clients of `address`, a bit for each.
    pub fn shards(&self, address: &Address) -> u64 {
        self.core.index.shards(address.kind(), address.name())
    }

    /// Puts a bundle into a shard's inbox if there is room now, or gives it back.
    ///
    /// # Errors
    /// The inbox is full, or the shard gone.
    pub fn try_send(&self, shard: usize, bundle: Vec<Work>) -> Result<(), Vec<Work>> {
        match self.core.inboxes.get(shard) {
            Some(inbox) => inbox.try_send(bundle).map_err(mpsc::error::TrySendError::into_inner),
            None => Err(bundle),
        }
    }

    /// Puts a bundle into a shard's inbox, waiting while that is full. A shard that is gone loses it, and its jobs come again.
    pub async fn send(&self, shard: usize, bundle: Vec<Work>) {
        if let Some(inbox) = self.core.inboxes.get(shard) {
            let _ = inbox.send(bundle).await;
        }
    }

    /// The next shard that no thread has taken; `None` when all are.
    pub fn claim_shard(&self) -> Option<UnclaimedShard> {
        let mut unclaimed = self.core.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = unclaimed.pop()?;
        let index = self.workers() - unclaimed.len() - 1;
        Some(UnclaimedShard { index, inbox, hub: self.clone() })
    }
}
