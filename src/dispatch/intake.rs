//! Takes jobs from the queue and gives each to its lane.

use std::{hash::BuildHasher, sync::Arc, time::SystemTime};

use bytes::Bytes;
use foldhash::fast::FixedState;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    BUNDLE, NodeOrders,
    dropped::{Dropped, count_drop, drop_job},
    in_flight::{Begun, InFlight},
    lane::Lane,
    pace::Pace,
    processor::LaneWork,
};
use crate::{
    config,
    hub::{Completion, DisconnectPart, DisconnectRun, Fanout, Part, Recipients},
    push::{Address, ClientSelector, Disconnect, Push, PushId, Rebalance, Selection, StoredPush},
    queue::{
        Job, Jobs,
        record::{self, PeekedSelection, Record, RecordPeek},
    },
    store::StoredPushes,
    telemetry::{Metrics, labels::DropReason},
};

pub(super) struct Intake {
    lanes: Vec<Lane>,
    /// For each lane what is ready to be given; empty between two bundles of jobs.
    ready: Vec<Vec<LaneWork>>,
    completions: mpsc::UnboundedSender<Completion>,
    in_flight: Arc<InFlight>,
    max_attempts: u32,
    /// How often a push may be sent from node to node.
    max_hops: u32,
    orders: NodeOrders,
    metrics: Arc<Metrics>,
}

impl Intake {
    pub(super) fn new(
        config: &config::QueueConfig,
        max_hops: u32,
        lanes: Vec<Lane>,
        completions: mpsc::UnboundedSender<Completion>,
        in_flight: Arc<InFlight>,
        orders: NodeOrders,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let ready = lanes.iter().map(|_| Vec::new()).collect();
        let metrics = Arc::clone(metrics);
        Self { lanes, ready, completions, in_flight, max_attempts: config.max_attempts, max_hops, orders, metrics }
    }

    /// Takes jobs until their end.
    pub(super) async fn run(
        mut self,
        mut jobs: Jobs,
        mut stored: Option<StoredPushes>,
        mut backlog: watch::Receiver<bool>,
        mut pace: Pace,
    ) {
        let mut is_first = true;
        let mut taken = Vec::with_capacity(BUNDLE);
        while self.wait(&mut jobs, &mut stored).await {
            // one that waited since before the start may also come later, behind what is new
            if !jobs.is_empty() && (is_first || backlog.has_changed().unwrap_or(false)) {
                is_first = false;
                if *backlog.borrow_and_update() {
                    self.replay(&mut jobs, &mut stored, &mut pace).await;
                }
            }
            taken.extend(jobs.waiting(BUNDLE));
            // while nothing waits behind it, a bundle costs less here than what it costs to wake others for it
            let keeps_up = jobs.is_empty();
            self.begin(&mut taken, &mut stored, keeps_up).await;
        }
        self.in_flight.jobs_ended();
    }

    /// Waits for a job or a stored push; `false` once no job will come any more.
    async fn wait(&self, jobs: &mut Jobs, stored: &mut Option<StoredPushes>) -> bool {
        let Some(waiting) = stored else { return jobs.ready().await };
        // both cancel-safe
        let there_is_one = tokio::select! {
            there_is_one = jobs.ready() => return there_is_one,
            there_is_one = waiting.ready() => there_is_one,
        };
        if !there_is_one {
            // the store closed: only jobs come
            *stored = None;
        }
        true
    }

    /// Dispatches the backlog as fast as it is read.
    async fn replay(&mut self, jobs: &mut Jobs, stored: &mut Option<StoredPushes>, pace: &mut Pace) {
        pace.begin();
        let mut old = true;
        while old && let Some(mut some) = jobs.some_within(BUNDLE, pace.bytes()).await {
            old = self.begin(&mut some, stored, true).await.is_none_or(|oldest| pace.covers(oldest));
            pace.follow().await;
        }
        pace.end();
    }

    /// Gives the jobs to the lanes; waits while one of them is full. `at_once`: a lane with nothing before them works them off
    /// here. Stored pushes that wait come between them by their ids, which are given as pushes come. When the oldest of the jobs
    /// was accepted (ms).
    async fn begin(&mut self, jobs: &mut Vec<Job>, stored: &mut Option<StoredPushes>, at_once: bool) -> Option<u64> {
        let oldest = self.place_all(jobs, stored);
        for (lane, ready) in self.lanes.iter().zip(&mut self.ready).filter(|(_, ready)| !ready.is_empty()) {
            lane.give(ready, at_once).await;
        }
        oldest
    }

