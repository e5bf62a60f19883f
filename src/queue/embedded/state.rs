//! What the log knows in memory, shared by publishers, jobs and the writer.
//!
//! A record is in one place: the inbox (not yet acknowledged), `ready`, `held` (by a job), `delayed`, or cold (on disk
//! alone, all from one sequence number on: so order holds). The lock is held for moments, never over disk or network.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot, watch,
};

use super::{Hand, row::Chunk};
use crate::{
    config,
    queue::{self, Job, PublishError},
    telemetry::{Level, Metrics},
};

/// What a record in memory costs beside its bytes.
pub(super) const ENTRY: usize = 64;
/// No record beyond this, whatever `max_bytes` allows.
const MAX_RECORD: usize = 16 << 20;
/// Finishes and hand-outs reach the disk after this at the latest.
pub(super) const PROGRESS_WITHIN: Duration = Duration::from_secs(1);
/// Where memory is short, a record that waits longer than this is read again instead of kept.
const KEEP_WITHIN: Duration = Duration::from_millis(100);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The keys of `[queue]` that concern the log.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) max_record: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_publishes: usize,
    pub(super) max_bytes: u64,
    pub(super) max_age: Option<Duration>,
    pub(super) memory_bytes: usize,
    pub(super) publish_timeout: Duration,
    pub(super) sync: config::Sync,
}

impl Bounds {
    pub(super) fn of(config: &config::Queue) -> Self {
        Self {
            max_record: usize::try_from(config.max_bytes).unwrap_or(usize::MAX).min(MAX_RECORD),
            max_in_flight: config.max_in_flight.max(1),
            max_publishes: config.max_publishes.max(1),
            max_bytes: config.max_bytes,
            max_age: (!config.max_age.is_zero()).then_some(config.max_age),
            memory_bytes: config.memory_bytes,
            publish_timeout: config.publish_timeout,
            sync: config.sync,
        }
    }
}

/// Milliseconds since 1970 that no change of the wall clock moves while the process runs.
pub(super) struct Clock {
    at: Instant,
    millis: u64,
}

impl Clock {
    fn new() -> Self {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        Self { at: Instant::now(), millis }
    }

    pub(super) fn now(&self) -> u64 {
        self.millis + self.at.elapsed().as_millis() as u64
    }
}

/// A publish that waits for its acknowledgement.
pub(super) struct Waiting {
    pub(super) record: Bytes,
    pub(super) acknowledge: oneshot::Sender<Result<(), PublishError>>,
}

/// Whether the disk knows of the hand-out that comes next, where it must.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Armed {
    No,
    /// With the transaction under way.
    Soon,
    Yes,
}

/// A record that waits for its hand-out.
pub(super) struct Entry {
    pub(super) seq: u64,
    /// Hand-outs so far.
    pub(super) begun: u32,
    pub(super) armed: Armed,
    pub(super) record: Bytes,
}

/// A requeued record.
pub(super) struct Delayed {
    pub(super) due: Instant,
    pub(super) seq: u64,
    pub(super) begun: u32,
    /// `None`: on disk.
    pub(super) record: Option<Bytes>,
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.seq).cmp(&(other.due, other.seq))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Delayed {}

/// See the module.
pub(super) struct State {
    pub(super) inbox: VecDeque<Waiting>,
    inbox_bytes: usize,
    /// In the inbox or being written.
    pub(super) waiting: usize,
    /// By the sequence number of their first record.
    pub(super) chunks: BTreeMap<u64, Chunk>,
    /// Unfinished, those that wait counted.
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Of all chunks, on disk.
    pub(super) stored: u64,
    /// Records before it were handed out once.
    pub(super) handed: u64,
    pub(super) ready: VecDeque<Entry>,
    pub(super) delayed: BinaryHeap<Reverse<Delayed>>,
    /// Sequence numbers and sizes of the jobs out there.
    pub(super) held: HashMap<u64, usize, foldhash::fast::RandomState>,
    /// From here on records are on disk only.
    pub(super) cold: Option<u64>,
    /// Bytes of records in `ready`, `delayed` and `held`.
    pub(super) memory: usize,
    /// In `ready`, not armed.
    pub(super) unarmed: usize,
    /// `None`: no more are handed out.
    pub(super) jobs: Option<mpsc::Sender<Job>>,
    /// A chunk that is being extended, so it must not go.
    pub(super) pinned: Option<u64>,
    /// What the next transaction tells the disk, beside rows.
    pub(super) removed: Vec<u64>,
    pub(super) dirty: Vec<u64>,
    pub(super) untold_since: Option<Instant>,
    pub(super) failed: Option<String>,
    pub(super) closing: bool,
    /// The writer waits: it must be woken.
    pub(super) parked: bool,
}

