//! Which records the queue holds and what happens to each: the whole of its state, without disk, clock or channel.
//!
//! A record is admitted, then accepted once the log has it (or refused). From then on it is *ready*, *in flight* (handed out
//! as a job), *delayed* (requeued), or *cold*: in the log alone, all from one place on, because `memory_bytes` is used up. It
//! leaves when it is finished, expired or lost. Each transition returns what is to be done; the log's thread writes first
//! what must be known after a crash.

mod carry;
mod cold;
mod due;
mod expiry;
mod progress;
mod segments;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashMap;

use super::{limits::QueueLimits, replay::Restored};
use crate::{log::Place, queue::PublishError};
pub(super) use carry::KnownRecord;
pub(super) use cold::ReadRecord;
pub(super) use due::Due;
pub(super) use progress::QueueProgress;
pub(super) use segments::{Amount, SegmentTable};

/// What a record in memory costs beside its bytes.
pub(super) const ENTRY: usize = 64;
/// Where memory is short, a record that waits longer than this is read again instead of kept.
const KEEP_WITHIN: Duration = Duration::from_millis(100);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A publish that waits for its acknowledgement, of which `W` is to be told.
pub(super) struct WaitingPublish<W> {
    pub(super) record: Bytes,
    pub(super) waiter: W,
}

/// A record that leaves as a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HandOut {
    pub(super) number: u64,
    /// This one counted.
    pub(super) attempts: u32,
    pub(super) record: Bytes,
}

/// A record that waits for its hand-out.
struct ReadyRecord {
    number: u64,
    place: Place,
    time: u64,
    /// Hand-outs so far.
    begun: u32,
    /// Hand-outs that the log knows of, or need not know of: it is handed out only while these are more.
    told: u32,
    record: Bytes,
}

impl ReadyRecord {
    /// Its hand-out waits for the log.
    fn is_untold(&self) -> bool {
        self.told <= self.begun
    }

    /// The log was told of its hand-out, for which the mark `handed` is not enough.
    fn is_foretold(&self, found: u64) -> bool {
        self.told > self.begun && (self.begun > 0 || self.number < found)
    }
}

/// A requeued record.
#[derive(Clone)]
struct DelayedRecord {
    place: Place,
    len: usize,
    time: u64,
    begun: u32,
    /// `None`: in the log alone.
    record: Option<Bytes>,
}

/// A job's record.
struct InFlightRecord {
    place: Place,
    len: usize,
    time: u64,
    attempts: u32,
}

/// Whether records are handed out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HandOuts {
    /// Not before the replay hold is over.
    Held,
    On,
    /// Never again.
    Off,
}

/// See the module.
pub(super) struct Records<W> {
    limits: QueueLimits,
    admitted: VecDeque<WaitingPublish<W>>,
    admitted_bytes: usize,
    /// Taken to be written.
    writing: usize,
    ready: VecDeque<ReadyRecord>,
    delayed: BTreeMap<(Instant, u64), DelayedRecord>,
    /// Records that an earlier process wrote again, by themselves: older than all that is cold or comes.
    carried: VecDeque<(u64, DelayedRecord)>,
    in_flight: HashMap<u64, InFlightRecord, foldhash::fast::RandomState>,
    /// From here on records are in the log alone.
    cold: Option<Place>,
    /// Records that are not to be read with the cold ones, in order: an earlier process finished them, or they are void.
    skipped: VecDeque<Range<u64>>,
    /// Hand-outs begun of those that are cold.
    cold_begun: HashMap<u64, u32>,
    /// Records below it are of an earlier process.
    found: u64,
    segments: SegmentTable,
    /// Unfinished ones, those that are admitted counted.
    total: Amount,
    /// Bytes of the records in `ready`, `delayed` and `in_flight`.
    memory: usize,
    /// In `ready`, and the log is to be told before they are handed out.
    untold_ready: usize,
    /// In `ready`, and the log was told of their hand-outs: at most as many as can be handed out.
    foretold: usize,
    hand_outs: HandOuts,
    /// The log's thread is to release the hold before its time.
    hold_ends: bool,
    /// See [`QueueProgress`].
    handed: u64,
    finished: Vec<u64>,
    void: Vec<Range<u64>>,
    progress_since: Option<Instant>,
    /// Why nothing is admitted.
    refusing: Option<String>,
    closing: bool,
    /// The log's thread has something to do that it does not know of.
    wake: bool,
}

