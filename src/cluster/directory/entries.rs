//! What this node has in the directory, and what is still to be written there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::keys::{PARTITIONS, partition};
use crate::{
    push::{Address, AddressKind},
    telemetry::Gauge,
};

/// Whether an address has clients on this node.
pub type HasClients = Box<dyn Fn(&Address) -> bool + Send + Sync>;

/// The entries of this node, by partition.
pub(super) struct Entries {
    partitions: Box<[Mutex<Partition>]>,
    has_clients: HasClients,
    /// Told when there is something to write.
    changed: Notify,
    count: Gauge,
}

struct Partition {
    entries: HashMap<Address, DirectoryEntry, RandomState>,
    to_write: HashSet<Address, RandomState>,
    /// Other nodes may rely on what stands in Redis until then.
    relied_until: Instant,
}

#[derive(Default)]
struct DirectoryEntry {
    /// Clients on their way into it.
    announced: u32,
    state: EntryState,
    /// Told once Redis has it; another one when it is taken out.
    written: CancellationToken,
}

/// Whether Redis has an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EntryState {
    #[default]
    Absent,
    Written,
    /// It is on its way there, and may be there already.
    Adding,
    /// It is on its way out.
    Removing,
}

/// An address, and whether this node is to be among those that hold it.
pub(super) struct EntryChange {
    pub(super) address: Address,
    pub(super) holds: bool,
}

impl Entries {
    /// Nothing is in Redis of this process; of one before it there may be something until `relied_until`.
    pub(super) fn new(has_clients: HasClients, relied_until: Instant, count: Gauge) -> Self {
        let partition = || {
            let (entries, to_write) = (HashMap::default(), HashSet::default());
            Mutex::new(Partition { entries, to_write, relied_until })
        };
        let partitions = (0..PARTITIONS).map(|_| partition()).collect();
        Self { partitions, has_clients, changed: Notify::new(), count }
    }

    /// A client is on its way into `address`, which is to be in the directory before it is there.
    pub(super) fn announce(self: &Arc<Self>, address: Address) -> Announcement {
        let mut partition = self.partition(address.kind(), address.name());
        let entry = self.entry(&mut partition, &address);
        entry.announced += 1;
        let written = entry.written.clone();
        // one that is being taken out is put in again
        if entry.state != EntryState::Written {
            partition.to_write.insert(address.clone());
            self.changed.notify_one();
        }
        drop(partition);
        Announcement { entries: Arc::clone(self), address, written }
    }

    /// The last client of an address left it.
    pub(super) fn left(&self, kind: AddressKind, name: &str) {
        let address = kind.of(name);
        let mut partition = self.partition(kind, name);
        if partition.entries.contains_key(&address) {
            self.remove(&mut partition, address);
        }
    }

    /// Redis says that this node holds an address, and it has no clients here: a process of before has left it there.
    pub(super) fn take_out(&self, address: Address) {
        let mut partition = self.partition(address.kind(), address.name());
        let entry = self.entry(&mut partition, &address);
        if entry.state == EntryState::Absent {
            entry.state = EntryState::Written;
            entry.written.cancel();
        }
        self.remove(&mut partition, address);
    }

    /// Waits for something to write. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// At most `most` of what is to be written of a partition, and whether more is. Each has to be ended by [`Entries::written`] or
    /// [`Entries::failed`].
    pub(super) fn take(&self, at: usize, most: usize) -> (Vec<EntryChange>, bool) {
        let mut partition = self.lock(at);
        let Partition { entries, to_write, .. } = &mut *partition;
        let taken: Vec<_> = to_write.extract_if(|_| true).take(most).collect();
        let mut changes = Vec::with_capacity(taken.len());
        for address in taken {
            let Some(entry) = entries.get_mut(&address) else { continue };
            let holds = entry.announced > 0 || (self.has_clients)(&address);
            if holds {
                entry.state = EntryState::Adding;
            } else {
                entry.state = EntryState::Removing;
                entry.written = CancellationToken::new();
            }
            changes.push(EntryChange { address, holds });
        }
        (changes, !to_write.is_empty())
    }

    /// Until when other nodes may rely on what stands in Redis of a partition.
    pub(super) fn relied_until(&self, at: usize) -> Instant {
        self.lock(at).relied_until
    }

