//! A disk without room: what is queued is delivered, and then there is room again.

use std::path::Path;

use super::{Log, eventually, text};
use crate::{
    config,
    log::{LogOptions, tests::disk::TestDisk},
    queue::{
        Job, PublishError, QueueState,
        embedded::{self, limits::QueueLimits},
    },
};

const SEGMENTS: LogOptions = LogOptions { segment_bytes: 64 << 10 };

async fn open(disk: &TestDisk) -> Log {
    let limits =
        QueueLimits::of(&config::QueueConfig { max_in_flight: 100_000, ..super::config(Path::new("nowhere")) });
    let disk = disk.powered();
    Log::of(async |tasks, metrics| embedded::open_on(move || Ok(disk), SEGMENTS, limits, None, tasks, metrics).await)
        .await
        .unwrap()
}

/// Publishes until there is no room; what was accepted.
async fn fill(log: &Log) -> Vec<String> {
    let mut accepted = Vec::new();
    for n in 0.. {
        let record = format!("{n} {}", "x".repeat(fastrand::usize(0..3000)));
        match log.publish(&record).await {
            Ok(()) => accepted.push(record),
            Err(PublishError::Unavailable(reason)) => {
                assert!(reason.contains("room"), "{reason}");
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    accepted
}

/// All that is there, in order; each is finished.
async fn deliver(log: &mut Log) -> Vec<String> {
    let jobs = log.all().await;
    let texts = jobs.iter().map(text).collect();
    jobs.into_iter().for_each(Job::finish);
    texts
}

/// Until pushes are accepted again; those are finished.
async fn heal(log: &mut Log) {
    let state = log.control.state.clone();
    loop {
        eventually("it has room", || *state.borrow() == QueueState::Ready).await;
        if log.publish("is there room").await.is_ok() {
            return log.next().await.finish();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_disk_that_the_log_filled_heals_once_all_was_delivered() {
    for kilobytes in [200, 256, 300, 1000] {
        let disk = TestDisk::default();
        disk.set_room(Some(kilobytes << 10));
        let mut log = open(&disk).await;
        for _ in 0..3 {
            let accepted = fill(&log).await;
            assert!(accepted.len() > 20, "{} in {kilobytes} KiB", accepted.len());
            assert_eq!(deliver(&mut log).await, accepted);
            heal(&mut log).await;
        }
        log.close().await;
    }
}

#[tokio::test]
async fn so_it_does_after_restarts_and_power_cuts_while_it_is_full() {
    let mut random = fastrand::Rng::with_seed(36);
    for round in 0..12 {
        let disk = TestDisk::default();
        disk.set_room(Some((200 + 17 * round) << 10));
        let log = open(&disk).await;
        let accepted = fill(&log).await;
        log.close().await;
        for _ in 0..3 {
            let log = open(&disk).await;
            assert_eq!(log.metrics.queue_records.get() as usize, accepted.len());
            match random.bool() {
                true => disk.cut_power(&mut random),
                false => disk.kill(),
            }
            log.close().await;
        }
        let mut log = open(&disk).await;
        assert_eq!(deliver(&mut log).await, accepted);
        heal(&mut log).await;
        log.close().await;
    }
}
