//! What a queue promises, in words of the seam alone: `contract!(Backend)` makes each promise a test of that backend.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use oxipush::internals::{
    config::{self, Config},
    lifecycle::{Deadline, Died, Tasks},
    queue::{Destination, Job, OpenError, PublishError, Queue, QueueState},
    telemetry::Metrics,
};
use tokio::{sync::mpsc, time::timeout};

/// How long what must come may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pairs of `SECTION__KEY` and value.
pub type Settings = Vec<(&'static str, String)>;

/// A backend: what holds the records when no queue is open.
pub trait Backend: Sized + Send + Sync {
    /// After this a job that was neither finished nor touched is handed out again; `None`: never while the queue is open.
    const TIMEOUT: Option<Duration>;
    /// The largest record it takes.
    const LARGEST: usize;

    /// An empty one.
    fn start() -> impl Future<Output = Self> + Send;

    /// How its queue is configured.
    fn settings(&self) -> Settings;

    /// Opens its queue.
    fn open(
        config: &Config,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> impl Future<Output = Result<Queue, OpenError>> + Send;
}

/// An open queue and what it needs.
pub struct Open {
    pub queue: Queue,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    deaths: mpsc::UnboundedReceiver<Died>,
}

/// Opens `backend`'s queue with more `settings` and waits until it is ready.
pub async fn open<B: Backend>(backend: &B, settings: &[(&'static str, &str)]) -> Open {
    let settings = backend.settings().into_iter().chain(settings.iter().map(|&(key, value)| (key, value.to_owned())));
    let settings = settings.map(|(key, value)| (format!("OXIPUSH__{key}"), value));
    let usual = [("NODE__ID", "contract"), ("QUEUE__REPLAY_HOLD", "0s")];
    let usual = usual.map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_owned()));
    let config = config::load(None, usual.into_iter().chain(settings));
    let config = config.unwrap();
    let (tasks, deaths) = Tasks::new();
    let metrics = Arc::new(Metrics::new());
    let queue = B::open(&config, &tasks, &metrics).await.unwrap();
    let mut state = queue.control.state.clone();
    let ready = timeout(PATIENCE, state.wait_for(|state| *state == QueueState::Ready)).await.map(|state| state.is_ok());
    assert_eq!(ready, Ok(true), "{:?}", *queue.control.state.borrow());
    Open { queue, metrics, tasks, deaths }
}

impl Open {
    async fn publish(&self, record: impl Into<Bytes>) {
        self.queue.publisher.publish(Destination::Live, record.into()).await.unwrap();
    }

    async fn job(&mut self) -> Job {
        timeout(PATIENCE, self.queue.jobs.next()).await.expect("a job in time").expect("the queue is open")
    }

    /// Nothing comes for a moment.
    async fn quiet(&mut self, moment: Duration) {
        let job = timeout(moment, self.queue.jobs.next()).await.ok().flatten();
        assert!(job.is_none(), "{:?} came again", job.map(|job| job.record.clone()));
    }

    /// Ends it as the gateway does. Gives back the jobs' end, for those that outlive it.
    async fn close(mut self, within: Duration) {
        self.queue.control.stop_jobs().await;
        while let Some(job) = timeout(PATIENCE, self.queue.jobs.next()).await.expect("the jobs end") {
            drop(job);
        }
        self.queue.control.close(Deadline::after(within)).await;
        assert!(self.tasks.stop(PATIENCE).await, "tasks remain");
        assert_eq!(self.deaths.try_recv().ok(), None, "a task died");
    }
}

pub async fn a_published_record_comes_as_a_job<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[]).await;
    open.publish("hello").await;
    let job = open.job().await;
    assert_eq!((&job.record[..], job.attempts), (&b"hello"[..], 1));
    job.finish();
    open.close(PATIENCE).await;
}

