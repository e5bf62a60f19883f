//! From job to outcome: decoded, split by card over the lanes, offered through the hub, finished.

mod hold;
mod intake;
mod lane;
mod tickets;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{config, hub::Hub, lifecycle::Tasks, queue::Jobs, telemetry::Metrics};

use intake::Intake;
use tickets::Tickets;

/// The running processors.
pub struct Dispatch {
    /// Ends a replay hold.
    draining: CancellationToken,
    /// Gives everything up.
    abort: CancellationToken,
    /// Every job is finished or requeued.
    settled: oneshot::Receiver<()>,
}

impl Dispatch {
    /// Starts `[queue] processors` lanes on `jobs`. With `hold`, where there is a `backlog` when the first job comes, it and
    /// what follows wait that long (touched meanwhile), so that clients can rejoin after a restart.
    pub fn start(
        config: &config::Queue,
        jobs: Jobs,
        hub: Hub,
        hold: Option<Duration>,
        backlog: watch::Receiver<bool>,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (draining, abort) = (CancellationToken::new(), tasks.cancelled().child_token());
        let (outcomes, told) = mpsc::unbounded_channel();
        let tickets = Tickets::new(config, metrics);
        let lanes = config.processors.max(1);
        // what waits in all lanes together is bounded by the jobs in hand
        let waiting = config.max_in_flight.div_ceil(lanes).max(1);
        let lanes = (0..lanes).map(|number| {
            let (lane, parts) = mpsc::channel(waiting);
            let work = lane::run(parts, hub.clone(), Arc::clone(metrics), config.job_timeout);
            let abort = abort.clone();
            tasks.spawn_until_done(format!("lane {number}"), async move {
                // what is dropped in the middle counts as lost and is requeued
                abort.run_until_cancelled(work).await;
            });
            lane
        });
        let intake = Intake::new(config, lanes.collect(), outcomes, Arc::clone(&tickets), metrics);
        tasks.spawn_until_done("dispatch intake", {
            let (draining, abort) = (draining.clone(), abort.clone());
            async move {
                // jobs that were taken and not yet dispatched are requeued by their drop
                abort.run_until_cancelled(intake.run(jobs, hold, backlog, draining)).await;
            }
        });
        let (done, settled) = oneshot::channel();
        tasks.spawn_until_done("dispatch outcomes", {
            let abort = abort.clone();
            async move {
                abort.run_until_cancelled(tickets.settle(told)).await;
                tickets.give_back();
                let _ = done.send(());
            }
        });
        Self { draining, abort, settled }
    }

    /// Ends a replay hold: what it holds is requeued. Then waits until the jobs' end was reached and each job in hand is
    /// finished or requeued, `within` at most.
    pub async fn drain(self, within: Duration) {
        let Self { draining, abort, mut settled } = self;
        draining.cancel();
        if timeout(within, &mut settled).await.is_err() {
            tracing::warn!("jobs are still in hand at the end of the time for a stop; they are requeued");
            abort.cancel();
            // nothing is waited for on that way; the bound is only against a starved runtime
            let _ = timeout(Duration::from_secs(1), settled).await;
        }
    }
}
