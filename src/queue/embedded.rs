//! A durable log of this node alone, on redb.
//!
//! One thread, the `writer`, owns the files: it takes every publish that waits, packs them into a few rows, appends these to
//! the `journal`, syncs once and acknowledges them all. What is not done a second later goes into the log itself, in one
//! transaction with all that was handed out, finished and requeued since; until then that lives in memory (`state`). So a
//! crash repeats jobs of up to a second, and loses none. A job that comes a second time does so only once the disk knows of
//! it: a push that kills the process reaches its last attempt. docs/adr/0004-storage.md tells why redb, 0012 why the journal.
//!
//! With `[queue] sync` as a time nothing is synced before the acknowledgement: the kernel has it in the journal, and the log
//! at the latest after that time. A killed process loses nothing, a power cut at most that.

mod chunk;
mod disk;
mod journal;
mod log;
mod place;
mod row;
mod shared;
mod state;

mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::{sync::Arc, thread, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{BackendControl, Destination, Jobs, OpenError, PublishError, Queue, QueueState, waiter::Acknowledgement};
use crate::{
    bundles, config,
    lifecycle::{Deadline, Service, Tasks},
    telemetry::Metrics,
};
use shared::{LogLimits, SharedLog};

/// Opens the log in `[data] dir`.
///
/// # Errors
/// What cannot be mended by waiting: a folder that is in use or unwritable, a damaged file.
pub async fn open(config: &config::QueueConfig, tasks: &Tasks, metrics: &Arc<Metrics>) -> Result<Queue, OpenError> {
    open_on(log::folder(config.dir.clone()), LogLimits::of(config), tasks, metrics).await
}

/// On any storage: tests have one that forgets what was not synced.
async fn open_on(
    storage: log::OpenLog,
    limits: LogLimits,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<Queue, OpenError> {
    let (jobs, bundles) = bundles::channel(limits.max_in_flight);
    let (ready, state) = watch::channel(QueueState::NotReady("it is being opened".into()));
    let shared = Arc::new(SharedLog::new(limits, jobs, ready, metrics.clone()));
    let (opened, opening) = oneshot::channel();
    let (ends, ended) = oneshot::channel::<()>();
    let thread = {
        let shared = shared.clone();
        thread::Builder::new().name("queue".into()).spawn(move || {
            // dropped at the end
            let _ends = ends;
            match writer::Writer::open(storage, shared) {
                Ok((writer, backlog)) => {
                    let _ = opened.send(Ok(backlog));
                    writer.run();
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })
    };
    let thread = thread.map_err(|error| OpenError(format!("cannot start the queue's thread: {error}")))?;
    let service = tasks.service();
    let control = Control { shared: shared.clone(), service: service.clone() };
    let backlog = match opening.await {
        Ok(opened) => opened?,
        Err(_) => return Err(OpenError("the queue's thread panicked while it opened the log".into())),
    };
    let closing = shared.clone();
    let stopping = service.stopping().clone();
    service.spawn("queue", async move {
        let mut ended = ended;
        tokio::select! {
            () = stopping.cancelled() => {
                closing.begin_close();
                let _ = ended.await;
            }
            _ = &mut ended => {}
        }
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
    Ok(Queue {
        publisher: super::Publisher::Embedded(Publisher { shared }),
        jobs: Jobs { bundles },
        control: super::Control {
            state,
            backlog: watch::channel(backlog).1,
            backend: BackendControl::Embedded(control),
        },
    })
}

/// See [`super::Publisher`].
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<SharedLog>,
}

impl Publisher {
    pub(crate) fn publish(
        &self,
        destination: Destination,
        record: Bytes,
    ) -> Result<impl Future<Output = Result<(), PublishError>> + use<>, PublishError> {
        let deadline = self.deadline();
        self.shared.admit(destination, record).map(|acknowledgement| acknowledged(acknowledgement, deadline))
    }

    pub(crate) fn publish_all(
        &self,
        records: Vec<(Destination, Bytes)>,
    ) -> Vec<Result<impl Future<Output = Result<(), PublishError>> + use<>, PublishError>> {
        let deadline = self.deadline();
        let admitted = self.shared.admit_all(records).into_iter();
        admitted.map(|one| one.map(|acknowledgement| acknowledged(acknowledgement, deadline))).collect()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.shared.limits.publish_timeout
    }
}

async fn acknowledged(acknowledgement: Acknowledgement, deadline: Instant) -> Result<(), PublishError> {
    match timeout_at(deadline, acknowledgement).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(PublishError::Unavailable("it was closed before it had the push".into())),
        Err(_) => Err(PublishError::TimedOut),
    }
}

pub(crate) struct Acker {
    shared: Arc<SharedLog>,
    seq: u64,
    attempts: u32,
    record: Bytes,
}

impl Acker {
    pub(crate) fn finish(self) {
        self.shared.finish(self.seq, self.record.len());
    }

    pub(crate) fn requeue(self, delay: Duration) {
        self.shared.requeue(self.seq, self.attempts, self.record, delay);
    }

    pub(crate) fn put_back(self, delay: Duration) {
        self.shared.requeue(self.seq, self.attempts - 1, self.record, delay);
    }

    /// A job of this process is never taken from it: nothing to tell.
    pub(crate) fn touch(&self) {}
}

pub(crate) struct Control {
    shared: Arc<SharedLog>,
    service: Service,
}

impl Control {
    pub(crate) async fn stop_jobs(&self) {
        self.shared.stop_jobs();
    }

    pub(crate) async fn close(self, deadline: Deadline) {
        if !self.service.stop_within(deadline).await {
            tracing::warn!("the queue's log was not closed in time: some jobs will come again");
        }
    }
}

impl Drop for Control {
    /// Whoever forgets to close must not leave a thread and a lock behind.
    fn drop(&mut self) {
        self.service.stop();
        // its task may be gone with the runtime
        self.shared.begin_close();
    }
}
