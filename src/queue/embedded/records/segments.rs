//! What each segment of the log still holds for the queue.

use std::collections::VecDeque;

/// The unfinished records in one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SegmentRecords {
    live: u32,
    /// Of them, those that memory does not hold.
    cold: u32,
    /// The cold ones' bytes.
    cold_bytes: u64,
    /// The newest record's time, in ms since 1970.
    newest: u64,
}

/// A number of records and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::queue::embedded) struct Amount {
    pub(in crate::queue::embedded) records: u64,
    pub(in crate::queue::embedded) bytes: u64,
}

/// The segments from the oldest one on that holds a record.
#[derive(Clone, Debug, Default)]
pub(in crate::queue::embedded) struct SegmentTable {
    oldest: u32,
    segments: VecDeque<SegmentRecords>,
}

impl SegmentTable {
    /// A record is in `segment` now.
    pub(in crate::queue::embedded) fn add(&mut self, segment: u32, time: u64) {
        let entry = self.entry(segment);
        entry.live += 1;
        entry.newest = entry.newest.max(time);
    }

    /// As [`SegmentTable::add`], and memory does not hold it.
    pub(in crate::queue::embedded) fn add_cold(&mut self, segment: u32, time: u64, bytes: u64) {
        self.add(segment, time);
        let entry = self.entry(segment);
        entry.cold += 1;
        entry.cold_bytes += bytes;
    }

    fn entry(&mut self, segment: u32) -> &mut SegmentRecords {
        if self.segments.is_empty() {
            self.oldest = segment;
        }
        while segment < self.oldest {
            self.segments.push_front(SegmentRecords::default());
            self.oldest -= 1;
        }
        let index = (segment - self.oldest) as usize;
        if index >= self.segments.len() {
            self.segments.resize_with(index + 1, SegmentRecords::default);
        }
        &mut self.segments[index]
    }

    fn get(&mut self, segment: u32) -> Option<&mut SegmentRecords> {
        self.segments.get_mut(segment.checked_sub(self.oldest)? as usize)
    }

    /// A cold record came into memory.
    pub(super) fn warm(&mut self, segment: u32, bytes: u64) {
        if let Some(entry) = self.get(segment) {
            entry.cold = entry.cold.saturating_sub(1);
            entry.cold_bytes = entry.cold_bytes.saturating_sub(bytes);
        }
    }

    /// A record that memory holds is not in `segment` any more.
    pub(super) fn remove(&mut self, segment: u32) {
        if let Some(entry) = self.get(segment) {
            entry.live = entry.live.saturating_sub(1);
        }
    }

    /// Gives up the cold records of the segments before `before` of which `gone` is true of their newest time.
    pub(super) fn drop_cold(&mut self, before: u32, gone: impl Fn(u64) -> bool) -> Amount {
        let mut dropped = Amount::default();
        let count = before.saturating_sub(self.oldest) as usize;
        for entry in self.segments.iter_mut().take(count).filter(|entry| gone(entry.newest)) {
            entry.live -= entry.cold;
            dropped.records += u64::from(std::mem::take(&mut entry.cold));
            dropped.bytes += std::mem::take(&mut entry.cold_bytes);
        }
        dropped
    }

    /// The first segment from `from` on whose newest record is not older than `before`.
    pub(super) fn first_since(&self, from: u32, before: u64) -> Option<u32> {
        let skipped = from.saturating_sub(self.oldest) as usize;
        let mut rest = self.segments.iter().enumerate().skip(skipped);
        rest.find(|(_, entry)| entry.newest >= before).map(|(index, _)| self.oldest + index as u32)
    }

    /// The oldest segment that is still needed: that of the oldest unfinished record, or `head` + 1 if there is none.
    pub(super) fn needed_from(&mut self, head: u32) -> u32 {
        while self.segments.front().is_some_and(|entry| entry.live == 0) {
            self.segments.pop_front();
            self.oldest += 1;
        }
        if self.segments.is_empty() { head + 1 } else { self.oldest }
    }

    /// Whether memory holds all that is unfinished in `segment`.
    pub(super) fn is_known(&mut self, segment: u32) -> bool {
        self.get(segment).is_none_or(|entry| entry.cold == 0)
    }
}
