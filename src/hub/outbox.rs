//! A client's bounded queue of frames.

mod collapse;

use std::{collections::VecDeque, io, rc::Rc};

use self::collapse::CollapseKeys;
use super::{Item, Limits, client::Sink};
use crate::{config::Policy, push::Address};

/// Waiting frames are gathered into one write of up to this: cheaper than `writev` for small frames.
pub(super) const GATHER: usize = 16 * 1024;

/// What an outbox says to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It waits.
    Queued,
    /// It is full: the connection must go.
    Slow,
}

/// An [`Offer`] with what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Whether the frame waits now.
    pub offer: Offer,
    /// Waiting pushes that made room.
    pub dropped: u64,
    /// Whether a waiting push of the same key was replaced.
    pub conflated: bool,
}

/// What a write did.
pub(super) struct Flushed {
    /// Pushes that left whole.
    pub(super) pushes: u64,
    /// Pushes that left no more, because their end had come.
    pub(super) expired: u64,
    /// Where it ended.
    pub(super) result: io::Result<Written>,
}

/// Where a write ended.
pub(super) enum Written {
    /// Nothing waits any more.
    All,
    /// The kernel takes no more for now.
    Some,
}

/// Frames in the order in which they leave, bounded in bytes. Empty, it owns no memory; one waiting frame needs none either.
#[derive(Default)]
pub struct Outbox {
    /// The next to leave, perhaps partly written.
    front: Option<Rc<Item>>,
    /// Those behind it; `None`: dropped or replaced.
    rest: VecDeque<Option<Rc<Item>>>,
    /// How many left `rest` at its front since it was empty: number of `rest[0]`.
    base: u32,
    /// Holes in `rest`.
    holes: u32,
    /// Bytes of `front` that the kernel has.
    written: u32,
    /// Bytes of all waiting frames, whole.
    bytes: u32,
    /// Policy conflate: the number of each key's waiting push in `rest`.
    keys: CollapseKeys,
}

impl Outbox {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.front.is_none()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Pushes that wait.
    pub(super) fn pushes(&self) -> u64 {
        let begun = self.front.as_ref().map_or(0, |front| front.pushes_within(self.written));
        self.front.iter().chain(self.rest.iter().flatten()).map(|item| item.push_count()).sum::<u64>() - begun
    }

    /// `item` would not fit. An empty outbox takes any frame: one that is larger than the bound could never leave otherwise.
    pub(super) fn is_full_for(&self, item: &Item, limits: &Limits) -> bool {
        !self.is_empty() && self.bytes() + item.len() > limits.max_bytes
    }

    /// Lets `item` wait, as the policy allows. Never waits itself.
    pub fn offer(&mut self, item: &Rc<Item>, limits: &Limits) -> Offered {
        let mut offered = Offered { offer: Offer::Queued, dropped: 0, conflated: false };
        if limits.policy == Policy::Conflate && item.is_push() {
            offered.conflated = self.take_same_key(item);
        }
        while self.is_full_for(item, limits) {
            let dropped = if limits.policy == Policy::Disconnect { 0 } else { self.drop_oldest() };
            if dropped == 0 && limits.policy != Policy::Disconnect && item.is_droppable() && self.has_stored() {
                // what stands before it must not go
                offered.dropped += item.push_count();
                return offered;
            }
            if dropped == 0 {
                offered.offer = Offer::Slow;
                return offered;
            }
            offered.dropped += dropped;
        }
        self.append(Rc::clone(item), limits);
        offered
    }

    /// Lets a push of a stream wait, if there is room; the policy is for others. An eighth is left for answers and Pings: without
    /// room for them the client would be too slow.
    pub(super) fn offer_stored(&mut self, item: &Rc<Item>, limits: &Limits) -> bool {
        let most = limits.max_bytes - limits.max_bytes / 8;
        let fits = self.is_empty() || self.bytes() + item.len() <= most;
        if fits {
            self.append(Rc::clone(item), limits);
        }
        fits
    }

