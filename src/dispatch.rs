//! From job to outcome: decoded, split by card over the lanes, offered through the hub, finished.

mod in_flight;
mod intake;
mod lane;
mod pace;
mod window;

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    bundles, config,
    hub::Hub,
    lifecycle::{Deadline, Service, Tasks},
    queue::Jobs,
    telemetry::Metrics,
};

use in_flight::InFlight;
use intake::Intake;
use pace::Pace;

/// What is taken from the queue, or by a lane, at once: what it makes for the next one reaches that together.
const BUNDLE: usize = 64;
/// What the last requeues get when nothing is left of the time for a stop.
const REQUEUE: Duration = Duration::from_secs(1);

/// The running processors.
pub struct Dispatch {
    /// Ends by itself once the jobs' end was reached and each job in flight is finished or requeued; told to stop, it gives
    /// them all back.
    service: Service,
}

impl Dispatch {
    /// Starts `[queue] processors` lanes on `jobs`. Where there was a `backlog` when the first job comes, it is offered at a
    /// pace that outboxes can follow.
    pub fn start(
        config: &config::Queue,
        jobs: Jobs,
        hub: Hub,
        backlog: watch::Receiver<bool>,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let service = tasks.service();
        let stopping = service.stopping().clone();
        let (completions, completed) = mpsc::unbounded_channel();
        let in_flight = InFlight::new(config, metrics);
        let lanes = config.processors.max(1);
        // what waits in all lanes together is bounded by the jobs in flight
        let waiting = config.max_in_flight.div_ceil(lanes).max(1);
        let lanes = (0..lanes).map(|number| {
            let (lane, parts) = bundles::channel(waiting);
            let work = lane::run(parts, hub.clone(), Arc::clone(metrics), config.job_timeout);
            // what is dropped in the middle counts as lost and is requeued
            service.spawn_until_done(format!("lane {number}"), until_stopped(stopping.clone(), work));
            lane
        });
        let intake = Intake::new(config, lanes.collect(), completions, Arc::clone(&in_flight), metrics);
        let pace = Pace::new(config, hub, Arc::clone(&in_flight));
        // jobs that were taken and not yet dispatched are requeued by their drop
        service.spawn_until_done("dispatch intake", until_stopped(stopping.clone(), intake.run(jobs, backlog, pace)));
        service.spawn_until_done("dispatch completions", async move {
            stopping.run_until_cancelled(in_flight.run(completed)).await;
            in_flight.put_back_all();
        });
        Self { service }
    }

    /// Waits until the jobs' end was reached and each job in flight is finished or requeued; at the deadline they all are
    /// requeued.
    pub async fn drain(self, deadline: Deadline) {
        if !self.service.ended(deadline).await {
            tracing::warn!("jobs are still in flight at the end of the time for a stop; they are requeued");
            // nothing is waited for on that way; the bound is only against a starved runtime
            self.service.stop_within(deadline.granting(REQUEUE)).await;
        }
    }
}

/// `work`, dropped when the service is told to stop.
fn until_stopped(stopping: CancellationToken, work: impl Future<Output = ()>) -> impl Future<Output = ()> {
    stopping.run_until_cancelled_owned(work).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::{
        hub::{Sink, WriteBudget},
        push::Push,
        queue::{Job, record},
        telemetry::labels::{DropReason, JobOutcome},
        wire::dialect::Dialect,
    };

    struct Nowhere;

    impl Sink for Nowhere {
        fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
    }

    #[tokio::test]
    async fn a_job_that_a_shard_does_not_take_within_job_timeout_is_requeued_once() {
        let settings = [("OXIPUSH__QUEUE__JOB_TIMEOUT".to_owned(), "1s".to_owned())];
        let config = config::load(None, settings).unwrap();
        let metrics = Arc::new(Metrics::new());
        let (tasks, _deaths) = Tasks::new();
        let hub = Hub::new(&config.hub, &config.outbox, 1, &metrics);
        // nobody runs the shard: what is sent to it stays in its inbox
        let (shard, mut inbox) = hub.claim_shard().unwrap().open::<Nowhere>();
        shard.join(&shard.open(Nowhere, Dialect::OxipushV1), "alice", "");
        let (jobs, bundles) = bundles::channel(1);
        let (_backlog, backlog) = watch::channel(false);
        let dispatch = Dispatch::start(&config.queue, Jobs::detached(bundles), hub, backlog, &tasks, &metrics);
        jobs.send(vec![Job::detached(record::encode(&Push::to("alice", "late")), 1)]).await.unwrap();
        let requeued = metrics.jobs.get_or_create_owned(&JobOutcome::Requeued);
        let expired = async {
            while requeued.get() == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), expired).await.unwrap();
        assert_eq!(metrics.jobs_in_flight.get(), 0);
        // taken after all: the job is another's by now, neither finished nor requeued again
        shard.deliver(inbox.next().await.unwrap().into(), &mut WriteBudget::none());
        drop(jobs);
        dispatch.drain(Deadline::after(Duration::from_secs(30))).await;
        let finished = metrics.jobs.get_or_create_owned(&JobOutcome::Finished);
        assert_eq!((requeued.get(), finished.get(), metrics.jobs_in_flight.get()), (1, 0, 0));
    }

    #[tokio::test]
    async fn a_copy_of_a_push_that_was_finished_reaches_nobody_and_one_that_was_given_back_does() {
        let settings = [("QUEUE__JOB_TIMEOUT", "1s"), ("QUEUE__BACKEND", "nsq"), ("NODE__ID", "a")];
        let settings = settings.map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_owned()));
        let config = config::load(None, settings).unwrap();
        let metrics = Arc::new(Metrics::new());
        let (tasks, _deaths) = Tasks::new();
        let hub = Hub::new(&config.hub, &config.outbox, 1, &metrics);
        // what is sent to the shard waits in its inbox until the test takes it
        let (shard, mut inbox) = hub.claim_shard().unwrap().open::<Nowhere>();
        shard.join(&shard.open(Nowhere, Dialect::OxipushV1), "alice", "");
        let (jobs, bundles) = bundles::channel(8);
        let (_backlog, backlog) = watch::channel(false);
        let dispatch = Dispatch::start(&config.queue, Jobs::detached(bundles), hub, backlog, &tasks, &metrics);
        let record = record::encode(&Push::to("alice", "once"));
        let hand_out = async || jobs.send(vec![Job::detached(record.clone(), 1)]).await.unwrap();
        let reaches = async |outcome: JobOutcome, count: u64| {
            let jobs = metrics.jobs.get_or_create_owned(&outcome);
            let reached = async {
                while jobs.get() < count {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("{outcome:?} is not {count}"));
        };
        // in flight, and given back after job_timeout
        hand_out().await;
        hand_out().await;
        reaches(JobOutcome::Dropped, 1).await;
        reaches(JobOutcome::Requeued, 1).await;
        drop(inbox.next().await.unwrap());
        // so it is new again; once finished, it is not
        hand_out().await;
        shard.deliver(inbox.next().await.unwrap().into(), &mut WriteBudget::none());
        reaches(JobOutcome::Finished, 1).await;
        hand_out().await;
        reaches(JobOutcome::Dropped, 2).await;
        assert_eq!(metrics.drops.get_or_create(&DropReason::Copy).get(), 2);
        drop(jobs);
        dispatch.drain(Deadline::after(Duration::from_secs(30))).await;
    }
}
