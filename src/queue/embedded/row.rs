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
pub(super) struct BadRow;

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row of the queue's log has not the form that this version writes")
    }
}

/// A row's time and records.
pub(super) fn read(value: &[u8]) -> Result<(u64, Vec<&[u8]>), BadRow> {
    let (time, rest) = value.split_first_chunk::<8>().ok_or(BadRow)?;
    let (count, mut rest) = rest.split_first_chunk::<4>().ok_or(BadRow)?;
    let count = u32::from_le_bytes(*count) as usize;
    let mut records = Vec::with_capacity(count.min(rest.len() / 4));
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<4>().ok_or(BadRow)?;
        let (record, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(BadRow)?;
        records.push(record);
        rest = after;
    }
    if rest.is_empty() { Ok((u64::from_le_bytes(*time), records)) } else { Err(BadRow) }
}

/// The row's first `count` records.
pub(super) fn truncated(first: u64, value: &[u8], count: u32) -> Result<Row, BadRow> {
    let (time, records) = read(value)?;
    let mut row = Row::new(first, time);
    records.iter().take(count as usize).for_each(|record| row.push(record));
    Ok(row)
}

/// What is known of a row on disk; its records' bytes are elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    pub(super) time: u64,
    /// On disk.
    pub(super) size: u64,
    pub(super) count: u32,
    pub(super) unfinished: u32,
    /// Of the unfinished records.
    pub(super) bytes: u64,
    finished: Vec<u64>,
    /// Hand-outs that may have begun, for each record; empty while all are 0. First hand-outs are told by the log's
    /// `handed` mark instead.
    begun: Vec<u16>,
    /// Its progress is to be written.
    pub(super) dirty: bool,
}

impl Chunk {
    pub(super) fn new(time: u64) -> Self {
        Self { time, ..Self::default() }
    }

    pub(super) fn extend(&mut self, count: u32, bytes: u64, size: u64) {
        self.count += count;
        self.unfinished += count;
        self.bytes += bytes;
        self.size = size;
        self.finished.resize((self.count as usize).div_ceil(64), 0);
        if !self.begun.is_empty() {
            self.begun.resize(self.count as usize, 0);
        }
    }

    pub(super) fn is_finished(&self, index: u32) -> bool {
        self.finished.get(index as usize / 64).is_none_or(|word| word >> (index % 64) & 1 == 1)
    }

    /// Whether it was unfinished.
    pub(super) fn finish(&mut self, index: u32, bytes: u64) -> bool {
        if self.is_finished(index) {
            return false;
        }
        self.finished[index as usize / 64] |= 1 << (index % 64);
        self.unfinished -= 1;
        self.bytes -= bytes;
        true
    }

    pub(super) fn begun(&self, index: u32) -> u32 {
        self.begun.get(index as usize).copied().unwrap_or(0).into()
    }

    /// Whether that is new.
    pub(super) fn set_begun(&mut self, index: u32, begun: u32) -> bool {
        if self.begun(index) == begun {
            return false;
        }
        if self.begun.is_empty() {
            self.begun = vec![0; self.count as usize];
        }
        self.begun[index as usize] = begun.min(u16::MAX.into()) as u16;
        true
    }

    /// `None`: nothing happened to its records yet.
    pub(super) fn progress(&self) -> Option<Vec<u8>> {
        if self.unfinished == self.count && self.begun.is_empty() {
            return None;
        }
        let mut value = Vec::with_capacity(5 + self.finished.len() * 8 + self.begun.len() * 2);
        value.push(u8::from(!self.begun.is_empty()));
        value.extend_from_slice(&self.count.to_le_bytes());
        self.finished.iter().for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
        self.begun.iter().for_each(|begun| value.extend_from_slice(&begun.to_le_bytes()));
        Some(value)
    }

    /// From a row and its progress, which may be of when the row had fewer records.
    pub(super) fn load(row: &[u8], progress: Option<&[u8]>) -> Result<Self, BadRow> {
        let (time, records) = read(row)?;
        let mut chunk = Self::new(time);
        let bytes = records.iter().map(|record| record.len() as u64).sum();
        chunk.extend(records.len() as u32, bytes, row.len() as u64);
        let Some(progress) = progress else { return Ok(chunk) };
        let (head, rest) = progress.split_first_chunk::<5>().ok_or(BadRow)?;
        let known = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (words, begun) = rest.split_at_checked(known.div_ceil(64) * 8).ok_or(BadRow)?;
        if begun.len() != if head[0] == 1 { known * 2 } else { 0 } {
            return Err(BadRow);
        }
        for (index, record) in records.iter().enumerate().take(known) {
            if words[index / 8] >> (index % 8) & 1 == 1 {
                chunk.finish(index as u32, record.len() as u64);
            } else if let Some(begun) = begun.get(index * 2..index * 2 + 2) {
                chunk.set_begun(index as u32, u16::from_le_bytes([begun[0], begun[1]]).into());
            }
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunk, Row, read, truncated};

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

    #[test]
    fn progress_survives_its_bytes_and_a_row_that_grew_since() {
        let mut chunk = Chunk::load(&row(70).value, None).unwrap();
        assert!(chunk.progress().is_none());
        assert!(chunk.finish(3, 3) && chunk.finish(69, 69) && !chunk.finish(3, 3));
        chunk.set_begun(5, 4);
        let loaded = Chunk::load(&row(130).value, chunk.progress().as_deref()).unwrap();
        assert!(loaded.is_finished(3) && loaded.is_finished(69) && !loaded.is_finished(70) && !loaded.is_finished(129));
        assert_eq!((loaded.begun(5), loaded.begun(6), loaded.unfinished), (4, 0, 128));
        assert_eq!(loaded.bytes, (0..130).sum::<u64>() - 72);
    }
}
