//! Takes jobs from the queue and gives their parts to the lanes.

use std::{hash::BuildHasher, sync::Arc, time::SystemTime};

use foldhash::fast::FixedState;
use tokio::sync::{mpsc, watch};

use super::{
    BUNDLE, Revoke,
    in_flight::{Begun, InFlight},
    pace::Pace,
};
use crate::{
    config,
    hub::{Completion, DisconnectPart, DisconnectRun, Fanout, Part, Recipients, Work},
    push::{Address, ClientSelector, Disconnect, Push, PushId, Selection},
    queue::{
        Job, Jobs,
        record::{self, Record},
    },
    telemetry::{
        Metrics,
        labels::{DropReason, JobOutcome},
    },
};

pub(super) struct Intake {
    lanes: Vec<mpsc::Sender<Vec<Work>>>,
    completions: mpsc::UnboundedSender<Completion>,
    in_flight: Arc<InFlight>,
    max_attempts: u32,
    revoke: Revoke,
    metrics: Arc<Metrics>,
}

impl Intake {
    pub(super) fn new(
        config: &config::QueueConfig,
        lanes: Vec<mpsc::Sender<Vec<Work>>>,
        completions: mpsc::UnboundedSender<Completion>,
        in_flight: Arc<InFlight>,
        revoke: Revoke,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self { lanes, completions, in_flight, max_attempts: config.max_attempts, revoke, metrics: Arc::clone(metrics) }
    }

    /// Takes jobs until their end.
    pub(super) async fn run(self, mut jobs: Jobs, backlog: watch::Receiver<bool>, pace: Pace) {
        if jobs.ready().await && *backlog.borrow() {
            self.replay(&mut jobs, pace).await;
        }
        while let Some(some) = jobs.some(BUNDLE).await {
            self.begin(some).await;
        }
    }

    /// Dispatches the backlog as fast as it is read.
    async fn replay(&self, jobs: &mut Jobs, mut pace: Pace) {
        pace.begin();
        let mut old = true;
        while old && let Some(some) = jobs.some_within(BUNDLE, pace.bytes()).await {
            old = self.begin(some.into_iter()).await.is_none_or(|oldest| pace.covers(oldest));
            pace.follow().await;
        }
    }

    /// Gives the jobs' parts to the lanes; waits while one of them is full. When the oldest of them was accepted (ms).
    async fn begin(&self, jobs: impl Iterator<Item = Job>) -> Option<u64> {
        let mut bundles: Vec<Vec<Work>> = self.lanes.iter().map(|_| Vec::new()).collect();
        let mut dropped = Dropped::default();
        let oldest = jobs.filter_map(|job| self.split(job, &mut bundles, &mut dropped)).min();
        dropped.tell();
        for (lane, bundle) in self.lanes.iter().zip(bundles).filter(|(_, bundle)| !bundle.is_empty()) {
            // an error: the lanes were stopped, and the dropped parts tell that they were lost
            let _ = lane.send(bundle).await;
        }
        oldest
    }

    /// Decodes a job and makes one part for each lane that has recipients of it. When it was accepted (ms); `None`: it is
    /// dropped.
    fn split(&self, job: Job, bundles: &mut [Vec<Work>], dropped: &mut Dropped) -> Option<u64> {
        if job.attempts > self.max_attempts {
            dropped.attempts += 1;
            self.drop_job(job, DropReason::Attempts);
            return None;
        }
        match record::decode(job.record.clone()) {
            Ok(Record::Push(push)) => Some(self.begin_push(job, push, bundles)),
            Ok(Record::Disconnect(order)) => self.begin_disconnect(job, *order, bundles, dropped),
            Err(error) => {
                dropped.undecodable += 1;
                dropped.error = Some(error.to_string());
                self.drop_job(job, DropReason::Undecodable);
                None
            }
        }
    }

    fn begin_push(&self, job: Job, mut push: Push, bundles: &mut [Vec<Work>]) -> u64 {
        tracing::trace!(id = %push.id, attempts = job.attempts, "a push is taken from the queue");
        let millis = push.id.millis();
        // admission did so already; a record of another origin must not deliver twice either
        push.target.name_each_once();
        if let Some(number) = self.begin_job(job, push.id) {
            let fanout = Fanout::new(push, number, self.completions.clone());
            self.add_parts(&fanout, bundles);
        }
        millis
    }

