//! The way out of a disk that is full, fails, or was taken away: no push is taken until the log can be written again. What is
//! there is read all the same.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{RETRY, StoreWriter};
use crate::{
    config,
    log::Disk,
    store::{StoreError, embedded::order::StoreOrder},
};

/// How often the folder is looked at while pushes come.
const LOOK: Duration = Duration::from_secs(1);

impl<D: Disk> StoreWriter<D> {
    /// Notices a folder that was deleted or replaced, before anything is acknowledged that only it would have.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if self.looked_at.elapsed() < LOOK {
            return Ok(());
        }
        self.looked_at = Instant::now();
        self.log.displaced().map_or(Ok(()), |what| Err(io::Error::other(what)))
    }

    /// The disk is full: these are not taken, and nothing is until there is room.
    pub(super) fn no_room(&mut self, refused: Vec<StoreOrder>, error: &io::Error) {
        if self.room_at.is_none() {
            tracing::error!(%error, "the disk is full: no push is stored until there is room");
        }
        let reason = format!("the disk of [data] dir has no room for more ({error}): make room there");
        self.shared.refuse(&reason);
        self.shared.refuse_all(refused, &StoreError::Unavailable(reason));
        self.room_at = Some(Instant::now() + RETRY);
    }

    /// Tries whether a full disk has room again.
    pub(super) fn try_room(&mut self) {
        if self.room_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.room_at = match self.log.make_room() {
            Ok(()) => {
                tracing::info!("the disk has room for the store again");
                self.shared.accept();
                None
            }
            Err(_) => Some(Instant::now() + RETRY),
        };
    }

    /// The disk failed: nothing is taken until it works again.
    pub(super) fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the store's log failed; no push is stored until it can be written again");
        self.retry_at = Some(Instant::now() + RETRY);
        self.shared.refuse(&format!("its log failed: {error}"));
    }

    /// Whether the log can be written again.
    pub(super) fn heal(&mut self) -> bool {
        let healed = match self.log.displaced() {
            Some(what) => Err(io::Error::other(what)),
            // what was acknowledged before a sync is told as damage if it is missing at the next start
            None if self.log.is_failed() => self.log.heal(self.shared.limits.sync != config::Sync::Always).map(drop),
            None => self.log.make_room().map_err(io::Error::from),
        };
        if let Err(error) = healed {
            self.retry_at = Some(Instant::now() + RETRY);
            self.shared.refuse(&format!("its log cannot be written: {error}"));
            return false;
        }
        tracing::info!("the store's log works again");
        self.retry_at = None;
        self.room_at = None;
        self.shared.accept();
        true
    }
}
