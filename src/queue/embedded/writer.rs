//! The thread that owns the log's file: group commit, read-back, expiry, and the way out of a failed disk.

mod readback;

use std::{
    cmp::Reverse,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    chunk::Chunk,
    disk::{Disk, RETRY},
    log::{Marks, OpenLog, Writes},
    row::Row,
    shared::{PROGRESS_WITHIN, SharedLog},
    state::{Delayed, LogState, WaitingPublish},
    tail::Tail,
};
use crate::{
    config,
    queue::{OpenError, PublishError, QueueState},
    telemetry::labels::DropReason,
};

/// One append to the journal takes about this much; more waits for the next.
const BATCH_BYTES: usize = 4 << 20;

/// See the module.
pub(super) struct Writer {
    shared: Arc<SharedLog>,
    disk: Disk,
    tail: Tail,
    /// Records before it were there when the log was opened.
    found: u64,
    /// When the log must have what only the journal has.
    write_by: Option<Instant>,
    expire_at: Option<Instant>,
    /// Until then a backlog is held.
    hold_until: Option<Instant>,
}

/// What one turn of the writer deals with.
struct Turn {
    batch: Vec<WaitingPublish>,
    due: Vec<Delayed>,
    arming: usize,
    /// Nothing comes after it.
    last: bool,
}

impl Writer {
    /// Opens the log, and says whether there is a backlog.
    pub(super) fn open(open: OpenLog, shared: Arc<SharedLog>) -> Result<(Self, bool), OpenError> {
        let mut disk = Disk::open(open)?;
        let unreadable = |error| OpenError(format!("cannot read the queue's log: {error}"));
        let log = disk.log().map_err(unreadable)?;
        let (chunks, marks) = log.load().map_err(unreadable)?;
        let stored = chunks.values().map(|chunk| chunk.size).sum();
        let records: u64 = chunks.values().map(|chunk| u64::from(chunk.unfinished)).sum();
        let bytes: u64 = chunks.values().map(|chunk| chunk.bytes).sum();
        if log.repaired {
            tracing::warn!(records, bytes, "the queue's log is repaired: all that was synced is in it");
        }
        log.compact(stored).map_err(unreadable)?;
        let now = shared.clock.now();
        let mut state = shared.lock();
        state.stored = stored;
        state.records = records;
        state.bytes = bytes;
        state.handed = marks.handed;
        state.cold = chunks.first_key_value().map(|(first, _)| *first);
        let done: Vec<u64> =
            chunks.iter().filter(|(_, chunk)| chunk.unfinished == 0).map(|(first, _)| *first).collect();
        state.chunks = chunks;
        // a clock that was ahead then must not keep records beyond their age
        state.chunks.values_mut().for_each(|chunk| chunk.time = chunk.time.min(now));
        done.into_iter().for_each(|first| state.chunk_progressed(first));
        let expire_at = shared.limits.max_age.map(|_| Instant::now());
        let hold = shared.limits.replay_hold;
        let hold_until = (records > 0 && !hold.is_zero()).then(|| Instant::now() + hold);
        if hold_until.is_some() {
            tracing::info!(records, time = ?hold, "a backlog is held for [queue] replay_hold, so that clients rejoin first");
            state.hold();
        }
        shared.pump(state);
        let tail = Tail::new(marks.next);
        let writer = Self { shared, disk, tail, found: marks.next, write_by: None, expire_at, hold_until };
        writer.say(QueueState::Ready);
        Ok((writer, records > 0))
    }

    fn say(&self, state: QueueState) {
        self.shared.metrics.queue_ready.set((state == QueueState::Ready).into());
        self.shared.ready.send_replace(state);
    }

    /// Until the log is closed.
    pub(super) fn run(mut self) {
        while !self.turn() {}
        let mut state = self.shared.lock();
        let inbox = std::mem::take(&mut state.inbox);
        drop(state);
        for waiting in inbox {
            waiting.waiter.resolve(Err(PublishError::Unavailable("it is closed".into())));
        }
        self.say(QueueState::NotReady("it is closed".into()));
    }

    /// When there is something to do, at the latest.
    fn due(&self, state: &LogState, now: Instant) -> Option<Instant> {
        if let Some(retry_at) = self.disk.retry_at() {
            return Some(if state.closing { now } else { retry_at });
        }
        let limits = &self.shared.limits;
        let room = state.in_flight.len() < limits.max_in_flight;
        let blocked = state.unarmed > 0 && room && state.jobs.is_some();
        if state.closing || !state.inbox.is_empty() || blocked || state.wants_cold(limits, false) {
            return Some(now);
        }
        let delayed = state.delayed.peek().filter(|_| state.jobs.is_some()).map(|next| next.0.due);
        let untold = state.untold_since.map(|since| since + PROGRESS_WITHIN);
        let expiry = self.expire_at.filter(|_| !state.chunks.is_empty());
        [delayed, untold, self.write_by, expiry, self.hold_until].into_iter().flatten().min()
    }

