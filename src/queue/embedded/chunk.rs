//! A row as memory knows it, and its progress on disk.

use super::row::{RowError, read};

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
    pub(super) fn load(row: &[u8], progress: Option<&[u8]>) -> Result<Self, RowError> {
        let (time, records) = read(row)?;
        let mut chunk = Self::new(time);
        let bytes = records.iter().map(|record| record.len() as u64).sum();
        chunk.extend(records.len() as u32, bytes, row.len() as u64);
        let Some(progress) = progress else { return Ok(chunk) };
        let (head, rest) = progress.split_first_chunk::<5>().ok_or(RowError)?;
        let known = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (words, begun) = rest.split_at_checked(known.div_ceil(64) * 8).ok_or(RowError)?;
        if begun.len() != if head[0] == 1 { known * 2 } else { 0 } {
            return Err(RowError);
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Chunk;
    use crate::queue::embedded::row::Row;

    fn row(count: u8) -> Row {
        let mut row = Row::new(7, 99);
        (0..count).for_each(|n| row.push(&vec![n; n.into()]));
        row
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
