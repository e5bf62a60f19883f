//! A durable queue of this node alone, on the node's [`log`](crate::log).
//!
//! One thread, the `writer`, owns the log: it takes every publish that waits, writes and syncs them once, and acknowledges them
//! all. What was finished and handed out since the last write goes with them, or by itself a second later: a crash repeats
//! jobs of up to a second, and loses none. A job that comes a second time does so only once the log knows of it: a push that
//! kills the process reaches its last attempt. The state is `records`, which knows no disk; what an earlier process left is
//! read by `replay`, whatever ended it. docs/adr/0015-log.md tells why.
//!
//! With `[queue] sync` as a time nothing is synced before the acknowledgement: the kernel has it, and the disk at the latest
//! after that time. A killed process loses nothing, a power cut at most that.

mod entry;
mod inspect;
mod limits;
mod old_folder;
mod records;
mod replay;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::{sync::Arc, thread, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{
    BackendControl, Destination, Jobs, OpenError, PublishError, Queue, QueueState,
    clients_before::ClientsNote,
    replay_hold::{HoldEnd, ReplayHold, StopNote},
    waiter::Acknowledgement,
};
use crate::{
    bundles, config,
    lifecycle::{Deadline, Service, Tasks},
    log::{Disk, Folder, LogOptions},
    telemetry::Metrics,
};
pub(crate) use inspect::{Inspection, WaitingRecords};
use limits::QueueLimits;
use old_folder::refuse_old_folder;
use records::Records;
use shared::SharedRecords;
use writer::Writer;

/// The number of a log's first entry.
const FIRST: u64 = 1;

/// Opens the queue on the log in `[data] dir`.
///
/// # Errors
/// What cannot be mended by waiting: a folder that is in use, unwritable, or of an earlier version; files that are no log.
pub async fn open(config: &config::QueueConfig, tasks: &Tasks, metrics: &Arc<Metrics>) -> Result<Queue, OpenError> {
    let dir = config.dir.clone();
    let folder = move || {
        refuse_old_folder(&dir)?;
        Ok(Folder::open(&dir)?)
    };
    let options = LogOptions { segment_bytes: config.segment_bytes };
    let note = ClientsNote::in_own_folder(&config.dir);
    open_on(folder, options, QueueLimits::of(config), Some(note), tasks, metrics).await
}

/// On any disk: tests have one that forgets what was not synced. `note`: where the clients of the process before stand.
async fn open_on<D: Disk>(
    disk: impl FnOnce() -> Result<D, OpenError> + Send + 'static,
    options: LogOptions,
    limits: QueueLimits,
    note: Option<ClientsNote>,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<Queue, OpenError> {
    let (jobs, bundles) = bundles::channel(limits.max_in_flight);
    let (ready, state) = watch::channel(QueueState::NotReady("it is being opened".into()));
    let (opened, opening) = oneshot::channel();
    let (ends, ended) = oneshot::channel::<()>();
    let metrics = metrics.clone();
    let thread = thread::Builder::new().name("queue".into()).spawn(move || {
        // dropped at the end
        let _ends = ends;
        let log = disk().and_then(|disk| replay::open(disk, options, &metrics));
        match log {
            Ok((log, restored)) => {
                let backlog = restored.total.records;
                // in a folder that nobody else has any more
                let stop_note = note.map(|note| StopNote::after(note, limits.replay_hold, restored.found <= FIRST));
                let plan = stop_note.as_ref().and_then(StopNote::plan).cloned();
                if let Some(plan) = &plan {
                    tracing::info!(
                        records = backlog,
                        time = ?plan.time,
                        addresses = plan.addresses(),
                        "pushes are held for [queue] replay_hold, so that clients rejoin first"
                    );
                }
                let now = std::time::Instant::now();
                let records = Records::new(limits.clone(), restored, plan.is_some());
                let shared = Arc::new(SharedRecords::new(limits, records, jobs, ready, metrics));
                shared.unlock(shared.lock());
                let writer = Writer::new(shared.clone(), log, plan.as_ref().map(|plan| now + plan.time));
                let _ = opened.send(Ok((shared, stop_note, backlog > 0 || plan.is_some())));
                writer.run();
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    });
    let thread = thread.map_err(|error| OpenError(format!("cannot start the queue's thread: {error}")))?;
    let (shared, stop_note, backlog) = match opening.await {
        Ok(opened) => opened?,
        Err(_) => return Err(OpenError("the queue's thread panicked while it opened the log".into())),
    };
    let missing = stop_note.as_ref().and_then(StopNote::plan).and_then(|plan| plan.missing.clone());
    let hold = missing.map(|missing| ReplayHold { missing, end: HoldEnd::Embedded(HeldRecords(shared.clone())) });
    let service = tasks.service();
    let control = Control { shared: shared.clone(), service: service.clone() };
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
            notes: watch::channel(Vec::new()).1,
            backlog: watch::channel(backlog).1,
            hold,
            stop_note,
            backend: BackendControl::Embedded(control),
        },
    })
}

/// See [`super::Publisher`].
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<SharedRecords>,
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
    shared: Arc<SharedRecords>,
    number: u64,
    attempts: u32,
    record: Bytes,
}

impl Acker {
    pub(crate) fn finish(self) {
        self.shared.finish(self.number);
    }

    /// All of one queue.
    pub(crate) fn finish_all(ackers: Vec<Self>) {
        if let Some(Self { shared, .. }) = ackers.first() {
            shared.finish_all(ackers.iter().map(|acker| acker.number));
        }
    }

    pub(crate) fn requeue(self, delay: Duration) {
        self.shared.requeue(self.number, self.attempts, self.record, delay);
    }

    pub(crate) fn put_back(self, delay: Duration) {
        self.shared.requeue(self.number, self.attempts - 1, self.record, delay);
    }

    /// A job of this process is never taken from it: nothing to tell.
    pub(crate) fn touch(&self) {}
}

pub(crate) struct Control {
    shared: Arc<SharedRecords>,
    service: Service,
}

/// Records that are held after a start.
pub(crate) struct HeldRecords(Arc<SharedRecords>);

impl HeldRecords {
    pub(crate) fn are_held(&self) -> bool {
        self.0.lock().records.are_held()
    }

    pub(crate) fn release(&self) {
        self.0.end_hold();
    }
}

impl Control {
    /// Nothing is handed out yet, since clients are missing.
    pub(crate) fn is_held(&self) -> bool {
        self.shared.lock().records.are_held()
    }

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
