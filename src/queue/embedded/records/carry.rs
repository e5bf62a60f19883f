//! Which segments of the log are still needed, and what of the oldest one is to be written again so that it can go.

use hashbrown::HashMap;

use super::Records;
use crate::log::Place;

/// A record that memory knows by itself.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::queue::embedded) struct KnownRecord {
    pub(in crate::queue::embedded) number: u64,
    pub(in crate::queue::embedded) place: Place,
    pub(in crate::queue::embedded) time: u64,
    /// Hand-outs that the log is to know of: those so far, and one that it was told of.
    pub(in crate::queue::embedded) begun: u32,
}

impl<W> Records<W> {
    /// The oldest segment of the log that is still needed; `head` + 1: none is.
    pub(in crate::queue::embedded) fn needed_from(&mut self, head: u32) -> u32 {
        self.segments.needed_from(head)
    }

    /// The unfinished records of a segment that is to go, if memory knows each of them.
    pub(in crate::queue::embedded) fn known_in(&mut self, segment: u32) -> Option<Vec<KnownRecord>> {
        if !self.segments.is_known(segment) {
            return None;
        }
        Some(self.known().filter(|known| known.place.segment == segment).collect())
    }

    fn known(&self) -> impl Iterator<Item = KnownRecord> {
        let ready = self.ready.iter().map(|next| {
            let begun = if next.is_foretold(self.found) { next.told } else { next.begun };
            known_record(next.number, next.place, next.time, begun)
        });
        let delayed = self.delayed.iter();
        let delayed = delayed.map(|((_, number), next)| known_record(*number, next.place, next.time, next.begun));
        let carried =
            self.carried.iter().map(|(number, next)| known_record(*number, next.place, next.time, next.begun));
        let in_flight = self.in_flight.iter();
        let in_flight = in_flight.map(|(number, job)| known_record(*number, job.place, job.time, job.attempts));
        ready.chain(delayed).chain(carried).chain(in_flight)
    }

    /// Records are at other places now, by their numbers; but those that ended meanwhile.
    pub(in crate::queue::embedded) fn carried(&mut self, mut places: HashMap<u64, Place>) {
        let segments = &mut self.segments;
        let mut carry = |number: &u64, place: &mut Place, time| {
            if let Some(to) = places.remove(number) {
                let from = std::mem::replace(place, to);
                segments.remove(from.segment);
                segments.add(to.segment, time);
            }
        };
        self.in_flight.iter_mut().for_each(|(number, job)| carry(number, &mut job.place, job.time));
        self.ready.iter_mut().for_each(|next| carry(&next.number, &mut next.place, next.time));
        self.carried.iter_mut().for_each(|(number, next)| carry(number, &mut next.place, next.time));
        self.delayed.iter_mut().for_each(|((_, number), next)| carry(number, &mut next.place, next.time));
    }
}

fn known_record(number: u64, place: Place, time: u64, begun: u32) -> KnownRecord {
    KnownRecord { number, place, time, begun }
}