/// The log in memory.
pub(super) struct Shared {
    pub(super) bounds: Bounds,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) ready: watch::Sender<queue::State>,
    pub(super) wake: Condvar,
    state: Mutex<State>,
    records: Level,
    bytes: Level,
}

impl Shared {
    pub(super) fn new(
        bounds: Bounds,
        jobs: mpsc::Sender<Job>,
        ready: watch::Sender<queue::State>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = State {
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            waiting: 0,
            chunks: BTreeMap::new(),
            records: 0,
            bytes: 0,
            stored: 0,
            handed: 0,
            ready: VecDeque::new(),
            delayed: BinaryHeap::new(),
            held: HashMap::default(),
            cold: None,
            memory: 0,
            unarmed: 0,
            jobs: Some(jobs),
            pinned: None,
            removed: Vec::new(),
            dirty: Vec::new(),
            untold_since: None,
            failed: None,
            closing: false,
            parked: false,
        };
        let (records, bytes) = (metrics.queue_records.clone(), metrics.queue_bytes.clone());
        Self {
            bounds,
            metrics,
            clock: Clock::new(),
            ready,
            wake: Condvar::new(),
            state: Mutex::new(state),
            records,
            bytes,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // every change is whole before anything in it can panic
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, state: &State) {
        if state.parked {
            self.wake.notify_one();
        }
    }

    /// Takes a record in; the receiver is told once it is on disk.
    pub(super) fn admit(&self, record: Bytes) -> Result<oneshot::Receiver<Result<(), PublishError>>, PublishError> {
        let (acknowledge, acknowledged) = oneshot::channel();
        let mut state = self.lock();
        if state.closing {
            return Err(PublishError::Unavailable("it is closed".into()));
        }
        if let Some(reason) = &state.failed {
            return Err(PublishError::Unavailable(reason.clone()));
        }
        let bytes = record.len() as u64;
        if state.waiting >= self.bounds.max_publishes {
            return Err(PublishError::Full(
                "too many publishes wait for the queue ([queue] max_publishes): try again later",
            ));
        }
        // rows go once all of their records are done: a few old ones must not keep the disk without bound
        if state.bytes + bytes > self.bounds.max_bytes
            || state.stored > self.bounds.max_bytes.saturating_mul(2) + (64 << 20)
        {
            return Err(PublishError::Full("the queue is full ([queue] max_bytes): try again later"));
        }
        if state.inbox_bytes > 0 && state.inbox_bytes + record.len() > self.bounds.memory_bytes {
            return Err(PublishError::Full("too much waits for the disk ([queue] memory_bytes): try again later"));
        }
        state.waiting += 1;
        state.records += 1;
        state.bytes += bytes;
        state.inbox_bytes += record.len();
        state.inbox.push_back(Waiting { record, acknowledge });
        self.notify(&state);
        Ok(acknowledged)
    }

    pub(super) fn finish(self: &Arc<Self>, seq: u64, len: usize) {
        let mut state = self.lock();
        if state.held.remove(&seq).is_some() {
            state.memory -= len + ENTRY;
            state.end(seq, len as u64);
            // the writer is to know of the new deadline, or that there is room for cold records again
            if state.untold_since.is_none() || state.wants_cold(&self.bounds, false) {
                self.notify(&state);
            }
            state.untold();
        }
        self.pump(state);
    }

    pub(super) fn requeue(self: &Arc<Self>, seq: u64, begun: u32, record: Bytes, delay: Duration) {
        let mut state = self.lock();
        if state.held.remove(&seq).is_some() {
            let keep = delay < KEEP_WITHIN || state.memory <= self.bounds.memory_bytes / 2;
            if !keep {
                state.memory -= record.len() + ENTRY;
            }
            let due = Instant::now() + delay.min(YEAR);
            state.delayed.push(Reverse(Delayed { due, seq, begun, record: keep.then_some(record) }));
            self.notify(&state);
        }
        self.pump(state);
    }

    pub(super) fn stop_jobs(&self) {
        let jobs = self.lock().jobs.take();
        // beyond the lock: a job that is dropped with its channel takes it
        drop(jobs);
    }

    pub(super) fn begin_close(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.notify(&state);
        let jobs = state.jobs.take();
        drop(state);
        drop(jobs);
    }

    /// Hands out what can be handed out, and shows the levels.
    pub(super) fn pump(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut closed = None;
        while let Some(sender) = &state.jobs
            && state.held.len() < self.bounds.max_in_flight
            && let Some(entry) = state.ready.front()
        {
            if entry.armed != Armed::Yes {
                if entry.armed == Armed::No {
                    self.notify(&state);
                }
                break;
            }
            let (seq, attempts, record) = (entry.seq, entry.begun + 1, entry.record.clone());
            let hand = Hand { shared: self.clone(), seq, attempts, record: record.clone() };
            let len = record.len();
            let job = Job { record, attempts, origin: None, hand: Some(queue::Hand::Embedded(hand)) };
            match sender.try_send(job) {
                Ok(()) => {
                    state.ready.pop_front();
                    state.held.insert(seq, len);
                    if seq >= state.handed {
                        state.handed = seq + 1;
                        if state.untold_since.is_none() {
                            self.notify(&state);
                        }
                        state.untold();
                    }
                }
                // not dropped as a job: that would be a requeue, under this lock
                Err(TrySendError::Closed(mut job) | TrySendError::Full(mut job)) => {
                    job.hand = None;
                    if sender.is_closed() {
                        closed = state.jobs.take();
                    }
                    break;
                }
            }
        }
        self.records.set(state.records as i64);
        self.bytes.set(state.bytes as i64);
        drop(state);
        drop(closed);
    }
}

impl State {
    pub(super) fn untold(&mut self) {
        if self.untold_since.is_none() {
            self.untold_since = Some(Instant::now());
        }
    }