    /// Makes jobs, and stored pushes that wait, the work of their lanes.
    fn place_all(&mut self, jobs: &mut Vec<Job>, stored: &mut Option<StoredPushes>) -> Option<u64> {
        let mut dropped = Dropped::default();
        let now = Instant::now();
        let mut oldest = None;
        let mut stored = stored.iter_mut().flat_map(|stored| stored.waiting(BUNDLE)).peekable();
        for job in jobs.drain(..) {
            if stored.peek().is_some()
                && let Some(id) = record::peek(&job.record).map(|peek| peek.id)
            {
                while let Some(earlier) = stored.next_if(|stored| stored.push.id < id) {
                    self.add_stored(earlier);
                }
            }
            oldest = oldest.into_iter().chain(self.place(job, now, &mut dropped)).min();
        }
        stored.for_each(|stored| self.add_stored(stored));
        dropped.tell();
        oldest
    }

    /// Makes a job the work of its lane. When it was accepted (ms); `None`: it is dropped.
    fn place(&mut self, job: Job, now: Instant, dropped: &mut Dropped) -> Option<u64> {
        if job.attempts > self.max_attempts {
            dropped.attempts(job, &self.metrics);
            return None;
        }
        let peeked = record::peek(&job.record);
        if let Some(peek) = peeked.filter(|peek| dropped.is_over(peek.deadline)) {
            self.metrics.traces.dropped(peek.id, DropReason::Expired, 1);
            dropped.expired(job, &self.metrics);
            return None;
        }
        let lane = peeked.filter(|peek| !peek.is_stored).and_then(|peek| self.only_lane(peek.selection));
        let peeked = peeked.map(|peek| self.look_at(&peek));
        let (Some(lane), Some(PeekedPush { id, copy_id, is_routed })) = (lane, peeked) else {
            return self.decode(job, peeked, now, dropped);
        };
        tracing::trace!(%id, attempts = job.attempts, "a push is taken from the queue");
        let record = job.record.clone();
        if let Some(number) = self.begin_job(job, copy_id, now) {
            self.ready[lane].push(LaneWork::Record { number, record, is_routed });
        }
        Some(id.millis())
    }

    /// The lane that has all of a push; `None`: several have, or it is none.
    fn only_lane(&self, selection: PeekedSelection<'_>) -> Option<usize> {
        match selection {
            PeekedSelection::Cards(cards) => {
                let lane = self.lane(cards.first());
                cards.rest().all(|card| self.lane(card) == lane).then_some(lane)
            }
            PeekedSelection::Room(name) | PeekedSelection::App(name) => Some(self.lane(name)),
            PeekedSelection::Everyone => Some(0),
            PeekedSelection::Disconnect => None,
        }
    }

    fn look_at(&self, peek: &RecordPeek<'_>) -> PeekedPush {
        PeekedPush { id: peek.id, copy_id: copy_id(peek), is_routed: (1..=self.max_hops).contains(&peek.hops) }
    }

    /// Decodes what is not the work of one lane alone. As [`Intake::place`].
    fn decode(&mut self, job: Job, peeked: Option<PeekedPush>, now: Instant, dropped: &mut Dropped) -> Option<u64> {
        match record::decode(job.record.clone()) {
            Ok(Record::Push(push)) if dropped.is_over(push.deadline) => {
                self.metrics.traces.dropped(push.id, DropReason::Expired, 1);
                dropped.expired(job, &self.metrics);
                None
            }
            Ok(Record::Push(push)) => Some(self.begin_push(job, peeked, push, now)),
            Ok(Record::Stored(stored)) => Some(self.begin_stored(job, *stored)),
            Ok(Record::Disconnect(order)) => self.begin_disconnect(job, *order, now, dropped),
            Ok(Record::Rebalance(order)) => self.obey(job, &order, dropped),
            Ok(Record::Presence(notice)) => {
                let millis = notice.id.millis();
                // whoever hears it knows copies by the time of the change
                (self.orders.presence)(*notice);
                job.finish();
                Some(millis)
            }
            Err(error) => {
                dropped.undecodable(job, &error, &self.metrics);
                None
            }
        }
    }

    fn begin_push(&mut self, job: Job, peeked: Option<PeekedPush>, mut push: Push, now: Instant) -> u64 {
        tracing::trace!(id = %push.id, attempts = job.attempts, "a push is taken from the queue");
        let millis = push.id.millis();
        let PeekedPush { copy_id, is_routed, .. } =
            peeked.unwrap_or(PeekedPush { id: push.id, copy_id: push.id, is_routed: false });
        // admission did so already; a record of another origin must not deliver twice either
        push.target.name_each_once();
        let record = job.record.clone();
        if let Some(number) = self.begin_job(job, copy_id, now) {
            self.add(push, number, is_routed, record);
        }
        millis
    }

    /// The store has it: once its parts are on their way the job is done, and a copy is known by its place.
    fn begin_stored(&mut self, job: Job, stored: StoredPush) -> u64 {
        let millis = stored.push.id.millis();
        self.add_stored(stored);
        job.finish();
        millis
    }