impl<W> Records<W> {
    /// What an earlier process left; nothing is handed out while `held`.
    pub(super) fn new(limits: QueueLimits, restored: Restored, held: bool) -> Self {
        let Restored { segments, total, cold, skipped, begun, carried, found, handed } = restored;
        let carried = carried.into_iter().map(|(known, len)| {
            let KnownRecord { number, place, time, begun } = known;
            (number, DelayedRecord { place, len, time, begun, record: None })
        });
        Self {
            limits,
            admitted: VecDeque::new(),
            admitted_bytes: 0,
            writing: 0,
            ready: VecDeque::new(),
            delayed: BTreeMap::new(),
            carried: carried.collect(),
            in_flight: HashMap::default(),
            cold,
            skipped,
            cold_begun: begun,
            found,
            segments,
            total,
            memory: 0,
            untold_ready: 0,
            foretold: 0,
            hand_outs: if held { HandOuts::Held } else { HandOuts::On },
            hold_ends: false,
            handed,
            finished: Vec::new(),
            void: Vec::new(),
            progress_since: None,
            refusing: None,
            closing: false,
            wake: false,
        }
    }

    /// Unfinished records, those that wait for the log counted.
    pub(super) fn total(&self) -> Amount {
        self.total
    }

    /// No more will be admitted, and what was has been taken.
    pub(super) fn is_ended(&self) -> bool {
        self.closing && self.admitted.is_empty()
    }

