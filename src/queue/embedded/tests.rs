//! What the log promises, on a folder; power cuts and failing disks are in [`power_cut`].
#![allow(clippy::unwrap_used)]

mod bounds;
mod crash;
mod damage;
mod full_disk;
mod power_cut;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{
    config,
    lifecycle::{Deadline, Died, Tasks},
    queue::{Control, Destination, Job, Jobs, OpenError, PublishError, Publisher, Queue, QueueState},
    telemetry::Metrics,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(dir: &Path) -> config::QueueConfig {
    let defaults = config::load(None, []).unwrap().queue;
    config::QueueConfig { dir: dir.to_owned(), publish_timeout: PATIENCE, replay_hold: Duration::ZERO, ..defaults }
}

/// An open log and what it needs to live.
struct Log {
    publisher: Publisher,
    jobs: Jobs,
    control: Control,
    metrics: Arc<Metrics>,
    _tasks: Tasks,
    deaths: mpsc::UnboundedReceiver<Died>,
}

impl Log {
    async fn open(config: &config::QueueConfig) -> Result<Self, OpenError> {
        Self::of(async |tasks, metrics| super::open(config, tasks, metrics).await).await
    }

    async fn of(open: impl AsyncFnOnce(&Tasks, &Arc<Metrics>) -> Result<Queue, OpenError>) -> Result<Self, OpenError> {
        let (tasks, deaths) = Tasks::new();
        let metrics = Arc::new(Metrics::new());
        let Queue { publisher, jobs, control, .. } = open(&tasks, &metrics).await?;
        Ok(Self { publisher, jobs, control, metrics, _tasks: tasks, deaths })
    }

    async fn publish(&self, text: impl ToString) -> Result<(), PublishError> {
        self.publisher.publish(Destination::Live, Bytes::from(text.to_string())).await
    }

    async fn next(&mut self) -> Job {
        timeout(PATIENCE, self.jobs.next()).await.expect("no job came").expect("the queue was stopped")
    }

    /// As many as are told to be there; none is finished.
    async fn all(&mut self) -> Vec<Job> {
        let mut all = Vec::new();
        for _ in 0..self.metrics.queue_records.get() {
            all.push(self.next().await);
        }
        all
    }

    async fn close(self) {
        let Self { jobs, control, mut deaths, .. } = self;
        drop(jobs);
        control.close(Deadline::after(PATIENCE)).await;
        assert_eq!(deaths.try_recv(), Err(mpsc::error::TryRecvError::Empty));
    }
}

fn text(job: &Job) -> String {
    String::from_utf8(job.record.to_vec()).unwrap()
}

fn texts(jobs: &[Job]) -> Vec<String> {
    jobs.iter().map(text).collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_reopen_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    assert_eq!(*log.control.state.borrow(), QueueState::Ready);
    assert!(!*log.control.backlog.borrow());
    for n in 0..50 {
        log.publish(n).await.unwrap();
    }
    log.close().await;
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    assert!(*log.control.backlog.borrow());
    assert_eq!(log.metrics.queue_records.get(), 50);
    let jobs = log.all().await;
    assert_eq!(texts(&jobs), (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    drop(jobs);
    log.close().await;
}

#[tokio::test]
async fn publishes_at_once_are_acknowledged_with_few_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let all = futures_util::future::join_all((0..2000).map(|n| log.publish(n))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(log.metrics.queue_syncs.get() < 200, "{} syncs", log.metrics.queue_syncs.get());
    assert_eq!(texts(&log.all().await), (0..2000).map(|n| n.to_string()).collect::<Vec<_>>());
    log.close().await;
}

#[tokio::test]
async fn what_is_published_together_is_synced_once_and_each_has_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let records = ["a", "b", "c"].map(Bytes::from).into_iter();
    let records = records.chain([vec![0; 17 << 20].into(), Bytes::from("d")]);
    let records = records.map(|record| (Destination::Live, record)).collect();
    let mut published = log.publisher.publish_all(records);
    assert!(matches!(published.remove(3), Err(PublishError::TooLarge { .. })));
    for published in published {
        published.ok().unwrap().await.unwrap();
    }
    assert_eq!(log.metrics.queue_syncs.get(), 1);
    assert_eq!(texts(&log.all().await), ["a", "b", "c", "d"]);
    log.close().await;
}

#[tokio::test]
async fn a_finished_job_never_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    for n in 0..300 {
        log.publish(n).await.unwrap();
    }
    for _ in 0..300 {
        let job = log.next().await;
        let finish = text(&job).parse::<u32>().unwrap() % 3 > 0;
        if finish { job.finish() } else { job.requeue(Duration::from_secs(3600)) }
    }
    eventually("the levels tell it", || log.metrics.queue_records.get() == 100).await;
    log.close().await;
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    assert_eq!(log.metrics.queue_records.get(), 100);
    let jobs = log.all().await;
    assert_eq!(texts(&jobs), (0..300).step_by(3).map(|n| n.to_string()).collect::<Vec<_>>());
    jobs.into_iter().for_each(Job::finish);
    assert_eq!((log.metrics.queue_records.get(), log.metrics.queue_bytes.get()), (0, 0));
    log.close().await;
    let log = Log::open(&config(dir.path())).await.unwrap();
    assert_eq!((log.metrics.queue_records.get(), log.metrics.queue_bytes.get()), (0, 0));
    assert!(!*log.control.backlog.borrow());
    log.close().await;
}

#[tokio::test]
async fn a_finish_reaches_the_disk_without_a_publish() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    log.publish("x").await.unwrap();
    let syncs = log.metrics.queue_syncs.get();
    log.next().await.finish();
    eventually("the finish is written", || log.metrics.queue_syncs.get() > syncs).await;
    log.close().await;
}

