//! One stream in memory: its numbers, where its pushes are, and its devices.

use std::collections::VecDeque;

use super::devices::Device;
use crate::{
    log::Place,
    push::{Address, AddressKind, Epoch, PushId, StreamPosition},
    store::embedded::entry::AddressRef,
};

/// Where a stored push is: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::embedded) struct IndexEntry {
    /// The low half of its seq.
    seq: u32,
    /// Of its id, to tell another push at this seq.
    id_check: u32,
    place: Place,
    /// It is kept until then, in seconds since 1970.
    pub(super) until: u32,
    /// Bytes that it takes in the log: of a push to several streams its share.
    pub(super) bytes: u32,
    /// A hash of its collapse key, in two halves, so that the whole needs no more than 4-byte places; 0: none.
    collapse: [u32; 2],
}

/// What is known of a push that comes into a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::embedded) struct StoredAt {
    pub(in crate::store::embedded) seq: u64,
    pub(in crate::store::embedded) id: PushId,
    pub(in crate::store::embedded) place: Place,
    /// Seconds since 1970.
    pub(in crate::store::embedded) until: u32,
    pub(in crate::store::embedded) bytes: u32,
    /// Of its collapse key; 0: none.
    pub(in crate::store::embedded) collapse: u64,
}

impl IndexEntry {
    fn new(stored: &StoredAt) -> Self {
        let StoredAt { seq, id, place, until, bytes, collapse } = *stored;
        let collapse = [collapse as u32, (collapse >> 32) as u32];
        Self { seq: seq as u32, id_check: id_check(id), place, until, bytes, collapse }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    fn collapse(&self) -> u64 {
        u64::from(self.collapse[0]) | u64::from(self.collapse[1]) << 32
    }
}

fn id_check(id: PushId) -> u32 {
    let bytes = id.to_bytes();
    // the last ones are chance
    u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]])
}

/// See the module.
pub(super) struct IndexedStream {
    kind: AddressKind,
    name: Box<str>,
    pub(super) epoch: Epoch,
    /// The newest seq; 0: nothing was stored yet.
    pub(super) head: u64,
    pub(super) head_id: PushId,
    /// Numbers behind the head that were given or may have been, and are not given again.
    pub(super) burned: u32,
    /// The segment whose entry tells the head; 0: none does yet.
    pub(super) head_segment: u32,
    entries: VecDeque<IndexEntry>,
    /// Of the entries.
    bytes: u64,
    /// Boxed, since rooms and cards that nobody has read have none.
    #[expect(clippy::box_collection, reason = "8 bytes instead of 24 in each stream")]
    devices: Option<Box<Vec<Device>>>,
    /// When it was last used, in seconds since 1970.
    pub(super) used: u32,
    /// Which bounds it has.
    pub(super) section: u16,
    /// It is among those that changed.
    pub(super) changed: bool,
    /// It is among those whose cursors are to be written.
    pub(super) unsaved: bool,
}

impl IndexedStream {
    pub(super) fn new(address: AddressRef<'_>, epoch: Epoch, section: u16, now: u32) -> Self {
        Self {
            kind: address.kind,
            name: address.name.into(),
            epoch,
            head: 0,
            head_id: PushId::NIL,
            burned: 0,
            head_segment: 0,
            entries: VecDeque::new(),
            bytes: 0,
            devices: None,
            used: now,
            section,
            changed: false,
            unsaved: false,
        }
    }