    fn wait(&self) {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            let due = self.due(&state, now);
            if due.is_some_and(|due| due <= now) {
                return;
            }
            state.parked = true;
            state = match due {
                Some(due) => {
                    let waited = self.shared.wake.wait_timeout(state, due - now);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
                None => self.shared.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
            state.parked = false;
        }
    }

    /// Whether it was the last.
    fn turn(&mut self) -> bool {
        self.wait();
        // the first push of a burst wakes this thread: it must not take the core from who publishes the others
        std::thread::yield_now();
        if self.disk.retry_at().is_some() && !self.reopen() {
            return self.shared.lock().closing;
        }
        let turn = self.begin();
        let last = turn.last;
        match self.carry_out(turn).and_then(|()| self.read_cold()) {
            Ok(()) => last,
            Err(error) => {
                self.fail(&error.to_string());
                false
            }
        }
    }

    fn begin(&mut self) -> Turn {
        let now = Instant::now();
        let limits = &self.shared.limits;
        let mut state = self.shared.lock();
        if self.hold_until.is_some_and(|until| until <= now) {
            self.hold_until = None;
            // what is too old by now is not handed out
            self.expire_at = self.expire_at.map(|_| now);
            state.release();
            tracing::info!(records = state.records, "the replay hold is over");
        }
        if let Some(max_age) = limits.max_age
            && self.expire_at.is_some_and(|at| at <= now)
        {
            let before = self.shared.clock.now().saturating_sub(max_age.as_millis() as u64);
            let expired = state.expire(before);
            if expired > 0 {
                tracing::warn!(pushes = expired, "pushes were dropped from the queue: older than [queue] max_age");
                self.shared.metrics.drops.get_or_create(&DropReason::Expired).inc_by(expired);
            }
            self.expire_at = Some(now + (max_age / 10).clamp(Duration::from_millis(10), Duration::from_secs(1)));
        }
        let batch = state.take_inbox(BATCH_BYTES);
        let due = state.take_due(now, limits.max_in_flight);
        let arming = state.arm(limits.max_in_flight);
        let last = state.closing && state.inbox.is_empty();
        if last {
            state.disarm();
        }
        // its last record may be finished while more are being added to it
        state.pinned = if batch.is_empty() {
            self.tail.cut();
            None
        } else {
            self.tail.grows(self.shared.clock.now(), |first| state.chunks.contains_key(&first))
        };
        Turn { batch, due, arming, last }
    }

    fn carry_out(&mut self, turn: Turn) -> Result<(), redb::Error> {
        let Turn { batch, mut due, arming, last } = turn;
        if !batch.is_empty()
            && let Err(error) = self.journal(batch)
        {
            self.give_back(due, arming);
            return Err(error);
        }
        let now = Instant::now();
        let late = self.write_by.is_some_and(|by| by <= now) || self.disk.log().is_ok_and(|log| log.is_due());
        let untold = self.shared.lock().untold_since.is_some_and(|since| since + PROGRESS_WITHIN <= now);
        let committed = if !due.is_empty() || arming > 0 || late || untold || last {
            self.read_due(&mut due).and_then(|()| self.commit())
        } else {
            Ok(())
        };
        if committed.is_err() {
            self.give_back(std::mem::take(&mut due), arming);
        }
        let mut state = self.shared.lock();
        if committed.is_ok() {
            state.armed(arming, true);
            // in reverse, so that the longest due comes first
            for next in due.into_iter().rev() {
                match next.record {
                    Some(record) => state.due(next.seq, next.begun, record),
                    None => {
                        state.give_up(next.seq);
                        self.lost(1);
                    }
                }
            }
        }
        self.shared.pump(state);
        committed
    }

    /// Acknowledges a batch once the journal has it, or refuses it.
    fn journal(&mut self, batch: Vec<WaitingPublish>) -> Result<(), redb::Error> {
        let rows = self.tail.rows(&batch, self.shared.clock.now());
        let sync = self.shared.limits.sync;
        if let Err(error) = self.disk.log().and_then(|log| log.append(&rows, sync)) {
            self.refuse(batch, &error.to_string());
            return Err(error);
        }
        let within = match sync {
            config::Sync::Always => {
                self.shared.metrics.queue_syncs.inc();
                PROGRESS_WITHIN
            }
            config::Sync::Every(within) => within,
        };
        self.accept(batch, &rows);
        self.tail.put(rows.last());
        self.write_by.get_or_insert(Instant::now() + within);
        Ok(())
    }

    /// The transaction failed that these waited for.
    fn give_back(&mut self, due: Vec<Delayed>, arming: usize) {
        self.tail.cut();
        let mut state = self.shared.lock();
        state.armed(arming, false);
        let due_later = Instant::now() + RETRY;
        state.delayed.extend(due.into_iter().map(|next| Reverse(Delayed { due: due_later, ..next })));
    }

    /// Published for good: counts the records in, hands them out and acknowledges them.
    fn accept(&self, batch: Vec<WaitingPublish>, rows: &[Row]) {
        let mut acknowledged = Vec::with_capacity(batch.len());
        let mut batch = batch.into_iter();
        let mut state = self.shared.lock();
        state.waiting -= batch.len();
        for row in rows {
            let chunk = state.chunks.entry(row.first).or_insert_with(|| Chunk::new(row.time));
            let size = row.value.len() as u64;
            let before = chunk.size;
            let new = batch.as_slice().iter().take(row.added as usize);
            chunk.extend(row.added, new.map(|waiting| waiting.record.len() as u64).sum(), size);
            state.stored += size - before;
            let first = row.first + u64::from(row.count - row.added);
            for (seq, waiting) in (first..).zip(batch.by_ref().take(row.added as usize)) {
                state.push(seq, waiting.record, &self.shared.limits);
                acknowledged.push(waiting.waiter);
            }
        }
        if let Some(first) = state.pinned.take() {
            state.chunk_progressed(first);
        }
        self.shared.pump(state);
        for waiter in acknowledged {
            waiter.resolve(Ok(()));
        }
    }

    fn refuse(&self, batch: Vec<WaitingPublish>, reason: &str) {
        let mut state = self.shared.lock();
        state.waiting -= batch.len();
        state.records -= batch.len() as u64;
        state.bytes -= batch.iter().map(|waiting| waiting.record.len() as u64).sum::<u64>();
        if let Some(first) = state.pinned.take() {
            state.chunk_progressed(first);
        }
        self.shared.pump(state);
        for waiting in batch {
            waiting.waiter.resolve(Err(PublishError::Unavailable(reason.into())));
        }
    }

    /// One transaction, one sync: the rows that are not done yet, and all progress.
    fn commit(&mut self) -> Result<(), redb::Error> {
        let log = self.disk.log()?;
        let mut writes = Writes::default();
        {
            let mut state = self.shared.lock();
            writes.removed = std::mem::take(&mut state.removed);
            for first in std::mem::take(&mut state.dirty) {
                if let Some(chunk) = state.chunks.get_mut(&first) {
                    chunk.dirty = false;
                    writes.progress.push((first, chunk.progress()));
                }
            }
            writes.marks = Marks { next: self.tail.next, handed: state.handed };
            state.untold_since = None;
            log.retain(|first| state.chunks.contains_key(&first));
        }
        log.write(&writes)?;
        self.shared.metrics.queue_syncs.inc();
        self.write_by = None;
        Ok(())
    }

    /// The disk failed: nothing is accepted until it works again.
    fn fail(&mut self, error: &str) {
        let reason = format!("its log cannot be written: {error}");
        tracing::error!(error, "the queue's log failed; nothing is accepted until it can be opened again");
        self.disk.fail();
        let mut state = self.shared.lock();
        state.failed = Some(reason.clone());
        let inbox = state.take_inbox(usize::MAX);
        drop(state);
        self.refuse(inbox, &reason);
        self.say(QueueState::NotReady(reason));
    }

    /// Whether the log is open again, and says what memory says.
    fn reopen(&mut self) -> bool {
        let (chunks, marks) = {
            let mut state = self.shared.lock();
            state.removed.clear();
            for first in std::mem::take(&mut state.dirty) {
                if let Some(chunk) = state.chunks.get_mut(&first) {
                    chunk.dirty = false;
                }
            }
            (state.chunks.clone(), Marks { next: self.tail.next, handed: state.handed })
        };
        match self.disk.reopen(&chunks, marks) {
            Ok(()) => {
                self.shared.lock().failed = None;
                self.say(QueueState::Ready);
                tracing::info!("the queue's log works again");
                true
            }
            Err(error) => {
                // what the attempt took is told by the next one, which writes all
                let reason = format!("its log cannot be opened: {error}");
                self.shared.lock().failed = Some(reason.clone());
                self.say(QueueState::NotReady(reason));
                false
            }
        }
    }
}