    /// The chunk of `seq`, and its first record.
    pub(super) fn chunk(&mut self, seq: u64) -> Option<(u64, &mut Chunk)> {
        let (first, chunk) = self.chunks.range_mut(..=seq).next_back()?;
        (seq - first < u64::from(chunk.count)).then_some((*first, chunk))
    }

    /// A record is done.
    fn end(&mut self, seq: u64, len: u64) {
        let Some((first, chunk)) = self.chunk(seq) else { return };
        if chunk.finish((seq - first) as u32, len) {
            self.records -= 1;
            self.bytes -= len;
            self.settle(first);
        }
    }

    /// After a change to a chunk's progress.
    pub(super) fn settle(&mut self, first: u64) {
        let Some(chunk) = self.chunks.get_mut(&first) else { return };
        if chunk.unfinished == 0 && self.pinned != Some(first) {
            self.stored -= chunk.size;
            // what is left there belongs to records that were given up without their size being known
            self.bytes -= chunk.bytes;
            self.chunks.remove(&first);
            self.removed.push(first);
        } else if !chunk.dirty {
            chunk.dirty = true;
            self.dirty.push(first);
        }
        self.untold();
    }

    fn set_begun(&mut self, seq: u64, begun: u32) {
        if let Some((first, chunk)) = self.chunk(seq)
            && chunk.set_begun((seq - first) as u32, begun)
        {
            self.settle(first);
        }
    }

