//! Jobs in hand, by the number that their pushes carry through the hub.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    config,
    hub::{Fate, Outcome, shrink},
    queue::Job,
    telemetry::{Count, Level, Metrics},
};

/// Outcomes taken at once.
const BATCH: usize = 256;

/// Every job that was dispatched and is neither finished nor requeued.
pub(super) struct Tickets {
    jobs: Mutex<HashMap<u64, (Job, Instant), RandomState>>,
    next: AtomicU64,
    timeout: Duration,
    requeue_delay: Duration,
    in_hand: Level,
    finished: Count,
    unmatched: Count,
    requeued: Count,
}

impl Tickets {
    pub(super) fn new(config: &config::Queue, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            jobs: Mutex::default(),
            next: AtomicU64::new(0),
            timeout: config.job_timeout,
            requeue_delay: config.requeue_delay,
            in_hand: metrics.jobs_in_hand.clone(),
            finished: metrics.jobs.get_or_create_owned(&[("outcome", "finished")]),
            unmatched: metrics.drops.get_or_create_owned(&[("reason", "no_match")]),
            requeued: metrics.jobs.get_or_create_owned(&[("outcome", "requeued")]),
        })
    }

    /// Keeps `job` until its outcome is told; the number to tell it by.
    pub(super) fn keep(&self, job: Job) -> u64 {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(ticket, (job, Instant::now() + self.timeout));
        self.in_hand.inc();
        ticket
    }

    /// Finishes or requeues jobs by their outcomes, or by time, until nobody is left who could tell one.
    pub(super) async fn settle(&self, mut outcomes: mpsc::UnboundedReceiver<Outcome>) {
        let period = (self.timeout / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut clock = interval(period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                taken = outcomes.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|outcome| self.end(outcome));
                }
                _ = clock.tick() => self.expire(),
            }
        }
    }

    /// Requeues all that is left.
    pub(super) fn give_back(&self) {
        let left = std::mem::take(&mut *self.lock());
        for (job, _) in left.into_values() {
            self.requeue(job, Duration::ZERO);
        }
    }

    fn end(&self, outcome: Outcome) {
        // gone: it took longer than job_timeout
        let Some((job, _)) = self.lock().remove(&outcome.ticket) else { return };
        match outcome.fate {
            Fate::Lost => return self.requeue(job, self.requeue_delay),
            Fate::Unmatched => {
                self.unmatched.inc();
            }
            Fate::Offered => {}
        }
        self.in_hand.dec();
        self.finished.inc();
        job.finish();
    }

    fn expire(&self) {
        let now = Instant::now();
        let mut jobs = self.lock();
        let late: Vec<_> = jobs.extract_if(|_, (_, deadline)| *deadline <= now).collect();
        shrink(&mut jobs);
        drop(jobs);
        for (_, (job, _)) in late {
            tracing::warn!("a job was not offered within job_timeout; it is requeued");
            self.requeue(job, self.requeue_delay);
        }
    }

    fn requeue(&self, job: Job, delay: Duration) {
        self.in_hand.dec();
        self.requeued.inc();
        job.requeue(delay);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Job, Instant), RandomState>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
