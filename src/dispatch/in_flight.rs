//! Jobs in flight, by the number that their pushes carry through the hub.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

use super::window::{CopyWindow, Seen, WindowEntry};
use crate::{
    config::{self, Backend},
    hub::{Completion, Outcome, shrink},
    push::{Address, PushId},
    queue::{self, Job, record},
    telemetry::{
        Counter, Gauge, Metrics,
        labels::{DropReason, JobOutcome},
    },
};

/// Every job that was dispatched and is neither finished nor requeued, and the pushes that came last.
///
/// Nobody waits for completions: whoever ends pushes (a shard's thread after a turn, a processor) settles what was told, so
/// that no task has to be woken for it.
pub(super) struct InFlight {
    jobs: Mutex<JobTable>,
    told: Mutex<Told>,
    /// No job will be added any more.
    has_all: AtomicBool,
    /// There may be none left, since [`InFlight::jobs_ended`].
    ended: Notify,
    next: AtomicU64,
    timeout: Duration,
    requeue_delay: Duration,
    /// How many jobs may be kept here for the process that comes after this one, and how many were.
    max_kept: usize,
    kept: AtomicUsize,
    in_flight: Gauge,
    finished: Counter,
    unmatched: Counter,
    requeued: Counter,
    /// Where pushes go whose clients are at another node by now. Unbounded, yet it holds no more than the jobs in flight, and those that
    /// were late meanwhile.
    absences: Option<mpsc::UnboundedSender<Absence>>,
}

/// A push for this node, of which an address has no clients here any more. Its job stays in flight until its completion is told
/// once more.
pub(super) struct Absence {
    pub(super) number: u64,
    pub(super) record: Bytes,
    /// Its addresses that have clients no more.
    pub(super) addresses: Box<[Address]>,
    /// The node sends its clients away, and some of them were of that address.
    pub(super) sent_away: bool,
}

/// Completions that were told and not yet looked at.
struct Told {
    completions: mpsc::UnboundedReceiver<Completion>,
    /// Empty between two looks, as is the next.
    batch: Vec<Completion>,
    done: Vec<Job>,
}

struct JobTable {
    by_number: HashMap<u64, InFlightJob, RandomState>,
    window: CopyWindow,
    /// Other messages of pushes in flight, which end as those do.
    copies: HashMap<PushId, Vec<Job>, RandomState>,
}

impl JobTable {
    /// The copies of a push that ends.
    fn take_copies(&mut self, entry: WindowEntry) -> Vec<Job> {
        // mostly there are none at all
        if self.copies.is_empty() { Vec::new() } else { self.copies.remove(&entry.id()).unwrap_or_default() }
    }
}

struct InFlightJob {
    job: Job,
    deadline: Instant,
    window_entry: WindowEntry,
    /// It is for the process that comes after this one: no completion is awaited, and it is never late.
    is_kept: bool,
}

/// What becomes of a job that comes.
pub(super) enum Begun {
    /// It is in flight under this number.
    InFlight(u64),
    /// It is another message of a push that is in flight, and ends as that does.
    Joined,
    /// It is a copy of one that is in flight, and may be the same message.
    CopyOfInFlight(Job),
    /// It is a copy of one that was finished.
    CopyOfFinished(Job),
}

impl InFlight {
    /// With the receiving end of what the pushes' fanouts tell.
    pub(super) fn new(
        config: &config::QueueConfig,
        completions: mpsc::UnboundedReceiver<Completion>,
        absences: Option<mpsc::UnboundedSender<Absence>>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let window = CopyWindow::new(match config.backend {
            Backend::Nsq => config.copy_window,
            // a job of this process is never taken from it, and another process would not have the window
            Backend::Embedded => 0,
        });
        Arc::new(Self {
            jobs: Mutex::new(JobTable { by_number: HashMap::default(), window, copies: HashMap::default() }),
            told: Mutex::new(Told { completions, batch: Vec::new(), done: Vec::new() }),
            has_all: AtomicBool::new(false),
            ended: Notify::new(),
            next: AtomicU64::new(0),
            timeout: config.job_timeout,
            requeue_delay: config.requeue_delay,
            max_kept: config.max_in_flight / 2,
            kept: AtomicUsize::new(0),
            in_flight: metrics.jobs_in_flight.clone(),
            finished: metrics.jobs.get_or_create_owned(&JobOutcome::Finished),
            unmatched: metrics.drops.get_or_create_owned(&DropReason::NoMatch),
            requeued: metrics.jobs.get_or_create_owned(&JobOutcome::Requeued),
            absences,
        })
    }