    /// Of the inbox, about `bytes`.
    pub(super) fn take_inbox(&mut self, bytes: usize) -> Vec<Waiting> {
        if self.inbox_bytes <= bytes {
            self.inbox_bytes = 0;
            return std::mem::take(&mut self.inbox).into();
        }
        let mut taken = Vec::new();
        let mut sum = 0;
        while sum < bytes
            && let Some(waiting) = self.inbox.pop_front()
        {
            sum += waiting.record.len();
            taken.push(waiting);
        }
        self.inbox_bytes -= sum;
        taken
    }

    /// A record that is published for good waits for its hand-out.
    pub(super) fn push(&mut self, seq: u64, record: Bytes, bounds: &Bounds) {
        if self.cold.is_none() && self.memory + record.len() + ENTRY <= bounds.memory_bytes {
            self.memory += record.len() + ENTRY;
            self.ready.push_back(Entry { seq, begun: 0, armed: Armed::Yes, record });
        } else {
            self.cold.get_or_insert(seq);
        }
    }

    /// Whether cold records should be read; `more`: that is under way.
    pub(super) fn wants_cold(&self, bounds: &Bounds, more: bool) -> bool {
        let until = if more { bounds.memory_bytes } else { bounds.memory_bytes / 2 };
        let idle = self.ready.is_empty() && self.held.is_empty();
        self.cold.is_some() && self.jobs.is_some() && (self.memory < until || idle)
    }

    /// The chunk in which the cold records go on; without one there are none any more.
    pub(super) fn next_cold(&mut self) -> Option<u64> {
        let cold = self.cold?;
        let inside = self.chunk(cold).map(|(first, _)| first);
        let first = inside.or_else(|| self.chunks.range(cold..).next().map(|(first, _)| *first));
        if first.is_none() {
            self.cold = None;
        }
        first
    }

    /// Takes a chunk's records from the disk; those before `found` were there when the log was opened.
    pub(super) fn warm(&mut self, first: u64, records: &[&[u8]], found: u64) {
        let (Some(cold), Some(chunk)) = (self.cold, self.chunks.get(&first)) else { return };
        for (index, record) in (0..chunk.count).zip(records) {
            let seq = first + u64::from(index);
            if seq < cold || chunk.is_finished(index) {
                continue;
            }
            let earlier = seq < found;
            let begun = chunk.begun(index).max(u32::from(earlier && seq < self.handed));
            let armed = if earlier || begun > 0 { Armed::No } else { Armed::Yes };
            self.unarmed += usize::from(armed == Armed::No);
            self.memory += record.len() + ENTRY;
            self.ready.push_back(Entry { seq, begun, armed, record: Bytes::copy_from_slice(record) });
        }
        self.cold = Some(first + u64::from(chunk.count));
    }

    /// A chunk's row is not on the disk any more: its records that nobody holds in memory are gone. How many.
    pub(super) fn lose(&mut self, first: u64) -> u64 {
        let (Some(cold), Some(chunk)) = (self.cold, self.chunks.get(&first)) else { return 0 };
        let end = first + u64::from(chunk.count);
        let lost: Vec<u32> =
            (cold.saturating_sub(first) as u32..chunk.count).filter(|i| !chunk.is_finished(*i)).collect();
        // their sizes are unknown unless all of the chunk's records are among them
        let each = if lost.len() as u32 == chunk.unfinished { chunk.bytes } else { 0 };
        let (mut bytes, count) = (each, lost.len() as u64);
        for index in lost {
            self.end(first + u64::from(index), std::mem::take(&mut bytes));
        }
        self.cold = Some(end);
        count
    }

    /// Requeued records whose time has come; the next transaction tells the disk of the attempt they get.
    pub(super) fn take_due(&mut self, now: Instant, most: usize) -> Vec<Delayed> {
        let mut due = Vec::new();
        if self.jobs.is_some() {
            while due.len() < most
                && let Some(Reverse(next)) = self.delayed.peek()
                && next.due <= now
                && let Some(Reverse(next)) = self.delayed.pop()
            {
                due.push(next);
            }
        }
        for next in &due {
            self.set_begun(next.seq, next.begun + 1);
        }
        due
    }

