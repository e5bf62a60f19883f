//! Closing all connections at a pace.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{connection::Socket, worker::Worker};
use crate::{hub::Client, wire::close::Close};

/// How often a pace is kept.
const STEP: Duration = Duration::from_millis(20);

/// Connections closed without a pace before others get their turn.
const AT_ONCE: usize = 256;

/// A drain under way: each permit closes one connection, on whichever worker.
#[derive(Clone)]
pub(super) struct Plan {
    permits: Arc<Semaphore>,
    /// One for each worker that has told all its clients.
    told: Arc<Semaphore>,
    jitter: Duration,
}

impl Plan {
    pub(super) fn new(jitter: Duration) -> Self {
        let (permits, told) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        Self { permits, told, jitter }
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
        let (start, mut given) = (Instant::now(), 0);
        loop {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as usize + 1;
            self.permits.add_permits(due - given);
            given = due;
            sleep(STEP).await;
        }
    }
}

/// Waits for a plan, then closes this worker's connections by it.
pub(super) async fn obey(worker: Rc<Worker>) {
    let mut plans = worker.house.plan.subscribe();
    let plan = match plans.wait_for(Option::is_some).await {
        Ok(plan) => (*plan).clone(),
        Err(_) => return,
    };
    let Some(plan) = plan else { return };
    worker.shard.send_away();
    let mut told = false;
    // handshakes that were let in just before the plan came may still open connections: look again until all are gone
    loop {
        for (number, key) in worker.shard.keys().into_iter().enumerate() {
            let Some(client) = worker.shard.client(key) else { continue };
            if client.is_ending() {
                worker.heartbeat.hurry(&client);
                continue;
            }
            match plan.permits.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return,
            }
            close(&worker, &client, plan.jitter);
            if number % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        if !std::mem::replace(&mut told, true) {
            plan.told.add_permits(1);
        }
        sleep(STEP).await;
    }
}

fn close(worker: &Worker, client: &Rc<Client<Socket>>, jitter: Duration) {
    let delay = jitter.mul_f64(fastrand::f64());
    if let Some(frame) = client.dialect().drain(delay) {
        worker.shard.answer(client, frame);
    }
    worker.shard.end(client, &Close::Drain.into());
}
