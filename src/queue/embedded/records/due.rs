//! Hand-outs that the log is to know of before they happen: of requeued records, and of those that an earlier process left. So a
//! push that kills the process reaches its last attempt.

use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;

use super::{DelayedRecord, ENTRY, HandOuts, ReadyRecord, Records};
use crate::log::Place;

/// A requeued record whose time has come, or one that an earlier process left: the log is to know of the next hand-out
/// before it happens.
pub(in crate::queue::embedded) struct Due {
    pub(in crate::queue::embedded) number: u64,
    /// The next hand-out counted.
    pub(in crate::queue::embedded) attempts: u32,
    /// Where it is, if memory has it no more.
    pub(in crate::queue::embedded) read_from: Option<Place>,
    waited: Waited,
}

/// Where a record is while the log is told of its hand-out.
enum Waited {
    Ready,
    Delayed(DelayedRecord),
    Carried(DelayedRecord),
}

impl<W> Records<W> {
    /// How many more hand-outs the log can be told of: no record has an attempt on the disk that it does not get soon.
    pub(super) fn room(&self) -> usize {
        self.limits.max_in_flight.saturating_sub(self.in_flight.len() + self.foretold)
    }

    /// Records that can be handed out once the log knows that they are. For each of them [`Records::told`] or
    /// [`Records::untold`] follows.
    pub(in crate::queue::embedded) fn take_due(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        if self.hand_outs != HandOuts::On {
            return due;
        }
        let room = self.room();
        while due.len() < room
            && let Some(next) = self.delayed.first_entry().filter(|next| next.key().0 <= now)
        {
            let ((_, number), delayed) = next.remove_entry();
            let read_from = delayed.record.is_none().then_some(delayed.place);
            due.push(Due { number, attempts: delayed.begun + 1, read_from, waited: Waited::Delayed(delayed) });
        }
        while due.len() < room
            && let Some((number, carried)) = self.carried.pop_front()
        {
            let read_from = Some(carried.place);
            due.push(Due { number, attempts: carried.begun + 1, read_from, waited: Waited::Carried(carried) });
        }
        if self.untold_ready > 0 {
            let untold = self.ready.iter().filter(|next| next.is_untold()).take(room - due.len());
            due.extend(untold.map(|next| Due {
                number: next.number,
                attempts: next.begun + 1,
                read_from: None,
                waited: Waited::Ready,
            }));
        }
        due
    }

    /// The log knows of their hand-outs. `read` has the records that memory had no more; one that is not in it is lost.
    /// Returns how many are.
    pub(in crate::queue::embedded) fn told(
        &mut self,
        due: Vec<Due>,
        mut read: HashMap<u64, Bytes>,
        now: Instant,
    ) -> u64 {
        let mut lost = 0;
        let mut left = due.iter().filter(|due| matches!(due.waited, Waited::Ready)).count();
        self.untold_ready -= left;
        self.foretold += left;
        for next in self.ready.iter_mut().filter(|next| next.is_untold()) {
            if left == 0 {
                break;
            }
            next.told = next.begun + 1;
            left -= 1;
        }
        let mut delayed = Vec::new();
        for Due { number, attempts, waited, .. } in due {
            let (first, waited) = match waited {
                Waited::Ready => continue,
                Waited::Delayed(record) => (true, record),
                Waited::Carried(record) => (false, record),
            };
            let DelayedRecord { place, len, time, begun, record: kept } = waited;
            let was_kept = kept.is_some();
            let Some(record) = kept.or_else(|| read.remove(&number)) else {
                self.end(number, place, len);
                self.has_progress(|| now);
                lost += 1;
                continue;
            };
            self.memory += if was_kept { 0 } else { len + ENTRY };
            let next = ReadyRecord { number, place, time, begun, told: attempts, record };
            self.foretold += usize::from(next.is_foretold(self.found));
            if first {
                delayed.push(next);
            } else {
                // nothing newer is in there yet
                self.ready.push_back(next);
            }
        }
        // in reverse, so that the one that is due longest comes first
        delayed.into_iter().rev().for_each(|next| self.ready.push_front(next));
        lost
    }

    /// The log could not be told: they are due again at `again`.
    pub(in crate::queue::embedded) fn untold(&mut self, due: Vec<Due>, again: Instant) {
        // in reverse, so that the carried ones are in order again
        for Due { number, waited, .. } in due.into_iter().rev() {
            match waited {
                Waited::Ready => {}
                Waited::Delayed(record) => drop(self.delayed.insert((again, number), record)),
                Waited::Carried(record) => self.carried.push_front((number, record)),
            }
        }
    }
}
