//! Where `sync` is a time: what is acknowledged and not yet in the log, in a file beside it that is written and not
//! synced. So a killed process loses nothing (the kernel has it), and a power cut what no sync followed.
//!
//! An entry: first sequence number (u64), length (u32), checksum (u64), row; little-endian. A row may stand there again,
//! grown. Everything up to the log's `next` mark is in the log already.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
};

use super::row::{self, Row};

/// The file.
pub(super) struct Spill {
    file: File,
    empty: bool,
}

/// The first sequence number of a row, and the row.
pub(super) type Found = (u64, Vec<u8>);

/// FNV-1a: tells a torn entry from a whole one, nothing more.
fn checksum(first: u64, value: &[u8]) -> u64 {
    let bytes = first.to_le_bytes().into_iter().chain(value.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn entry(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let first = u64::from_le_bytes(*first);
    (checksum(first, value) == u64::from_le_bytes(*sum)).then_some((first, value, rest))
}

impl Spill {
    /// Opens it, with the rows in it that the log has not: those that end after `next`.
    pub(super) fn open(path: &Path, next: u64) -> io::Result<(Self, Vec<Found>)> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut rows = Vec::new();
        let mut rest = &bytes[..];
        while let Some((first, value, after)) = entry(rest) {
            rest = after;
            if row::read(value).is_ok_and(|(_, records)| first + records.len() as u64 > next) {
                rows.push((first, value.to_vec()));
            }
        }
        if !rest.is_empty() {
            tracing::warn!(
                bytes = rest.len(),
                "the end of {} is torn and is cut off: no sync or acknowledgement followed it",
                path.display()
            );
        }
        Ok((Self { file, empty: bytes.is_empty() }, rows))
    }

    /// Once its rows are in the log. Synced: sequence numbers that a power cut took are given again, and what stood here
    /// under them must not come back.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.clear()?;
        self.file.sync_all()
    }

    /// Everything in it is in the log now.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if !self.empty {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.empty = true;
        }
        Ok(())
    }

    /// Returns once the kernel has the rows.
    pub(super) fn write(&mut self, rows: &[Row]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(rows.iter().map(|row| row.value.len() + 20).sum());
        for row in rows {
            bytes.extend_from_slice(&row.first.to_le_bytes());
            bytes.extend_from_slice(&(row.value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&checksum(row.first, &row.value).to_le_bytes());
            bytes.extend_from_slice(&row.value);
        }
        self.empty = false;
        self.file.write_all(&bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Row, Spill};

    fn row(first: u64, count: u8) -> Row {
        let mut row = Row::new(first, 1);
        (0..count).for_each(|n| row.push(&[n; 30]));
        row
    }

    #[test]
    fn whole_rows_beyond_the_mark_come_back_and_a_torn_end_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spill");
        let (mut spill, rows) = Spill::open(&path, 0).unwrap();
        assert!(rows.is_empty());
        spill.write(&[row(0, 3), row(3, 2)]).unwrap();
        spill.write(&[row(3, 4), row(7, 1)]).unwrap();
        let found = |next| Spill::open(&path, next).unwrap().1.iter().map(|row| row.0).collect::<Vec<_>>();
        assert_eq!(found(0), [0, 3, 3, 7]);
        assert_eq!(found(5), [3, 7]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(found(5), [3]);
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert!(found(0).is_empty());
        let (mut spill, _) = Spill::open(&path, 0).unwrap();
        spill.reset().unwrap();
        spill.write(&[row(9, 1)]).unwrap();
        assert_eq!(found(0), [9]);
    }
}