pub async fn what_was_acknowledged_outlives_the_queue<B: Backend>() {
    let backend = B::start().await;
    let before = open(&backend, &[]).await;
    before.queue.control.stop_jobs().await;
    for n in 0..20 {
        before.publish(format!("record {n}")).await;
    }
    before.close(PATIENCE).await;
    let mut after = open(&backend, &[]).await;
    assert!(*after.queue.control.backlog.borrow(), "the backlog was not seen");
    let mut came = BTreeSet::new();
    while came.len() < 20 {
        let job = after.job().await;
        came.insert(job.record.clone());
        job.finish();
    }
    after.close(PATIENCE).await;
    let mut empty = open(&backend, &[]).await;
    assert!(!*empty.queue.control.backlog.borrow(), "a backlog was seen where none is");
    empty.quiet(Duration::from_millis(300)).await;
    empty.close(PATIENCE).await;
}

pub async fn jobs_come_in_the_order_of_their_publishes<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[]).await;
    let publisher = &open.queue.publisher;
    // all at once: what is gathered into one write keeps its order
    let published =
        join_all((0..500_u32).map(|n| publisher.publish(Destination::Live, n.to_be_bytes().to_vec().into()))).await;
    assert!(published.iter().all(Result::is_ok));
    for n in 0..500_u32 {
        let job = open.job().await;
        assert_eq!(job.record[..], n.to_be_bytes());
        job.finish();
    }
    open.close(PATIENCE).await;
}

pub async fn what_is_acknowledged_waits_no_more_though_nobody_reads_the_outcome<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let records = (0..20).map(|n| (Destination::Live, Bytes::from(format!("record {n}"))));
    let unread = open.queue.publisher.publish_all(records.collect());
    // acknowledged in their order
    open.publish("the last").await;
    let text = open.metrics.text();
    assert!(text.contains("\noxipush_publishes_waiting 0\n"), "{text}");
    drop(unread);
    open.close(PATIENCE).await;
}

pub async fn attempts_grow_with_each_hand_out<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[]).await;
    open.publish("again").await;
    for attempt in 1..=4 {
        let job = open.job().await;
        assert_eq!((&job.record[..], job.attempts), (&b"again"[..], attempt));
        match attempt {
            // dropped without a word, it is requeued at once
            1 => drop(job),
            4 => job.finish(),
            _ => job.requeue(Duration::ZERO),
        }
    }
    open.close(PATIENCE).await;
}

pub async fn a_finished_job_never_comes_again<B: Backend>() {
    let backend = B::start().await;
    let mut before = open(&backend, &[]).await;
    for n in 0..100 {
        before.publish(format!("record {n}")).await;
    }
    for _ in 0..100 {
        before.job().await.finish();
    }
    before.close(PATIENCE).await;
    let mut after = open(&backend, &[]).await;
    after.quiet(B::TIMEOUT.unwrap_or_default() + Duration::from_secs(2)).await;
    after.close(PATIENCE).await;
}

pub async fn a_requeued_job_waits_for_its_delay<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[]).await;
    open.publish("later").await;
    let job = open.job().await;
    let (delay, requeued) = (Duration::from_millis(1500), Instant::now());
    job.requeue(delay);
    open.publish("meanwhile").await;
    let meanwhile = open.job().await;
    assert_eq!(meanwhile.record, "meanwhile");
    meanwhile.finish();
    let job = open.job().await;
    // the backend's clock may tick a little coarser
    assert!(requeued.elapsed() >= delay - Duration::from_millis(100), "it came after {:?}", requeued.elapsed());
    assert_eq!((&job.record[..], job.attempts), (&b"later"[..], 2));
    job.finish();
    open.close(PATIENCE).await;
}

pub async fn a_touched_job_stays_in_flight<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[]).await;
    open.publish("slow work").await;
    let job = open.job().await;
    let (started, work) = (Instant::now(), B::TIMEOUT.unwrap_or_default() + Duration::from_secs(2));
    while started.elapsed() < work {
        job.touch();
        open.quiet(Duration::from_millis(300)).await;
    }
    job.finish();
    open.quiet(Duration::from_millis(300)).await;
    open.close(PATIENCE).await;
}

pub async fn a_job_that_is_never_answered_comes_again<B: Backend>() {
    let backend = B::start().await;
    let mut before = open(&backend, &[]).await;
    before.publish("forgotten").await;
    let held = before.job().await;
    // the gateway's time is over while a job is still in flight
    before.close(Duration::from_millis(200)).await;
    held.finish();
    let mut after = open(&backend, &[]).await;
    let job = after.job().await;
    assert_eq!(job.record, "forgotten");
    job.finish();
    after.close(PATIENCE).await;
}