    fn begin_disconnect(
        &self,
        job: Job,
        order: Disconnect,
        bundles: &mut [Vec<Work>],
        dropped: &mut Dropped,
    ) -> Option<u64> {
        tracing::trace!(id = %order.id, attempts = job.attempts, "a disconnect is taken from the queue");
        let at = order.at;
        // before its clients are told, who may come back with the same token; and however late it is, for what was issued
        // since it was accepted stays good
        if order.revoke
            && let ClientSelector::Subject(subject) = &order.selector
        {
            (self.revoke)(subject.clone(), order.second());
        }
        if order.age(SystemTime::now()) > Disconnect::LIFE {
            dropped.void += 1;
            self.drop_job(job, DropReason::Void);
            return None;
        }
        if let Some(number) = self.begin_job(job, order.id) {
            // behind the pushes of its address that came before it
            let lane = match &order.selector {
                ClientSelector::Card(name) | ClientSelector::App(name) => self.lane(name),
                ClientSelector::Client(_) | ClientSelector::Subject(_) => 0,
            };
            let run = DisconnectRun::new(order, number, self.completions.clone());
            bundles[lane].push(Work::Disconnect(DisconnectPart::new(run)));
        }
        Some(at)
    }

    /// The number under which the job is in flight; `None`: it is a copy, and dealt with.
    fn begin_job(&self, job: Job, id: PushId) -> Option<u64> {
        match self.in_flight.begin(job, id) {
            Begun::InFlight(number) => return Some(number),
            // finished now, it would be lost with the one in flight, should that be put back
            Begun::CopyOfInFlight(job) => {
                self.count_drop(DropReason::Copy);
                job.leave();
            }
            Begun::CopyOfFinished(job) => self.drop_job(job, DropReason::Copy),
        }
        None
    }

    /// Adds the parts of a push to the lanes' bundles: pushes that the same card, room or app selects take the same lane.
    fn add_parts(&self, fanout: &Arc<Fanout>, bundles: &mut [Vec<Work>]) {
        let part = |recipients| Work::Part(Part::new(Arc::clone(fanout), recipients));
        match fanout.push().target.selection() {
            Selection::Cards([card]) => {
                bundles[self.lane(card)].push(part(Recipients::Address(Address::Card(card.clone()))));
            }
            Selection::Cards(cards) => {
                let mut by_lane = vec![Vec::new(); self.lanes.len()];
                for card in cards {
                    by_lane[self.lane(card)].push(Address::Card(card.clone()));
                }
                for (bundle, cards) in bundles.iter_mut().zip(by_lane).filter(|(_, cards)| !cards.is_empty()) {
                    bundle.push(part(Recipients::Addresses(cards)));
                }
            }
            Selection::Room(room) => {
                bundles[self.lane(room)].push(part(Recipients::Address(Address::Room(room.clone()))));
            }
            Selection::App(app) => bundles[self.lane(app)].push(part(Recipients::Everyone)),
            Selection::Everyone => bundles[0].push(part(Recipients::Everyone)),
            Selection::Nobody => {}
        }
    }

    fn lane(&self, name: &str) -> usize {
        (FixedState::default().hash_one(name) % self.lanes.len() as u64) as usize
    }

    fn drop_job(&self, job: Job, reason: DropReason) {
        self.count_drop(reason);
        job.finish();
    }

    fn count_drop(&self, reason: DropReason) {
        self.metrics.drops.get_or_create(&reason).inc();
        self.metrics.jobs.get_or_create(&JobOutcome::Dropped).inc();
    }
}

/// What of a bundle was dropped: a line for each reason, not for each push.
#[derive(Default)]
struct Dropped {
    attempts: u64,
    undecodable: u64,
    void: u64,
    error: Option<String>,
}

impl Dropped {
    fn tell(self) {
        let Self { attempts, undecodable, void, error } = self;
        if attempts > 0 {
            tracing::error!(
                pushes = attempts,
                "handed out more often than [queue] max_attempts without success: dropped"
            );
        }
        if void > 0 {
            let life = Disconnect::LIFE;
            tracing::warn!(
                disconnects = void,
                ?life,
                "disconnects came too late: void; did the queue wait, are the clocks right?"
            );
        }
        if let Some(error) = error {
            tracing::error!(records = undecodable, error, "records cannot be read: dropped");
        }
    }
}