    /// Holds `job`, which is of push `id`, until its completion comes, by the number that this gives.
    pub(super) fn begin(&self, job: Job, id: PushId, now: Instant) -> Begun {
        let deadline = now + self.timeout;
        let mut jobs = self.lock();
        let window_entry = match jobs.window.begin(id) {
            Seen::New(entry) => entry,
            // nsqd never handed it out before
            Seen::InFlight if job.attempts == 1 => {
                jobs.copies.entry(id).or_default().push(job);
                return Begun::Joined;
            }
            Seen::InFlight => return Begun::CopyOfInFlight(job),
            Seen::Finished => return Begun::CopyOfFinished(job),
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        jobs.by_number.insert(number, InFlightJob { job, deadline, window_entry, is_kept: false });
        drop(jobs);
        self.in_flight.inc();
        Begun::InFlight(number)
    }

    /// Takes a job back that nobody gets anything of; `None`: it took longer than `job_timeout`.
    pub(super) fn withdraw(&self, number: u64) -> Option<Job> {
        let mut jobs = self.lock();
        let in_flight = jobs.by_number.remove(&number)?;
        jobs.window.give_back(in_flight.window_entry);
        let copies = jobs.take_copies(in_flight.window_entry);
        drop(jobs);
        self.in_flight.dec();
        self.tell_if_ended();
        // they come at once, and one of them is in flight then
        drop(copies);
        Some(in_flight.job)
    }

    /// Requeues jobs that are late, until there are none any more and none will come.
    pub(super) async fn run(&self) {
        let period = (self.timeout / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut clock = interval(period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.has_ended() {
            // both cancel-safe
            tokio::select! {
                () = self.ended.notified() => {}
                _ = clock.tick() => {
                    // of parts that were dropped where nobody settles
                    self.settle();
                    self.requeue_late();
                }
            }
        }
    }

    /// No job will be added any more.
    pub(super) fn jobs_ended(&self) {
        self.has_all.store(true, Ordering::Release);
        self.ended.notify_one();
    }

    /// No job is left but those that are kept, and none will be added.
    fn has_ended(&self) -> bool {
        self.has_all.load(Ordering::Acquire) && self.lock().by_number.values().all(|job| job.is_kept)
    }

    fn tell_if_ended(&self) {
        if self.has_all.load(Ordering::Acquire) {
            self.ended.notify_one();
        }
    }

    /// Finishes or requeues the jobs whose completions were told.
    pub(super) fn settle(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Told { completions, batch, done } = &mut *told;
        while let Ok(completion) = completions.try_recv() {
            batch.push(completion);
        }
        if !batch.is_empty() {
            self.complete(batch, done);
            self.tell_if_ended();
        }
    }

    /// Whether each job in flight was offered; as soon as some are kept for the next process nobody needs to wait for the
    /// others.
    pub(super) fn all_offered(&self) -> bool {
        self.lock().by_number.is_empty() || self.kept.load(Ordering::Relaxed) > 0
    }

    /// Puts back all that is left, in the order in which it came.
    pub(super) fn put_back_all(&self) {
        let mut left: Vec<_> = std::mem::take(&mut self.lock().by_number).into_iter().collect();
        left.sort_unstable_by_key(|(number, _)| *number);
        for (_, in_flight) in left {
            self.put_back(in_flight, Duration::ZERO);
        }
    }

    /// `done` is empty before and after, as `batch` is after.
    fn complete(&self, batch: &mut Vec<Completion>, done: &mut Vec<Job>) {
        let mut others = Vec::new();
        let mut ended = 0_u64;
        let mut jobs = self.lock();
        for Completion { number, outcome } in batch.drain(..) {
            // none: it took longer than job_timeout, and was requeued
            let Some(in_flight) = jobs.by_number.remove(&number) else { continue };
            match outcome {
                Outcome::Lost | Outcome::SentAway => {
                    others.push((number, outcome, in_flight));
                    continue;
                }
                Outcome::Absent { addresses, sent_away } if let Some(absences) = &self.absences => {
                    let record = in_flight.job.record.clone();
                    jobs.by_number.insert(number, in_flight);
                    // nobody listens any more: dispatch was stopped, and puts its jobs back
                    let _ = absences.send(Absence { number, record, addresses, sent_away });
                    continue;
                }
                Outcome::Absent { .. } => {
                    self.unmatched.inc();
                }
                Outcome::Unmatched => {
                    self.unmatched.inc();
                }
                Outcome::Offered => {}
            }
            jobs.window.finish(in_flight.window_entry);
            ended += 1;
            done.push(in_flight.job);
            done.append(&mut jobs.take_copies(in_flight.window_entry));
        }
        drop(jobs);
        for (number, outcome, in_flight) in others {
            if outcome == Outcome::SentAway {
                self.keep(number, in_flight);
            } else {
                self.requeue(in_flight);
            }
        }
        self.in_flight.dec_by(ended as i64);
        self.finished.inc_by(ended);
        done.iter().for_each(|job| trace(job, "a push is finished"));
        queue::finish_all(done);
    }

    /// Keeps a job for the process that comes after this one: it is put back once no more jobs are handed out. Beyond a bound
    /// it is put back now, for so long that this process does not get it again: what comes for clients that are still here
    /// has to be in flight too.
    fn keep(&self, number: u64, mut in_flight: InFlightJob) {
        if self.kept.fetch_add(1, Ordering::Relaxed) < self.max_kept {
            in_flight.is_kept = true;
            self.lock().by_number.insert(number, in_flight);
            return;
        }
        self.put_back(in_flight, self.timeout);
    }

    fn requeue_late(&self) {
        let now = Instant::now();
        let mut jobs = self.lock();
        for kept in jobs.by_number.values_mut().filter(|job| job.is_kept && job.deadline <= now) {
            kept.job.touch();
            kept.deadline = now + self.timeout;
        }
        let late: Vec<_> = jobs.by_number.extract_if(|_, job| job.deadline <= now).collect();
        shrink(&mut jobs.by_number);
        drop(jobs);
        if !late.is_empty() {
            tracing::warn!(jobs = late.len(), "not offered within [queue] job_timeout: requeued");
        }
        for (_, in_flight) in late {
            self.requeue(in_flight);
        }
    }

    fn requeue(&self, in_flight: InFlightJob) {
        let copies = self.returned(in_flight.window_entry);
        trace(&in_flight.job, "a push is requeued");
        in_flight.job.requeue(self.requeue_delay);
        copies.into_iter().for_each(|copy| copy.requeue(self.requeue_delay));
    }

    /// As a requeue, and no attempt is counted.
    fn put_back(&self, in_flight: InFlightJob, delay: Duration) {
        let copies = self.returned(in_flight.window_entry);
        trace(&in_flight.job, "a push is put back into the queue");
        in_flight.job.put_back(delay);
        copies.into_iter().for_each(|copy| copy.put_back(delay));
    }

    /// The push is to come again, and is no copy then; its copies.
    fn returned(&self, entry: WindowEntry) -> Vec<Job> {
        let mut jobs = self.lock();
        jobs.window.give_back(entry);
        let copies = jobs.take_copies(entry);
        drop(jobs);
        self.in_flight.dec();
        self.requeued.inc();
        copies
    }

    fn lock(&self) -> MutexGuard<'_, JobTable> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the end of a push's way by its id, which only its record knows here.
fn trace(job: &Job, what: &'static str) {
    if tracing::enabled!(tracing::Level::TRACE)
        && let Ok(record) = record::decode(job.record.clone())
    {
        tracing::trace!(id = %record.id(), "{what}");
    }
}
