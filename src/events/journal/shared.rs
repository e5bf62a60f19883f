//! The journal's state behind its lock: what senders and readers call.
//!
//! The lock is held for moments, never over disk or network.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::{oneshot, watch};

use super::{
    JournalOptions,
    entry::merged,
    messages::{MESSAGE_OVERHEAD, Messages},
};
use crate::{events::EventError, telemetry::Metrics};

/// What a lane is known by in this process: no client can choose a name that meets another's.
pub(in crate::events) type LaneHash = RandomState;

/// An acknowledgement is written down this long after it, if nothing else is written before.
const DONE_AFTER: Duration = Duration::from_secs(1);

/// No message beyond this, whatever `[events] max_bytes` allows.
const LARGEST: usize = 16 << 20;

/// A message that is to be written.
pub(super) struct AdmittedMessage {
    pub(super) lane: ByteString,
    pub(super) json: Bytes,
    pub(super) outcome: oneshot::Sender<Result<(), EventError>>,
}

/// Messages that are to be read again.
pub(super) struct JournalRead {
    pub(super) numbers: Vec<u64>,
    pub(super) answer: oneshot::Sender<Result<Vec<(u64, Bytes)>, String>>,
}

/// See the module.
pub(super) struct SharedJournal {
    pub(super) options: JournalOptions,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lanes: LaneHash,
    /// Changes when messages can be read.
    pub(super) arrived: watch::Sender<()>,
    wake: Condvar,
    locked: Mutex<LockedJournal>,
}

/// What the lock guards.
#[derive(Default)]
pub(super) struct LockedJournal {
    pub(super) messages: Messages,
    pub(super) admitted: VecDeque<AdmittedMessage>,
    /// Of those, as `[events] max_bytes` counts.
    admitted_bytes: u64,
    /// Done with, and not written down.
    done: Vec<Range<u64>>,
    done_by: Option<Instant>,
    pub(super) reads: Vec<JournalRead>,
    /// Why nothing is taken.
    refusing: Option<String>,
    /// Somebody waits for messages: the log is needed.
    needed: bool,
    closing: bool,
    /// The journal's thread waits: it must be woken.
    parked: bool,
}

/// What one turn of the thread deals with.
pub(super) struct JournalTurn {
    pub(super) batch: Vec<AdmittedMessage>,
    pub(super) done: Vec<Range<u64>>,
    pub(super) done_is_due: bool,
    pub(super) reads: Vec<JournalRead>,
    /// Nothing comes after it.
    pub(super) last: bool,
}

impl SharedJournal {
    pub(super) fn new(options: JournalOptions, metrics: Arc<Metrics>) -> Self {
        let locked = Mutex::new(LockedJournal::default());
        let arrived = watch::Sender::new(());
        Self { options, metrics, lanes: LaneHash::new(), arrived, wake: Condvar::new(), locked }
    }

