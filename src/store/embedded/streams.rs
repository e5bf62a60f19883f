//! Which pushes the store holds, in which streams, and how far their readers are: the whole of its state, without disk, clock or
//! channel.
//!
//! A push is *assigned* a number in each of its streams, then *stored* there once the log has it; a number that was assigned is
//! never given again. It leaves when its time is over, a newer push of its collapse key comes, the bounds of its stream or of the
//! store push it out, or it is deleted. The content stays in the log: an entry here is 32 bytes, and says where.

mod attach;
mod bounds;
mod claims;
mod clean;
mod devices;
mod replay;
mod revocations;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod uses;

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
};

use hashbrown::{HashMap, HashTable};

use super::{
    entry::{AddressRef, CursorForm, DeviceForm, write_cursors},
    limits::{StoreLimits, seconds},
};
use crate::{
    log::Place,
    push::{Address, AddressKind, Epoch, PushId, StreamEntry, StreamPosition},
    store::StoreError,
};
pub(super) use claims::{ClaimState, Claims};
pub(super) use clean::{LivePush, share};
pub(super) use devices::form as device_form;
pub(super) use replay::{RestoredStreams, StreamReplay};
pub(super) use revocations::KeptRevocations;
use stream::IndexedStream;
pub(super) use stream::StoredAt;
pub(super) use uses::SegmentUses;

const TOO_MANY_STREAMS: &str = "the store has too many streams ([store] max_streams): try again later";

/// Of all streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreTotals {
    pub(super) streams: u64,
    pub(super) entries: u64,
    /// What the entries take in the log.
    pub(super) bytes: u64,
    pub(super) devices: u64,
}

/// Pushes that left a stream before all who read it had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreDrops {
    pub(super) expired: u64,
    pub(super) pushed_out: u64,
    pub(super) lost: u64,
}

/// A number that was assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AssignedPlace {
    /// Which stream: valid within the turn.
    pub(super) stream: u32,
    pub(super) entry: StreamEntry,
    /// Seconds since 1970.
    pub(super) until: u32,
}

/// What is assigned in one turn: the newest number of each stream.
#[derive(Default)]
pub(super) struct Assignment(HashMap<u32, (u64, PushId)>);

/// Pushes to be read for a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PagePlan {
    /// In order.
    pub(super) places: Vec<(u64, Place)>,
    /// There are more behind them.
    pub(super) more: bool,
    pub(super) head: u64,
    pub(super) head_id: PushId,
}

/// Cursors that are being written.
#[derive(Debug, Default)]
pub(super) struct UnsavedCursors {
    /// The body of a CURSORS.
    pub(super) body: Vec<u8>,
    streams: Vec<u32>,
}

/// See the module.
pub(super) struct StreamIndex {
    limits: StoreLimits,
    hashes: RandomState,
    by_address: HashTable<u32>,
    slots: Vec<Option<Box<IndexedStream>>>,
    free: Vec<u32>,
    uses: SegmentUses,
    totals: StoreTotals,
    drops: StoreDrops,
    changed: VecDeque<u32>,
    unsaved: VecDeque<u32>,
    claims: Claims,
    revocations: KeptRevocations,
    /// Which segment says what process has the log; 0: none does yet.
    begun_segment: u32,
    begun_untold: bool,
    /// Where the walk over all streams goes on.
    walked: usize,
}

impl StreamIndex {
    pub(super) fn new(limits: StoreLimits) -> Self {
        let claims = Claims::new(limits.max_claims);
        Self {
            limits,
            hashes: RandomState::new(),
            by_address: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            uses: SegmentUses::default(),
            totals: StoreTotals::default(),
            drops: StoreDrops::default(),
            changed: VecDeque::new(),
            unsaved: VecDeque::new(),
            claims,
            revocations: KeptRevocations::default(),
            begun_segment: 0,
            begun_untold: false,
            walked: 0,
        }
    }

    pub(super) fn totals(&self) -> StoreTotals {
        self.totals
    }

    /// Those since the last call.
    pub(super) fn take_drops(&mut self) -> StoreDrops {
        std::mem::take(&mut self.drops)
    }

