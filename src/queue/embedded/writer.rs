//! The thread that owns the log: it writes and syncs once for all that waits, reads back, and finds its way out of a failed
//! disk.

mod failures;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashMap;

use super::{
    entry::{self, ATTEMPTS, CARRIED, CarriedEntry, PROGRESS, RECORD, RECORD_HEAD},
    records::{Due, KnownRecord, QueueProgress, ReadRecord, Records, WaitingPublish},
    shared::SharedRecords,
};
use crate::{
    config,
    log::{Disk, Log, Place, PutError, Room},
    queue::{QueueState, record, waiter::Waiter},
    telemetry::labels::DropReason,
};

/// One write takes about this much; more waits for the next.
const BATCH_BYTES: usize = 4 << 20;
/// About so much is read back at once.
const READ_BYTES: usize = 256 << 10;
/// How often a failed or full disk is tried.
const RETRY: Duration = Duration::from_secs(1);
/// Released segments are overwritten this long after the last release: under load their files are used again before, and zeros
/// would only be written to the disk in between.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// A log of so few segments is left as it is, whatever it holds.
const FEW_SEGMENTS: u32 = 8;
/// What an entry costs beside a record's bytes, about.
const ENTRY_BYTES: u64 = 48;

/// See the module.
pub(super) struct Writer<D: Disk> {
    shared: Arc<SharedRecords>,
    log: Log<D>,
    /// When the disk must have what only the kernel has.
    sync_by: Option<Instant>,
    expire_at: Option<Instant>,
    /// Until then nothing is handed out.
    hold_until: Option<Instant>,
    /// The log failed: when it is tried again.
    retry_at: Option<Instant>,
    /// The disk is full: when it is tried again.
    room_at: Option<Instant>,
    looked_at: Instant,
    /// Turns in a row that ended because the log could not be read.
    read_failures: u32,
    /// Released segments are to be overwritten from then on, once nothing else is to be done.
    tidy_at: Option<Instant>,
}

/// What one turn of the thread deals with.
struct Turn {
    batch: Vec<WaitingPublish<Waiter>>,
    due: Vec<Due>,
    progress: Option<QueueProgress>,
    /// Hand-outs that do not count, at the end.
    undone: Vec<(u64, u32)>,
    /// Segments below it are not needed any more.
    needed_from: u32,
    must_sync: bool,
    /// Nothing comes after it.
    last: bool,
}

/// What the log has of a turn.
#[derive(Default)]
struct WrittenTurn {
    /// Of the batch, as far as there was room.
    entries: Vec<(u64, Place)>,
    /// Why there was no room for the others.
    no_room: Option<io::Error>,
    progress: bool,
    /// Of those that are due and were not in memory.
    read: HashMap<u64, Bytes>,
}

impl<D: Disk> Writer<D> {
    /// With a log that was just opened; `hold_until`: nothing is handed out until then.
    pub(super) fn new(shared: Arc<SharedRecords>, log: Log<D>, hold_until: Option<Instant>) -> Self {
        let now = Instant::now();
        let expire_at = shared.limits.max_age.map(|_| now);
        let writer = Self {
            shared,
            log,
            sync_by: None,
            expire_at,
            hold_until,
            retry_at: None,
            room_at: None,
            looked_at: now,
            read_failures: 0,
            tidy_at: Some(now),
        };
        writer.shared.say(QueueState::Ready);
        writer
    }

