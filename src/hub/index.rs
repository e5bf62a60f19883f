//! Card → shards that hold it, shared by all threads.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// Locks are held for one look-up; this many keep threads out of each other's way.
const STRIPES: usize = 64;

type Stripe = HashMap<Arc<str>, Entry, RandomState>;

pub(super) struct Index {
    stripes: Box<[Mutex<Stripe>]>,
    chooser: RandomState,
    groups: AtomicUsize,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    shards: u64,
    connections: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            chooser: RandomState::default(),
            groups: AtomicUsize::new(0),
        }
    }

    /// One connection more for `card` in `shard`; the name as all share it.
    pub(super) fn enter(&self, card: &str, shard: usize) -> Arc<str> {
        let mut stripe = self.stripe(card);
        if let Some((name, _)) = stripe.get_key_value(card) {
            let name = Arc::clone(name);
            if let Some(entry) = stripe.get_mut(card) {
                if entry.connections == 0 {
                    self.groups.fetch_add(1, Ordering::Relaxed);
                }
                entry.shards |= 1 << shard;
                entry.connections += 1;
            }
            return name;
        }
        let name: Arc<str> = card.into();
        stripe.insert(Arc::clone(&name), Entry { shards: 1 << shard, connections: 1 });
        self.groups.fetch_add(1, Ordering::Relaxed);
        name
    }

    /// One connection less; `last`: the shard wants no more pushes for the card.
    pub(super) fn leave(&self, card: &str, shard: usize, last: bool) {
        let mut stripe = self.stripe(card);
        let Some(entry) = stripe.get_mut(card) else { return };
        entry.connections -= 1;
        if last {
            entry.shards &= !(1 << shard);
        }
        if entry.connections > 0 {
            return;
        }
        self.groups.fetch_sub(1, Ordering::Relaxed);
        if entry.shards == 0 {
            stripe.remove(card);
            shrink(&mut stripe);
        }
    }

    pub(super) fn shards(&self, card: &str) -> u64 {
        self.stripe(card).get(card).map_or(0, |entry| entry.shards)
    }

    pub(super) fn connections(&self, card: &str) -> usize {
        self.stripe(card).get(card).map_or(0, |entry| entry.connections as usize)
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.load(Ordering::Relaxed)
    }

    fn stripe(&self, card: &str) -> MutexGuard<'_, Stripe> {
        let stripe = (self.chooser.hash_one(card) >> 48) as usize % STRIPES;
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives memory back once a map holds a quarter of what it could; amortised by the removals that led there.
pub(crate) fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V, RandomState>) {
    if map.capacity() > 64 && map.len() * 4 < map.capacity() {
        map.shrink_to(map.len() * 2);
    }
}
