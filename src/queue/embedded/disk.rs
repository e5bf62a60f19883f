//! The log's file as long as it works; after a failure it is gone until it can be opened again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    chunk::Chunk,
    store::{Marks, Open, Store},
};
use crate::queue::OpenError;

/// How often a failed disk is tried.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Disk {
    /// `None` after a failure. Before `open`, which holds the folder's lock: fields are dropped in order.
    store: Option<Store>,
    open: Open,
    retry_at: Instant,
}

impl Disk {
    pub(super) fn open(mut open: Open) -> Result<Self, OpenError> {
        Ok(Self { store: Some(open()?), open, retry_at: Instant::now() })
    }

    /// The open file.
    pub(super) fn store(&mut self) -> Result<&mut Store, redb::Error> {
        self.store.as_mut().ok_or(redb::Error::DatabaseClosed)
    }

    /// When a failed one is to be tried again; `None`: it works.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.store.is_none().then_some(self.retry_at)
    }

    /// It failed.
    pub(super) fn fail(&mut self) {
        self.store = None;
        self.retry_at = Instant::now() + RETRY;
    }

    /// Opens it again and makes it what `chunks` and `marks` say.
    pub(super) fn reopen(&mut self, chunks: &BTreeMap<u64, Chunk>, marks: Marks) -> Result<(), OpenError> {
        self.retry_at = Instant::now() + RETRY;
        let store = (self.open)()?;
        store.reconcile(chunks, marks).map_err(|error| OpenError(error.to_string()))?;
        self.store = Some(store);
        Ok(())
    }
}
