//! What is too old leaves the queue, unless it is in flight.

use super::{ENTRY, Records};
use crate::log::Place;

impl<W> Records<W> {
    /// Ends what was published before `before` (ms since 1970) and is not in flight; how many. Of the cold ones a segment's go
    /// together, once the newest is too old; the others of it when they are read.
    pub(in crate::queue::embedded) fn expire(&mut self, before: u64, now: std::time::Instant) -> u64 {
        let mut expired = 0;
        while let Some(old) = self.ready.pop_front_if(|record| record.time < before) {
            self.untold_ready -= usize::from(old.is_untold());
            self.foretold -= usize::from(old.is_foretold(self.found));
            self.memory -= old.record.len() + ENTRY;
            self.end(old.number, old.place, old.record.len());
            expired += 1;
        }
        let mut old = self.delayed.extract_if(.., |_, record| record.time < before).collect::<Vec<_>>();
        for ((_, number), record) in old.drain(..) {
            if record.record.is_some() {
                self.memory -= record.len + ENTRY;
            }
            self.end(number, record.place, record.len);
            expired += 1;
        }
        while let Some((number, old)) = self.carried.pop_front_if(|(_, record)| record.time < before) {
            self.end(number, old.place, old.len);
            expired += 1;
        }
        expired += self.expire_cold(before);
        if expired > 0 {
            self.has_progress(|| now);
        }
        expired
    }

    fn expire_cold(&mut self, before: u64) -> u64 {
        let Some(cold) = self.cold else { return 0 };
        let next = self.segments.first_since(cold.segment, before);
        if next == Some(cold.segment) {
            return 0;
        }
        let expired = self.segments.drop_cold(next.unwrap_or(u32::MAX), |newest| newest < before);
        self.total.records -= expired.records;
        self.total.bytes -= expired.bytes;
        self.cold = next.map(|segment| Place { segment, offset: 0 });
        expired.records
    }
}