    fn has_stored(&self) -> bool {
        self.items().any(|item| item.is_push() && !item.is_droppable())
    }

    fn items(&self) -> impl Iterator<Item = &Rc<Item>> {
        self.front.iter().chain(self.rest.iter().flatten())
    }

    /// Takes away what waits of the stream of `address`, as far as it is not partly written.
    pub(super) fn forget_stream(&mut self, address: &Address) {
        for slot in &mut self.rest {
            if let Some(item) = slot.take_if(|item| item.is_of_stream(address)) {
                self.bytes -= item.len() as u32;
                self.holes += 1;
            }
        }
        self.trim();
        if self.written == 0 && self.front.as_ref().is_some_and(|front| front.is_of_stream(address)) {
            self.pop_front();
        }
    }

    /// Ends it with a last frame: what waits behind a partly written item goes if `discard`. Returns the pushes lost.
    pub(super) fn end(&mut self, last: Rc<Item>, discard: bool, limits: &Limits) -> u64 {
        let mut lost = 0;
        if discard {
            let partly = (self.written > 0).then(|| self.front.clone()).flatten();
            let written = self.written;
            lost = self.pushes() - partly.as_ref().map_or(0, |front| front.push_count() - front.pushes_within(written));
            self.clear();
            if let Some(front) = partly {
                self.bytes = front.len() as u32;
                (self.front, self.written) = (Some(front), written);
            }
        }
        self.append(last, limits);
        lost
    }

