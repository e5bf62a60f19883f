//! The journal: what is acknowledged and not yet in the log, in a file beside it. One write and one sync for all publishes that
//! wait cost a fraction of a transaction, and most pushes are done before the log would have heard of them. Memory knows only
//! where a row is: the log gets it from here.
//!
//! An entry: first sequence number (u64), length (u32), CRC-32 of these and the row (u32), row; little-endian. A row may
//! stand there again, grown. Zeros follow the last entry. Once all is in the log the file is written from its start again, so
//! that a sync has no length to write: what an earlier round left is in the log already, as is all up to its `next` mark.

use std::{collections::BTreeMap, io, ops::Range};

use redb::StorageBackend;

use super::row::{self, Row};

/// The file grows by this many pieces of zeros: a sync of bytes that were there before needs no metadata.
const GROWTH: usize = 16;
/// One write is about this much: larger buffers would stay with the allocator.
const PIECE: usize = 64 * 1024;
static ZEROS: [u8; PIECE] = [0; PIECE];
const HEAD: usize = 16;
/// The log takes the rows early once this much was written.
const FULL: usize = 2 * 1024 * 1024;
/// Behind the last entry. No entry begins so: the checksum of zeros is not zero.
const END: [u8; HEAD] = [0; HEAD];

/// The file.
pub(super) struct Journal {
    file: Box<dyn StorageBackend>,
    /// Where the next entry goes.
    end: usize,
    /// Of the file, in bytes.
    size: usize,
    /// Where the entries are of the rows that the log has not, by their first sequence numbers: as they were written last.
    rows: BTreeMap<u64, Range<usize>>,
}

/// What a process that did not close the log left in the journal, beside rows.
pub(super) struct JournalLeftover {
    /// The sequence number that comes next.
    pub(super) next: u64,
    /// An entry is not whole: no sync followed it.
    pub(super) torn: bool,
}

struct JournalEntry<'a> {
    first: u64,
    value: &'a [u8],
}

impl<'a> JournalEntry<'a> {
    /// The first entry of `bytes` and what follows it, if it is whole.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let entry = Self { first: u64::from_le_bytes(*first), value };
        (entry.head()[12..] == *sum).then_some((entry, rest))
    }

    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&self.first.to_le_bytes());
        head[8..12].copy_from_slice(&(self.value.len() as u32).to_le_bytes());
        let mut sum = crc32fast::Hasher::new();
        sum.update(&head[..12]);
        sum.update(self.value);
        head[12..].copy_from_slice(&sum.finalize().to_le_bytes());
        head
    }
}

impl Journal {
    /// Opens it; its rows are those that the log has not: that end after `next`.
    pub(super) fn open(file: Box<dyn StorageBackend>, next: u64) -> io::Result<(Self, JournalLeftover)> {
        let mut bytes = vec![0; file.len()? as usize];
        file.read(0, &mut bytes)?;
        let mut found = JournalLeftover { next, torn: false };
        let mut rows = BTreeMap::new();
        let mut rest = &bytes[..];
        while let Some((entry, after)) = JournalEntry::read(rest) {
            let end = row::read(entry.value).map_or(0, |(_, records)| entry.first + records.len() as u64);
            if end > next {
                rows.insert(entry.first, bytes.len() - rest.len()..bytes.len() - after.len());
                found.next = found.next.max(end);
            }
            rest = after;
        }
        found.torn = !rest.is_empty() && !rest.starts_with(&END);
        Ok((Self { file, end: 0, size: bytes.len(), rows }, found))
    }

    /// How many rows the log has not.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Those rows, by their first sequence numbers; `None`: one is not what was written.
    pub(super) fn rows(&self) -> impl Iterator<Item = io::Result<(u64, Option<Vec<u8>>)>> {
        self.rows.iter().map(|(first, place)| Ok((*first, self.read(*first, place)?)))
    }

    /// One of them; `None` if it is not there, or not what was written.
    pub(super) fn row(&self, first: u64) -> io::Result<Option<Vec<u8>>> {
        self.rows.get(&first).map_or(Ok(None), |place| self.read(first, place))
    }