    /// See [`Entries::relied_until`].
    pub(super) fn rely_until(&self, at: usize, until: Instant) {
        self.lock(at).relied_until = until;
    }

    /// Redis has these changes.
    pub(super) fn written(&self, at: usize, changes: Vec<EntryChange>) {
        let mut partition = self.lock(at);
        for EntryChange { address, holds } in changes {
            let Some(entry) = partition.entries.get_mut(&address) else { continue };
            if holds {
                entry.state = EntryState::Written;
                entry.written.cancel();
            } else {
                entry.state = EntryState::Absent;
                self.forget_unused(&mut partition, &address);
            }
        }
        let Partition { entries, to_write, .. } = &mut *partition;
        if entries.capacity() > 64 && entries.len() * 4 < entries.capacity() {
            entries.shrink_to(entries.len() * 2);
            to_write.shrink_to(entries.len() * 2);
        }
    }

    /// Nobody knows whether Redis has these changes: they are to be written again.
    pub(super) fn failed(&self, at: usize, changes: Vec<EntryChange>) {
        let mut partition = self.lock(at);
        for EntryChange { address, .. } in changes {
            if partition.entries.contains_key(&address) {
                partition.to_write.insert(address);
            }
        }
    }

    /// All of a partition is to be written again.
    pub(super) fn write_all(&self, at: usize) {
        let mut partition = self.lock(at);
        let Partition { entries, to_write, .. } = &mut *partition;
        to_write.extend(entries.keys().cloned());
    }

    fn entry<'a>(&self, partition: &'a mut Partition, address: &Address) -> &'a mut DirectoryEntry {
        partition.entries.entry(address.clone()).or_insert_with(|| {
            self.count.inc();
            DirectoryEntry::default()
        })
    }

    /// An address without clients is to be taken out of Redis, if it may be there.
    fn remove(&self, partition: &mut Partition, address: Address) {
        if !self.forget_unused(partition, &address) {
            partition.to_write.insert(address);
            self.changed.notify_one();
        }
    }

    /// Forgets an entry that Redis does not have and nobody needs; `false`: it is kept.
    fn forget_unused(&self, partition: &mut Partition, address: &Address) -> bool {
        let Some(entry) = partition.entries.get(address) else { return true };
        let is_unused = entry.state == EntryState::Absent && entry.announced == 0 && !(self.has_clients)(address);
        if is_unused {
            partition.entries.remove(address);
            partition.to_write.remove(address);
            self.count.dec();
        }
        is_unused
    }

    fn partition(&self, kind: AddressKind, name: &str) -> MutexGuard<'_, Partition> {
        self.lock(partition(kind, name))
    }

    fn lock(&self, at: usize) -> MutexGuard<'_, Partition> {
        self.partitions[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client on its way into an address. It is to be held until the client is there, or is not to come any more.
pub struct Announcement {
    entries: Arc<Entries>,
    address: Address,
    /// Told once the directory has the address.
    written: CancellationToken,
}

impl Announcement {
    /// The directory has the address already.
    pub fn is_entered(&self) -> bool {
        self.written.is_cancelled()
    }

    /// Waits until the directory has the address, or no node relies on what the directory has of this one: then each push comes here
    /// anyway. At most `[directory] lease` and twice `[redis] timeout` from the last moment on in which Redis took what this node
    /// wrote. Cancel-safe.
    pub async fn entered(&self) {
        while !self.is_entered() {
            let relied_until = self.entries.partition(self.address.kind(), self.address.name()).relied_until;
            if relied_until <= Instant::now() {
                return;
            }
            // both cancel-safe
            tokio::select! {
                () = self.written.cancelled() => {}
                () = sleep_until(relied_until) => {}
            }
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let Self { entries, address, .. } = self;
        let mut partition = entries.partition(address.kind(), address.name());
        let Some(entry) = partition.entries.get_mut(address) else { return };
        entry.announced -= 1;
        // who did not come in leaves an entry behind that nobody else takes out
        if entry.announced == 0 && !(entries.has_clients)(address) {
            entries.remove(&mut partition, address.clone());
        }
    }
}
