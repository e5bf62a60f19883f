//! Address → shards that hold it, shared by all threads.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::group::ByKind;
use crate::push::{AddressCounts, AddressKind, NameSample};

/// Locks are held for one look-up; this many keep threads out of each other's way.
const STRIPES: usize = 64;

type Stripe = HashMap<Arc<str>, Holders, RandomState>;

/// Which shards hold which addresses.
pub(super) struct Index(ByKind<KindIndex>);

/// The addresses of one kind.
struct KindIndex {
    stripes: Box<[Mutex<Stripe>]>,
    chooser: RandomState,
    groups: AtomicUsize,
}

/// Who holds an address.
#[derive(Clone, Copy, Default)]
struct Holders {
    shards: u64,
    clients: u32,
    /// Of these, those that merge.
    merging: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self(ByKind { cards: KindIndex::new(), rooms: KindIndex::new() })
    }

    /// One client more at an address in `shard`; the name as all share it.
    pub(super) fn enter(&self, kind: AddressKind, name: &str, shard: usize) -> Arc<str> {
        self.0.get(kind).enter(name, shard)
    }

    /// One client less; `last`: the shard wants no more pushes for the address. Whether it was the last of all shards.
    pub(super) fn leave(&self, kind: AddressKind, name: &str, shard: usize, last: bool) -> bool {
        self.0.get(kind).leave(name, shard, last)
    }

    pub(super) fn shards(&self, kind: AddressKind, name: &str) -> u64 {
        self.0.get(kind).find(name).shards
    }

    pub(super) fn clients(&self, kind: AddressKind, name: &str) -> usize {
        self.0.get(kind).find(name).clients as usize
    }

    /// Addresses of a kind with clients, by name, at most `limit` behind `after`; each with how many.
    pub(super) fn list(&self, kind: AddressKind, after: &str, limit: usize) -> Vec<(Arc<str>, u32)> {
        self.0.get(kind).list(after, limit)
    }

    /// How many clients each address has.
    pub(super) fn counts(&self) -> AddressCounts {
        let kinds = [AddressKind::Card, AddressKind::Room];
        kinds.into_iter().flat_map(|kind| self.0.get(kind).counts(kind)).collect()
    }

    /// The addresses of a kind that have clients, without their names.
    pub(super) fn sample(&self, kind: AddressKind) -> NameSample {
        self.0.get(kind).sample(kind)
    }

    /// One client more, or less, of those at an address merges.
    pub(super) fn count_merging(&self, kind: AddressKind, name: &str, merges: bool) {
        if let Some(holders) = self.0.get(kind).stripe(name).get_mut(name) {
            holders.merging = holders.merging.saturating_add_signed(if merges { 1 } else { -1 });
        }
    }

    /// How many clients of an address merge, and how many there are.
    pub(super) fn merging(&self, kind: AddressKind, name: &str) -> (usize, usize) {
        let holders = self.0.get(kind).find(name);
        (holders.merging as usize, holders.clients as usize)
    }

    /// Addresses of a kind that have at least one client.
    pub(super) fn groups(&self, kind: AddressKind) -> usize {
        self.0.get(kind).groups.load(Ordering::Relaxed)
    }
}

impl KindIndex {
    fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            chooser: RandomState::default(),
            groups: AtomicUsize::new(0),
        }
    }

    fn enter(&self, name: &str, shard: usize) -> Arc<str> {
        let mut stripe = self.stripe(name);
        if let Some((known, _)) = stripe.get_key_value(name) {
            let known = Arc::clone(known);
            if let Some(holders) = stripe.get_mut(name) {
                if holders.clients == 0 {
                    self.groups.fetch_add(1, Ordering::Relaxed);
                }
                holders.shards |= 1 << shard;
                holders.clients += 1;
            }
            return known;
        }
        let name: Arc<str> = name.into();
        stripe.insert(Arc::clone(&name), Holders { shards: 1 << shard, clients: 1, merging: 0 });
        self.groups.fetch_add(1, Ordering::Relaxed);
        name
    }

    fn leave(&self, name: &str, shard: usize, last: bool) -> bool {
        let mut stripe = self.stripe(name);
        let Some(holders) = stripe.get_mut(name) else { return false };
        holders.clients -= 1;
        if last {
            holders.shards &= !(1 << shard);
        }
        if holders.clients > 0 {
            return false;
        }
        self.groups.fetch_sub(1, Ordering::Relaxed);
        if holders.shards == 0 {
            stripe.remove(name);
            shrink(&mut stripe);
        }
        true
    }

    /// Looks at each address, and keeps no more than twice what is asked for.
    fn list(&self, after: &str, limit: usize) -> Vec<(Arc<str>, u32)> {
        let mut found = Vec::new();
        for stripe in &self.stripes {
            let stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, holders) in stripe.iter().filter(|(name, holders)| holders.clients > 0 && ***name > *after) {
                found.push((Arc::clone(name), holders.clients));
                if found.len() > 2 * limit {
                    found.sort_unstable();
                    found.truncate(limit);
                }
            }
        }
        found.sort_unstable();
        found.truncate(limit);
        found
    }

    fn counts(&self, kind: AddressKind) -> Vec<(u64, u32)> {
        let mut counts = Vec::with_capacity(self.groups.load(Ordering::Relaxed));
        for stripe in &self.stripes {
            let stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            counts.extend(stripe.iter().map(|(name, holders)| (AddressCounts::hash(kind, name), holders.clients)));
        }
        counts
    }

    /// A stripe at a time, so that no thread waits for all of it.
    fn sample(&self, kind: AddressKind) -> NameSample {
        let mut hashes = Vec::with_capacity(self.groups.load(Ordering::Relaxed));
        for stripe in &self.stripes {
            let stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            let names = stripe.iter().filter(|(_, holders)| holders.clients > 0);
            hashes.extend(names.map(|(name, _)| NameSample::hash(kind, name)));
        }
        NameSample::from_parts(hashes, true)
    }

    fn find(&self, name: &str) -> Holders {
        self.stripe(name).get(name).copied().unwrap_or_default()
    }

    fn stripe(&self, name: &str) -> MutexGuard<'_, Stripe> {
        let stripe = (self.chooser.hash_one(name) >> 48) as usize % STRIPES;
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives memory back once a map holds a quarter of what it could; amortised by the removals that led there.
pub(crate) fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V, RandomState>) {
    if map.capacity() > 64 && map.len() * 4 < map.capacity() {
        map.shrink_to(map.len() * 2);
    }
}