    /// Checked: a kernel that could not write a page may forget it, and tells only who syncs.
    fn read(&self, first: u64, place: &Range<usize>) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; place.len()];
        self.file.read(place.start as u64, &mut bytes)?;
        let whole = JournalEntry::read(&bytes).is_some_and(|(entry, rest)| entry.first == first && rest.is_empty());
        bytes.drain(..HEAD);
        Ok(whole.then_some(bytes))
    }

    /// Forgets the rows that are not wanted any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        self.rows.retain(|first, _| wanted(*first));
    }

    /// The log should take its rows.
    pub(super) fn is_full(&self) -> bool {
        self.end > FULL
    }

    /// Empties it once its rows are in the log. Synced: sequence numbers that a power cut took are given again, and what stood
    /// here under them must not come back.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.size = 0;
        self.clear();
        self.file.sync_data()
    }

    /// Everything in it is in the log now.
    pub(super) fn clear(&mut self) {
        self.end = 0;
        self.rows.clear();
    }

    /// Returns once the kernel has the rows.
    pub(super) fn append(&mut self, rows: &[Row]) -> io::Result<()> {
        let end = self.end + rows.iter().map(|row| HEAD + row.value.len()).sum::<usize>();
        if end + END.len() > self.size {
            let size = (end + END.len()).next_multiple_of(GROWTH * PIECE);
            for at in (self.size..size).step_by(PIECE) {
                self.file.write(at as u64, &ZEROS)?;
            }
            self.size = size;
        }
        let mut at = self.end;
        let mut piece = Vec::new();
        for row in rows {
            let entry = JournalEntry { first: row.first, value: &row.value };
            if !piece.is_empty() && piece.len() + HEAD + entry.value.len() > PIECE {
                self.file.write(at as u64, &piece)?;
                at += piece.len();
                piece.clear();
            }
            piece.extend_from_slice(&entry.head());
            piece.extend_from_slice(entry.value);
        }
        piece.extend_from_slice(&END);
        self.file.write(at as u64, &piece)?;
        for row in rows {
            let start = self.end;
            self.end += HEAD + row.value.len();
            self.rows.insert(row.first, start..self.end);
        }
        Ok(())
    }

    /// Returns once the disk has what was appended.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use redb::backends::FileBackend;

    use super::{Journal, JournalLeftover, PIECE, Row};

    fn row(first: u64, count: u8) -> Row {
        let mut row = Row::new(first, 1);
        (0..count).for_each(|n| row.push(&[n; 30]));
        row
    }

    fn open(path: &Path, next: u64) -> (Journal, JournalLeftover) {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        Journal::open(Box::new(FileBackend::new(file).unwrap()), next).unwrap()
    }

    /// The first sequence numbers of the rows that are found, and whether an entry is torn.
    fn found(path: &Path, next: u64) -> (Vec<u64>, bool) {
        let (journal, JournalLeftover { torn, .. }) = open(path, next);
        (journal.rows.into_keys().collect(), torn)
    }

    #[test]
    fn whole_rows_beyond_the_mark_come_back_and_a_torn_end_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, nothing) = open(&path, 0);
        assert!(journal.count() == 0 && !nothing.torn);
        journal.append(&[row(0, 3), row(3, 2)]).unwrap();
        journal.append(&[row(3, 4), row(7, 1)]).unwrap();
        let end = journal.end;
        drop(journal);
        assert_eq!(found(&path, 0), (vec![0, 3, 7], false));
        assert_eq!(found(&path, 5), (vec![3, 7], false));
        let (journal, JournalLeftover { next, .. }) = open(&path, 5);
        assert_eq!((journal.row(3).unwrap().unwrap(), next), (row(3, 4).value, 8));
        let whole = fs::read(&path).unwrap();
        for cut in [end - 1, end - 30] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(found(&path, 5), (vec![3], true));
        }
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert_eq!(found(&path, 0), (Vec::new(), true));
        let (mut journal, _) = open(&path, 0);
        journal.reset().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        journal.append(&[row(9, 1)]).unwrap();
        assert_eq!(found(&path, 0), (vec![9], false));
    }

    #[test]
    fn rows_of_all_sizes_come_back_as_they_were_over_many_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path, 0);
        let rows: Vec<Row> = [1, 60_000, 4000, PIECE, 3 * PIECE, 0, 30_000, 30_000, 30_000, 20 * PIECE]
            .into_iter()
            .zip(0..)
            .map(|(size, first)| {
                let mut row = Row::new(first, 1);
                row.push(&vec![first as u8; size]);
                row
            })
            .collect();
        journal.append(&rows[..6]).unwrap();
        journal.append(&rows[6..]).unwrap();
        let (opened, JournalLeftover { next, torn }) = open(&path, 0);
        for journal in [journal, opened] {
            let found = journal.rows().map(|row| row.unwrap().1.unwrap());
            assert!(found.eq(rows.iter().map(|row| row.value.clone())));
        }
        assert_eq!((next, torn), (10, false));
    }

    #[test]
    fn a_row_that_is_not_there_any_more_is_not_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path, 0);
        journal.append(&[row(0, 1), row(1, 1)]).unwrap();
        let old = fs::read(&path).unwrap();
        journal.clear();
        journal.append(&[row(2, 1), row(3, 1)]).unwrap();
        assert_eq!(journal.row(3).unwrap().unwrap(), row(3, 1).value);
        // as if the kernel had not written what it said it had: whole rows of an earlier round, of the same size
        fs::write(&path, old).unwrap();
        assert!(journal.row(3).unwrap().is_none() && journal.rows().all(|row| row.unwrap().1.is_none()));
    }

    #[test]
    fn what_an_earlier_round_left_is_neither_found_nor_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path, 0);
        journal.append(&[row(0, 1), row(1, 1), row(2, 1)]).unwrap();
        journal.clear();
        let len = fs::metadata(&path).unwrap().len();
        // of one size with those that stood here
        journal.append(&[row(3, 1)]).unwrap();
        assert_eq!(found(&path, 3), (vec![3], false));
        journal.append(&[row(4, 2)]).unwrap();
        assert_eq!(found(&path, 3), (vec![3, 4], false));
        assert_eq!(fs::metadata(&path).unwrap().len(), len);
    }
}
