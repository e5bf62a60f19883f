//! What opening or checking a log finds, in types and in words.

use std::ops::Range;

/// Why a log was not opened, and how to go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LogOpenError(pub(crate) String);

/// What [`Log::open`](super::Log::open), [`check`](super::check) or [`salvage`](super::salvage()) found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// In the order of the log.
    pub(crate) damages: Vec<Damage>,
    /// The log was made now.
    pub(crate) new: bool,
    /// Whole entries of users that are not released.
    pub(crate) entries: u64,
    /// Of their bodies together.
    pub(crate) bytes: u64,
    /// In the order of their names.
    pub(crate) files: Vec<FileReport>,
}

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileReport {
    /// Its path.
    pub(crate) name: String,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// The segment in it; `None`: it is free.
    pub(crate) segment: Option<u32>,
    /// Users' whole entries in it.
    pub(crate) entries: u64,
    /// Of their bodies together.
    pub(crate) bytes: u64,
}

/// A place where something is missing, or is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The file's name; empty: the file of that segment is missing.
    pub(crate) file: String,
    /// The segment, where that is known; of several missing ones the first.
    pub(crate) segment: Option<u32>,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// How long it is; 0: unknown.
    pub(crate) bytes: u64,
    /// Of the entries that are gone, the log's own among them; empty: unknown, perhaps none.
    pub(crate) numbers: Range<u64>,
    /// The kind of the one entry that is gone, where its head is whole.
    pub(crate) kind: Option<u8>,
    /// It had been synced: the disk lost it. False: a torn end, which a crash leaves of what was being written.
    pub(crate) synced: bool,
    /// It was found at an earlier open, or it was told when it happened.
    pub(crate) known: bool,
}
