//! Who is connected: address → group → clients, in one shard for each worker thread.
//!
//! A shard belongs to one thread and has no locks; [`Work`] reaches it through its bounded inbox. The index (address → shards)
//! is shared by all threads, so that a push for an address wakes only the shards that hold it.

mod burst;
mod catch_up;
mod client;
mod client_id;
mod client_push;
mod disconnect;
mod ended;
mod fanout;
mod group;
mod index;
mod item;
mod lookup;
mod membership;
mod outbox;
mod presence;
mod registry;
mod samples;
mod shard;
mod slab;
mod streams;
mod tally;
mod unclaimed;
mod writer;

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    bundles::{self, Bundles},
    config,
    push::{Address, AddressCounts, AddressKind, NameSample, Patterns},
    telemetry::Metrics,
    wire::dialect::{PresenceChange, PresentCards},
};

pub use burst::Burst;
pub use catch_up::{StreamAnswer, StreamQuestion, StreamReader};
pub use client::{Client, Flush, Sink};
pub use client_id::ClientId;
pub use client_push::ClientPush;
pub use disconnect::{DisconnectPart, DisconnectRun, Work};
pub use ended::EndedOrders;
pub use fanout::{Audience, Completion, Fanout, Outcome, Part, Recipients};
pub use item::Item;
pub use lookup::{ClientInfo, ClientLookup};
pub use outbox::{Offer, Offered, Outbox};
pub use presence::PresenceChanged;
pub use shard::Shard;
pub use slab::ClientKey;
pub use streams::SentTo;
pub use unclaimed::UnclaimedShard;
pub use writer::WriteBudget;

pub(crate) use index::shrink;

use catch_up::StreamQuestions;
use client_id::ProcessNumber;
use index::Index;
use presence::Presence;

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
    /// Of these, those that do not merge. It may be too many for a moment, never too few.
    not_merging: AtomicUsize,
    /// Connections with frames that wait, of each shard: told only while `counting`.
    waiting: Box<[AtomicUsize]>,
    counting: AtomicBool,
    /// See [`Hub::after_turns`].
    after_turns: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// See [`Hub::when_address_left`].
    address_left: OnceLock<AddressLeft>,
    /// Set where there is a store.
    catch_up: OnceLock<StreamQuestions>,
    process: ProcessNumber,
    /// Set where rooms have presence.
    presence: OnceLock<Presence>,
    /// Set where other nodes ask for it.
    ended: OnceLock<Arc<EndedOrders>>,
    started: Instant,
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// Hears of an address whose last client on this node has left it.
pub type AddressLeft = Box<dyn Fn(AddressKind, &str) + Send + Sync>;

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

/// How many of the clients of a room, or of all, merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergingClients {
    /// None of them.
    None,
    /// Some do, and some do not.
    Some,
    /// All of them, one at least.
    All,
}