    /// The oldest segment that is needed.
    pub(super) fn oldest_segment(&self) -> Option<u32> {
        self.uses.oldest()
    }

    /// Nothing would change if no time passed.
    pub(super) fn is_empty(&self) -> bool {
        self.totals.streams == 0 && self.claims.is_empty() && self.revocations.is_empty()
    }

    pub(super) fn claims(&mut self) -> (&mut Claims, &mut SegmentUses) {
        (&mut self.claims, &mut self.uses)
    }

    pub(super) fn revocations(&mut self) -> (&mut KeptRevocations, &mut SegmentUses) {
        (&mut self.revocations, &mut self.uses)
    }

    /// A collapse key as entries have it; 0: none.
    pub(super) fn collapse_hash(&self, key: &[u8]) -> u64 {
        if key.is_empty() { 0 } else { self.hashes.hash_one(key).max(1) }
    }

    // which stream

    fn hash(hashes: &RandomState, address: AddressRef<'_>) -> u64 {
        hashes.hash_one((address.kind == AddressKind::Card, address.name))
    }

    fn slot(&self, address: AddressRef<'_>) -> Option<u32> {
        let is = |slot: &u32| self.stream(*slot).is_some_and(|stream| stream.address() == address);
        self.by_address.find(Self::hash(&self.hashes, address), is).copied()
    }

    fn stream(&self, slot: u32) -> Option<&IndexedStream> {
        self.slots.get(slot as usize)?.as_deref()
    }

    fn stream_mut(&mut self, slot: u32) -> Option<&mut IndexedStream> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    fn find(&self, address: AddressRef<'_>) -> Option<&IndexedStream> {
        self.stream(self.slot(address)?)
    }

