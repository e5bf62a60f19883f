//! The pushes that were dispatched last, so that a copy of one is known.
//!
//! nsqd hands a push out again when it did not hear of its end: after a SIGKILL it reads its files from the place that it had
//! noted last, up to 2 s back; and with `[queue] copies = 2` each push comes from two nsqds. Who has no id to tell copies by
//! would take each for a new push.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::push::PushId;

/// What is known of a push that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is new, or was given back; this is its entry now.
    New(WindowEntry),
    /// It came before and is not ended yet.
    InFlight,
    /// It came before and was finished.
    Finished,
}

/// A push in the window, by which its end is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowEntry {
    slot: u32,
    id: PushId,
}

impl WindowEntry {
    pub(super) fn id(&self) -> PushId {
        self.id
    }
}

/// At most `size` ids; a new one takes the place of the oldest.
pub(super) struct CopyWindow {
    size: usize,
    /// A ring, once it is full.
    ids: Vec<PushId>,
    /// The slot that is written next.
    next: usize,
    /// A bit for each slot: its push is finished.
    finished: Vec<u64>,
    /// Slots by their ids.
    slots: HashTable<u32>,
    hasher: RandomState,
}

impl CopyWindow {
    /// Memory is taken as ids come: 16 bytes for each, and up to 10 for finding it.
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            ids: Vec::new(),
            next: 0,
            finished: Vec::new(),
            slots: HashTable::new(),
            hasher: RandomState::default(),
        }
    }

    /// A push comes.
    pub(super) fn begin(&mut self, id: PushId) -> Seen {
        let Self { size, ids, next, finished, slots, hasher } = self;
        let slot = *next as u32;
        if *size == 0 {
            return Seen::New(WindowEntry { slot, id });
        }
        if let Some(found) = slots.find(hasher.hash_one(id), |slot| ids[*slot as usize] == id) {
            let found = *found as usize;
            let is_finished = finished[found / 64] >> (found % 64) & 1 == 1;
            return if is_finished { Seen::Finished } else { Seen::InFlight };
        }
        match ids.get_mut(*next) {
            Some(oldest) => {
                // none, if it was given back
                if let Ok(found) = slots.find_entry(hasher.hash_one(*oldest), |found| *found == slot) {
                    found.remove();
                }
                *oldest = id;
            }
            None => ids.push(id),
        }
        slots.insert_unique(hasher.hash_one(id), slot, |slot| hasher.hash_one(ids[*slot as usize]));
        if finished.len() <= *next / 64 {
            finished.push(0);
        }
        finished[*next / 64] &= !(1 << (*next % 64));
        *next = (*next + 1) % *size;
        Seen::New(WindowEntry { slot, id })
    }

    /// The push of `entry` is finished: when it comes again it is a copy.
    pub(super) fn finish(&mut self, entry: WindowEntry) {
        let slot = entry.slot as usize;
        if self.ids.get(slot) == Some(&entry.id) {
            self.finished[slot / 64] |= 1 << (slot % 64);
        }
    }

    /// The push of `entry` is given back: it is to come again.
    pub(super) fn give_back(&mut self, entry: WindowEntry) {
        if let Ok(found) = self.slots.find_entry(self.hasher.hash_one(entry.id), |slot| *slot == entry.slot) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> PushId {
        PushId::from_parts(1, n)
    }

    fn begin(window: &mut CopyWindow, n: u128) -> WindowEntry {
        match window.begin(id(n)) {
            Seen::New(place) => place,
            seen => panic!("{n} is {seen:?}"),
        }
    }

    #[test]
    fn a_push_is_known_while_it_is_in_flight_and_once_it_is_finished_and_new_once_it_was_given_back() {
        let mut window = CopyWindow::new(4);
        let place = begin(&mut window, 1);
        assert_eq!(window.begin(id(1)), Seen::InFlight);
        window.give_back(place);
        let place = begin(&mut window, 1);
        window.finish(place);
        assert_eq!(window.begin(id(1)), Seen::Finished);
    }

    #[test]
    fn the_window_holds_as_many_as_its_size_and_forgets_the_oldest_first() {
        for size in [1, 2, 63, 64, 65, 1000] {
            let mut window = CopyWindow::new(size);
            for n in 0..3 * size as u128 {
                let place = begin(&mut window, n);
                window.finish(place);
            }
            for n in 2 * size as u128..3 * size as u128 {
                assert_eq!(window.begin(id(n)), Seen::Finished, "{n} of {size}");
            }
            assert!(window.slots.len() == size && window.ids.len() == size);
            begin(&mut window, 2 * size as u128 - 1);
        }
    }

    #[test]
    fn whatever_comes_and_ends_in_whatever_order_it_is_seen_as_it_is() {
        let mut random = fastrand::Rng::with_seed(1);
        for size in [1, 7, 200] {
            let mut window = CopyWindow::new(size);
            // what should be known, oldest first: id, place, whether it is finished; `None` is a place that was given back
            let mut known: std::collections::VecDeque<Option<(u128, WindowEntry, bool)>> = Default::default();
            for _ in 0..50_000 {
                let n = random.u128(0..3 * size as u128);
                let there = known.iter().position(|one| one.is_some_and(|(id, ..)| id == n));
                let expected = there.and_then(|at| known[at]).map(|(_, _, finished)| finished);
                match (window.begin(id(n)), expected) {
                    (Seen::New(place), None) => {
                        known.push_back(Some((n, place, false)));
                        if known.len() > size {
                            known.pop_front();
                        }
                    }
                    (Seen::InFlight, Some(false)) | (Seen::Finished, Some(true)) => {}
                    (seen, expected) => panic!("{n} is {seen:?}, not {expected:?}"),
                }
                let at = random.usize(0..known.len());
                let one = &mut known[at];
                match one {
                    Some((_, place, finished @ false)) if random.bool() => {
                        window.finish(*place);
                        *finished = true;
                    }
                    Some((_, place, false)) => {
                        window.give_back(*place);
                        *one = None;
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_forgotten_push_changes_nothing() {
        let mut window = CopyWindow::new(1);
        let (first, second) = (begin(&mut window, 1), begin(&mut window, 2));
        window.finish(first);
        assert_eq!(window.begin(id(2)), Seen::InFlight);
        window.give_back(first);
        assert_eq!(window.begin(id(2)), Seen::InFlight);
        window.finish(second);
        assert_eq!(window.begin(id(2)), Seen::Finished);
    }

    #[test]
    fn without_a_size_every_push_is_new() {
        let mut window = CopyWindow::new(0);
        for _ in 0..3 {
            let place = begin(&mut window, 1);
            window.finish(place);
        }
    }
}
