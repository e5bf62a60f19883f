//! What a batch of publishes becomes: rows, of which the first may be the last one of the batch before, grown.

use super::{
    row::{ROW_BYTES, Row, TAIL_BYTES},
    state::WaitingPublish,
};

/// The last row takes more records for this long (ms), so that all of a row have one age.
const AGE: u64 = 1000;
const RECORDS: u32 = 4096;

/// The end of the log.
pub(super) struct Tail {
    /// The sequence number that comes next.
    pub(super) next: u64,
    /// The last row, if it may grow.
    row: Option<Row>,
}

impl Tail {
    pub(super) fn new(next: u64) -> Self {
        Self { next, row: None }
    }

    /// The last row grows with the batch that comes, if it is still young, small and `there`: its first record.
    pub(super) fn grows(&mut self, time: u64, there: impl Fn(u64) -> bool) -> Option<u64> {
        self.row = self.row.take().filter(|row| {
            let young = time.saturating_sub(row.time) < AGE && row.count < RECORDS;
            young && there(row.first)
        });
        self.row.as_ref().map(|row| row.first)
    }

    /// The rows of a batch. They are written once [`Tail::put`] was called.
    pub(super) fn rows(&mut self, batch: &[WaitingPublish], time: u64) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        // cloned: if the disk fails, the tail is what it was
        let mut row = self.row.clone().map(|row| Row { added: 0, ..row });
        let mut bound = TAIL_BYTES;
        for waiting in batch {
            let mut taking = match row.take() {
                Some(row) if row.takes(waiting.record.len(), bound) => row,
                full => {
                    rows.extend(full.filter(|row| row.added > 0));
                    bound = ROW_BYTES;
                    Row::new(self.next, time)
                }
            };
            taking.push(&waiting.record);
            self.next += 1;
            row = Some(taking);
        }
        rows.extend(row.filter(|row| row.added > 0));
        rows
    }

    /// `last` is in the journal: it may grow, unless it is full.
    pub(super) fn put(&mut self, last: Option<&Row>) {
        self.row = last.filter(|row| row.may_grow()).cloned();
    }

    /// What comes next begins a row of its own.
    pub(super) fn cut(&mut self) {
        self.row = None;
    }
}
