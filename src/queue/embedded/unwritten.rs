//! Rows that are acknowledged and in the journal, and not in the log yet.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::row::Row;

/// They are written early once they are this much.
const BYTES: usize = 512 << 10;

/// Rows by their first record.
#[derive(Default)]
pub(super) struct Unwritten {
    rows: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
    write_by: Option<Instant>,
}

impl Unwritten {
    /// To be written `within` that time. A row that was there already has grown.
    pub(super) fn add(&mut self, rows: impl IntoIterator<Item = Row>, within: Duration) {
        for row in rows {
            self.bytes += row.value.len();
            self.rows.insert(row.first, row.value);
        }
        self.write_by.get_or_insert(Instant::now() + within);
    }

    /// When they must be written at the latest.
    pub(super) fn write_by(&self) -> Option<Instant> {
        self.write_by
    }

    /// They must be written now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.bytes > BYTES || self.write_by.is_some_and(|by| by <= now)
    }

    /// Forgets those that are not wanted any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        self.rows.retain(|first, _| wanted(*first));
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.rows.iter().map(|(first, value)| (*first, value.as_slice()))
    }

    pub(super) fn row(&self, first: u64) -> Option<&[u8]> {
        self.rows.get(&first).map(Vec::as_slice)
    }

    /// They are in the log.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
