//! The queue's records behind their lock: what publishers, jobs and the control call.
//!
//! The lock is held for moments, never over disk or network.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{
    Acker,
    limits::QueueLimits,
    records::{HandOut, Records},
};
use crate::{
    queue::{
        self, Destination, Job, PublishError, QueueState,
        waiter::{Acknowledgement, Waiter},
    },
    telemetry::Metrics,
};

/// See the module.
pub(super) struct SharedRecords {
    pub(super) limits: QueueLimits,
    pub(super) metrics: Arc<Metrics>,
    ready: watch::Sender<QueueState>,
    wake: Condvar,
    locked: Mutex<LockedRecords>,
}

/// What the lock guards.
pub(super) struct LockedRecords {
    pub(super) records: Records<Waiter>,
    /// Where jobs go; `None`: no more are handed out.
    jobs: Option<mpsc::Sender<Vec<Job>>>,
    /// The log's thread waits: it must be woken.
    parked: bool,
}

impl SharedRecords {
    pub(super) fn new(
        limits: QueueLimits,
        records: Records<Waiter>,
        jobs: mpsc::Sender<Vec<Job>>,
        ready: watch::Sender<QueueState>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let locked = Mutex::new(LockedRecords { records, jobs: Some(jobs), parked: false });
        Self { limits, metrics, ready, wake: Condvar::new(), locked }
    }

    /// To be given to [`SharedRecords::unlock`] after a change.
    pub(super) fn lock(&self) -> MutexGuard<'_, LockedRecords> {
        // every change is whole before anything in it can panic
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what can be handed out by now, shows the levels and wakes the log's thread if it has something to do.
    pub(super) fn unlock(self: &Arc<Self>, mut locked: MutexGuard<'_, LockedRecords>) {
        // dropped beyond the lock, which a job that is dropped takes
        let closed = locked.jobs.take_if(|jobs| jobs.is_closed());
        if closed.is_some() {
            locked.records.stop_hand_outs();
        }
        let handed = locked.records.hand_out(Instant::now, |next| self.job(next));
        let refused = match &locked.jobs {
            // never full: it takes as many bundles as jobs can be in flight
            Some(jobs) if !handed.is_empty() => jobs.try_send(handed).err(),
            _ => None,
        };
        let total = locked.records.total();
        self.metrics.queue_records.set(total.records as i64);
        self.metrics.queue_bytes.set(total.bytes as i64);
        self.wake(locked);
        // nobody takes them any more: they requeue themselves
        drop((closed, refused));
    }

    fn job(self: &Arc<Self>, HandOut { number, attempts, record }: HandOut) -> Job {
        let acker = Acker { shared: self.clone(), number, attempts, record: record.clone() };
        Job { record, attempts, acker: Some(queue::Acker::Embedded(acker)) }
    }

    /// Wakes the log's thread if it has something to do: beyond the lock, which is the first thing it takes.
    fn wake(&self, mut locked: MutexGuard<'_, LockedRecords>) {
        let wake = locked.records.take_wake() && std::mem::take(&mut locked.parked);
        drop(locked);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Waits until the log's thread has something to do; `also` is when it has by its own account.
    pub(super) fn wait(&self, also: Option<Instant>) {
        let mut locked = self.lock();
        loop {
            let now = Instant::now();
            let due = locked.records.due_at(now).into_iter().chain(also).min();
            if due.is_some_and(|due| due <= now) {
                return;
            }
            locked.parked = true;
            locked = match due {
                Some(due) => {
                    let waited = self.wake.wait_timeout(locked, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(locked).unwrap_or_else(PoisonError::into_inner),
            };
            locked.parked = false;
        }
    }

    /// Waits until `until`, or until the queue is to close.
    pub(super) fn wait_to_retry(&self, until: Instant) {
        let mut locked = self.lock();
        loop {
            let now = Instant::now();
            if until <= now || locked.records.is_closing() {
                return;
            }
            locked.parked = true;
            locked = self.wake.wait_timeout(locked, until - now).unwrap_or_else(PoisonError::into_inner).0;
            locked.parked = false;
        }
    }

    /// Tells whether the queue can be used.
    pub(super) fn say(&self, state: QueueState) {
        self.metrics.queue_ready.set((state == QueueState::Ready).into());
        self.ready.send_replace(state);
    }

    /// Takes a record in; it is acknowledged once the log has it.
    pub(super) fn admit(&self, destination: Destination, record: Bytes) -> Result<Acknowledgement, PublishError> {
        let mut locked = self.lock();
        let admitted = self.admit_locked(&mut locked, destination, record);
        self.wake(locked);
        admitted
    }

    /// As [`SharedRecords::admit`] for each, all before the log's thread sees the first.
    pub(super) fn admit_all(&self, records: Vec<(Destination, Bytes)>) -> Vec<Result<Acknowledgement, PublishError>> {
        let mut locked = self.lock();
        let mut admitted = Vec::with_capacity(records.len());
        for (destination, record) in records {
            admitted.push(self.admit_locked(&mut locked, destination, record));
        }
        self.wake(locked);
        admitted
    }

    fn admit_locked(
        &self,
        locked: &mut LockedRecords,
        destination: Destination,
        record: Bytes,
    ) -> Result<Acknowledgement, PublishError> {
        // the log has one reader: this node
        if destination != Destination::Live {
            return Err(PublishError::Unavailable("the embedded queue has no events".into()));
        }
        let mut acknowledgement = None;
        locked.records.admit(record, || {
            let (waiter, outcome) = Waiter::new(&self.metrics);
            acknowledgement = Some(outcome);
            waiter
        })?;
        acknowledgement.ok_or_else(|| PublishError::Unavailable("it is closed".into()))
    }

    pub(super) fn finish(self: &Arc<Self>, number: u64) {
        self.finish_all([number].into_iter());
    }

    /// Finishes all of `numbers`, and hands out what has room then.
    pub(super) fn finish_all(self: &Arc<Self>, numbers: impl Iterator<Item = u64>) {
        let mut locked = self.lock();
        numbers.for_each(|number| locked.records.finish(number, Instant::now));
        self.unlock(locked);
    }

    pub(super) fn requeue(self: &Arc<Self>, number: u64, begun: u32, record: Bytes, delay: Duration) {
        let mut locked = self.lock();
        locked.records.requeue(number, begun, record, Instant::now(), delay);
        self.unlock(locked);
    }

    /// Who the replay hold is for is back: the log's thread ends it.
    pub(super) fn end_hold(&self) {
        let mut locked = self.lock();
        locked.records.end_hold();
        self.wake(locked);
    }

    pub(super) fn stop_jobs(&self) {
        let mut locked = self.lock();
        locked.records.stop_hand_outs();
        let jobs = locked.jobs.take();
        drop(locked);
        // beyond the lock: what waits in it requeues itself
        drop(jobs);
    }

    pub(super) fn begin_close(&self) {
        let mut locked = self.lock();
        locked.records.close();
        let jobs = locked.jobs.take();
        self.wake(locked);
        drop(jobs);
    }
}
