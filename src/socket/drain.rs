//! Sending all clients away: each is told when its connection will be closed, and is served until then.

use std::{collections::BTreeMap, hash::BuildHasher, rc::Rc, sync::Arc, time::Duration};

use foldhash::fast::RandomState;

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{client_socket::ClientSocket, worker::Worker};
use crate::{
    hub::{Client, ClientKey},
    wire::close::Close,
};

/// How often a pace is kept, and how soon it is seen that clients are gone.
pub(super) const STEP: Duration = Duration::from_millis(20);

/// Clients told, or closed, before others get their turn.
pub(super) const AT_ONCE: usize = 256;

/// Clients leave no closer together than this on average, unless `[drain] reconnect_jitter` is shorter for all of them.
const PER_CLIENT: Duration = Duration::from_millis(1);

/// Over which time `clients` that are sent away leave: the fewer they are the sooner, `most` at most.
pub(super) fn jitter(clients: usize, most: Duration) -> Duration {
    most.min(PER_CLIENT.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX)))
}

/// A drain under way: each permit sends one client away, on whichever worker.
#[derive(Clone)]
pub(super) struct DrainPlan {
    permits: Arc<Semaphore>,
    /// One for each worker that has closed all its clients.
    closed: Arc<Semaphore>,
    /// Each client is served for so long at least once it was told.
    least: Duration,
    jitter: Duration,
    /// Makes of a card when its clients leave.
    chooser: RandomState,
}

impl DrainPlan {
    pub(super) fn new(jitter: Duration) -> Self {
        Self::serving(Duration::ZERO, jitter)
    }

    /// Each client is served from `least` to `most` once it was told.
    pub(super) fn serving(least: Duration, most: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(0)),
            closed: Arc::new(Semaphore::new(0)),
            least,
            jitter: most.saturating_sub(least),
            chooser: RandomState::default(),
        }
    }

    /// Resolves once each of `workers` has closed all its clients.
    pub(super) async fn closed(&self, workers: usize) {
        let _ = self.closed.acquire_many(u32::try_from(workers).unwrap_or(u32::MAX)).await;
    }

    /// Gives `rate` permits in a second, or all at once if that is 0. Never resolves.
    pub(super) async fn pace(&self, rate: u32) {
        if rate == 0 {
            self.permits.add_permits(Semaphore::MAX_PERMITS);
            return std::future::pending().await;
        }
        let start = Instant::now();
        let mut given = 0;
        loop {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as usize + 1;
            self.permits.add_permits(due - given);
            given = due;
            sleep(STEP).await;
        }
    }
    /// How long a client may stay. Those of one card leave together: a push that came between two of them would be kept for
    /// the one and given to the other, who would have it twice.
    fn delay(&self, client: &Client<ClientSocket>) -> Duration {
        let part = match client.joined_as() {
            Some((card, _)) => self.chooser.hash_one(card) as f64 / u64::MAX as f64,
            None => fastrand::f64(),
        };
        self.least + self.jitter.mul_f64(part)
    }
}

/// Waits for a plan, then sends this worker's clients away by it. Ends only with what sends plans.
pub(super) async fn follow(worker: Rc<Worker>, mut plans: watch::Receiver<Option<DrainPlan>>) {
    let plan = match plans.wait_for(Option::is_some).await {
        Ok(plan) => (*plan).clone(),
        Err(_) => return,
    };
    let Some(plan) = plan else { return };
    worker.draining.set(true);
    worker.shard.send_away();
    worker.heartbeat.shorten_closes();
    send_away(&worker, &plan).await;
    plan.closed.add_permits(1);
    // handshakes that were let in just before the plan came may still open connections
    loop {
        worker.opened_while_draining.notified().await;
        send_away(&worker, &plan).await;
    }
}

/// Tells each client as permits come, and closes it when its delay is over. Returns when all are closed or have gone by
/// themselves.
async fn send_away(worker: &Worker, plan: &DrainPlan) {
    let mut untold = worker.shard.keys().into_iter().enumerate();
    let mut next = next_open(worker, &mut untold);
    let mut told = BTreeMap::new();
    loop {
        // from the last one on, so that nobody waits for the time of those that are gone
        while let Some(last) = told.last_entry().filter(|last| worker.shard.client(*last.get()).is_none()) {
            last.remove();
        }
        if next.is_none() && told.is_empty() {
            return;
        }
        let first_due = told.first_key_value().map(|((due, _), _)| *due);
        let look_at = first_due.map_or_else(Instant::now, |due: Instant| due.min(Instant::now() + STEP));
        tokio::select! {
            biased;
            // an error: the semaphore is never closed
            Ok(permit) = plan.permits.acquire(), if next.is_some() => {
                permit.forget();
                if let Some((number, key)) = next {
                    if let Some(due) = tell(worker, plan, key) {
                        told.insert((due, number), key);
                    }
                    if number % AT_ONCE == AT_ONCE - 1 {
                        tokio::task::yield_now().await;
                    }
                }
                next = next_open(worker, &mut untold);
            }
            () = sleep_until(look_at), if first_due.is_some() => close_due(worker, &mut told).await,
        }
    }
}

/// The next client that has not ended yet; those that have get no more than the usual time for it.
fn next_open(worker: &Worker, keys: &mut impl Iterator<Item = (usize, ClientKey)>) -> Option<(usize, ClientKey)> {
    keys.find(|(_, key)| {
        let Some(client) = worker.shard.client(*key) else { return false };
        if client.is_ending() {
            worker.heartbeat.shorten_close(&client);
        }
        !client.is_ending()
    })
}

/// Tells a client that it has to leave; when it will be closed. `None`: it is gone, or was closed at once.
pub(super) fn tell(worker: &Worker, plan: &DrainPlan, key: ClientKey) -> Option<Instant> {
    let client = worker.shard.client(key)?;
    let delay = plan.delay(&client);
    if let Some(frame) = client.dialect().drain(delay) {
        worker.shard.answer(&client, frame);
        client.wake();
    }
    if delay < Duration::from_millis(1) {
        close(worker, &client);
        return None;
    }
    Some(Instant::now() + delay)
}

async fn close_due(worker: &Worker, told: &mut BTreeMap<(Instant, usize), ClientKey>) {
    let now = Instant::now();
    let mut closed = 0;
    while let Some(first) = told.first_entry().filter(|first| first.key().0 <= now) {
        if let Some(client) = worker.shard.client(first.remove()) {
            close(worker, &client);
            closed += 1;
        }
        if closed == AT_ONCE {
            closed = 0;
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn close(worker: &Worker, client: &Rc<Client<ClientSocket>>) {
    if client.is_ending() {
        worker.heartbeat.shorten_close(client);
    } else {
        worker.shard.end(client, &Close::Drain.into());
    }
}
