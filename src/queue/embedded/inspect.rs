//! What waits in a log, for who looks at it from outside: it reads entries, and opens nothing.

use std::{collections::BTreeMap, ops::Range};

use super::{
    entry::{QueueEntry, read_ranges},
    replay::merged,
};
use crate::log::Entry;

/// The unfinished records of a log, as far as its entries were given to [`Inspection::entry`].
#[derive(Default)]
pub(crate) struct Inspection {
    waiting: BTreeMap<u64, InspectedRecord>,
    finished: Vec<Range<u64>>,
}

#[derive(Clone, Copy)]
struct InspectedRecord {
    /// When it was accepted, in ms since 1970.
    time: u64,
    bytes: u64,
}

/// The records that wait unfinished.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitingRecords {
    /// How many.
    pub(crate) records: u64,
    /// Theirs together, without what the log adds.
    pub(crate) bytes: u64,
    /// When the oldest and the newest were accepted, in ms since 1970.
    pub(crate) accepted: Option<(u64, u64)>,
}

impl Inspection {
    /// Takes the log's next entry in.
    pub(crate) fn entry(&mut self, entry: &Entry<'_>) {
        let (number, time, record) = match QueueEntry::read(entry) {
            Some(QueueEntry::Record { time, record }) => (entry.number, time, record),
            Some(QueueEntry::Carried(carried)) => (carried.number, carried.time, carried.record),
            Some(QueueEntry::Progress { finished, .. }) => return self.finish(finished),
            Some(QueueEntry::Attempts(_)) | None => return,
        };
        self.waiting.insert(number, InspectedRecord { time, bytes: record.len() as u64 });
    }

    fn finish(&mut self, finished: &[u8]) {
        for range in read_ranges(finished) {
            // most of a log is finished: it need not be kept to the end
            let ended: Vec<u64> = self.waiting.range(range.clone()).map(|(number, _)| *number).collect();
            for number in ended {
                self.waiting.remove(&number);
            }
            self.finished.push(range);
        }
    }

    /// All entries were given.
    pub(crate) fn end(self) -> WaitingRecords {
        let finished = merged(self.finished);
        let is_finished = |number: u64| {
            let after = finished.partition_point(|range| range.end <= number);
            finished.get(after).is_some_and(|range| range.contains(&number))
        };
        let mut found = WaitingRecords::default();
        for (_, record) in self.waiting.into_iter().filter(|(number, _)| !is_finished(*number)) {
            found.records += 1;
            found.bytes += record.bytes;
            let (oldest, newest) = found.accepted.unwrap_or((record.time, record.time));
            found.accepted = Some((oldest.min(record.time), newest.max(record.time)));
        }
        found
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        log::Place,
        queue::embedded::entry::{CARRIED, CarriedEntry, PROGRESS, RECORD, write_ranges},
    };

    fn found(entries: &[(u64, u8, Vec<u8>)]) -> WaitingRecords {
        let mut inspection = Inspection::default();
        for (number, kind, body) in entries {
            let place = Place { segment: 1, offset: 0 };
            inspection.entry(&Entry { number: *number, place, kind: *kind, body });
        }
        inspection.end()
    }

    fn record(number: u64, time: u64) -> (u64, u8, Vec<u8>) {
        (number, RECORD, [&time.to_le_bytes()[..], b"0123456789"].concat())
    }

    fn finished(number: u64, range: Range<u64>) -> (u64, u8, Vec<u8>) {
        (number, PROGRESS, [vec![0; 8], write_ranges(&[range])].concat())
    }

    fn carried(number: u64, of: u64, time: u64) -> (u64, u8, Vec<u8>) {
        let head = CarriedEntry { number: of, time, begun: 1, record: b"" }.head();
        (number, CARRIED, [&head[..], b"0123456789"].concat())
    }

    #[test]
    fn what_is_finished_does_not_wait_and_what_was_carried_on_waits_once() {
        let waiting = found(&[record(1, 70), record(2, 50), record(3, 90), finished(4, 1..2), carried(5, 2, 50)]);
        assert_eq!(waiting, WaitingRecords { records: 2, bytes: 20, accepted: Some((50, 90)) });
        // whichever was written first
        assert_eq!(found(&[record(1, 70), finished(2, 1..2), carried(3, 1, 70)]), WaitingRecords::default());
        assert_eq!(found(&[]), WaitingRecords::default());
    }
}