    /// The same for records of an earlier process at the front; how many.
    pub(super) fn arm(&mut self, most: usize) -> usize {
        if self.unarmed == 0 || self.jobs.is_none() {
            return 0;
        }
        let mut arming = Vec::new();
        for entry in self.ready.iter_mut().take(most).filter(|entry| entry.armed == Armed::No) {
            entry.armed = Armed::Soon;
            arming.push((entry.seq, entry.begun + 1));
        }
        self.unarmed -= arming.len();
        arming.iter().for_each(|(seq, begun)| self.set_begun(*seq, *begun));
        arming.len()
    }

    /// The transaction that [`State::arm`] waited for is through, or failed.
    pub(super) fn armed(&mut self, mut count: usize, done: bool) {
        for entry in &mut self.ready {
            if count == 0 {
                break;
            }
            if entry.armed == Armed::Soon {
                entry.armed = if done { Armed::Yes } else { Armed::No };
                self.unarmed += usize::from(!done);
                count -= 1;
            }
        }
    }

    /// At the end: hand-outs that were foreseen and did not happen are none.
    pub(super) fn disarm(&mut self) {
        let ready = self.ready.iter().map(|entry| (entry.seq, entry.begun));
        let delayed = self.delayed.iter().map(|Reverse(delayed)| (delayed.seq, delayed.begun));
        let waiting: Vec<_> = ready.chain(delayed).collect();
        for (seq, begun) in waiting {
            // one hand-out is told by the mark alone, unless more was written already
            if let Some((first, chunk)) = self.chunk(seq)
                && chunk.begun((seq - first) as u32) > begun
            {
                self.set_begun(seq, begun);
            }
        }
    }

    /// Ends what was published before `before` and is in nobody's hands; how many.
    pub(super) fn expire(&mut self, before: u64) -> u64 {
        let old: Vec<u64> =
            self.chunks.iter().take_while(|(_, chunk)| chunk.time < before).map(|(first, _)| *first).collect();
        let mut expired = 0;
        let mut end = 0;
        for first in old {
            let Some(chunk) = self.chunks.get(&first) else { continue };
            end = first + u64::from(chunk.count);
            let held = self.held.iter().filter(|(seq, _)| (first..end).contains(*seq));
            let (held, held_bytes) = held.fold((0, 0), |(n, sum), (_, len)| (n + 1, sum + *len as u64));
            if chunk.unfinished == held {
                continue;
            }
            let mut bytes = chunk.bytes - held_bytes;
            let unheld: Vec<u64> = (first..end)
                .filter(|seq| !chunk.is_finished((seq - first) as u32) && !self.held.contains_key(seq))
                .collect();
            expired += unheld.len() as u64;
            unheld.into_iter().for_each(|seq| self.end(seq, std::mem::take(&mut bytes)));
        }
        if expired > 0 {
            self.forget_before(end);
        }
        expired
    }

    fn forget_before(&mut self, end: u64) {
        let memory = &mut self.memory;
        self.ready.retain(|entry| {
            let keep = entry.seq >= end;
            *memory -= if keep { 0 } else { entry.record.len() + ENTRY };
            keep
        });
        self.delayed.retain(|Reverse(delayed)| {
            let keep = delayed.seq >= end;
            *memory -= if keep { 0 } else { delayed.record.as_ref().map_or(0, |record| record.len() + ENTRY) };
            keep
        });
        self.unarmed = self.ready.iter().filter(|entry| entry.armed == Armed::No).count();
        self.cold = self.cold.map(|cold| cold.max(end));
    }

    /// A requeued record's turn has come.
    pub(super) fn due(&mut self, seq: u64, begun: u32, record: Bytes) {
        self.ready.push_front(Entry { seq, begun, armed: Armed::Yes, record });
    }

    /// A record that could not be read again.
    pub(super) fn give_up(&mut self, seq: u64) {
        self.end(seq, 0);
    }
}