    /// Until the queue is closed.
    pub(super) fn run(mut self) {
        while !self.turn() {}
        let left = self.shared.lock().records.take_admitted(usize::MAX);
        self.refuse(left, 0..0, "it is closed");
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "the queue's log was not closed in order: some jobs may come again");
        }
        self.shared.say(QueueState::NotReady("it is closed".into()));
    }

    /// Whether it was the last.
    fn turn(&mut self) -> bool {
        if let Some(retry_at) = self.retry_at {
            self.shared.wait_to_retry(retry_at);
            if !self.heal() {
                return self.shared.lock().records.is_closing();
            }
        }
        self.wait();
        // the first push of a burst wakes this thread: it must not take the core from who publishes the others
        std::thread::yield_now();
        let turn = self.begin();
        let last = turn.last;
        let outcome = self.run_turn(turn).and_then(|()| self.carry_oldest()).and_then(|()| self.read_cold());
        if let Err(error) = outcome {
            self.read_failures += u32::from(!self.log.is_failed());
            self.fail(&format!("its log failed: {error}"));
        } else {
            self.read_failures = 0;
            self.log.pass_over_unreadable(false);
        }
        // a last one that failed is not tried again
        last
    }

    fn wait(&mut self) {
        loop {
            let has_records = self.shared.lock().records.total().records > 0;
            let expire_at = self.expire_at.filter(|_| has_records);
            let also = [self.sync_by, expire_at, self.hold_until, self.room_at].into_iter().flatten().min();
            let now = Instant::now();
            if self.tidy_at.is_none_or(|at| at > now) {
                return self.shared.wait(also.into_iter().chain(self.tidy_at).min());
            }
            if self.shared.lock().records.due_at(now).into_iter().chain(also).any(|due| due <= now) {
                return;
            }
            let more = self.log.tidy().unwrap_or_else(|error| {
                tracing::debug!(%error, "released segments of the log were not overwritten");
                false
            });
            self.tidy_at = self.tidy_at.filter(|_| more);
        }
    }

    fn begin(&mut self) -> Turn {
        let now = Instant::now();
        let mut locked = self.shared.lock();
        let records = &mut locked.records;
        if self.hold_until.is_some_and(|until| until <= now || records.hold_ends()) {
            self.hold_until = None;
            // what is too old by now is not handed out
            self.expire_at = self.expire_at.map(|_| now);
            records.release_hold();
            tracing::info!(records = records.total().records, "the replay hold is over");
        }
        if let Some(max_age) = self.shared.limits.max_age
            && self.expire_at.is_some_and(|at| at <= now)
        {
            self.expire(records, now);
            self.expire_at = Some(now + (max_age / 10).clamp(Duration::from_millis(10), Duration::from_secs(1)));
        }
        let batch = records.take_admitted(BATCH_BYTES);
        let due = records.take_due(now);
        let last = records.is_ended();
        let progress_is_due = records.progress_is_due(now);
        let sync_is_due = self.sync_by.is_some_and(|by| by <= now);
        let writes = !batch.is_empty() || !due.is_empty() || progress_is_due || last;
        let head = self.log.head();
        let needed_from = records.needed_from(head);
        // the head itself goes at the end, or where nothing else makes room
        let head_may_go = records.total().records == 0 && (last || self.room_at.is_some());
        let always = self.shared.limits.sync == config::Sync::Always;
        Turn {
            must_sync: !due.is_empty()
                || progress_is_due
                || sync_is_due
                || last
                || self.room_at.is_some()
                || (always && !batch.is_empty()),
            progress: if writes { records.take_progress() } else { None },
            undone: if last { records.undone_hand_outs() } else { Vec::new() },
            needed_from: if head_may_go { needed_from } else { needed_from.min(head) },
            batch,
            due,
            last,
        }
    }

    fn run_turn(&mut self, turn: Turn) -> io::Result<()> {
        let first = self.log.next_number();
        let mut written = WrittenTurn::default();
        let outcome = self.look().and_then(|()| self.write(&turn, &mut written));
        let Turn { mut batch, due, progress, .. } = turn;
        let now = Instant::now();
        if let Err(error) = outcome {
            self.refuse(batch, first..self.log.next_number(), &format!("its log cannot be written: {error}"));
            let mut locked = self.shared.lock();
            locked.records.untold(due, now + RETRY);
            if let Some(progress) = progress {
                locked.records.progress_failed(progress, now);
            }
            self.shared.unlock(locked);
            return Err(error);
        }
        let refused = batch.split_off(written.entries.len());
        for id in batch.iter().filter_map(|waiting| record::id_at_end(&waiting.record)) {
            self.shared.metrics.published(id, now);
        }
        let mut locked = self.shared.lock();
        // first: what is carried is older than what comes
        self.lost(locked.records.told(due, written.read, now));
        let waiters = locked.records.accepted(batch, &written.entries, self.log.now());
        if let Some(progress) = progress.filter(|_| !written.progress) {
            locked.records.progress_failed(progress, now);
        }
        self.shared.unlock(locked);
        waiters.into_iter().for_each(|waiter| waiter.resolve(Ok(())));
        self.room(refused, written.no_room);
        Ok(())
    }

    fn write(&mut self, turn: &Turn, written: &mut WrittenTurn) -> io::Result<()> {
        let time = self.log.now().to_le_bytes();
        for waiting in &turn.batch {
            match self.log.put(RECORD, &[&time, &waiting.record], Room::Payload) {
                Ok(entry) => written.entries.push(entry),
                Err(PutError::NoRoom(error)) => {
                    written.no_room = Some(error);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        for (number, place) in turn.due.iter().filter_map(|due| Some((due.number, due.read_from?))) {
            if let Some(record) = self.record(place)? {
                written.read.insert(number, record);
            }
        }
        let mut attempts: Vec<_> = turn.due.iter().map(|due| (due.number, due.attempts)).collect();
        attempts.extend(&turn.undone);
        // on a full disk jobs go on, and what the log cannot be told waits in memory
        if !attempts.is_empty() {
            self.put_progress(ATTEMPTS, &[&entry::write_pairs(attempts)])?;
        }
        if let Some(QueueProgress { handed, finished }) = &turn.progress {
            let ranges = entry::write_ranges(finished);
            written.progress = self.put_progress(PROGRESS, &[&handed.to_le_bytes(), &ranges])?;
        }
        if turn.last {
            // the segment that is begun at the end is in a file that has nothing of an earlier one
            while self.log.tidy().unwrap_or(false) {}
        }
        if turn.needed_from > self.log.oldest() {
            match self.log.release(turn.needed_from) {
                Ok(()) => {
                    let now = Instant::now();
                    self.tidy_at = Some(now + TIDY_AFTER);
                    self.room_at = self.room_at.map(|_| now);
                }
                // the next turn tries again
                Err(PutError::NoRoom(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if turn.must_sync {
            self.sync_now()
        } else {
            self.log.write()?;
            if let config::Sync::Every(within) = self.shared.limits.sync
                && !turn.batch.is_empty()
            {
                self.sync_by.get_or_insert(Instant::now() + within);
            }
            Ok(())
        }
    }

    /// Whether there was room.
    fn put_progress(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<bool> {
        match self.log.put(kind, parts, Room::Progress) {
            Ok(_) => Ok(true),
            Err(PutError::NoRoom(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_now(&mut self) -> io::Result<()> {
        self.log.sync()?;
        self.shared.metrics.queue_syncs.inc();
        self.sync_by = None;
        Ok(())
    }

    /// A record, from where it is; `None`: what is there is another, or damaged.
    fn record(&mut self, place: Place) -> io::Result<Option<Bytes>> {
        let found = self.log.read(place)?;
        Ok(found.and_then(|(kind, body)| {
            let range = entry::record_range(kind)?;
            (range.start <= body.len()).then(|| body.slice(range))
        }))
    }

    /// Writes the unfinished records of the oldest segment again where the log holds little that is unfinished, so that the
    /// segment can go.
    fn carry_oldest(&mut self) -> io::Result<()> {
        let oldest = self.log.oldest();
        if self.room_at.is_some() || self.log.head().saturating_sub(oldest) < FEW_SEGMENTS {
            return Ok(());
        }
        let known = {
            let mut locked = self.shared.lock();
            let total = locked.records.total();
            if self.log.bytes() / 2 < total.bytes + total.records * ENTRY_BYTES {
                return Ok(());
            }
            locked.records.known_in(oldest).unwrap_or_default()
        };
        self.carry(known)
    }

    /// Writes records again at the head.
    fn carry(&mut self, known: Vec<KnownRecord>) -> io::Result<()> {
        let mut carried = HashMap::with_capacity(known.len());
        for KnownRecord { number, place, time, begun } in known {
            // one that cannot be read is lost when its turn comes
            let Some(record) = self.record(place)? else { continue };
            let head = CarriedEntry { number, time, begun, record: &record }.head();
            match self.log.put(CARRIED, &[&head, &record], Room::Progress) {
                Ok((_, place)) => drop(carried.insert(number, place)),
                Err(PutError::NoRoom(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if carried.is_empty() {
            return Ok(());
        }
        self.sync_now()?;
        let mut locked = self.shared.lock();
        locked.records.carried(carried);
        self.shared.unlock(locked);
        Ok(())
    }

    /// Fills memory with what comes next.
    fn read_cold(&mut self) -> io::Result<()> {
        let mut more = false;
        loop {
            let wanted = self.shared.lock().records.wants_reading(more);
            let Some(from) = wanted else { return Ok(()) };
            more = true;
            let mut records = Vec::new();
            let now = self.log.now();
            let next = self.log.read_from(from, READ_BYTES, |entry| {
                if entry.kind == RECORD
                    && let Some((time, record)) = entry.body.split_first_chunk::<RECORD_HEAD>()
                {
                    records.push(ReadRecord {
                        number: entry.number,
                        place: entry.place,
                        // a clock that was ahead then must not keep it beyond its age
                        time: u64::from_le_bytes(*time).min(now),
                        record: Bytes::copy_from_slice(record),
                    });
                }
            })?;
            let mut locked = self.shared.lock();
            // counted before what is behind it is handed out
            self.lost(locked.records.read(records, next));
            self.expire(&mut locked.records, Instant::now());
            self.shared.unlock(locked);
        }
    }

    /// Drops what is older than `max_age`.
    fn expire(&self, records: &mut Records<Waiter>, now: Instant) {
        let Some(max_age) = self.shared.limits.max_age else { return };
        let expired = records.expire(self.log.now().saturating_sub(max_age.as_millis() as u64), now);
        if expired > 0 {
            tracing::warn!(pushes = expired, "pushes were dropped from the queue: older than [queue] max_age");
            self.shared.metrics.drops.get_or_create(&DropReason::Expired).inc_by(expired);
        }
    }

    fn lost(&self, pushes: u64) {
        if pushes > 0 {
            tracing::error!(pushes, "pushes are missing from the log: did the disk fail, or were its files changed?");
            self.shared.metrics.drops.get_or_create(&DropReason::Lost).inc_by(pushes);
        }
    }
}