    pub(super) fn address(&self) -> AddressRef<'_> {
        AddressRef { kind: self.kind, name: &self.name }
    }

    pub(super) fn owned_address(&self) -> Address {
        let name = self.name.to_string().into();
        match self.kind {
            AddressKind::Card => Address::Card(name),
            AddressKind::Room => Address::Room(name),
        }
    }

    /// `None`: nothing was stored in it yet.
    pub(super) fn position(&self) -> Option<StreamPosition> {
        (self.head > 0).then_some(StreamPosition { epoch: self.epoch, seq: self.head, id: self.head_id })
    }

    /// The number that is given next.
    pub(super) fn next_seq(&self) -> u64 {
        self.head + u64::from(self.burned) + 1
    }

    /// As the log tells it, at the start: only forward.
    pub(super) fn restore_head(&mut self, head: u64, id: PushId, burned: u32) {
        if head >= self.head {
            self.burned = burned.max(u32::try_from(self.next_seq().saturating_sub(head + 1)).unwrap_or(u32::MAX));
            self.head = head;
            self.head_id = id;
        }
    }

    /// It begins anew, in another epoch. It must be empty.
    pub(super) fn begin_again(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.head = 0;
        self.head_id = PushId::NIL;
        self.burned = 0;
    }

    // its pushes

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole number of an entry: none is older than the head by 2^32.
    fn seq_of(&self, entry: &IndexEntry) -> u64 {
        self.head.saturating_sub(u64::from((self.head as u32).wrapping_sub(entry.seq)))
    }

    /// The number of the oldest push.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| self.seq_of(entry))
    }

    /// How many entries are not behind `seq`.
    fn up_to(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| self.seq_of(entry) <= seq)
    }

    /// Its entries behind `seq`, in order.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = (u64, &IndexEntry)> {
        self.entries.range(self.up_to(seq)..).map(|entry| (self.seq_of(entry), entry))
    }

    pub(super) fn get(&self, seq: u64) -> Option<&IndexEntry> {
        let at = self.up_to(seq).checked_sub(1)?;
        self.entries.get(at).filter(|entry| self.seq_of(entry) == seq)
    }

    /// Whether another push than `id` stands at `seq`, as far as that is known.
    pub(super) fn differs(&self, seq: u64, id: PushId) -> bool {
        if seq == self.head {
            return id != self.head_id;
        }
        self.get(seq).is_some_and(|entry| entry.id_check != id_check(id))
    }

    /// Whether the push `id` stands at `seq`, or stood there as the head.
    pub(super) fn has(&self, seq: u64, id: PushId) -> bool {
        let is_head = seq == self.head && id == self.head_id;
        is_head || self.get(seq).is_some_and(|entry| entry.id_check == id_check(id))
    }

    /// Takes a push in, wherever it belongs; what was at its seq is given back. The newest is the head.
    pub(super) fn insert(&mut self, stored: &StoredAt) -> Option<IndexEntry> {
        if stored.seq > self.head {
            let next = self.next_seq();
            self.burned = u32::try_from(next.saturating_sub(stored.seq + 1)).unwrap_or(u32::MAX);
            self.head = stored.seq;
            self.head_id = stored.id;
        }
        let entry = IndexEntry::new(stored);
        self.bytes += u64::from(entry.bytes);
        let at = self.up_to(stored.seq);
        if let Some(there) = at.checked_sub(1)
            && self.seq_of(&self.entries[there]) == stored.seq
        {
            let before = std::mem::replace(&mut self.entries[there], entry);
            self.bytes -= u64::from(before.bytes);
            return Some(before);
        }
        if self.entries.len() == self.entries.capacity() {
            // doubling would waste a third of all memory
            self.entries.reserve_exact(self.entries.len() / 4 + 1);
        }
        self.entries.insert(at, entry);
        None
    }

    /// The push is at another place now.
    pub(super) fn set_place(&mut self, seq: u64, place: Place) {
        if let Some(at) = self.up_to(seq).checked_sub(1)
            && self.seq_of(&self.entries[at]) == seq
        {
            self.entries[at].place = place;
        }
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<IndexEntry> {
        let at = self.up_to(seq).checked_sub(1).filter(|at| self.seq_of(&self.entries[*at]) == seq)?;
        let removed = self.entries.remove(at)?;
        self.removed(&removed);
        Some(removed)
    }

    pub(super) fn remove_oldest(&mut self) -> Option<(u64, IndexEntry)> {
        let seq = self.first()?;
        let removed = self.entries.pop_front()?;
        self.removed(&removed);
        Some((seq, removed))
    }

    /// The older push of the same collapse key, taken out.
    pub(super) fn remove_collapsed(&mut self, collapse: u64, before: u64) -> Option<IndexEntry> {
        let end = self.up_to(before.saturating_sub(1));
        let at = self.entries.range(..end).rposition(|entry| entry.collapse() == collapse)?;
        let removed = self.entries.remove(at)?;
        self.removed(&removed);
        Some(removed)
    }

    /// A push of the same collapse key that is newer than `seq` is there.
    pub(super) fn is_collapsed(&self, collapse: u64, seq: u64) -> bool {
        self.after(seq).any(|(_, entry)| entry.collapse() == collapse)
    }

    /// Takes out what is kept no longer than `now`, with the seqs.
    pub(super) fn remove_expired(&mut self, now: u32, mut removed: impl FnMut(u64, IndexEntry)) {
        let head = self.head;
        let mut bytes = 0;
        self.entries.retain(|entry| {
            let keep = entry.until > now;
            if !keep {
                bytes += u64::from(entry.bytes);
                removed(head.saturating_sub(u64::from((head as u32).wrapping_sub(entry.seq))), *entry);
            }
            keep
        });
        self.bytes -= bytes;
        self.shrink();
    }

    /// Takes all out.
    pub(super) fn clear(&mut self, mut removed: impl FnMut(u64, IndexEntry)) {
        while let Some((seq, entry)) = self.remove_oldest() {
            removed(seq, entry);
        }
    }

    fn removed(&mut self, removed: &IndexEntry) {
        self.bytes -= u64::from(removed.bytes);
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.entries.capacity() > 8 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        } else if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
    }

    // its devices

    pub(super) fn devices(&self) -> &[Device] {
        self.devices.as_deref().map_or(&[], Vec::as_slice)
    }

    pub(super) fn devices_mut(&mut self) -> &mut Vec<Device> {
        self.devices.get_or_insert_default()
    }

    /// What all devices have is waited for by nobody; where there is none, by whoever comes first.
    pub(super) fn is_waited_for(&self, seq: u64) -> bool {
        self.devices().is_empty() || self.devices().iter().any(|device| device.seq() < seq)
    }
}