#[tokio::test]
async fn a_job_dropped_without_a_word_comes_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    log.publish("x").await.unwrap();
    for attempt in 1..=5 {
        let job = log.next().await;
        assert_eq!((text(&job).as_str(), job.attempts), ("x", attempt));
    }
    log.next().await.finish();
    log.close().await;
}

#[tokio::test]
async fn a_requeued_job_comes_after_its_delay_and_lets_others_pass() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let (delay, since) = (Duration::from_millis(300), Instant::now());
    log.publish("late").await.unwrap();
    log.next().await.requeue(delay);
    log.publish("other").await.unwrap();
    let other = log.next().await;
    assert_eq!((text(&other).as_str(), other.attempts), ("other", 1));
    other.touch();
    let late = log.next().await;
    assert_eq!((text(&late).as_str(), late.attempts), ("late", 2));
    assert!(since.elapsed() >= delay);
    late.finish();
    other.finish();
    log.close().await;
}

#[tokio::test]
async fn attempts_grow_over_reopens_and_only_with_hand_outs() {
    let dir = tempfile::tempdir().unwrap();
    let config = config::QueueConfig { max_in_flight: 1, ..config(dir.path()) };
    let mut log = Log::open(&config).await.unwrap();
    log.publish("first").await.unwrap();
    log.publish("second").await.unwrap();
    let first = log.next().await;
    assert_eq!((text(&first).as_str(), first.attempts), ("first", 1));
    log.close().await;
    drop(first);
    for attempts in 2..5 {
        let mut log = Log::open(&config).await.unwrap();
        let first = log.next().await;
        assert_eq!((text(&first).as_str(), first.attempts), ("first", attempts));
        log.control.stop_jobs().await;
        first.requeue(Duration::ZERO);
        log.close().await;
    }
    let mut log = Log::open(&config).await.unwrap();
    let first = log.next().await;
    assert_eq!((text(&first).as_str(), first.attempts), ("first", 5));
    first.finish();
    // it waited behind the first all the time
    let second = log.next().await;
    assert_eq!((text(&second).as_str(), second.attempts), ("second", 1));
    second.finish();
    log.close().await;
}

#[tokio::test]
async fn no_more_jobs_are_out_than_max_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config::QueueConfig { max_in_flight: 3, ..config(dir.path()) }).await.unwrap();
    for n in 0..10 {
        log.publish(n).await.unwrap();
    }
    let mut held = vec![log.next().await, log.next().await, log.next().await];
    assert!(log.jobs.bundles.try_next().is_none());
    held.remove(0).finish();
    assert_eq!(text(&log.next().await), "3");
    log.close().await;
}

#[tokio::test]
async fn a_stopped_queue_hands_out_what_is_out_and_still_publishes() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    log.publish("before").await.unwrap();
    log.control.stop_jobs().await;
    log.publish("after").await.unwrap();
    let before = log.next().await;
    assert_eq!(text(&before), "before");
    before.finish();
    assert!(timeout(PATIENCE, log.jobs.next()).await.unwrap().is_none());
    log.close().await;
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let jobs = log.all().await;
    assert_eq!(texts(&jobs), ["after"]);
    assert_eq!(jobs[0].attempts, 1);
    log.close().await;
}

#[tokio::test]
async fn large_and_empty_records_come_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 70_000, 3, 1 << 20, 61_000, 0];
    let log = Log::open(&config(dir.path())).await.unwrap();
    for size in sizes {
        log.publish("z".repeat(size)).await.unwrap();
    }
    log.close().await;
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    assert_eq!(log.all().await.iter().map(|job| job.record.len()).collect::<Vec<_>>(), sizes);
    log.close().await;
}

#[tokio::test]
async fn a_second_opener_of_the_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    let refused = Log::open(&config(dir.path())).await.err().unwrap().to_string();
    assert!(refused.contains("in use by another process (pid "), "{refused}");
    log.publish("still fine").await.unwrap();
    log.close().await;
    Log::open(&config(dir.path())).await.unwrap().close().await;
}

#[tokio::test]
async fn with_sync_as_a_time_all_is_written_within_it_and_at_close() {
    let dir = tempfile::tempdir().unwrap();
    let lazy = config::QueueConfig { sync: config::Sync::Every(Duration::from_millis(50)), ..config(dir.path()) };
    let mut log = Log::open(&lazy).await.unwrap();
    log.publish("first").await.unwrap();
    eventually("it is synced", || log.metrics.queue_syncs.get() > 0).await;
    for n in 0..100 {
        log.publish(n).await.unwrap();
    }
    for n in 0..50 {
        let job = log.next().await;
        assert_eq!(job.attempts, 1, "of {n}");
        job.finish();
    }
    log.close().await;
    let mut log = Log::open(&lazy).await.unwrap();
    assert_eq!(texts(&log.all().await), (49..100).map(|n| n.to_string()).collect::<Vec<_>>());
    log.close().await;
}

#[tokio::test]
async fn a_closed_log_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    let (publisher, state) = (log.publisher.clone(), log.control.state.clone());
    log.close().await;
    assert!(matches!(publisher.publish(Destination::Live, Bytes::from("x")).await, Err(PublishError::Unavailable(_))));
    assert!(matches!(&*state.borrow(), QueueState::NotReady(_)));
}

#[tokio::test]
async fn cancelled_tasks_and_forgotten_logs_free_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    log.publish("x").await.unwrap();
    let job = log.next().await;
    assert!(log._tasks.stop(PATIENCE).await);
    let again = Log::open(&config(dir.path())).await.unwrap();
    drop((log, job, again));
    Log::open(&config(dir.path())).await.unwrap().close().await;
}
