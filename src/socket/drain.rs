//! Closing all connections at a pace.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};

use super::{client_socket::ClientSocket, worker::Worker};
use crate::{hub::Client, wire::close::Close};

/// How often a pace is kept.
const STEP: Duration = Duration::from_millis(20);

/// Connections closed without a pace before others get their turn.
const AT_ONCE: usize = 256;

/// A drain under way: each permit closes one connection, on whichever worker.
#[derive(Clone)]
pub(super) struct DrainPlan {
    permits: Arc<Semaphore>,
    /// One for each worker that has told all its clients.
    told: Arc<Semaphore>,
    jitter: Duration,
}

impl DrainPlan {
    pub(super) fn new(jitter: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), told: Arc::new(Semaphore::new(0)), jitter }
    }

    /// Resolves once each of `workers` has told all its clients.
    pub(super) async fn told(&self, workers: usize) {
        let _ = self.told.acquire_many(u32::try_from(workers).unwrap_or(u32::MAX)).await;
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
}

/// Waits for a plan, then closes this worker's connections by it. Ends only with what sends plans.
pub(super) async fn follow(worker: Rc<Worker>, mut plans: watch::Receiver<Option<DrainPlan>>) {
    let plan = match plans.wait_for(Option::is_some).await {
        Ok(plan) => (*plan).clone(),
        Err(_) => return,
    };
    let Some(plan) = plan else { return };
    worker.draining.set(true);
    worker.shard.send_away();
    worker.heartbeat.shorten_closes();
    close_all(&worker, &plan).await;
    plan.told.add_permits(1);
    // handshakes that were let in just before the plan came may still open connections
    loop {
        worker.opened_while_draining.notified().await;
        close_all(&worker, &plan).await;
    }
}

async fn close_all(worker: &Worker, plan: &DrainPlan) {
    for (number, key) in worker.shard.keys().into_iter().enumerate() {
        let Some(client) = worker.shard.client(key) else { continue };
        if client.is_ending() {
            worker.heartbeat.shorten_close(&client);
            continue;
        }
        // an error: the semaphore is never closed
        let Ok(permit) = plan.permits.acquire().await else { return };
        permit.forget();
        close(worker, &client, plan.jitter);
        if number % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
}

fn close(worker: &Worker, client: &Rc<Client<ClientSocket>>, jitter: Duration) {
    let delay = jitter.mul_f64(fastrand::f64());
    if let Some(frame) = client.dialect().drain(delay) {
        worker.shard.answer(client, frame);
    }
    worker.shard.end(client, &Close::Drain.into());
}
