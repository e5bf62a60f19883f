//! Records that are in the log alone come into memory again.

use bytes::Bytes;

use super::{ENTRY, HandOuts, ReadyRecord, Records};
use crate::log::Place;

/// A record that was read from the log.
pub(in crate::queue::embedded) struct ReadRecord {
    pub(in crate::queue::embedded) number: u64,
    pub(in crate::queue::embedded) place: Place,
    pub(in crate::queue::embedded) time: u64,
    pub(in crate::queue::embedded) record: Bytes,
}

impl<W> Records<W> {
    /// Where cold records are to be read from; `more`: that is under way.
    pub(in crate::queue::embedded) fn wants_reading(&self, more: bool) -> Option<Place> {
        let until = if more { self.limits.memory_bytes } else { self.limits.memory_bytes / 2 };
        let idle = self.ready.is_empty() && self.in_flight.is_empty();
        let is_next = self.hand_outs == HandOuts::On && self.carried.is_empty();
        self.cold.filter(|_| is_next && (self.memory < until || idle))
    }

    /// All records that stand in the log up to `next` were read; `None`: to its end. Returns how many of them are lost.
    pub(in crate::queue::embedded) fn read(&mut self, records: Vec<ReadRecord>, next: Option<Place>) -> u64 {
        for ReadRecord { number, place, time, record } in records {
            if self.is_skipped(number) {
                continue;
            }
            self.segments.warm(place.segment, record.len() as u64);
            self.memory += record.len() + ENTRY;
            let found = number < self.found;
            let begun = if found { self.cold_begun.remove(&number).unwrap_or(0) } else { 0 };
            self.untold_ready += usize::from(found);
            let told = if found { begun } else { 1 };
            self.ready.push_back(ReadyRecord { number, place, time, begun, told, record });
        }
        self.cold = next;
        if next.is_none() {
            self.skipped.clear();
            self.cold_begun.clear();
        }
        let passed = next.map_or(u32::MAX, |next| next.segment);
        let lost = self.segments.drop_cold(passed, |_| true);
        self.total.records -= lost.records;
        self.total.bytes -= lost.bytes;
        lost.records
    }

    fn is_skipped(&mut self, number: u64) -> bool {
        while self.skipped.front().is_some_and(|range| range.end <= number) {
            self.skipped.pop_front();
        }
        self.skipped.front().is_some_and(|range| range.contains(&number))
    }
}
