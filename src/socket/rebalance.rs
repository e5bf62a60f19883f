//! Sending some clients away while the node serves on: as many as it has beyond those that it is to keep.
//!
//! They are told as by a drain, served until their time comes, and closed with the same code; one order is carried out after the
//! other, and of those that wait the newest is the one that counts.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};

use super::{
    drain::{self, AT_ONCE, DrainPlan, STEP},
    worker::Worker,
};
use crate::{
    config,
    hub::{ClientKey, Hub},
};

/// Tells the node how many clients it keeps; a cheap clone.
#[derive(Clone)]
pub struct Rebalancer(watch::Sender<Option<RebalanceTarget>>);

/// How many clients stay, and at what pace the others go.
#[derive(Clone, Copy)]
struct RebalanceTarget {
    keep: usize,
    /// In a second; 0: all at once.
    rate: u32,
    jitter: Duration,
}

/// Some clients being sent away: each permit sends one, on whichever worker.
#[derive(Clone)]
pub(super) struct RebalancePlan {
    drain: DrainPlan,
    /// Closed once no more are sent.
    permits: Arc<Semaphore>,
    /// Permits that were taken.
    taken: Arc<AtomicUsize>,
    /// Clients of them that are gone.
    gone: Arc<AtomicUsize>,
    /// One for each worker that is done.
    done: Arc<Semaphore>,
}

impl Rebalancer {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Sends clients away until there are `keep`, at the pace of `drain`. It takes the place of what was told before and was not
    /// begun yet.
    pub fn keep(&self, keep: u64, drain: &config::DrainConfig) {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        self.0.send_replace(Some(RebalanceTarget { keep, rate: drain.rate, jitter: drain.reconnect_jitter }));
    }

    /// Carries out what it is told, one after the other, through the workers that follow `plans`. Ends with the last of its clones
    /// but this.
    pub(super) async fn run(self, plans: watch::Sender<Option<RebalancePlan>>, hub: Hub) {
        let mut targets = self.0.subscribe();
        drop(self);
        while targets.changed().await.is_ok() {
            let Some(target) = *targets.borrow_and_update() else { continue };
            let most = hub.census().connections.saturating_sub(target.keep);
            if most == 0 {
                tracing::debug!(keep = target.keep, "a rebalance finds no client too many");
                continue;
            }
            tracing::info!(clients = most, keep = target.keep, "clients are sent to other nodes");
            let began = Instant::now();
            let plan = RebalancePlan::new(target.jitter);
            plans.send_replace(Some(plan.clone()));
            let sent = plan.pace(target, most, &hub).await;
            let workers = u32::try_from(hub.workers()).unwrap_or(u32::MAX);
            // an error: it is never closed
            let _ = plan.done.acquire_many(workers).await;
            tracing::info!(clients = sent, took = ?began.elapsed(), "the rebalance is over");
        }
    }
}

impl RebalancePlan {
    /// Nothing hurries: each client has half of `jitter` at least to be elsewhere before it is closed here.
    fn new(jitter: Duration) -> Self {
        Self {
            drain: DrainPlan::serving(jitter / 2, jitter),
            permits: Arc::new(Semaphore::new(0)),
            taken: Arc::default(),
            gone: Arc::default(),
            done: Arc::new(Semaphore::new(0)),
        }
    }

    /// Gives permits until the node will have no more clients than it is to keep once all that were told are gone, `most` of them at
    /// most; how many were sent. Clients that leave by themselves meanwhile spare others.
    async fn pace(&self, target: RebalanceTarget, most: usize, hub: &Hub) -> usize {
        let start = Instant::now();
        let mut given = 0;
        loop {
            let leaving = given - self.gone.load(Ordering::Relaxed).min(given);
            let too_many = hub.census().connections.saturating_sub(target.keep.saturating_add(leaving));
            let due = match target.rate {
                0 => most,
                rate => most.min((start.elapsed().as_secs_f64() * f64::from(rate)) as usize + 1),
            };
            let more = too_many.min(due.saturating_sub(given));
            self.permits.add_permits(more);
            given += more;
            if given == most || too_many == more {
                break;
            }
            sleep(STEP).await;
        }
        // What nobody takes is left by workers without clients. The semaphore's own count will not do: a permit that is on its way
        // to a worker which is about to do something else comes back.
        while self.taken.load(Ordering::Relaxed) < given && self.done.available_permits() < hub.workers() {
            sleep(STEP).await;
        }
        self.permits.close();
        self.taken.load(Ordering::Relaxed)
    }
}

