//! The form of records on disk: a row holds many, so that a commit of a thousand pushes is a handful of writes; a row's
//! progress, written later and apart, says which of them are done.
//!
//! A row: time (u64, ms since 1970), count (u32), then for each record its length (u32) and bytes. Its progress: 0 or 1
//! (with attempts), count (u32), a bitmap of the finished in u64s, then with attempts a u16 for each record. All
//! little-endian. The key of both is the sequence number of the first record.

use std::fmt;

/// Rows grow to this and no further (one record alone may be larger): with redb's own bytes they fit 64 KiB pages.
pub(super) const ROW_BYTES: usize = 60 * 1024;
/// The last row is written again with more records while it is smaller than this: it shares a page anyway, and a queue
/// that gets few pushes at a time does not end with a row (and an index entry) for each.
pub(super) const TAIL_BYTES: usize = 3 * 1024;
const HEAD: usize = 12;

/// A row that is being filled.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) first: u64,
    pub(super) time: u64,
    pub(super) count: u32,
    /// How many of `count` the present batch added.
    pub(super) added: u32,
    pub(super) value: Vec<u8>,
}

impl Row {
    pub(super) fn new(first: u64, time: u64) -> Self {
        let mut value = Vec::with_capacity(512);
        value.extend_from_slice(&time.to_le_bytes());
        value.extend_from_slice(&0_u32.to_le_bytes());
        Self { first, time, count: 0, added: 0, value }
    }

    pub(super) fn takes(&self, record: usize, bound: usize) -> bool {
        self.count == 0 || self.value.len() + 4 + record <= bound
    }

    /// The row after it may be this one, grown.
    pub(super) fn may_grow(&self) -> bool {
        self.value.len() < TAIL_BYTES
    }

    pub(super) fn push(&mut self, record: &[u8]) {
        self.value.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.value.extend_from_slice(record);
        self.count += 1;
        self.added += 1;
        self.value[8..HEAD].copy_from_slice(&self.count.to_le_bytes());
    }
}

/// A row that is not what [`Row`] writes.
#[derive(Debug)]
pub(super) struct RowError;

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row of the queue's log has not the form that this version writes")
    }
}

/// A row's time and records.
pub(super) fn read(value: &[u8]) -> Result<(u64, Vec<&[u8]>), RowError> {
    let (time, rest) = value.split_first_chunk::<8>().ok_or(RowError)?;
    let (count, mut rest) = rest.split_first_chunk::<4>().ok_or(RowError)?;
    let count = u32::from_le_bytes(*count) as usize;
    let mut records = Vec::with_capacity(count.min(rest.len() / 4));
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<4>().ok_or(RowError)?;
        let (record, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(RowError)?;
        records.push(record);
        rest = after;
    }
    if rest.is_empty() { Ok((u64::from_le_bytes(*time), records)) } else { Err(RowError) }
}

/// The row's first `count` records.
pub(super) fn truncated(first: u64, value: &[u8], count: u32) -> Result<Row, RowError> {
    let (time, records) = read(value)?;
    let mut row = Row::new(first, time);
    records.iter().take(count as usize).for_each(|record| row.push(record));
    Ok(row)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Row, read, truncated};

    fn row(count: u8) -> Row {
        let mut row = Row::new(7, 99);
        (0..count).for_each(|n| row.push(&vec![n; n.into()]));
        row
    }

    #[test]
    fn a_row_reads_as_it_was_written() {
        let row = row(100);
        let (time, records) = read(&row.value).unwrap();
        assert_eq!((time, records.len()), (99, 100));
        assert!(records.iter().enumerate().all(|(n, record)| *record == vec![n as u8; n]));
        assert_eq!(read(&truncated(7, &row.value, 3).unwrap().value).unwrap().1, &records[..3]);
    }

    #[test]
    fn a_row_that_is_cut_anywhere_is_refused() {
        let value = row(5).value;
        assert!((0..value.len()).all(|len| read(&value[..len]).is_err()));
        assert!(read(&[&value[..], b"x"].concat()).is_err());
    }
}