    fn begin_disconnect(&mut self, job: Job, order: Disconnect, now: Instant, dropped: &mut Dropped) -> Option<u64> {
        tracing::trace!(id = %order.id, attempts = job.attempts, "a disconnect is taken from the queue");
        let at = order.at;
        // before its clients are told, who may come back with the same token; and however late it is, for what was issued
        // since it was accepted stays good
        if order.revoke
            && let ClientSelector::Subject(subject) = &order.selector
        {
            (self.orders.revoke)(subject.clone(), order.second());
        }
        if order.age(SystemTime::now()) > Disconnect::LIFE {
            dropped.void(job, &self.metrics);
            return None;
        }
        if let Some(number) = self.begin_job(job, order.id, now) {
            // behind the pushes of its address that came before it
            let lane = match &order.selector {
                ClientSelector::Card(name) | ClientSelector::App(name) => self.lane(name.as_bytes()),
                ClientSelector::Client(_) | ClientSelector::Subject(_) => 0,
            };
            let run = DisconnectRun::new(order, number, self.completions.clone());
            self.ready[lane].push(LaneWork::Disconnect(DisconnectPart::new(run)));
        }
        Some(at)
    }

    /// Tells a rebalance, which says how many clients stay: a copy of it does no harm.
    fn obey(&self, job: Job, order: &Rebalance, dropped: &mut Dropped) -> Option<u64> {
        if order.age(SystemTime::now()) > Rebalance::LIFE {
            dropped.void(job, &self.metrics);
            return None;
        }
        (self.orders.rebalance)(order);
        job.finish();
        Some(order.at)
    }

    /// The number under which the job is in flight; `None`: it is a copy, and dealt with.
    fn begin_job(&self, job: Job, id: PushId, now: Instant) -> Option<u64> {
        match self.in_flight.begin(job, id, now) {
            Begun::InFlight(number) => return Some(number),
            Begun::Joined => count_drop(DropReason::Copy, &self.metrics),
            // finished now, it would be lost with the one in flight, should that be put back
            Begun::CopyOfInFlight(job) => {
                count_drop(DropReason::Copy, &self.metrics);
                job.leave();
            }
            Begun::CopyOfFinished(job) => drop_job(job, DropReason::Copy, &self.metrics),
        }
        None
    }

    /// Makes of a push to several cards a part for each lane that has some of them.
    fn add(&mut self, push: Push, number: u64, is_routed: bool, record: Bytes) {
        let lane = match push.target.selection() {
            Selection::Room(name) | Selection::App(name) => self.lane(name.as_bytes()),
            Selection::Cards(_) => {
                let fanout = Fanout::for_node(push, number, is_routed, self.completions.clone());
                return self.add_parts(&fanout);
            }
            Selection::Everyone | Selection::Nobody => 0,
        };
        // written in a way that a look at it did not understand
        self.ready[lane].push(LaneWork::Record { number, record, is_routed });
    }

    fn add_stored(&mut self, stored: StoredPush) {
        tracing::trace!(id = %stored.push.id, "a push is taken from the store");
        self.metrics.traces.stored(&stored);
        let fanout = Fanout::stored(stored);
        match fanout.push().target.selection() {
            Selection::Room(room) => {
                let lane = self.lane(room.as_bytes());
                let recipients = Recipients::Address(Address::Room(room.clone()));
                self.ready[lane].push(LaneWork::Part(Part::new(fanout, recipients)));
            }
            _ => self.add_parts(&fanout),
        }
    }

    fn add_parts(&mut self, fanout: &Arc<Fanout>) {
        let mut by_lane = vec![Vec::new(); self.lanes.len()];
        for card in &fanout.push().target.cards {
            by_lane[self.lane(card.as_bytes())].push(Address::Card(card.clone()));
        }
        for (ready, cards) in self.ready.iter_mut().zip(by_lane).filter(|(_, cards)| !cards.is_empty()) {
            ready.push(LaneWork::Part(Part::new(Arc::clone(fanout), Recipients::Addresses(cards))));
        }
    }

    fn lane(&self, name: &[u8]) -> usize {
        (FixedState::default().hash_one(name) % self.lanes.len() as u64) as usize
    }
}

/// What a look at a push's record says.
#[derive(Clone, Copy)]
struct PeekedPush {
    id: PushId,
    /// By which copies of it are known.
    copy_id: PushId,
    /// It was sent to this node because its clients are here, and may be sent on.
    is_routed: bool,
}

/// By which copies of a push are known. One that another node sent on is no copy of what came here at first.
fn copy_id(peek: &RecordPeek<'_>) -> PushId {
    PushId::from_bytes((u128::from_be_bytes(peek.id.to_bytes()) ^ u128::from(peek.sent_on)).to_be_bytes())
}