pub async fn stopped_jobs_end_while_publishes_and_answers_go_on<B: Backend>() {
    let backend = B::start().await;
    let mut before = open(&backend, &[]).await;
    before.publish("in flight").await;
    let in_flight = before.job().await;
    before.queue.control.stop_jobs().await;
    before.publish("for the next").await;
    while let Some(job) = timeout(PATIENCE, before.queue.jobs.next()).await.expect("the jobs end") {
        drop(job);
    }
    in_flight.finish();
    before.close(PATIENCE).await;
    let mut after = open(&backend, &[]).await;
    let job = after.job().await;
    assert_eq!(job.record, "for the next");
    job.finish();
    after.quiet(Duration::from_millis(300)).await;
    after.close(PATIENCE).await;
}

pub async fn publishes_past_the_bound_are_refused_at_once<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[("QUEUE__MAX_PUBLISHES", "2")]).await;
    let publisher = &open.queue.publisher;
    let results = join_all((0..1000).map(|n| publisher.publish(Destination::Live, format!("record {n}").into()))).await;
    let accepted: BTreeSet<String> =
        results.iter().enumerate().filter(|(_, result)| result.is_ok()).map(|(n, _)| format!("record {n}")).collect();
    assert!(!accepted.is_empty());
    assert!(results.iter().any(|result| matches!(result, Err(PublishError::Full(_)))), "none was refused");
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(PublishError::Full(_)))), "{results:?}");
    let mut came = BTreeSet::new();
    while came.len() < accepted.len() {
        let job = open.job().await;
        assert!(came.insert(String::from_utf8(job.record.to_vec()).unwrap()), "{:?} came twice", job.record);
        job.finish();
    }
    assert_eq!(came, accepted);
    open.publish("room again").await;
    open.job().await.finish();
    open.close(PATIENCE).await;
}

pub async fn a_record_that_is_too_large_is_refused_with_the_bound<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[("QUEUE__PUBLISH_TIMEOUT", "30s")]).await;
    let large = Bytes::from(vec![7; B::LARGEST + 1]);
    let refused = PublishError::TooLarge { bytes: B::LARGEST + 1, limit: B::LARGEST };
    assert_eq!(open.queue.publisher.publish(Destination::Live, large.clone()).await, Err(refused));
    open.publish(large.slice(1..)).await;
    let job = open.job().await;
    assert_eq!(job.record.len(), B::LARGEST);
    job.finish();
    open.close(PATIENCE).await;
}

pub async fn no_more_jobs_are_in_flight_than_allowed<B: Backend>() {
    let backend = B::start().await;
    let mut open = open(&backend, &[("QUEUE__MAX_IN_FLIGHT", "3")]).await;
    for n in 0..10 {
        open.publish(format!("record {n}")).await;
    }
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(open.job().await);
    }
    open.quiet(Duration::from_millis(500)).await;
    jobs.pop().unwrap().finish();
    jobs.push(open.job().await);
    jobs.into_iter().for_each(Job::finish);
    for _ in 0..6 {
        open.job().await.finish();
    }
    open.close(PATIENCE).await;
}

/// Each promise as a test of one backend.
macro_rules! contract {
    ($backend:ty) => {
        contract!(@ $backend:
            a_published_record_comes_as_a_job,
            what_was_acknowledged_outlives_the_queue,
            jobs_come_in_the_order_of_their_publishes,
            what_is_acknowledged_waits_no_more_though_nobody_reads_the_outcome,
            attempts_grow_with_each_hand_out,
            a_finished_job_never_comes_again,
            a_requeued_job_waits_for_its_delay,
            a_touched_job_stays_in_flight,
            a_job_that_is_never_answered_comes_again,
            stopped_jobs_end_while_publishes_and_answers_go_on,
            publishes_past_the_bound_are_refused_at_once,
            a_record_that_is_too_large_is_refused_with_the_bound,
            no_more_jobs_are_in_flight_than_allowed,
        );
    };
    (@ $backend:ty: $($promise:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::suite::$promise::<$backend>().await;
        })*
    };
}
