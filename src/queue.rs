//! The seam that carries records from ingress to dispatch: published for good, then handed out as jobs.
//!
//! Two backends, [`embedded`] and [`nsq`], pass the same contract (tests/contract): a publish resolves once the record is
//! held for good; jobs come one by one with an attempt count and are finished, requeued with a delay, or touched; what is
//! not finished comes again, in this process or the next. Each is opened in its own way, by [`embedded::open`] or [`nsq::open`],
//! and is a [`Queue`] from then on.

mod clients_before;
pub(crate) mod embedded;
pub(crate) mod nsq;
mod replay_hold;
mod waiter;

use std::{iter, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::Either;
use tokio::sync::watch;

use crate::{
    bundles::{self, Bundles},
    lifecycle::Deadline,
    log,
    push::AddressCounts,
};

// its users know it by this path too
pub(crate) use crate::record;
pub use replay_hold::ReplayHold;

use clients_before::SentAwayClients;
use replay_hold::StopNote;

/// An open queue; it is usable before it is [`QueueState::Ready`].
pub struct Queue {
    /// Where ingress publishes.
    pub publisher: Publisher,
    /// Where dispatch takes jobs.
    pub jobs: Jobs,
    /// Stops and closes it.
    pub control: Control,
}

/// Whether the queue can be used, with the reason when it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueState {
    /// Publishes and hand-outs work.
    Ready,
    /// The reason, for `/readyz` and the log.
    NotReady(String),
}

/// Why a queue cannot be opened, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

impl From<log::LogOpenError> for OpenError {
    fn from(error: log::LogOpenError) -> Self {
        Self(error.to_string())
    }
}

/// Publishes records; a cheap clone for each ingress.
#[derive(Clone)]
pub enum Publisher {
    /// To the embedded log.
    Embedded(embedded::Publisher),
    /// To an nsqd.
    Nsq(nsq::Publisher),
}

impl Publisher {
    /// Resolves once the queue holds `record` for good. It is on its way when this returns: cancelling the wait does not take it
    /// back.
    ///
    /// # Errors
    /// [`PublishError`]; after `Unavailable` or `TimedOut` the record may still arrive.
    pub fn publish(
        &self,
        destination: Destination,
        record: Bytes,
    ) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        let admitted = match self {
            Self::Embedded(publisher) => publisher.publish(destination, record).map(Either::Left),
            Self::Nsq(publisher) => publisher.publish(destination, record).map(Either::Right),
        };
        async move { admitted?.await }
    }

    /// As [`Publisher::publish`] for each of `records`, in order. They are on their way when this returns, as one where the
    /// backend can: none leaves before the others came. What is refused at once is an error at once.
    pub fn publish_all(
        &self,
        records: Vec<(Destination, Bytes)>,
    ) -> Vec<Result<impl Future<Output = Result<(), PublishError>> + Send + use<>, PublishError>> {
        match self {
            Self::Embedded(publisher) => {
                publisher.publish_all(records).into_iter().map(|one| one.map(Either::Left)).collect()
            }
            Self::Nsq(publisher) => records
                .into_iter()
                .map(|(destination, record)| publisher.publish(destination, record).map(Either::Right))
                .collect(),
        }
    }
}

/// Who takes a record from the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Every node, each for its own clients.
    Live,
    /// The node of this id alone. nsq only.
    Node(Arc<str>),
    /// The back end: events, in its own topic. nsq only.
    Events,
}

/// Why a record was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// `[queue] max_publishes` wait already, or the log is full: try again later (429).
    #[error("{0}")]
    Full(&'static str),
    /// The backend takes no record of this size (413).
    #[error("the record has {bytes} bytes; the queue takes at most {limit}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The backend's bound.
        limit: usize,
    },
    /// The backend is away or stopping (503).
    #[error("the queue is unavailable: {0}")]
    Unavailable(String),
    /// No acknowledgement within `[queue] publish_timeout` (503).
    #[error("the queue did not acknowledge within publish_timeout")]
    TimedOut,
}

/// Jobs in the order in which the backend hands them out.
pub struct Jobs {
    pub(crate) bundles: Bundles<Job>,
}

impl Jobs {
    /// Jobs of no backend: for tests of what comes behind the queue.
    pub fn detached(bundles: Bundles<Job>) -> Self {
        Self { bundles }
    }

    /// Those of a node that takes none.
    pub(crate) fn none() -> Self {
        let (_, bundles) = bundles::channel(1);
        Self { bundles }
    }

    /// The next job; `None` once the queue was stopped and nothing more will come. Cancel-safe.
    pub async fn next(&mut self) -> Option<Job> {
        self.bundles.next().await
    }

    /// Waits for a job to take; `false` once nothing more will come. Cancel-safe.
    pub(crate) async fn ready(&mut self) -> bool {
        self.bundles.ready().await
    }

    /// As [`Jobs::some`], and no more than `bytes` of records unless the first has more. Cancel-safe.
    pub(crate) async fn some_within(&mut self, most: usize, bytes: usize) -> Option<Vec<Job>> {
        let first = self.bundles.next().await?;
        let mut left = bytes.saturating_sub(first.record.len());
        let mut taken = vec![first];
        while taken.len() < most
            && let Some(job) = self.bundles.next_if(|job| job.record.len() <= left)
        {
            left -= job.record.len();
            taken.push(job);
        }
        Some(taken)
    }

    /// The jobs that wait to be taken, at most `most`.
    pub(crate) fn waiting(&mut self, most: usize) -> impl Iterator<Item = Job> {
        iter::from_fn(|| self.bundles.try_next()).take(most)
    }

