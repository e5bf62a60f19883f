//! What this node has in the directory, and what is still to be written there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

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
    /// Those to be written; each once.
    unwritten: Vec<Address>,
    /// Other nodes may rely on what stands in Redis until then.
    relied_until: Instant,
}

#[derive(Default)]
struct DirectoryEntry {
    /// Clients on their way into it.
    announced: u32,
    /// Redis has it.
    is_written: bool,
    /// It is in [`Partition::unwritten`].
    is_changed: bool,
    /// It is on its way to Redis: to be there, or not to be.
    sent: Option<bool>,
    /// Who waits until it is there.
    waiting: Vec<oneshot::Sender<()>>,
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
            let entries = HashMap::default();
            Mutex::new(Partition { entries, unwritten: Vec::new(), relied_until })
        };
        let partitions = (0..PARTITIONS).map(|_| partition()).collect();
        Self { partitions, has_clients, changed: Notify::new(), count }
    }

    /// A client is on its way into `address`, which is to be in the directory before it is there.
    pub(super) fn announce(self: &Arc<Self>, address: Address) -> Announcement {
        let mut partition = self.partition(address.kind(), address.name());
        let entry = match partition.entries.get_mut(&address) {
            Some(entry) => entry,
            None => {
                self.count.inc();
                partition.entries.entry(address.clone()).or_default()
            }
        };
        entry.announced += 1;
        // one that is being taken out is put in again
        let is_there = entry.is_written && entry.sent != Some(false);
        let mut wait = None;
        if !is_there {
            let (there, waits) = oneshot::channel();
            entry.waiting.push(there);
            wait = Some(waits);
            partition.change(&address);
            self.changed.notify_one();
        }
        drop(partition);
        Announcement { entries: Arc::clone(self), address, wait }
    }

    /// The last client of an address left it.
    pub(super) fn left(&self, kind: AddressKind, name: &str) {
        let mut partition = self.partition(kind, name);
        if partition.change(&kind.of(name)) {
            self.changed.notify_one();
        }
    }

    /// Waits for something to write. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// At most `most` of what is to be written of a partition, and whether more is. Each has to be ended by [`Entries::written`] or
    /// [`Entries::failed`].
    pub(super) fn take(&self, at: usize, most: usize) -> (Vec<EntryChange>, bool) {
        let mut partition = self.lock(at);
        let Partition { entries, unwritten, .. } = &mut *partition;
        let taken = unwritten.len().min(most);
        let mut changes = Vec::with_capacity(taken);
        for address in unwritten.drain(..taken) {
            let Some(entry) = entries.get_mut(&address) else { continue };
            entry.is_changed = false;
            let holds = entry.announced > 0 || (self.has_clients)(&address);
            entry.sent = Some(holds);
            changes.push(EntryChange { address, holds });
        }
        (changes, !unwritten.is_empty())
    }

    /// Other nodes may rely on what stands in Redis of a partition until then.
    pub(super) fn rely_until(&self, at: usize, until: Instant) {
        self.lock(at).relied_until = until;
    }

    /// Redis has these changes.
    pub(super) fn written(&self, at: usize, changes: Vec<EntryChange>) {
        let mut partition = self.lock(at);
        for EntryChange { address, holds } in changes {
            let Some(entry) = partition.entries.get_mut(&address) else { continue };
            entry.sent = None;
            entry.is_written = holds;
            if holds {
                for waiting in entry.waiting.drain(..) {
                    // whoever waited may be gone
                    let _ = waiting.send(());
                }
            } else if !entry.is_changed && entry.announced == 0 {
                partition.entries.remove(&address);
                self.count.dec();
            }
        }
        let entries = &mut partition.entries;
        if entries.capacity() > 64 && entries.len() * 4 < entries.capacity() {
            entries.shrink_to(entries.len() * 2);
        }
    }

    /// Nobody knows whether Redis has these changes: they are to be written again.
    pub(super) fn failed(&self, at: usize, changes: Vec<EntryChange>) {
        let mut partition = self.lock(at);
        for EntryChange { address, holds } in changes {
            if let Some(entry) = partition.entries.get_mut(&address) {
                entry.sent = None;
                entry.is_written &= holds;
            }
            partition.change(&address);
        }
    }

    /// All of a partition is to be written again.
    pub(super) fn rewrite(&self, at: usize) {
        let mut partition = self.lock(at);
        let Partition { entries, unwritten, .. } = &mut *partition;
        for (address, entry) in entries.iter_mut().filter(|(_, entry)| !entry.is_changed) {
            entry.is_changed = true;
            unwritten.push(address.clone());
        }
    }

    fn partition(&self, kind: AddressKind, name: &str) -> MutexGuard<'_, Partition> {
        self.lock(partition(kind, name))
    }

    fn lock(&self, at: usize) -> MutexGuard<'_, Partition> {
        self.partitions[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partition {
    /// An entry is to be written; `false`: there is none.
    fn change(&mut self, address: &Address) -> bool {
        let Some(entry) = self.entries.get_mut(address) else { return false };
        if !entry.is_changed {
            entry.is_changed = true;
            self.unwritten.push(address.clone());
        }
        true
    }
}

/// A client on its way into an address. It is to be held until the client is there, or is not to come any more.
pub struct Announcement {
    entries: Arc<Entries>,
    address: Address,
    /// `None`: the directory has the address.
    wait: Option<oneshot::Receiver<()>>,
}

impl Announcement {
    /// The directory has the address already.
    pub fn is_entered(&self) -> bool {
        self.wait.is_none()
    }

    /// Waits until the directory has the address, or no node relies on what the directory has of this one: then each push comes here
    /// anyway. At most `[directory] lease` and `[redis] timeout` from the moment on in which Redis went away. Cancel-safe.
    pub async fn entered(&mut self) {
        while let Some(wait) = &mut self.wait {
            let relied_until = self.entries.partition(self.address.kind(), self.address.name()).relied_until;
            if relied_until <= Instant::now() {
                return;
            }
            // both cancel-safe
            tokio::select! {
                _ = wait => self.wait = None,
                () = sleep_until(relied_until) => {}
            }
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let mut partition = self.entries.partition(self.address.kind(), self.address.name());
        let Some(entry) = partition.entries.get_mut(&self.address) else { return };
        entry.announced -= 1;
        // who did not come in leaves an entry behind that nobody else takes out
        if entry.announced == 0 && !(self.entries.has_clients)(&self.address) {
            partition.change(&self.address);
            self.entries.changed.notify_one();
        }
    }
}
