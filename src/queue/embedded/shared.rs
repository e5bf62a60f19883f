//! The log in memory behind its lock: what publishers, jobs and the control call.

use std::{
    cmp::Reverse,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{
    Acker,
    state::{Armed, Delayed, ENTRY, LogState, WaitingPublish},
};
use crate::{
    config,
    queue::{
        self, Destination, Job, PublishError, QueueState,
        waiter::{Acknowledgement, Waiter},
    },
    telemetry::{Gauge, Metrics},
};

/// No record beyond this, whatever `max_bytes` allows.
const MAX_RECORD: usize = 16 << 20;
/// Finishes and hand-outs reach the disk after this at the latest.
pub(super) const PROGRESS_WITHIN: Duration = Duration::from_secs(1);
/// Where memory is short, a record that waits longer than this is read again instead of kept.
const KEEP_WITHIN: Duration = Duration::from_millis(100);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The keys of `[queue]` that concern the log.
#[derive(Clone, Debug)]
pub(super) struct LogLimits {
    pub(super) max_record: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_publishes: usize,
    pub(super) max_bytes: u64,
    pub(super) max_age: Option<Duration>,
    pub(super) replay_hold: Duration,
    pub(super) memory_bytes: usize,
    pub(super) publish_timeout: Duration,
    pub(super) sync: config::Sync,
}

impl LogLimits {
    pub(super) fn of(config: &config::QueueConfig) -> Self {
        Self {
            max_record: usize::try_from(config.max_bytes).unwrap_or(usize::MAX).min(MAX_RECORD),
            max_in_flight: config.max_in_flight.max(1),
            max_publishes: config.max_publishes.max(1),
            max_bytes: config.max_bytes,
            max_age: (!config.max_age.is_zero()).then_some(config.max_age),
            replay_hold: config.replay_hold,
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

/// The log in memory.
pub(super) struct SharedLog {
    pub(super) limits: LogLimits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) ready: watch::Sender<QueueState>,
    pub(super) wake: Condvar,
    state: Mutex<LogState>,
    records: Gauge,
    bytes: Gauge,
}

impl SharedLog {
    pub(super) fn new(
        limits: LogLimits,
        jobs: mpsc::Sender<Vec<Job>>,
        ready: watch::Sender<QueueState>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = LogState::new(jobs);
        let records = metrics.queue_records.clone();
        let bytes = metrics.queue_bytes.clone();
        Self {
            limits,
            metrics,
            clock: Clock::new(),
            ready,
            wake: Condvar::new(),
            state: Mutex::new(state),
            records,
            bytes,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LogState> {
        // every change is whole before anything in it can panic
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, state: &LogState) {
        if state.parked {
            self.wake.notify_one();
        }
    }

    /// Takes a record in; it is acknowledged once it is on disk.
    pub(super) fn admit(&self, destination: Destination, record: Bytes) -> Result<Acknowledgement, PublishError> {
        let mut state = self.lock();
        let admitted = self.admit_locked(&mut state, destination, record);
        self.notify(&state);
        admitted
    }

    /// As [`SharedLog::admit`] for each, all before the writer sees the first.
    pub(super) fn admit_all(&self, records: Vec<(Destination, Bytes)>) -> Vec<Result<Acknowledgement, PublishError>> {
        let mut state = self.lock();
        let mut admitted = Vec::with_capacity(records.len());
        for (destination, record) in records {
            admitted.push(self.admit_locked(&mut state, destination, record));
        }
        self.notify(&state);
        admitted
    }

    fn admit_locked(
        &self,
        state: &mut LogState,
        destination: Destination,
        record: Bytes,
    ) -> Result<Acknowledgement, PublishError> {
        // the log has one reader: this node
        let Destination::Live = destination;
        if record.len() > self.limits.max_record {
            return Err(PublishError::TooLarge { bytes: record.len(), limit: self.limits.max_record });
        }
        if state.closing {
            return Err(PublishError::Unavailable("it is closed".into()));
        }
        if let Some(reason) = &state.failed {
            return Err(PublishError::Unavailable(reason.clone()));
        }
        let bytes = record.len() as u64;
        if state.waiting >= self.limits.max_publishes {
            return Err(PublishError::Full(
                "too many publishes wait for the queue ([queue] max_publishes): try again later",
            ));
        }
        // rows go once all of their records are done: a few old ones must not keep the disk without bound
        if state.bytes + bytes > self.limits.max_bytes
            || state.stored > self.limits.max_bytes.saturating_mul(2) + (64 << 20)
        {
            return Err(PublishError::Full("the queue is full ([queue] max_bytes): try again later"));
        }
        if state.inbox_bytes > 0 && state.inbox_bytes + record.len() > self.limits.memory_bytes {
            return Err(PublishError::Full("too much waits for the disk ([queue] memory_bytes): try again later"));
        }
        let (waiter, outcome) = Waiter::new(&self.metrics);
        state.waiting += 1;
        state.records += 1;
        state.bytes += bytes;
        state.inbox_bytes += record.len();
        state.inbox.push_back(WaitingPublish { record, waiter });
        Ok(outcome)
    }

    pub(super) fn finish(self: &Arc<Self>, seq: u64, len: usize) {
        let mut state = self.lock();
        if state.in_flight.remove(&seq).is_some() {
            state.memory -= len + ENTRY;
            state.end(seq, len as u64);
            // the writer is to know of the new deadline, or that there is room for cold records again
            if state.untold_since.is_none() || state.wants_cold(&self.limits, false) {
                self.notify(&state);
            }
            state.untold();
        }
        self.pump(state);
    }

    pub(super) fn requeue(self: &Arc<Self>, seq: u64, begun: u32, record: Bytes, delay: Duration) {
        let mut state = self.lock();
        if state.in_flight.remove(&seq).is_some() {
            let keep = delay < KEEP_WITHIN || state.memory <= self.limits.memory_bytes / 2;
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
        let jobs = self.lock().stop();
        drop(jobs);
    }

    pub(super) fn begin_close(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.notify(&state);
        let jobs = state.stop();
        drop(state);
        drop(jobs);
    }

    /// Hands out what can be handed out, and shows the levels.
    pub(super) fn pump(self: &Arc<Self>, mut state: MutexGuard<'_, LogState>) {
        // dropped beyond the lock, which a job that is dropped takes
        let closed = state.jobs.take_if(|jobs| jobs.is_closed());
        let mut bundle = Vec::new();
        while state.jobs.is_some()
            && state.in_flight.len() < self.limits.max_in_flight
            && let Some(entry) = state.ready.front()
        {
            if entry.armed != Armed::Yes {
                if entry.armed == Armed::No {
                    self.notify(&state);
                }
                break;
            }
            let seq = entry.seq;
            let attempts = entry.begun + 1;
            let record = entry.record.clone();
            let len = record.len();
            let acker = Acker { shared: self.clone(), seq, attempts, record: record.clone() };
            bundle.push(Job { record, attempts, acker: Some(queue::Acker::Embedded(acker)) });
            state.ready.pop_front();
            state.in_flight.insert(seq, len);
            if seq >= state.handed {
                state.handed = seq + 1;
                if state.untold_since.is_none() {
                    self.notify(&state);
                }
                state.untold();
            }
        }
        let refused = match &state.jobs {
            // never full: it takes as many bundles as jobs can be in flight
            Some(jobs) if !bundle.is_empty() => jobs.try_send(bundle).err(),
            _ => None,
        };
        self.records.set(state.records as i64);
        self.bytes.set(state.bytes as i64);
        drop(state);
        // nobody takes them any more: they requeue themselves
        drop((closed, refused));
    }
}
