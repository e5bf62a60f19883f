//! Jobs in flight, by the number that their pushes carry through the hub.

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

use super::window::{Place, Seen, Window};
use crate::{
    config::{self, Backend},
    hub::{Completion, Outcome, shrink},
    push::PushId,
    queue::Job,
    telemetry::{
        Counter, Gauge, Metrics,
        labels::{DropReason, JobOutcome},
    },
};

/// Outcomes taken at once.
const BATCH: usize = 256;

/// Every job that was dispatched and is neither finished nor requeued, and the pushes that came last.
pub(super) struct InFlight {
    hand: Mutex<Hand>,
    next: AtomicU64,
    timeout: Duration,
    requeue_delay: Duration,
    /// How many jobs may wait here for the end of a drain, and how many did.
    max_aside: usize,
    aside: AtomicUsize,
    in_flight: Gauge,
    finished: Counter,
    unmatched: Counter,
    requeued: Counter,
}

struct Hand {
    jobs: HashMap<u64, Ticket, RandomState>,
    window: Window,
}

struct Ticket {
    job: Job,
    deadline: Instant,
    place: Place,
    /// For the process that comes after this one.
    aside: bool,
}

/// What becomes of a job that comes.
pub(super) enum Kept {
    /// It is kept by this number.
    Ticket(u64),
    /// It is a copy of one that is in flight, whose end it must wait for.
    Early(Job),
    /// It is a copy of one that was finished.
    Copy(Job),
}

impl InFlight {
    pub(super) fn new(config: &config::Queue, metrics: &Metrics) -> Arc<Self> {
        let window = Window::new(match config.backend {
            Backend::Nsq => config.copy_window,
            // a job of this process is never taken from it, and another process would not have the window
            Backend::Embedded => 0,
        });
        Arc::new(Self {
            hand: Mutex::new(Hand { jobs: HashMap::default(), window }),
            next: AtomicU64::new(0),
            timeout: config.job_timeout,
            requeue_delay: config.requeue_delay,
            max_aside: config.max_in_flight / 2,
            aside: AtomicUsize::new(0),
            in_flight: metrics.jobs_in_hand.clone(),
            finished: metrics.jobs.get_or_create_owned(&JobOutcome::Finished),
            unmatched: metrics.drops.get_or_create_owned(&DropReason::NoMatch),
            requeued: metrics.jobs.get_or_create_owned(&JobOutcome::Requeued),
        })
    }

    /// Keeps `job`, which is of push `id`, until its outcome is told; the number to tell it by.
    pub(super) fn keep(&self, job: Job, id: PushId) -> Kept {
        let deadline = Instant::now() + self.timeout;
        let mut hand = self.lock();
        let place = match hand.window.begin(id) {
            Seen::New(place) => place,
            Seen::InFlight => return Kept::Early(job),
            Seen::Finished => return Kept::Copy(job),
        };
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        hand.jobs.insert(ticket, Ticket { job, deadline, place, aside: false });
        drop(hand);
        self.in_flight.inc();
        Kept::Ticket(ticket)
    }

    /// Finishes or requeues jobs by their completions, or by time, until nobody is left who could tell one.
    pub(super) async fn settle(&self, mut completions: mpsc::UnboundedReceiver<Completion>) {
        let period = (self.timeout / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut clock = interval(period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                taken = completions.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|completion| self.end(completion));
                }
                _ = clock.tick() => self.expire(),
            }
        }
    }

    /// Whether each job in flight was offered; as soon as some are set aside nobody needs to wait for the others.
    pub(super) fn all_offered(&self) -> bool {
        self.lock().jobs.is_empty() || self.aside.load(Ordering::Relaxed) > 0
    }

    /// Puts back all that is left.
    pub(super) fn give_back(&self) {
        let mut left: Vec<_> = std::mem::take(&mut self.lock().jobs).into_iter().collect();
        left.sort_unstable_by_key(|(number, _)| *number);
        for (_, ticket) in left {
            self.put_back(ticket, Duration::ZERO);
        }
    }

    fn end(&self, completion: Completion) {
        // gone: it took longer than job_timeout
        let mut hand = self.lock();
        let Some(ticket) = hand.jobs.remove(&completion.ticket) else { return };
        match completion.outcome {
            Outcome::Lost => {
                drop(hand);
                return self.requeue(ticket, self.requeue_delay);
            }
            Outcome::SentAway => {
                drop(hand);
                return self.set_aside(completion.ticket, ticket);
            }
            Outcome::Unmatched => {
                self.unmatched.inc();
            }
            Outcome::Offered => {}
        }
        hand.window.finish(ticket.place);
        drop(hand);
        self.in_flight.dec();
        self.finished.inc();
        ticket.job.finish();
    }

    /// Keeps a job for the process that comes after this one: it is put back when no more are handed out. Beyond a bound it
    /// goes back now, for so long that this process does not get it again: clients that are still here need hands too.
    fn set_aside(&self, number: u64, mut ticket: Ticket) {
        if self.aside.fetch_add(1, Ordering::Relaxed) < self.max_aside {
            ticket.aside = true;
            self.lock().jobs.insert(number, ticket);
            return;
        }
        self.put_back(ticket, self.timeout);
    }

    /// As a requeue, and no attempt is counted.
    fn put_back(&self, ticket: Ticket, delay: Duration) {
        self.lock().window.give_back(ticket.place);
        self.in_flight.dec();
        self.requeued.inc();
        ticket.job.put_back(delay);
    }

    fn expire(&self) {
        let now = Instant::now();
        let mut hand = self.lock();
        // they are not late: they wait for the end of the drain
        for ticket in hand.jobs.values_mut().filter(|ticket| ticket.aside && ticket.deadline <= now) {
            ticket.job.touch();
            ticket.deadline = now + self.timeout;
        }
        let late: Vec<_> = hand.jobs.extract_if(|_, ticket| ticket.deadline <= now).collect();
        shrink(&mut hand.jobs);
        drop(hand);
        if !late.is_empty() {
            tracing::warn!(jobs = late.len(), "not offered within [queue] job_timeout: requeued");
        }
        for (_, ticket) in late {
            self.requeue(ticket, self.requeue_delay);
        }
    }

    fn requeue(&self, ticket: Ticket, delay: Duration) {
        self.lock().window.give_back(ticket.place);
        self.in_flight.dec();
        self.requeued.inc();
        ticket.job.requeue(delay);
    }

    fn lock(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