/// How many are there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Open client connections.
    pub connections: usize,
    /// Cards with at least one.
    pub groups: usize,
    /// Rooms with at least one.
    pub rooms: usize,
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
                not_merging: AtomicUsize::new(0),
                waiting: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
                counting: AtomicBool::new(false),
                after_turns: OnceLock::new(),
                address_left: OnceLock::new(),
                catch_up: OnceLock::new(),
                process: ProcessNumber::draw(),
                presence: OnceLock::new(),
                ended: OnceLock::new(),
                started: Instant::now(),
                limits,
                metrics: Arc::clone(metrics),
            }),
        }
    }

    /// From now on the changes of who is in the rooms of `[rooms] presence` on this node are told to `changed`. What clients are to
    /// hear of them is for [`Hub::tell_presence`]. Called once, before any client is there.
    pub fn watch_presence(&self, rooms: &config::RoomsConfig, node: &str, changed: PresenceChanged) {
        let patterns = Patterns::from_iter(&rooms.presence);
        if !patterns.is_empty() {
            let _ = self.core.presence.set(Presence::new(patterns, node.into(), changed));
        }
    }

    /// Tells the clients of a room who came or left; waits while an inbox is full.
    pub async fn tell_presence(&self, change: PresenceChange) {
        let shards = self.core.index.shards(AddressKind::Room, &change.room);
        let change = Arc::new(change);
        for shard in (0..self.workers()).filter(|shard| shards >> shard & 1 == 1) {
            self.send(shard, vec![Work::Presence(Arc::clone(&change))]).await;
        }
    }

    /// Rooms with clients on this node, by name, at most `limit` behind `after`; each with how many.
    pub fn rooms(&self, after: &str, limit: usize) -> Vec<(Arc<str>, u32)> {
        self.core.index.list(AddressKind::Room, after, limit)
    }

    /// As [`Hub::rooms`], for cards.
    pub fn cards(&self, after: &str, limit: usize) -> Vec<(Arc<str>, u32)> {
        self.core.index.list(AddressKind::Card, after, limit)
    }

    /// How many clients an address has on this node.
    pub fn clients_of(&self, address: &Address) -> usize {
        self.core.index.clients(address.kind(), address.name())
    }

    /// How many clients each address has on this node. It looks at all of them.
    pub fn address_counts(&self) -> AddressCounts {
        self.core.index.counts()
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
            rooms: self.core.index.groups(AddressKind::Room),
            workers: self.workers(),
        }
    }

    /// Which cards, or rooms, have clients, for the count of those of several nodes. It looks at all of them.
    pub fn name_sample(&self, kind: AddressKind) -> NameSample {
        self.core.index.sample(kind)
    }

    /// From now on it is remembered how many clients each of the last `max` orders has ended. Only the first call of this counts.
    pub fn remember_orders(&self, max: usize) {
        let _ = self.core.ended.set(Arc::new(EndedOrders::new(max)));
    }

    /// How many clients the last orders have ended; `None`: that is not remembered.
    pub fn ended_orders(&self) -> Option<&Arc<EndedOrders>> {
        self.core.ended.get()
    }

    /// Which cards have clients in a room, for the count of those of several nodes, and some of their names; `None`: it has no
    /// presence.
    pub fn present(&self, room: &str) -> Option<(PresentCards, NameSample)> {
        let presence = self.core.presence.get()?;
        Some((presence.present(room)?, presence.sample(room)))
    }

    /// Bytes that may wait for one connection.
    pub fn outbox_bytes(&self) -> usize {
        self.core.limits.max_bytes
    }

    /// Lets each shard's thread call `settle` after each turn: the pushes whose last part it offered have told their ends by then.
    /// Only the first call of this counts.
    pub fn after_turns(&self, settle: Box<dyn Fn() + Send + Sync>) {
        let _ = self.core.after_turns.set(settle);
    }

    /// Lets `tell` be called whenever the last client of an address has left it, by the thread that it was on. Only the first call
    /// of this counts.
    pub fn when_address_left(&self, tell: AddressLeft) {
        let _ = self.core.address_left.set(tell);
    }

    /// From now on shards ask the store through the returned end: each for `max_pages` pages at once. Called once, before any
    /// client is there.
    pub fn ask_store(&self, max_pages: usize) -> mpsc::UnboundedReceiver<StreamQuestion> {
        let (questions, asked) = mpsc::unbounded_channel();
        let _ = self.core.catch_up.set(StreamQuestions::new(questions, max_pages));
        asked
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

    /// How many clients of a room, or of all (`None`), merge.
    pub fn merging(&self, room: Option<&str>) -> MergingClients {
        let (merging, clients) = match room {
            Some(room) => self.core.index.merging(AddressKind::Room, room),
            None => {
                // no fewer than there are: one that does not merge is counted before it is there
                let others = self.core.not_merging.load(Ordering::Acquire);
                let clients = self.core.connections.load(Ordering::Relaxed).max(others);
                (clients - others, clients)
            }
        };
        match merging {
            0 => MergingClients::None,
            _ if merging < clients => MergingClients::Some,
            _ => MergingClients::All,
        }
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
