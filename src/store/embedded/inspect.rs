//! What a store's log holds, for who looks at it from outside: it reads entries, and opens nothing.

use std::collections::BTreeSet;

use super::entry::{BEGUN, MOVED, PUSH, PushForm};
use crate::{log::Entry, push::PushId, record::peek};

/// The stored pushes of a log, as far as its entries were given to [`StoreInspection::entry`].
#[derive(Default)]
pub(crate) struct StoreInspection {
    ids: BTreeSet<PushId>,
    found: StoredRecords,
}

/// What a store's log holds. Some of it may be over, deleted, or replaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredRecords {
    /// It is a store's log.
    pub(crate) is_a_store: bool,
    /// Pushes, each once.
    pub(crate) pushes: u64,
    /// Theirs together, without what the log adds.
    pub(crate) bytes: u64,
    /// Places in streams that they had.
    pub(crate) places: u64,
}

impl StoreInspection {
    /// Takes the log's next entry in.
    pub(crate) fn entry(&mut self, entry: &Entry<'_>) {
        match entry.kind {
            PUSH | MOVED => {
                self.found.is_a_store = true;
                let Some(form) = PushForm::read(entry.body) else { return };
                let Some(peeked) = peek(form.record) else { return };
                // one that was moved on stands there twice until its segment goes
                if self.ids.insert(peeked.id) {
                    self.found.pushes += 1;
                    self.found.bytes += form.record.len() as u64;
                    self.found.places += form.count() as u64;
                }
            }
            BEGUN => self.found.is_a_store = true,
            _ => {}
        }
    }

    /// All entries were given.
    pub(crate) fn end(self) -> StoredRecords {
        self.found
    }
}