    /// No more will be admitted.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether the log's thread is to look again; once.
    pub(super) fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.wake)
    }

    // publishers

    /// Takes a record in; `waiter` is asked for only then.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(super) fn admit(&mut self, record: Bytes, waiter: impl FnOnce() -> W) -> Result<(), PublishError> {
        let limits = &self.limits;
        if record.len() > limits.max_record {
            return Err(PublishError::TooLarge { bytes: record.len(), limit: limits.max_record });
        }
        if self.closing {
            return Err(PublishError::Unavailable("it is closed".into()));
        }
        if let Some(reason) = &self.refusing {
            return Err(PublishError::Unavailable(reason.clone()));
        }
        if self.admitted.len() + self.writing >= limits.max_publishes {
            return Err(PublishError::Full(
                "too many publishes wait for the queue ([queue] max_publishes): try again later",
            ));
        }
        if self.total.bytes + record.len() as u64 > limits.max_bytes {
            return Err(PublishError::Full("the queue is full ([queue] max_bytes): try again later"));
        }
        if self.admitted_bytes > 0 && self.admitted_bytes + record.len() > limits.memory_bytes {
            return Err(PublishError::Full("too much waits for the disk ([queue] memory_bytes): try again later"));
        }
        self.total.records += 1;
        self.total.bytes += record.len() as u64;
        self.admitted_bytes += record.len();
        self.admitted.push_back(WaitingPublish { record, waiter: waiter() });
        self.wake = true;
        Ok(())
    }

    /// The admitted ones that came first, about `bytes` of them: to be accepted or refused.
    pub(super) fn take_admitted(&mut self, bytes: usize) -> Vec<WaitingPublish<W>> {
        let mut taken = Vec::new();
        if self.admitted_bytes <= bytes {
            self.admitted_bytes = 0;
            taken = std::mem::take(&mut self.admitted).into();
        } else {
            let mut sum = 0;
            while sum < bytes
                && let Some(waiting) = self.admitted.pop_front()
            {
                sum += waiting.record.len();
                taken.push(waiting);
            }
            self.admitted_bytes -= sum;
        }
        self.writing += taken.len();
        taken
    }

    /// The log has these, each with its number and place. Returns who is to be told.
    pub(super) fn accepted(&mut self, batch: Vec<WaitingPublish<W>>, entries: &[(u64, Place)], time: u64) -> Vec<W> {
        self.writing -= batch.len();
        let mut waiters = Vec::with_capacity(batch.len());
        for (WaitingPublish { record, waiter }, (number, place)) in batch.into_iter().zip(entries) {
            waiters.push(waiter);
            let is_last = self.cold.is_none() && self.carried.is_empty();
            if is_last && self.memory + record.len() + ENTRY <= self.limits.memory_bytes {
                self.memory += record.len() + ENTRY;
                self.segments.add(place.segment, time);
                let (number, place) = (*number, *place);
                // the mark `handed` is enough for a first hand-out
                self.ready.push_back(ReadyRecord { number, place, time, begun: 0, told: 1, record });
            } else {
                self.segments.add_cold(place.segment, time, record.len() as u64);
                self.cold.get_or_insert(*place);
            }
        }
        waiters
    }

    /// The log has not taken these; what it may have of them all the same is `void`. Returns who is to be told.
    pub(super) fn refused(&mut self, batch: Vec<WaitingPublish<W>>, void: Range<u64>, now: Instant) -> Vec<W> {
        self.writing -= batch.len();
        self.total.records -= batch.len() as u64;
        self.total.bytes -= batch.iter().map(|waiting| waiting.record.len() as u64).sum::<u64>();
        if !void.is_empty() {
            if self.cold.is_some() {
                // reading on comes by them
                self.skipped.push_back(void.clone());
            }
            self.void.push(void);
            self.has_progress(|| now);
        }
        batch.into_iter().map(|waiting| waiting.waiter).collect()
    }

    /// Nothing is admitted any more, for this reason.
    pub(super) fn refuse(&mut self, reason: String) {
        self.refusing = Some(reason);
    }

    /// Admits again.
    pub(super) fn admit_again(&mut self) {
        self.refusing = None;
    }

    // jobs

    /// What can be handed out now, in order, as `job` makes it.
    pub(super) fn hand_out<J>(&mut self, now: impl FnOnce() -> Instant, mut job: impl FnMut(HandOut) -> J) -> Vec<J> {
        let mut handed = Vec::new();
        let mark = self.handed;
        while self.hand_outs == HandOuts::On
            && self.in_flight.len() < self.limits.max_in_flight
            && let Some(next) = self.ready.pop_front_if(|next| !next.is_untold())
        {
            self.foretold -= usize::from(next.is_foretold(self.found));
            let ReadyRecord { number, place, time, begun, record, .. } = next;
            let attempts = begun + 1;
            self.in_flight.insert(number, InFlightRecord { place, len: record.len(), time, attempts });
            if number >= self.found {
                self.handed = self.handed.max(number + 1);
            }
            handed.push(job(HandOut { number, attempts, record }));
        }
        if self.handed > mark {
            self.has_progress(now);
        }
        handed
    }

    /// A job is done.
    pub(super) fn finish(&mut self, number: u64, now: impl FnOnce() -> Instant) {
        if let Some(job) = self.in_flight.remove(&number) {
            let was_full = self.wants_reading(false).is_none();
            self.memory -= job.len + ENTRY;
            self.end(number, job.place, job.len);
            self.has_progress(now);
            self.wake |= was_full && self.wants_reading(false).is_some();
            self.wake |= self.untold_ready > 0 || !self.delayed.is_empty() || !self.carried.is_empty();
        }
    }

    /// A job comes again after `delay`; `begun` hand-outs of it count.
    pub(super) fn requeue(&mut self, number: u64, begun: u32, record: Bytes, now: Instant, delay: Duration) {
        if let Some(InFlightRecord { place, len, time, .. }) = self.in_flight.remove(&number) {
            let keep = delay < KEEP_WITHIN || self.memory <= self.limits.memory_bytes / 2;
            if !keep {
                self.memory -= len + ENTRY;
            }
            let record = keep.then_some(record);
            let due = now + delay.min(YEAR);
            self.delayed.insert((due, number), DelayedRecord { place, len, time, begun, record });
            self.wake = true;
        }
    }

    /// Nothing is handed out before the replay hold is over.
    pub(super) fn are_held(&self) -> bool {
        self.hand_outs == HandOuts::Held
    }

    /// The replay hold is to be released before its time.
    pub(super) fn end_hold(&mut self) {
        if self.are_held() {
            self.hold_ends = true;
            self.wake = true;
        }
    }

    /// Whether [`Records::end_hold`] asks for it.
    pub(super) fn hold_ends(&self) -> bool {
        self.hold_ends
    }

    /// Hand-outs begin.
    pub(super) fn release_hold(&mut self) {
        self.hold_ends = false;
        if self.hand_outs == HandOuts::Held {
            self.hand_outs = HandOuts::On;
        }
    }

    /// Nothing is handed out any more.
    pub(super) fn stop_hand_outs(&mut self) {
        self.hold_ends = false;
        self.hand_outs = HandOuts::Off;
    }

    /// Nothing is handed out or admitted any more.
    pub(super) fn close(&mut self) {
        self.stop_hand_outs();
        self.closing = true;
        self.wake = true;
    }

    // the log's thread

    /// When it has something to do, at the latest.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        let can_be_told = self.room() > 0 && self.hand_outs == HandOuts::On;
        let blocked = can_be_told && (self.untold_ready > 0 || !self.carried.is_empty());
        if self.closing || self.hold_ends || !self.admitted.is_empty() || blocked || self.wants_reading(false).is_some()
        {
            return Some(now);
        }
        let delayed = self.delayed.first_key_value().filter(|_| can_be_told);
        let progress = self.progress_since.map(|since| since + progress::WITHIN);
        delayed.map(|((due, _), _)| *due).into_iter().chain(progress).min()
    }

    /// A record that memory holds leaves for good.
    fn end(&mut self, number: u64, place: Place, len: usize) {
        self.segments.remove(place.segment);
        self.total.records -= 1;
        self.total.bytes -= len as u64;
        self.finished.push(number);
    }
}