    /// No job waits to be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// The next job and those that wait beside it, at most `most`; `None` as [`Jobs::next`]. Cancel-safe.
    pub async fn some(&mut self, most: usize) -> Option<impl Iterator<Item = Job>> {
        self.bundles.some(most).await
    }
}

/// A record taken from the queue. Dropped unanswered it is requeued at once.
pub struct Job {
    /// The record as published.
    pub record: Bytes,
    /// How often it was handed out, this time counted: 1 and up.
    pub attempts: u32,
    pub(crate) acker: Option<Acker>,
}

/// The backend's side of a job.
pub(crate) enum Acker {
    /// Of the embedded log.
    Embedded(embedded::Acker),
    /// Of an nsqd connection.
    Nsq(nsq::Acker),
}

impl Job {
    /// A job of no backend, handed out for the `attempts`th time: finished or requeued, nothing happens.
    pub fn detached(record: Bytes, attempts: u32) -> Self {
        Self { record, attempts, acker: None }
    }

    /// The job is done: it will not come again (unless the backend dies before it knows).
    pub fn finish(mut self) {
        match self.acker.take() {
            Some(Acker::Embedded(acker)) => acker.finish(),
            Some(Acker::Nsq(acker)) => acker.finish(),
            None => {}
        }
    }

    /// It comes again after `delay`, with one attempt more.
    pub fn requeue(mut self, delay: Duration) {
        self.give_back(delay);
    }

    /// It was offered to nobody: it comes again after `delay`, as if it had not been handed out. An nsqd counts the attempt all
    /// the same.
    pub fn put_back(mut self, delay: Duration) {
        match self.acker.take() {
            Some(Acker::Embedded(acker)) => acker.put_back(delay),
            Some(Acker::Nsq(acker)) => acker.requeue(delay),
            None => {}
        }
    }

    /// It is still worked on: the backend's time-out starts anew.
    pub fn touch(&self) {
        match &self.acker {
            Some(Acker::Embedded(acker)) => acker.touch(),
            Some(Acker::Nsq(acker)) => acker.touch(),
            None => {}
        }
    }

    /// nsq only: leaves it unanswered, so that nsqd hands it out again after its `--msg-timeout`, if it is not finished by
    /// then. For a copy of a job in flight, which may be the same message: two answers to one message end the connection.
    pub fn leave(mut self) {
        self.acker = None;
    }

    fn give_back(&mut self, delay: Duration) {
        match self.acker.take() {
            Some(Acker::Embedded(acker)) => acker.requeue(delay),
            Some(Acker::Nsq(acker)) => acker.requeue(delay),
            None => {}
        }
    }
}

/// [`Job::finish`] for each, and none is left in `jobs`: the embedded queue's lock is taken once for all of them.
pub(crate) fn finish_all(jobs: &mut Vec<Job>) {
    let mut embedded = Vec::new();
    let one = jobs.len() == 1;
    for mut job in jobs.drain(..) {
        match job.acker.take() {
            Some(Acker::Embedded(acker)) if one => acker.finish(),
            Some(Acker::Embedded(acker)) => embedded.push(acker),
            Some(Acker::Nsq(acker)) => acker.finish(),
            None => {}
        }
    }
    embedded::Acker::finish_all(embedded);
}

impl Drop for Job {
    fn drop(&mut self) {
        self.give_back(Duration::ZERO);
    }
}

/// Watches, stops and closes a queue.
pub struct Control {
    /// Whether it can be used.
    pub state: watch::Receiver<QueueState>,
    /// Lines for `/readyz`: what is wrong though it can be used.
    pub notes: watch::Receiver<Vec<String>>,
    /// Whether jobs waited when it was opened, or wait for `[queue] replay_hold` since; known once the state was ready.
    pub backlog: watch::Receiver<bool>,
    pub(crate) hold: Option<ReplayHold>,
    /// `None`: there is nowhere to leave one.
    pub(crate) stop_note: Option<StopNote>,
    pub(crate) backend: BackendControl,
}

/// The backend's side of [`Control`].
pub(crate) enum BackendControl {
    /// Of the embedded log.
    Embedded(embedded::Control),
    /// Of nsqd.
    Nsq(nsq::Control),
}

impl Control {
    /// Hands out no more jobs (nsq: no raw pushes either, and the node's channel is paused, so that they wait there);
    /// [`Jobs::next`] gives what was handed out already, then `None`. Publishing goes on.
    pub async fn stop_jobs(&self) {
        match &self.backend {
            BackendControl::Embedded(control) => control.stop_jobs().await,
            BackendControl::Nsq(control) => control.stop_jobs().await,
        }
    }

    /// The hold of this start that ends early, once the clients that it names are back; it is given once.
    pub fn take_hold(&mut self) -> Option<ReplayHold> {
        self.hold.take()
    }

    /// Lets the next process know which clients are sent away, some of them told to come back only after `delay`: it waits for
    /// them. To be called before the jobs are stopped; written as the queue is closed.
    pub fn note_clients(&mut self, counts: AddressCounts, delay: Duration) {
        let is_held = match &self.backend {
            BackendControl::Embedded(control) => control.is_held(),
            BackendControl::Nsq(control) => control.is_held(),
        };
        if let Some(note) = &mut self.stop_note {
            note.set(SentAwayClients { counts, delay }, is_held);
        }
    }

    /// Writes what is still to be written (finishes, requeues), then ends. Call it once every job is gone.
    pub async fn close(self, deadline: Deadline) {
        if let Some(note) = self.stop_note {
            // before another process can have the folder
            let _ = deadline.timeout(tokio::task::spawn_blocking(move || note.leave())).await;
        }
        match self.backend {
            BackendControl::Embedded(control) => control.close(deadline).await,
            BackendControl::Nsq(control) => control.close(deadline).await,
        }
    }
}
