//! Takes jobs from the queue and gives their parts to the lanes.

use std::{hash::BuildHasher, iter, sync::Arc, time::Duration};

use bytestring::ByteString;
use foldhash::fast::FixedState;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    BUNDLE,
    hold::{self, Held},
    tickets::{Kept, Tickets},
};
use crate::{
    config,
    hub::{Cards, Outcome, Parcel, Post},
    queue::{Job, Jobs, record},
    telemetry::{Count, Metrics},
};

pub(super) struct Intake {
    lanes: Vec<mpsc::Sender<Vec<Parcel>>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
    tickets: Arc<Tickets>,
    max_in_flight: usize,
    max_attempts: u32,
    replay_hold: Duration,
    metrics: Arc<Metrics>,
    requeued: Count,
}

impl Intake {
    pub(super) fn new(
        config: &config::Queue,
        lanes: Vec<mpsc::Sender<Vec<Parcel>>>,
        outcomes: mpsc::UnboundedSender<Outcome>,
        tickets: Arc<Tickets>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            lanes,
            outcomes,
            tickets,
            max_in_flight: config.max_in_flight,
            max_attempts: config.max_attempts,
            replay_hold: config.replay_hold,
            metrics: Arc::clone(metrics),
            requeued: metrics.jobs.get_or_create_owned(&[("outcome", "requeued")]),
        }
    }

    /// Takes jobs until their end.
    pub(super) async fn run(self, mut jobs: Jobs, backlog: watch::Receiver<bool>, draining: CancellationToken) {
        let Some(first) = jobs.next().await else { return };
        let held = *backlog.borrow() && !self.replay_hold.is_zero();
        match held {
            true => self.replay(first, &mut jobs, &draining).await,
            false => self.begin(iter::once(first)).await,
        }
        while let Some(some) = jobs.some(BUNDLE).await {
            self.begin(some).await;
        }
    }

    /// Holds the backlog, then dispatches it; a drain gives it back instead, and what follows.
    async fn replay(&self, first: Job, jobs: &mut Jobs, draining: &CancellationToken) {
        let in_hand = &self.metrics.jobs_in_hand;
        tracing::info!(
            time = ?self.replay_hold,
            "the queue has a backlog: it is held for [queue] replay_hold, so that clients rejoin first"
        );
        match hold::hold(first, jobs, self.replay_hold, self.max_in_flight, draining, in_hand).await {
            Held::Over(mut held) => {
                tracing::info!(jobs = held.len(), "the replay hold is over");
                while !held.is_empty() {
                    let bundle = held.drain(..held.len().min(BUNDLE));
                    self.begin(bundle.inspect(|_| {
                        in_hand.dec();
                    }))
                    .await;
                }
            }
            Held::Cut(held) => {
                for job in held {
                    in_hand.dec();
                    self.give_back(job);
                }
                while let Some(job) = jobs.next().await {
                    self.give_back(job);
                }
            }
        }
    }

    /// Gives the jobs' parts to the lanes; waits while one of them is full.
    async fn begin(&self, jobs: impl Iterator<Item = Job>) {
        let mut bundles: Vec<Vec<Parcel>> = self.lanes.iter().map(|_| Vec::new()).collect();
        jobs.for_each(|job| self.split(job, &mut bundles));
        for (lane, bundle) in self.lanes.iter().zip(bundles).filter(|(_, bundle)| !bundle.is_empty()) {
            // an error: the lanes were stopped, and the dropped parts tell that they were lost
            let _ = lane.send(bundle).await;
        }
    }

    /// Decodes a job and makes one part for each lane that has cards of it: one card's pushes always take the same lane.
    fn split(&self, job: Job, bundles: &mut [Vec<Parcel>]) {
        if job.attempts > self.max_attempts {
            tracing::error!(attempts = job.attempts, "a push was handed out too often without success; it is dropped");
            return self.drop_job(job, "attempts");
        }
        let mut push = match record::decode(job.record.clone()) {
            Ok(push) => push,
            Err(error) => {
                tracing::error!(%error, "a record cannot be read; it is dropped");
                return self.drop_job(job, "undecodable");
            }
        };
        tracing::trace!(id = %push.id, attempts = job.attempts, "a push is taken from the queue");
        // admission did so already; a record of another origin must not deliver twice either
        push.target.name_each_once();
        let ticket = match self.tickets.keep(job, push.id) {
            Kept::Ticket(ticket) => ticket,
            // finished now, it would be lost with the one in hand, should that be given back
            Kept::Early(job) => {
                self.count_drop("copy");
                return job.leave();
            }
            Kept::Copy(job) => return self.drop_job(job, "copy"),
        };
        let post = Post::new(push, ticket, self.outcomes.clone());
        let cards = &post.push().target.cards;
        if let [card] = &cards[..] {
            return bundles[self.lane(card)].push(Parcel::new(Arc::clone(&post), Cards::All));
        }
        let mut places = vec![Vec::new(); self.lanes.len()];
        for (place, card) in cards.iter().enumerate() {
            places[self.lane(card)].push(place as u32);
        }
        for (bundle, places) in bundles.iter_mut().zip(places).filter(|(_, places)| !places.is_empty()) {
            bundle.push(Parcel::new(Arc::clone(&post), Cards::Some(places)));
        }
    }

    fn lane(&self, card: &ByteString) -> usize {
        (FixedState::default().hash_one(&**card) % self.lanes.len() as u64) as usize
    }

    fn drop_job(&self, job: Job, reason: &'static str) {
        self.count_drop(reason);
        job.finish();
    }

    fn count_drop(&self, reason: &'static str) {
        self.metrics.drops.get_or_create(&[("reason", reason)]).inc();
        self.metrics.jobs.get_or_create(&[("outcome", "dropped")]).inc();
    }

    fn give_back(&self, job: Job) {
        self.requeued.inc();
        job.requeue(Duration::ZERO);
    }
}
