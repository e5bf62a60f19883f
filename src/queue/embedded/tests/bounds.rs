//! What the log may take: bytes, age, memory, room on the disk.

use std::time::Duration;

use super::{Log, PATIENCE, config, eventually, text};
use crate::{
    lifecycle::Deadline,
    queue::{Job, PublishError},
    telemetry::labels::DropReason,
};

/// Bytes of all files in the folder.
fn on_disk(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_full_log_refuses_at_once_and_takes_again_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config::QueueConfig { max_bytes: 1000, ..config(dir.path()) }).await.unwrap();
    for _ in 0..10 {
        log.publish("x".repeat(100)).await.unwrap();
    }
    assert!(matches!(log.publish("y").await, Err(PublishError::Full(_))));
    assert_eq!(log.metrics.queue_bytes.get(), 1000);
    log.next().await.finish();
    log.publish("y").await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn a_record_beyond_every_bound_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config::QueueConfig { max_bytes: 1000, ..config(dir.path()) }).await.unwrap();
    let refused = log.publish("x".repeat(1001)).await;
    assert_eq!(refused, Err(PublishError::TooLarge { bytes: 1001, limit: 1000 }));
    log.publish("x".repeat(1000)).await.unwrap();
    assert_eq!(log.next().await.record.len(), 1000);
    log.close().await;
}

#[tokio::test]
async fn what_is_too_old_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let aging = config::QueueConfig { max_age: Duration::from_millis(1), max_in_flight: 1, ..config(dir.path()) };
    let ageless = config::QueueConfig { max_age: Duration::ZERO, ..aging.clone() };
    let mut log = Log::open(&ageless).await.unwrap();
    for n in 0..5 {
        log.publish(n).await.unwrap();
    }
    assert_eq!(text(&log.next().await), "0");
    log.close().await;
    // while it was closed too
    let log = Log::open(&aging).await.unwrap();
    let expired = || log.metrics.drops.get_or_create(&DropReason::Expired).get();
    eventually("the old are dropped", || expired() > 0 && log.metrics.queue_records.get() <= 1).await;
    // what is in flight is not taken from it
    let in_flight = log.metrics.queue_records.get() as u64;
    assert_eq!(expired() + in_flight, 5);
    log.publish("new").await.unwrap();
    eventually("so is the new", || expired() + in_flight == 6 || log.metrics.queue_records.get() <= 1).await;
    let metrics = log.metrics.clone();
    drop(log.jobs);
    eventually("none is left", || metrics.queue_records.get() == 0).await;
    assert_eq!((metrics.queue_bytes.get(), metrics.drops.get_or_create(&DropReason::Expired).get()), (0, 6));
    log.control.close(Deadline::after(PATIENCE)).await;
}

#[tokio::test]
async fn what_grew_too_old_in_the_log_alone_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let age = Duration::from_millis(300);
    let small = config::QueueConfig { max_age: age, memory_bytes: 2000, max_in_flight: 1, ..config(dir.path()) };
    let mut log = Log::open(&small).await.unwrap();
    for n in 0..30 {
        log.publish(format!("{n:0300}")).await.unwrap();
    }
    let first = log.next().await;
    tokio::time::sleep(2 * age).await;
    // in the same segment, so that it does not go as a whole
    log.publish("new").await.unwrap();
    first.finish();
    let next = log.next().await;
    assert_eq!(text(&next), "new");
    let expired = log.metrics.drops.get_or_create(&DropReason::Expired).get();
    assert_eq!((expired, log.metrics.queue_records.get()), (29, 1));
    next.finish();
    log.close().await;
}

#[tokio::test]
async fn records_beyond_memory_are_read_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let small = config::QueueConfig { memory_bytes: 20_000, max_in_flight: 7, ..config(dir.path()) };
    let mut log = Log::open(&small).await.unwrap();
    let record = |n: usize| format!("{n:0300}");
    let (mut published, mut seen) = (0, 0);
    // with hand-outs in between, so that memory fills, empties and fills again
    for take in [0, 200, 0, 900, 100, 1800] {
        for _ in 0..25 {
            let publishes = (published..published + 20).map(|n| log.publish(record(n)));
            assert!(futures_util::future::join_all(publishes).await.iter().all(Result::is_ok));
            published += 20;
        }
        for _ in 0..take {
            let job = log.next().await;
            assert_eq!(text(&job), record(seen));
            job.finish();
            seen += 1;
        }
    }
    assert_eq!((published, seen), (3000, 3000));
    assert_eq!(log.metrics.queue_records.get(), 0);
    log.close().await;
}

#[tokio::test]
async fn requeued_records_beyond_memory_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let small = config::QueueConfig { memory_bytes: 5_000, ..config(dir.path()) };
    let mut log = Log::open(&small).await.unwrap();
    for ten in 0..20 {
        let publishes = (0..10).map(|n| log.publish(format!("{:0200}", ten * 10 + n)));
        assert!(futures_util::future::join_all(publishes).await.iter().all(Result::is_ok));
    }
    let mut again = Vec::new();
    while again.len() < 200 {
        let job = log.next().await;
        match job.attempts {
            1 => job.requeue(Duration::from_millis(150)),
            _ => {
                again.push(text(&job));
                job.finish();
            }
        }
    }
    again.sort();
    assert_eq!(again, (0..200).map(|n| format!("{n:0200}")).collect::<Vec<_>>());
    log.close().await;
}

#[tokio::test]
async fn space_is_used_again_after_much_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    for round in 0..60 {
        let publishes = (0..100).map(|n| log.publish(format!("{round} {n} {}", "x".repeat(10_000))));
        assert!(futures_util::future::join_all(publishes).await.iter().all(Result::is_ok));
        log.all().await.into_iter().for_each(Job::finish);
    }
    let len = on_disk(dir.path());
    assert!(len < 24 << 20, "60 MB passed through, 1 MB at a time, and left {len} bytes");
    log.close().await;
}

#[tokio::test]
async fn a_long_gone_backlog_gives_its_space_back_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let publishes = (0..400).map(|n| log.publish(format!("{n} {}", "x".repeat(100_000))));
    assert!(futures_util::future::join_all(publishes).await.iter().all(Result::is_ok));
    assert!(on_disk(dir.path()) > 40 << 20);
    let mut jobs = log.all().await;
    let last = jobs.pop().unwrap();
    jobs.into_iter().for_each(Job::finish);
    drop(last);
    log.close().await;
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let len = on_disk(dir.path());
    assert!(len < 24 << 20, "{len} bytes");
    assert!(text(&log.next().await).starts_with("399 "));
    log.close().await;
}