/// Follows each plan for this worker's clients. Ends only with what sends plans.
pub(super) async fn follow(worker: Rc<Worker>, mut plans: watch::Receiver<Option<RebalancePlan>>) {
    while plans.changed().await.is_ok() {
        let plan = plans.borrow_and_update().clone();
        if let Some(plan) = plan {
            LeavingClients::new(&worker, &plan).send_away().await;
            plan.done.add_permits(1);
        }
    }
}

/// The clients of a worker that a plan sends away.
struct LeavingClients<'a> {
    worker: &'a Worker,
    plan: &'a RebalancePlan,
    /// By when they will be closed; the number tells those of one moment apart.
    told: BTreeMap<(Instant, usize), ClientKey>,
    /// Those whose close is under way.
    closing: Vec<ClientKey>,
}

impl<'a> LeavingClients<'a> {
    fn new(worker: &'a Worker, plan: &'a RebalancePlan) -> Self {
        Self { worker, plan, told: BTreeMap::new(), closing: Vec::new() }
    }

    /// Returns when no more are to be sent, and all that were told are gone; or when the node itself leaves.
    async fn send_away(mut self) {
        let mut keys = self.worker.shard.keys().into_iter().enumerate();
        let mut next = self.next(&mut keys);
        loop {
            let is_waiting = !self.told.is_empty() || !self.closing.is_empty();
            if self.worker.draining.get() || (next.is_none() && !is_waiting) {
                return;
            }
            tokio::select! {
                permit = self.plan.permits.acquire(), if next.is_some() => match permit {
                    Ok(permit) => {
                        permit.forget();
                        self.plan.taken.fetch_add(1, Ordering::Relaxed);
                        if let Some((number, key)) = next {
                            self.tell(number, key);
                            if number % AT_ONCE == AT_ONCE - 1 {
                                tokio::task::yield_now().await;
                            }
                        }
                        next = self.next(&mut keys);
                    }
                    // no more are sent
                    Err(_) => next = None,
                },
                () = sleep(STEP), if is_waiting => {
                    self.close_due().await;
                    self.forget_gone();
                }
            }
        }
    }

    /// The next client that goes on.
    fn next(&self, keys: &mut impl Iterator<Item = (usize, ClientKey)>) -> Option<(usize, ClientKey)> {
        keys.find(|(_, key)| self.worker.shard.client(*key).is_some_and(|client| !client.is_ending()))
    }

    fn tell(&mut self, number: usize, key: ClientKey) {
        match drain::tell(self.worker, &self.plan.drain, key) {
            Some(due) => {
                self.told.insert((due, number), key);
            }
            // closed at once, or gone
            None => self.closing.push(key),
        }
        self.worker.metrics.rebalanced.inc();
    }

    async fn close_due(&mut self) {
        let now = Instant::now();
        let mut closed = 0;
        while let Some(first) = self.told.first_entry().filter(|first| first.key().0 <= now) {
            let key = first.remove();
            if let Some(client) = self.worker.shard.client(key) {
                drain::close(self.worker, &client);
            }
            self.closing.push(key);
            closed += 1;
            if closed % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn forget_gone(&mut self) {
        let before = self.told.len() + self.closing.len();
        let shard = &self.worker.shard;
        self.told.retain(|_, key| shard.client(*key).is_some());
        self.closing.retain(|key| shard.client(*key).is_some());
        let gone = before - self.told.len() - self.closing.len();
        self.plan.gone.fetch_add(gone, Ordering::Relaxed);
    }
}
