//! What a log needs of a disk: a folder of numbered files, each read, written and synced at any place.

use std::{io, ops::Range};

/// A folder of a log's files.
pub(crate) trait Disk: Send + 'static {
    /// An open file.
    type File: DiskFile;

    /// The numbers of the log's files, sorted.
    fn files(&self) -> io::Result<Vec<u32>>;

    /// Opens a file that is there, to read and write.
    fn open(&self, file: u32) -> io::Result<Self::File>;

    /// Makes a file, empty; fails if it is there.
    fn create(&self, file: u32) -> io::Result<Self::File>;

    /// Removes a file.
    fn remove(&self, file: u32) -> io::Result<()>;

    /// Returns once the disk knows which files there are.
    fn sync_folder(&self) -> io::Result<()>;

    /// Says in words that the folder, its lock or `file` is not what is `open` any more: deleted or replaced.
    fn displaced(&self, file: u32, open: &Self::File) -> Option<String>;

    /// A file's name, for messages.
    fn name(&self, file: u32) -> String;
}

/// An open file of a log; it may be read while it is written elsewhere in it.
pub(crate) trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Fills `out` from `at` on; an error if the file ends before.
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` from `at` on; the kernel has them then.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns once the disk has what was written.
    fn sync_data(&self) -> io::Result<()>;
}

/// Where a large read fails, so much is read at a time.
const PIECE: usize = 4096;

/// Fills `out` from `at` on: with zeros where it cannot be read, which is returned.
pub(super) fn read_what_can_be_read<F: DiskFile>(file: &F, at: u64, out: &mut [u8]) -> Vec<Range<usize>> {
    let mut bad: Vec<Range<usize>> = Vec::new();
    if file.read_at(at, out).is_ok() {
        return bad;
    }
    let mut from = 0;
    for piece in out.chunks_mut(PIECE) {
        let end = from + piece.len();
        if file.read_at(at + from as u64, piece).is_err() {
            piece.fill(0);
            match bad.last_mut().filter(|last| last.end == from) {
                Some(last) => last.end = end,
                None => bad.push(from..end),
            }
        }
        from = end;
    }
    bad
}