    /// Begins a stream where there is none.
    fn create(&mut self, address: AddressRef<'_>, epoch: Epoch, now: u32) -> u32 {
        let stream = Some(Box::new(IndexedStream::new(address, epoch, self.limits.section(address), now)));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = stream;
                slot
            }
            None => {
                self.slots.push(stream);
                self.slots.len() as u32 - 1
            }
        };
        let Self { hashes, slots, by_address, .. } = self;
        let hash_of = |slot: &u32| {
            let stream = slots.get(*slot as usize).and_then(Option::as_deref);
            stream.map_or(0, |stream| Self::hash(hashes, stream.address()))
        };
        by_address.insert_unique(Self::hash(hashes, address), slot, hash_of);
        self.totals.streams += 1;
        slot
    }

    /// Forgets a stream and all that is in it.
    fn forget(&mut self, slot: u32) {
        self.empty(slot);
        let Some(stream) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        self.uses.remove(stream.head_segment);
        let hash = Self::hash(&self.hashes, stream.address());
        if let Ok(found) = self.by_address.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        self.free.push(slot);
        self.totals.streams -= 1;
    }

    /// Takes its pushes and devices out of a stream.
    fn empty(&mut self, slot: u32) {
        let Self { slots, uses, totals, .. } = self;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        stream.clear(|_, entry| {
            uses.remove(entry.place().segment);
            totals.entries -= 1;
            totals.bytes -= u64::from(entry.bytes);
        });
        for device in stream.devices_mut().drain(..) {
            uses.remove(device.segment);
            totals.devices -= 1;
        }
    }

    // pushes

    /// Gives the push `id` a number in the stream of each address, which begins if there is none.
    ///
    /// # Errors
    /// There would be too many streams: nothing has changed.
    pub(super) fn assign<'a>(
        &mut self,
        assignment: &mut Assignment,
        addresses: impl Iterator<Item = AddressRef<'a>> + Clone,
        id: PushId,
        until: u32,
        now: u32,
    ) -> Result<Vec<AssignedPlace>, StoreError> {
        let new = addresses.clone().filter(|address| self.slot(*address).is_none()).count() as u64;
        if new > 0 && self.totals.streams + new > self.limits.max_streams as u64 {
            return Err(StoreError::Full(TOO_MANY_STREAMS));
        }
        let assigned = addresses.filter_map(|address| {
            let slot = self.slot(address).unwrap_or_else(|| self.create(address, Epoch::random(), now));
            let age = self.limits.bounds(self.stream(slot)?.section).max_age.map(seconds);
            let stream = self.stream_mut(slot)?;
            let seq = stream.next_seq();
            stream.burned += 1;
            stream.used = now;
            let before = assignment.0.insert(slot, (seq, id));
            let (previous, previous_id) = before.unwrap_or((stream.head, stream.head_id));
            let entry = StreamEntry { epoch: stream.epoch, seq, previous, previous_id };
            let until = age.map_or(until, |age| until.min(now.saturating_add(age)));
            Some(AssignedPlace { stream: slot, entry, until })
        });
        Ok(assigned.collect())
    }

    /// The log has a push that was assigned a number.
    pub(super) fn store(&mut self, assigned: &AssignedPlace, stored: &StoredAt, now: u32) {
        let Self { slots, uses, changed, .. } = self;
        let Some(stream) = slots.get_mut(assigned.stream as usize).and_then(Option::as_deref_mut) else { return };
        uses.change(&mut stream.head_segment, stored.place.segment);
        if !stream.changed {
            stream.changed = true;
            changed.push_back(assigned.stream);
        }
        self.insert(assigned.stream, stored);
        self.trim(assigned.stream, now);
    }

    /// Puts a push into a stream: an older one of its collapse key goes.
    fn insert(&mut self, slot: u32, stored: &StoredAt) {
        let Self { slots, uses, totals, .. } = self;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let collapsed = if stored.collapse == 0 {
            None
        } else if stream.is_collapsed(stored.collapse, stored.seq) {
            return;
        } else {
            stream.remove_collapsed(stored.collapse, stored.seq)
        };
        let replaced = stream.insert(stored);
        uses.add(stored.place.segment);
        totals.entries += 1;
        totals.bytes += u64::from(stored.bytes);
        for entry in collapsed.into_iter().chain(replaced) {
            uses.remove(entry.place().segment);
            totals.entries -= 1;
            totals.bytes -= u64::from(entry.bytes);
        }
    }

    /// Takes one push out. Whether it was there.
    fn remove(&mut self, slot: u32, seq: u64) -> bool {
        let Some(removed) = self.stream_mut(slot).and_then(|stream| stream.remove(seq)) else { return false };
        self.uses.remove(removed.place().segment);
        self.totals.entries -= 1;
        self.totals.bytes -= u64::from(removed.bytes);
        true
    }

    /// What to read for the next page behind `after`; `None`: there is no such stream.
    pub(super) fn page(
        &self,
        address: AddressRef<'_>,
        epoch: Epoch,
        after: u64,
        most: usize,
        now: u32,
    ) -> Option<PagePlan> {
        let stream = self.find(address).filter(|stream| stream.epoch == epoch && stream.head > 0)?;
        let mut waiting = stream.after(after).filter(|(_, entry)| entry.until > now);
        let places = waiting.by_ref().take(most).map(|(seq, entry)| (seq, entry.place())).collect();
        Some(PagePlan { places, more: waiting.next().is_some(), head: stream.head, head_id: stream.head_id })
    }

    /// Where a push is by now.
    pub(super) fn place(&self, address: AddressRef<'_>, epoch: Epoch, seq: u64) -> Option<Place> {
        let stream = self.find(address).filter(|stream| stream.epoch == epoch)?;
        stream.get(seq).map(|entry| entry.place())
    }

    /// The log does not have a push any more that should be at `place`.
    pub(super) fn lose(&mut self, address: AddressRef<'_>, seq: u64, place: Place) -> bool {
        let Some(slot) = self.slot(address) else { return false };
        let is_there = self.stream(slot).and_then(|stream| stream.get(seq)).is_some_and(|entry| entry.place() == place);
        let lost = is_there && self.remove(slot, seq);
        self.drops.lost += u64::from(lost);
        lost
    }

    pub(super) fn head(&self, address: AddressRef<'_>) -> Option<StreamPosition> {
        self.find(address)?.position()
    }

    /// Streams that got pushes since they were last given, at most `most`.
    pub(super) fn take_changes(&mut self, most: usize) -> Vec<(Address, StreamPosition)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(slot) = self.changed.pop_front()
        {
            // it may be another stream by now, or none
            let Some(stream) = self.stream_mut(slot).filter(|stream| stream.changed) else { continue };
            stream.changed = false;
            taken.extend(stream.position().map(|position| (stream.owned_address(), position)));
        }
        taken
    }

    // deletes

    /// The epoch of a push that is there.
    pub(super) fn epoch_with(&self, address: AddressRef<'_>, seq: u64) -> Option<Epoch> {
        let stream = self.find(address)?;
        stream.get(seq).map(|_| stream.epoch)
    }

    /// The log knows that the push is deleted.
    pub(super) fn delete_entry(&mut self, address: AddressRef<'_>, epoch: Epoch, seq: u64) {
        let slot = self.slot(address);
        let slot = slot.filter(|slot| self.stream(*slot).is_some_and(|stream| stream.epoch == epoch));
        if let Some(slot) = slot {
            self.remove(slot, seq);
        }
    }

    /// The log knows that the stream is deleted.
    pub(super) fn delete_stream(&mut self, address: AddressRef<'_>, epoch: Epoch) {
        let slot = self.slot(address);
        let slot = slot.filter(|slot| self.stream(*slot).is_some_and(|stream| stream.epoch == epoch));
        if let Some(slot) = slot {
            self.forget(slot);
        }
    }

    pub(super) fn has_device(&self, card: &str, device: DeviceForm<'_>) -> bool {
        self.find(AddressRef::card(card)).is_some_and(|stream| stream.devices().iter().any(|known| known.is(device)))
    }

    /// The log knows that the device is forgotten.
    pub(super) fn forget_device(&mut self, card: &str, device: DeviceForm<'_>) {
        let Some(slot) = self.slot(AddressRef::card(card)) else { return };
        let Self { slots, uses, totals, .. } = self;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        stream.devices_mut().retain(|known| {
            let keep = !known.is(device);
            if !keep {
                uses.remove(known.segment);
                totals.devices -= 1;
            }
            keep
        });
    }

    // cursors that are to be written

    pub(super) fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    fn save_later(&mut self, slot: u32) {
        let Self { slots, unsaved, .. } = self;
        let stream = slots.get_mut(slot as usize).and_then(Option::as_deref_mut);
        if let Some(stream) = stream.filter(|stream| !stream.unsaved) {
            stream.unsaved = true;
            unsaved.push_back(slot);
        }
    }

    /// Cursors that the log is to be told of: about `bytes`; `None`: there are none.
    pub(super) fn take_unsaved(&mut self, bytes: usize) -> Option<UnsavedCursors> {
        let mut taken = UnsavedCursors::default();
        while taken.body.len() < bytes
            && let Some(slot) = self.unsaved.pop_front()
        {
            let Some(stream) = self.stream_mut(slot).filter(|stream| stream.unsaved) else { continue };
            stream.unsaved = false;
            let mut moved = Vec::new();
            for (at, device) in stream.devices_mut().iter_mut().enumerate() {
                if device.begin_writing() {
                    moved.push(at);
                }
            }
            if moved.is_empty() {
                continue;
            }
            let AddressRef { name, .. } = stream.address();
            let cursors = moved.iter().map(|at| {
                let device = &stream.devices()[*at];
                CursorForm { device: device.form(), seq: device.seq(), seen: device.seen() }
            });
            write_cursors(&mut taken.body, name, stream.epoch, cursors);
            taken.streams.push(slot);
        }
        (!taken.streams.is_empty()).then_some(taken)
    }

    /// The log has these in `segment`; `None`: it has not taken them.
    pub(super) fn saved(&mut self, cursors: UnsavedCursors, segment: Option<u32>) {
        for slot in cursors.streams {
            let Self { slots, uses, .. } = self;
            let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { continue };
            for device in stream.devices_mut() {
                if device.end_writing(segment.is_some())
                    && let Some(segment) = segment
                {
                    uses.change(&mut device.segment, segment);
                }
            }
            if segment.is_none() {
                self.save_later(slot);
            }
        }
    }
}