    /// Forgets everything, memory too.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn append(&mut self, item: Rc<Item>, limits: &Limits) {
        self.bytes += item.len() as u32;
        if self.front.is_none() {
            self.front = Some(item);
            return;
        }
        if limits.policy == Policy::Conflate
            && let Some(key) = item.collapse_key()
        {
            let number = self.base.wrapping_add(self.rest.len() as u32);
            self.keys.insert(key, number);
        }
        if self.rest.capacity() == 0 {
            self.rest.reserve(16);
        }
        self.rest.push_back(Some(item));
    }

    /// Takes a waiting push of the same key away: the new one goes to the end, so that what is delivered keeps its order.
    fn take_same_key(&mut self, item: &Item) -> bool {
        let Some(key) = item.collapse_key() else { return false };
        if self.written == 0 && self.front.as_ref().is_some_and(|front| front.collapse_key() == Some(key)) {
            self.pop_front();
            return true;
        }
        let Some(number) = self.keys.remove(key) else { return false };
        self.remove_at(number.wrapping_sub(self.base) as usize)
    }

    /// Drops the oldest pushes that wait as one and are not partly written: how many; 0: there are none.
    fn drop_oldest(&mut self) -> u64 {
        if self.written == 0
            && let Some(front) = &self.front
            && front.is_droppable()
        {
            let dropped = front.push_count();
            self.pop_front();
            return dropped;
        }
        let droppable = |item: &Rc<Item>| if item.is_droppable() { item.push_count() } else { 0 };
        let mut pushes = self.rest.iter().map(|item| item.as_ref().map_or(0, droppable)).enumerate();
        let Some((place, dropped)) = pushes.find(|(_, count)| *count > 0) else { return 0 };
        self.remove_at(place);
        dropped
    }

    /// Makes a hole at `place` of `rest`.
    fn remove_at(&mut self, place: usize) -> bool {
        let Some(item) = self.rest.get_mut(place).and_then(Option::take) else { return false };
        self.bytes -= item.len() as u32;
        self.forget_key(&item);
        self.holes += 1;
        self.trim();
        if self.holes as usize * 2 > self.rest.len() && self.holes > 32 {
            self.compact();
        }
        true
    }

    /// Removes holes at the front of `rest`.
    fn trim(&mut self) {
        while let Some(None) = self.rest.front() {
            self.rest.pop_front();
            self.base = self.base.wrapping_add(1);
            self.holes -= 1;
        }
    }

    /// Removes all holes; amortised by the replacements that made them.
    fn compact(&mut self) {
        self.rest.retain(Option::is_some);
        (self.holes, self.base) = (0, 0);
        let keys = self.rest.iter().flatten().map(|item| item.collapse_key());
        self.keys.renumber(keys);
    }

    /// Lets `item` leave next, where nothing is partly written.
    fn push_front(&mut self, item: Rc<Item>) {
        self.bytes += item.len() as u32;
        if let Some(second) = self.front.replace(item) {
            self.base = self.base.wrapping_sub(1);
            if let Some(key) = second.collapse_key() {
                self.keys.insert(key, self.base);
            }
            self.rest.push_front(Some(second));
        }
    }

    /// The front is gone: written, dropped or replaced.
    fn pop_front(&mut self) {
        if let Some(front) = self.front.take() {
            self.bytes -= front.len() as u32;
        }
        self.written = 0;
        self.trim();
        match self.rest.pop_front().flatten() {
            Some(next) => {
                self.base = self.base.wrapping_add(1);
                self.forget_key(&next);
                self.front = Some(next);
                self.trim();
            }
            None => self.clear(),
        }
    }

    fn forget_key(&mut self, item: &Item) {
        if let Some(key) = item.collapse_key() {
            self.keys.remove(key);
        }
    }

    /// Where nothing waited and `item` was sent past the outbox: lets wait what the kernel did not take, and goes on to write.
    pub(super) fn send_rest(
        &mut self,
        item: &Rc<Item>,
        sent: io::Result<usize>,
        sink: &impl Sink,
        gather: &mut Vec<u8>,
        limits: &Limits,
        now: u64,
    ) -> Flushed {
        self.append(Rc::clone(item), limits);
        let begun = self.advance(sent.unwrap_or(0));
        let flushed = self.write(sink, gather, now);
        Flushed { pushes: begun + flushed.pushes, ..flushed }
    }

    /// Writes what the kernel takes; many small frames leave in one write. A push whose end has come at `now` (milliseconds
    /// since 1970) does not leave, unless a part of it has.
    pub(super) fn write(&mut self, sink: &impl Sink, gather: &mut Vec<u8>, now: u64) -> Flushed {
        let mut flushed = Flushed { pushes: 0, expired: 0, result: Ok(Written::All) };
        while let Some(front) = &self.front {
            if self.written == 0 && front.is_expired(now) {
                let skipped = front.skipped();
                flushed.expired += front.push_count();
                self.pop_front();
                if let Some(skipped) = skipped {
                    self.push_front(skipped);
                }
                continue;
            }
            let first = &front.bytes()[self.written as usize..];
            let (tried, result) = if self.rest.is_empty() || first.len() >= GATHER {
                (first.len(), sink.try_write(first))
            } else {
                gather.clear();
                gather.extend_from_slice(first);
                for item in self.rest.iter().flatten() {
                    if gather.len() + item.len() > GATHER || item.is_expired(now) {
                        break;
                    }
                    gather.extend_from_slice(item.bytes());
                }
                (gather.len(), sink.try_write(gather))
            };
            match result {
                Ok(0) => flushed.result = Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    flushed.pushes += self.advance(taken);
                    if taken == tried {
                        continue;
                    }
                    flushed.result = Ok(Written::Some);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => flushed.result = Ok(Written::Some),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => flushed.result = Err(error),
            }
            return flushed;
        }
        flushed
    }

    /// The kernel took `taken` bytes from the front on; how many pushes left whole.
    fn advance(&mut self, mut taken: usize) -> u64 {
        if taken + self.written as usize == self.bytes() {
            let pushes = self.pushes();
            self.clear();
            return pushes;
        }
        let mut pushes = 0;
        while let Some(front) = &self.front {
            let left = front.len() - self.written as usize;
            let before = front.pushes_within(self.written);
            if taken < left {
                self.written += taken as u32;
                pushes += front.pushes_within(self.written) - before;
                break;
            }
            taken -= left;
            pushes += front.push_count() - before;
            self.pop_front();
        }
        pushes
    }
}

#[cfg(test)]
mod tests;
