//! Jobs in hand, by the number that their pushes carry through the hub.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
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
    /// How many jobs may wait here for the end of a drain, and how many did.
    max_aside: usize,
    aside: AtomicUsize,
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
            max_aside: config.max_in_flight / 2,
            aside: AtomicUsize::new(0),
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

    /// Whether each job in hand was offered; as soon as some are set aside nobody needs to wait for the others.
    pub(super) fn all_offered(&self) -> bool {
        self.lock().is_empty() || self.aside.load(Ordering::Relaxed) > 0
    }

    /// Puts back all that is left.
    pub(super) fn give_back(&self) {
        let mut left: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        left.sort_unstable_by_key(|(ticket, _)| *ticket);
        for (_, (job, _)) in left {
            self.in_hand.dec();
            self.requeued.inc();
            job.put_back(Duration::ZERO);
        }
    }

    fn end(&self, outcome: Outcome) {
        // gone: it took longer than job_timeout
        let Some((job, deadline)) = self.lock().remove(&outcome.ticket) else { return };
        match outcome.fate {
            Fate::Lost => return self.requeue(job, self.requeue_delay),
            Fate::SentAway => return self.set_aside(outcome.ticket, job, deadline),
            Fate::Unmatched => {
                self.unmatched.inc();
            }
            Fate::Offered => {}
        }
        self.in_hand.dec();
        self.finished.inc();
        job.finish();
    }

    /// Keeps a job for the process that comes after this one: it is put back when no more are handed out. Beyond a bound it
    /// goes back now, for so long that this process does not get it again: clients that are still here need hands too.
    fn set_aside(&self, ticket: u64, job: Job, deadline: Instant) {
        if self.aside.fetch_add(1, Ordering::Relaxed) < self.max_aside {
            self.lock().insert(ticket, (job, deadline));
            return;
        }
        self.in_hand.dec();
        self.requeued.inc();
        job.put_back(self.timeout);
    }

    fn expire(&self) {
        let now = Instant::now();
        let mut jobs = self.lock();
        let late: Vec<_> = jobs.extract_if(|_, (_, deadline)| *deadline <= now).collect();
        shrink(&mut jobs);
        drop(jobs);
        if !late.is_empty() {
            tracing::warn!(jobs = late.len(), "not offered within [queue] job_timeout: requeued");
        }
        for (_, (job, _)) in late {
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
