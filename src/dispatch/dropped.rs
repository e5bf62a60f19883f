//! What of a bundle was dropped: a line for each reason, not for each push.

use crate::{
    push::{Disconnect, unix_millis},
    queue::Job,
    telemetry::{
        Metrics,
        labels::{DropReason, JobOutcome},
    },
};

/// Counts what is dropped, and tells it at the bundle's end.
#[derive(Default)]
pub(super) struct Dropped {
    attempts: u64,
    undecodable: u64,
    void: u64,
    error: Option<String>,
    /// In ms since 1970, once a push asked for it.
    now: Option<u64>,
}

impl Dropped {
    /// A job that was handed out too often.
    pub(super) fn attempts(&mut self, job: Job, metrics: &Metrics) {
        self.attempts += 1;
        drop_job(job, DropReason::Attempts, metrics);
    }

    /// A job whose record cannot be read.
    pub(super) fn undecodable(&mut self, job: Job, error: &impl ToString, metrics: &Metrics) {
        self.undecodable += 1;
        self.error = Some(error.to_string());
        drop_job(job, DropReason::Undecodable, metrics);
    }

    /// Whether a push's time is over, for it waited too long; only such a push costs a look at the clock.
    pub(super) fn is_over(&mut self, deadline: Option<u64>) -> bool {
        let Some(deadline) = deadline else { return false };
        let now = *self.now.get_or_insert_with(unix_millis);
        deadline <= now
    }

    /// A push whose time is over. That is what its caller asked for: no line tells of it.
    pub(super) fn expired(&mut self, job: Job, metrics: &Metrics) {
        drop_job(job, DropReason::Expired, metrics);
    }

    /// A disconnect, or a rebalance, that is older than its life.
    pub(super) fn void(&mut self, job: Job, metrics: &Metrics) {
        self.void += 1;
        drop_job(job, DropReason::Void, metrics);
    }

    pub(super) fn tell(self) {
        let Self { attempts, undecodable, void, error, now: _ } = self;
        if attempts > 0 {
            tracing::error!(
                pushes = attempts,
                "handed out more often than [queue] max_attempts without success: dropped"
            );
        }
        if void > 0 {
            let life = Disconnect::LIFE;
            tracing::warn!(
                orders = void,
                ?life,
                "disconnects or rebalances came too late: void; did the queue wait, are the clocks right?"
            );
        }
        if let Some(error) = error {
            tracing::error!(records = undecodable, error, "records cannot be read: dropped");
        }
    }
}

/// Finishes a job of which nobody gets anything.
pub(super) fn drop_job(job: Job, reason: DropReason, metrics: &Metrics) {
    count_drop(reason, metrics);
    job.finish();
}

pub(super) fn count_drop(reason: DropReason, metrics: &Metrics) {
    metrics.drops.get_or_create(&reason).inc();
    metrics.jobs.get_or_create(&JobOutcome::Dropped).inc();
}