    /// What a lane of this name is known by.
    pub(super) fn lane(&self, name: &str) -> u64 {
        self.lanes.hash_one(name)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LockedJournal> {
        // every change is whole before anything in it can panic
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the levels and wakes the thread if it waits.
    pub(super) fn unlock(&self, mut locked: MutexGuard<'_, LockedJournal>, wake: bool) {
        self.metrics.events_waiting.set(locked.messages.count() as i64);
        self.metrics.event_bytes.set(locked.bytes() as i64);
        let wake = wake && std::mem::take(&mut locked.parked);
        drop(locked);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Takes a message in; its outcome comes once the log has it.
    pub(super) fn admit(
        &self,
        lane: ByteString,
        json: Bytes,
    ) -> Result<oneshot::Receiver<Result<(), EventError>>, EventError> {
        let size = json.len() as u64 + MESSAGE_OVERHEAD;
        let limit = LARGEST.min(usize::try_from(self.options.max_bytes).unwrap_or(usize::MAX));
        if json.len() > limit {
            return Err(EventError::TooLarge { bytes: json.len(), limit });
        }
        let mut locked = self.lock();
        locked.needed = true;
        if locked.closing {
            return Err(EventError::Unavailable("the gateway is stopping".into()));
        }
        if let Some(reason) = &locked.refusing {
            return Err(EventError::Unavailable(reason.clone()));
        }
        if locked.bytes() + size > self.options.max_bytes {
            return Err(EventError::Busy("too many messages wait for the back end ([events] max_bytes)"));
        }
        let (outcome, acknowledgement) = oneshot::channel();
        locked.admitted_bytes += size;
        locked.admitted.push_back(AdmittedMessage { lane, json, outcome });
        self.unlock(locked, true);
        Ok(acknowledgement)
    }

    /// Messages of these numbers are done with.
    pub(super) fn done(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> u64 {
        let mut locked = self.lock();
        let mut removed = 0;
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            removed += locked.messages.remove(range.clone());
            locked.done.push(range);
        }
        let wakes = locked.done_by.is_none();
        locked.done_by.get_or_insert_with(|| Instant::now() + DONE_AFTER);
        self.unlock(locked, wakes);
        removed
    }

    pub(super) fn read(&self, read: JournalRead) {
        let mut locked = self.lock();
        locked.reads.push(read);
        self.unlock(locked, true);
    }

    /// Somebody reads: what is on the disk is to be found.
    pub(super) fn need(&self) {
        let mut locked = self.lock();
        locked.needed = true;
        self.unlock(locked, true);
    }

    pub(super) fn begin_close(&self) {
        let mut locked = self.lock();
        locked.closing = true;
        self.unlock(locked, true);
    }

    /// Waits until the log is needed; `false`: it never was, and the journal is closed.
    pub(super) fn wait_until_needed(&self) -> bool {
        let mut locked = self.lock();
        while !locked.needed && !locked.closing {
            locked = self.park(locked, None);
        }
        !locked.closing
    }

    /// Waits until there is something to do, `until` at most.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let mut locked = self.lock();
        loop {
            let due = until.into_iter().chain(locked.done_by).min();
            let is_due = due.is_some_and(|due| due <= Instant::now());
            if is_due || locked.has_work() {
                return;
            }
            locked = self.park(locked, due);
        }
    }

    /// Whether [`SharedJournal::wait`] would return at once.
    pub(super) fn has_work(&self) -> bool {
        let locked = self.lock();
        locked.has_work() || locked.done_by.is_some_and(|due| due <= Instant::now())
    }

    /// Waits until `until`, or until the journal is to close; `true`: it is.
    pub(super) fn wait_to_retry(&self, until: Instant) -> bool {
        let mut locked = self.lock();
        while !locked.closing && Instant::now() < until {
            locked = self.park(locked, Some(until));
        }
        locked.closing
    }

    fn park<'a>(
        &'a self,
        mut locked: MutexGuard<'a, LockedJournal>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, LockedJournal> {
        locked.parked = true;
        let mut locked = match until {
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.wake.wait_timeout(locked, left).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.wake.wait(locked).unwrap_or_else(PoisonError::into_inner),
        };
        locked.parked = false;
        locked
    }

    /// What is to be done now; of what waits to be written about so many bytes.
    pub(super) fn begin(&self, bytes: usize) -> JournalTurn {
        let mut locked = self.lock();
        let mut batch = Vec::new();
        let mut taken = 0;
        while taken < bytes
            && let Some(message) = locked.admitted.pop_front()
        {
            taken += message.json.len();
            batch.push(message);
        }
        let last = locked.closing && locked.admitted.is_empty();
        let done_is_due = locked.done_by.is_some_and(|due| due <= Instant::now());
        let done = if done_is_due || last || !batch.is_empty() {
            locked.done_by = None;
            merged(std::mem::take(&mut locked.done))
        } else {
            Vec::new()
        };
        JournalTurn { batch, done, done_is_due, reads: std::mem::take(&mut locked.reads), last }
    }

    /// The log has not been told of these.
    pub(super) fn not_written(&self, done: Vec<Range<u64>>) {
        let mut locked = self.lock();
        if !done.is_empty() {
            locked.done.extend(done);
            locked.done_by.get_or_insert_with(|| Instant::now() + DONE_AFTER);
        }
    }

    /// From now on nothing is taken; what waits is refused.
    pub(super) fn refuse(&self, reason: &str) {
        let mut locked = self.lock();
        locked.refusing = Some(reason.to_owned());
        let admitted = std::mem::take(&mut locked.admitted);
        let reads = std::mem::take(&mut locked.reads);
        locked.settle(&admitted);
        self.unlock(locked, false);
        for message in admitted {
            let _ = message.outcome.send(Err(EventError::Unavailable(reason.to_owned())));
        }
        for read in reads {
            let _ = read.answer.send(Err(reason.to_owned()));
        }
    }

    /// Messages are taken again.
    pub(super) fn accept(&self) {
        self.lock().refusing = None;
    }
}

impl LockedJournal {
    /// Of all that waits, as `[events] max_bytes` counts.
    fn bytes(&self) -> u64 {
        self.messages.bytes() + self.admitted_bytes
    }

    fn has_work(&self) -> bool {
        !self.admitted.is_empty() || !self.reads.is_empty() || self.closing
    }

    /// These are not among the admitted any more.
    pub(super) fn settle<'a>(&mut self, messages: impl IntoIterator<Item = &'a AdmittedMessage>) {
        let size = |message: &AdmittedMessage| message.json.len() as u64 + MESSAGE_OVERHEAD;
        self.admitted_bytes -= messages.into_iter().map(size).sum::<u64>();
    }
}
