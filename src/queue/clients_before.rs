//! Which clients the process before this one had: a note that an orderly stop leaves in `[data] dir`.
//!
//! The file `queue.clients` (with nsqd `queue.<node id>.clients`, since nodes may share a folder) has a first line that names its form, then, little-endian: how long the clients were told to wait
//! (u32, ms), and for each address that had clients its [`AddressCounts::hash`] (u64) and how many (u32). It is taken away
//! as soon as it was read, so that a process that is killed leaves none.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::push::AddressCounts;

const FORM: &[u8] = b"oxipush clients 1\n";
const ENTRY: usize = 12;

/// Clients that a start may wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientsBefore {
    /// Nobody knows which: the process before was killed, or its version left no note.
    Unknown,
    /// An orderly stop had these.
    Known(SentAwayClients),
}

/// Clients that an orderly stop sent away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SentAwayClients {
    /// Where they were.
    pub(crate) counts: AddressCounts,
    /// Some were told to come back only after this.
    pub(crate) delay: Duration,
}

/// Where the note is.
#[derive(Clone, Debug)]
pub(crate) struct ClientsNote {
    dir: PathBuf,
    path: PathBuf,
}

impl ClientsNote {
    /// In a data folder that is the node's alone.
    pub(crate) fn in_own_folder(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), path: dir.join("queue.clients") }
    }

    /// In a folder that other nodes may use too; `node` can be part of a file's name.
    pub(crate) fn of_node(dir: &Path, node: &str) -> Self {
        Self { dir: dir.to_owned(), path: dir.join(format!("queue.{node}.clients")) }
    }

    /// Reads the note and takes it away.
    pub(crate) fn take(&self) -> ClientsBefore {
        let path = &self.path;
        let read = fs::read(path);
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // the next start would take it for its predecessor's
            tracing::warn!(%error, path = %path.display(), "the note of the clients before cannot be removed");
            return ClientsBefore::Unknown;
        }
        read.ok().and_then(|bytes| decode(&bytes)).map_or(ClientsBefore::Unknown, ClientsBefore::Known)
    }

    /// Leaves a note for the next process. It reads and writes the disk.
    ///
    /// # Errors
    /// The disk does not take it: there is none then.
    pub(crate) fn leave(&self, clients: &SentAwayClients) -> io::Result<()> {
        // nsqd's nodes have nothing else in it
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let begun = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&begun)?;
        file.write_all(&encode(clients))?;
        file.sync_all()?;
        fs::rename(&begun, &self.path)?;
        File::open(&self.dir)?.sync_all()
    }
}

fn encode(clients: &SentAwayClients) -> Vec<u8> {
    let mut bytes = FORM.to_vec();
    let delay = u32::try_from(clients.delay.as_millis()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&delay.to_le_bytes());
    for (address, count) in clients.counts.iter() {
        bytes.extend_from_slice(&address.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    bytes
}

/// `None`: it is not whole, or of another form.
fn decode(bytes: &[u8]) -> Option<SentAwayClients> {
    let (delay, entries) = bytes.strip_prefix(FORM)?.split_first_chunk()?;
    if !entries.len().is_multiple_of(ENTRY) {
        return None;
    }
    let counts = entries.chunks_exact(ENTRY).filter_map(|entry| {
        let (address, count) = entry.split_first_chunk()?;
        Some((u64::from_le_bytes(*address), u32::from_le_bytes(*count.first_chunk()?)))
    });
    Some(SentAwayClients { counts: counts.collect(), delay: Duration::from_millis(u32::from_le_bytes(*delay).into()) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_once_and_as_it_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let note = ClientsNote::in_own_folder(dir.path());
        assert_eq!(note.take(), ClientsBefore::Unknown);
        for counts in [vec![], vec![(1, 2)], vec![(u64::MAX, 1), (7, u32::MAX)]] {
            let left = SentAwayClients { counts: counts.into_iter().collect(), delay: Duration::from_millis(1234) };
            note.leave(&left).unwrap();
            assert_eq!(note.take(), ClientsBefore::Known(left));
            assert_eq!(note.take(), ClientsBefore::Unknown);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_note_that_is_not_whole_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let note = ClientsNote::in_own_folder(dir.path());
        let left = SentAwayClients { counts: [(1, 2)].into_iter().collect(), delay: Duration::ZERO };
        let whole = encode(&left);
        for len in 0..whole.len() {
            fs::write(&note.path, &whole[..len]).unwrap();
            let without_clients = len == whole.len() - ENTRY;
            assert_eq!(note.take() == ClientsBefore::Unknown, !without_clients, "{len} bytes");
        }
        fs::write(&note.path, [b"another form 2\n", &*whole].concat()).unwrap();
        assert_eq!(note.take(), ClientsBefore::Unknown);
    }
}
