//! The log's file as long as it works; after a failure it is gone until it can be opened again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    chunk::Chunk,
    log::{LogFiles, Marks, OpenLog},
};
use crate::queue::OpenError;

/// How often a failed disk is tried.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Disk {
    /// `None` after a failure. Before `open`, which holds the folder's lock: fields are dropped in order.
    log: Option<LogFiles>,
    open: OpenLog,
    retry_at: Instant,
}

impl Disk {
    pub(super) fn open(mut open: OpenLog) -> Result<Self, OpenError> {
        Ok(Self { log: Some(open()?), open, retry_at: Instant::now() })
    }

    /// The open file.
    pub(super) fn log(&mut self) -> Result<&mut LogFiles, redb::Error> {
        self.log.as_mut().ok_or(redb::Error::DatabaseClosed)
    }

    /// When a failed one is to be tried again; `None`: it works.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.log.is_none().then_some(self.retry_at)
    }

    /// It failed.
    pub(super) fn fail(&mut self) {
        self.log = None;
        self.retry_at = Instant::now() + RETRY;
    }

    /// Opens it again and makes it what `chunks` and `marks` say.
    pub(super) fn reopen(&mut self, chunks: &BTreeMap<u64, Chunk>, marks: Marks) -> Result<(), OpenError> {
        self.retry_at = Instant::now() + RETRY;
        let log = (self.open)()?;
        log.reconcile(chunks, marks).map_err(|error| OpenError(error.to_string()))?;
        self.log = Some(log);
        Ok(())
    }
}
