//! The way out of a disk that is full, fails, or was taken away: nothing is accepted until the log can be written again.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{RETRY, Writer};
use crate::{
    config,
    log::Disk,
    queue::{PublishError, QueueState, embedded::records::WaitingPublish, waiter::Waiter},
};

/// How often a full disk is tried while nothing was released: each time takes all the room that is left for a moment.
const ROOM_RETRY: Duration = Duration::from_secs(10);
/// What cannot be read so often is given up.
const READ_TRIES: u32 = 60;
/// How often the folder is looked at while pushes come.
const LOOK: Duration = Duration::from_secs(1);

impl<D: Disk> Writer<D> {
    /// Where there was no room for some of a batch, or there is again.
    pub(super) fn room(&mut self, refused: Vec<WaitingPublish<Waiter>>, no_room: Option<io::Error>) {
        if let Some(error) = no_room {
            let reason = format!(
                "the disk of [data] dir has no room for more ({error}): make room there, or wait until what is queued was \
                 delivered"
            );
            if self.room_at.is_none() {
                tracing::error!(%error, "the disk is full: no push is accepted until there is room");
            }
            self.refuse_all(refused, &reason);
            self.room_at = Some(Instant::now() + RETRY);
        } else if self.room_at.is_some_and(|at| at <= Instant::now()) {
            self.room_at = match self.log.make_room() {
                Ok(()) => {
                    tracing::info!("the disk has room again");
                    self.accept_again();
                    None
                }
                Err(_) => Some(Instant::now() + ROOM_RETRY),
            };
        }
    }

    /// Notices a folder that was deleted or replaced, before anything is acknowledged that only it would have.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if self.looked_at.elapsed() < LOOK {
            return Ok(());
        }
        self.looked_at = Instant::now();
        self.log.displaced().map_or(Ok(()), |what| Err(io::Error::other(what)))
    }

    /// The disk failed: nothing is accepted until it works again.
    pub(super) fn fail(&mut self, reason: &str) {
        tracing::error!(reason, "the queue failed; nothing is accepted until its log can be written again");
        self.retry_at = Some(Instant::now() + RETRY);
        self.refuse_all(Vec::new(), reason);
    }

    /// Whether the log can be written again.
    pub(super) fn heal(&mut self) -> bool {
        let healed = match self.log.displaced() {
            Some(what) => Err(io::Error::other(what)),
            None if self.log.is_failed() => self.heal_log(),
            // it could not be read: if that does not go by, what is there is lost
            None => {
                self.log.pass_over_unreadable(self.read_failures >= READ_TRIES);
                Ok(())
            }
        };
        if let Err(error) = healed {
            self.retry_at = Some(Instant::now() + RETRY);
            self.refuse_all(Vec::new(), &format!("its log cannot be written: {error}"));
            return false;
        }
        tracing::info!("the queue's log works again");
        self.retry_at = None;
        if self.room_at.is_none() {
            self.accept_again();
        }
        true
    }

    /// What was acknowledged before a sync is told as damage if it is missing at the next start: it is not known to be void.
    fn heal_log(&mut self) -> io::Result<()> {
        self.log.heal(self.shared.limits.sync != config::Sync::Always).map(drop)
    }

    fn accept_again(&self) {
        self.shared.lock().records.admit_again();
        self.shared.say(QueueState::Ready);
    }

    /// Refuses `batch` and all that comes, until [`Writer::accept_again`].
    pub(super) fn refuse_all(&self, mut batch: Vec<WaitingPublish<Waiter>>, reason: &str) {
        let mut locked = self.shared.lock();
        locked.records.refuse(reason.to_owned());
        batch.extend(locked.records.take_admitted(usize::MAX));
        drop(locked);
        self.refuse(batch, 0..0, reason);
        self.shared.say(QueueState::NotReady(reason.to_owned()));
    }

    pub(super) fn refuse(&self, batch: Vec<WaitingPublish<Waiter>>, void: std::ops::Range<u64>, reason: &str) {
        let mut locked = self.shared.lock();
        let waiters = locked.records.refused(batch, void, Instant::now());
        self.shared.unlock(locked);
        waiters.into_iter().for_each(|waiter| waiter.resolve(Err(PublishError::Unavailable(reason.to_owned()))));
    }
}
