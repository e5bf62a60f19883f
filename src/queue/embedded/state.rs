//! What the log knows in memory, shared by publishers, jobs and the writer.
//!
//! A record is in one place: the inbox (not yet acknowledged), `ready`, `in_flight` (as a job), `delayed`, or cold (on disk
//! alone, all from one sequence number on: so order holds). The lock is held for moments, never over disk or network.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::Instant,
};

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::sync::mpsc;

use super::{chunk::Chunk, shared::LogLimits};
use crate::queue::{Job, waiter::Waiter};

/// What a record in memory costs beside its bytes.
pub(super) const ENTRY: usize = 64;
/// A publish that waits for its acknowledgement.
pub(super) struct WaitingPublish {
    pub(super) record: Bytes,
    pub(super) waiter: Waiter,
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
pub(super) struct ReadyRecord {
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
pub(super) struct LogState {
    pub(super) inbox: VecDeque<WaitingPublish>,
    pub(super) inbox_bytes: usize,
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
    pub(super) ready: VecDeque<ReadyRecord>,
    pub(super) delayed: BinaryHeap<Reverse<Delayed>>,
    /// Sequence numbers and sizes of the jobs out there.
    pub(super) in_flight: HashMap<u64, usize, foldhash::fast::RandomState>,
    /// From here on records are on disk only.
    pub(super) cold: Option<u64>,
    /// Bytes of records in `ready`, `delayed` and `in_flight`.
    pub(super) memory: usize,
    /// In `ready`, not armed.
    pub(super) unarmed: usize,
    /// `None`: no more are handed out.
    pub(super) jobs: Option<mpsc::Sender<Vec<Job>>>,
    /// Takes the place of `jobs` once the replay hold is over.
    later: Option<mpsc::Sender<Vec<Job>>>,
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

impl LogState {
    pub(super) fn new(jobs: mpsc::Sender<Vec<Job>>) -> Self {
        Self {
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
            in_flight: HashMap::default(),
            cold: None,
            memory: 0,
            unarmed: 0,
            jobs: Some(jobs),
            later: None,
            pinned: None,
            removed: Vec::new(),
            dirty: Vec::new(),
            untold_since: None,
            failed: None,
            closing: false,
            parked: false,
        }
    }

    /// Nothing is handed out until [`LogState::release`].
    pub(super) fn hold(&mut self) {
        self.later = self.jobs.take();
    }

    /// Ends a hold.
    pub(super) fn release(&mut self) {
        self.jobs = self.later.take();
    }

    /// Nothing is handed out any more. To be dropped beyond the lock: a job that is dropped with its channel takes it.
    pub(super) fn stop(&mut self) -> Option<mpsc::Sender<Vec<Job>>> {
        self.later.take().or(self.jobs.take())
    }

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
    pub(super) fn end(&mut self, seq: u64, len: u64) {
        let Some((first, chunk)) = self.chunk(seq) else { return };
        if chunk.finish((seq - first) as u32, len) {
            self.records -= 1;
            self.bytes -= len;
            self.chunk_progressed(first);
        }
    }

    /// After a change to a chunk's progress.
    pub(super) fn chunk_progressed(&mut self, first: u64) {
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
            self.chunk_progressed(first);
        }
    }

    /// Of the inbox, about `bytes`.
    pub(super) fn take_inbox(&mut self, bytes: usize) -> Vec<WaitingPublish> {
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
    pub(super) fn push(&mut self, seq: u64, record: Bytes, limits: &LogLimits) {
        if self.cold.is_none() && self.memory + record.len() + ENTRY <= limits.memory_bytes {
            self.memory += record.len() + ENTRY;
            self.ready.push_back(ReadyRecord { seq, begun: 0, armed: Armed::Yes, record });
        } else {
            self.cold.get_or_insert(seq);
        }
    }

    /// Whether cold records should be read; `more`: that is under way.
    pub(super) fn wants_cold(&self, limits: &LogLimits, more: bool) -> bool {
        let until = if more { limits.memory_bytes } else { limits.memory_bytes / 2 };
        let idle = self.ready.is_empty() && self.in_flight.is_empty();
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

    /// Takes a chunk's records from the disk; those before `found` were there when the log was opened. How many are missing.
    pub(super) fn warm(&mut self, first: u64, records: &[&[u8]], found: u64) -> u64 {
        let (Some(cold), Some(chunk)) = (self.cold, self.chunks.get(&first)) else { return 0 };
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
            self.ready.push_back(ReadyRecord { seq, begun, armed, record: Bytes::copy_from_slice(record) });
        }
        self.lose(first, records.len() as u32)
    }

    /// A chunk's row has no more than `left` records any more: those beyond that nobody holds in memory are gone. How many.
    pub(super) fn lose(&mut self, first: u64, left: u32) -> u64 {
        let (Some(cold), Some(chunk)) = (self.cold, self.chunks.get(&first)) else { return 0 };
        let end = first + u64::from(chunk.count);
        let lost: Vec<u32> =
            (left.max(cold.saturating_sub(first) as u32)..chunk.count).filter(|i| !chunk.is_finished(*i)).collect();
        // their sizes are unknown unless all of the chunk's records are among them
        let each = if lost.len() as u32 == chunk.unfinished { chunk.bytes } else { 0 };
        let mut bytes = each;
        let count = lost.len() as u64;
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

    /// The transaction that [`LogState::arm`] waited for is through, or failed.
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

    /// Ends what was published before `before` and is not in flight; how many.
    pub(super) fn expire(&mut self, before: u64) -> u64 {
        let old: Vec<u64> =
            self.chunks.iter().take_while(|(_, chunk)| chunk.time < before).map(|(first, _)| *first).collect();
        let mut expired = 0;
        let mut end = 0;
        for first in old {
            let Some(chunk) = self.chunks.get(&first) else { continue };
            end = first + u64::from(chunk.count);
            let in_flight = self.in_flight.iter().filter(|(seq, _)| (first..end).contains(*seq));
            let (in_flight, in_flight_bytes) = in_flight.fold((0, 0), |(n, sum), (_, len)| (n + 1, sum + *len as u64));
            if chunk.unfinished == in_flight {
                continue;
            }
            let mut bytes = chunk.bytes - in_flight_bytes;
            let waiting: Vec<u64> = (first..end)
                .filter(|seq| !chunk.is_finished((seq - first) as u32) && !self.in_flight.contains_key(seq))
                .collect();
            expired += waiting.len() as u64;
            waiting.into_iter().for_each(|seq| self.end(seq, std::mem::take(&mut bytes)));
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
        self.ready.push_front(ReadyRecord { seq, begun, armed: Armed::Yes, record });
    }

    /// A record that could not be read again.
    pub(super) fn give_up(&mut self, seq: u64) {
        self.end(seq, 0);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::{Chunk, LogState};

    #[test]
    fn what_a_row_that_came_back_shorter_has_lost_is_ended_and_counted() {
        let mut state = LogState::new(mpsc::channel(1).0);
        let mut chunk = Chunk::new(0);
        chunk.extend(4, 4, 100);
        state.chunks.insert(7, chunk);
        (state.records, state.bytes, state.stored, state.cold) = (4, 4, 100, Some(7));
        assert_eq!(state.warm(7, &[b"a", b"b"], 0), 2);
        assert_eq!((state.records, state.ready.len(), state.cold), (2, 2, Some(11)));
    }
}
