//! SIGKILL keeps the page cache; a power cut does not. So `sync = always` is proven on a disk that forgets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;

use super::{Log, PATIENCE, eventually, text, texts};
use crate::{
    config,
    lifecycle::{Deadline, Tasks},
    log::{LogOptions, tests::disk::TestDisk},
    queue::{
        Destination, Job, OpenError, PublishError, Queue, QueueState,
        embedded::{self, limits::QueueLimits},
    },
    telemetry::{Metrics, labels::DropReason},
};

const WRITERS: usize = 4;

/// Small, so that they change often.
const SEGMENTS: LogOptions = LogOptions { segment_bytes: 64 << 10 };

async fn open_on(
    disk: &TestDisk,
    limits: QueueLimits,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<Queue, OpenError> {
    let disk = disk.powered();
    embedded::open_on(move || Ok(disk), SEGMENTS, limits, None, tasks, metrics).await
}

/// On a disk, with everything in flight at once.
async fn open(disk: &TestDisk, sync: config::Sync, memory_bytes: usize) -> Log {
    let defaults = super::config(std::path::Path::new("nowhere"));
    let limits = QueueLimits::of(&config::QueueConfig { sync, memory_bytes, max_in_flight: 100_000, ..defaults });
    Log::of(async |tasks, metrics| open_on(disk, limits, tasks, metrics).await).await.unwrap()
}

/// What was asked for and what came of it: `writer:number` each.
#[derive(Default)]
struct Ledger {
    asked: BTreeSet<(usize, u64)>,
    /// With the number of syncs that were known then.
    acknowledged: BTreeMap<(usize, u64), u64>,
    finished: BTreeSet<(usize, u64)>,
}

fn parse(text: &str) -> (usize, u64) {
    let mut parts = text.split(':');
    (parts.next().unwrap().parse().unwrap(), parts.next().unwrap().parse().unwrap())
}

/// Publishes and finishes until the power is cut at a random moment, again and again. `syncs_needed`: after how many more
/// syncs a record must be there.
async fn cut_again_and_again(sync: config::Sync, rounds: u32, seed: u64, syncs_needed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = TestDisk::default();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut next = [0; WRITERS];
    let mut must = BTreeSet::new();
    for round in 0..rounds {
        let mut log = open(&disk, sync, random.choice([30_000, 64 << 20]).unwrap()).await;
        // all that must be there is, and nothing else, in order
        let mut seen = Vec::new();
        for _ in 0..log.metrics.queue_records.get() {
            let job = log.next().await;
            let id = parse(&text(&job));
            seen.push(id);
            if random.u8(0..3) == 0 {
                ledger.lock().unwrap().finished.insert(id);
                job.finish();
            } else {
                // to the next round; kept, they would fill the small memory
                job.requeue(Duration::from_secs(3600));
            }
        }
        {
            let mut ledger = ledger.lock().unwrap();
            let set: BTreeSet<_> = seen.iter().copied().collect();
            assert_eq!(set.len(), seen.len(), "one twice, in round {round}");
            let missing: Vec<_> = must.difference(&set).filter(|id| !ledger.finished.contains(id)).collect();
            assert!(missing.is_empty(), "acknowledged and gone in round {round}: {missing:?}");
            let invented: Vec<_> = set.difference(&ledger.asked).collect();
            assert!(invented.is_empty(), "never published, round {round}: {invented:?}");
            for writer in 0..WRITERS {
                assert!(seen.iter().filter(|id| id.0 == writer).is_sorted(), "out of order in round {round}");
            }
            // what was lost, as sync allows, is no more to be expected
            ledger.acknowledged.retain(|id, _| set.contains(id));
        }
        let mut publishing = Vec::new();
        for (writer, from) in next.iter().copied().enumerate() {
            let (publisher, metrics, ledger) = (log.publisher.clone(), log.metrics.clone(), ledger.clone());
            let mut random = random.fork();
            publishing.push(tokio::spawn(async move {
                for number in from.. {
                    ledger.lock().unwrap().asked.insert((writer, number));
                    let record = format!("{writer}:{number}:{}", "x".repeat(random.usize(0..3000)));
                    match publisher.publish(Destination::Live, Bytes::from(record)).await {
                        Ok(()) => {
                            let syncs = metrics.queue_syncs.get();
                            ledger.lock().unwrap().acknowledged.insert((writer, number), syncs);
                        }
                        Err(_) => return number + 1,
                    }
                    tokio::time::sleep(Duration::from_micros(random.u64(0..2000))).await;
                }
                unreachable!()
            }));
        }
        let consuming = tokio::spawn({
            let (ledger, mut random, mut jobs) = (ledger.clone(), random.fork(), log.jobs);
            async move {
                let mut kept = Vec::new();
                while let Some(job) = jobs.next().await {
                    match random.u8(0..3) {
                        0 => job.requeue(Duration::from_millis(random.u64(0..20))),
                        // kept until the power is off: handed out, not finished
                        1 => kept.push(job),
                        _ => {
                            ledger.lock().unwrap().finished.insert(parse(&text(&job)));
                            job.finish();
                        }
                    }
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(random.u64(0..40))).await;
        {
            // what is acknowledged by now was on the disk before
            let ledger = ledger.lock().unwrap();
            let syncs = log.metrics.queue_syncs.get();
            let known = ledger.acknowledged.iter().filter(|(_, at)| *at + syncs_needed <= syncs);
            must = known.map(|(id, _)| *id).filter(|id| !ledger.finished.contains(id)).collect();
            disk.cut_power(&mut random);
        }
        for (writer, publishing) in publishing.into_iter().enumerate() {
            next[writer] = publishing.await.unwrap();
        }
        log.control.close(Deadline::after(PATIENCE)).await;
        consuming.await.unwrap();
        // acknowledged in earlier rounds and on the disk since: their syncs are counted anew
        ledger.lock().unwrap().acknowledged.values_mut().for_each(|at| *at = 0);
    }
}

fn rounds() -> u32 {
    std::env::var("OXIPUSH_CRASH_ROUNDS").map_or(25, |rounds| rounds.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    cut_again_and_again(config::Sync::Always, rounds(), 7, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_sync_as_a_time_a_power_cut_takes_only_what_no_sync_followed() {
    // the first sync after an acknowledgement may have begun before it
    cut_again_and_again(config::Sync::Every(Duration::from_millis(5)), rounds(), 8, 2).await;
}

#[tokio::test]
async fn a_push_that_kills_the_process_each_time_comes_with_more_attempts_each_time() {
    let (disk, mut random) = (TestDisk::default(), fastrand::Rng::with_seed(9));
    let log = open(&disk, config::Sync::Always, 64 << 20).await;
    log.publish("poison").await.unwrap();
    log.publish("innocent").await.unwrap();
    disk.cut_power(&mut random);
    log.close().await;
    for round in 1..=12_u32 {
        let mut log = open(&disk, config::Sync::Always, 64 << 20).await;
        let job = log.next().await;
        assert_eq!(text(&job), "poison");
        // that of the process that published it may be uncounted
        assert!((round..=round + 1).contains(&job.attempts), "{} attempts in round {round}", job.attempts);
        disk.cut_power(&mut random);
        log.close().await;
        drop(job);
    }
}

#[tokio::test]
async fn a_disk_that_fails_and_heals_costs_nothing_that_was_acknowledged() {
    for sync in [config::Sync::Always, config::Sync::Every(Duration::from_millis(1))] {
        let disk = TestDisk::default();
        let mut log = open(&disk, sync, 64 << 20).await;
        let mut known = Vec::new();
        for n in 0..10 {
            log.publish(n).await.unwrap();
            known.push(n.to_string());
        }
        let first = log.next().await;
        disk.fail(true);
        let mut refused = 0;
        let mut state = log.control.state.clone();
        // one that waits already may be acknowledged
        while *state.borrow_and_update() == QueueState::Ready {
            match log.publish(format!("late {refused}")).await {
                Ok(()) => known.push(format!("late {refused}")),
                Err(PublishError::Unavailable(reason)) => assert!(reason.contains("disk"), "{reason}"),
                Err(error) => panic!("{error}"),
            }
            refused += 1;
        }
        assert_eq!(log.metrics.queue_ready.get(), 0);
        assert!(matches!(log.publish("x").await, Err(PublishError::Unavailable(_))));
        // jobs go on meanwhile
        first.finish();
        let second = log.next().await;
        assert_eq!(text(&second), "1");
        second.requeue(Duration::from_secs(3600));
        disk.fail(false);
        eventually("it heals", || *state.borrow_and_update() == QueueState::Ready).await;
        assert_eq!(log.metrics.queue_ready.get(), 1);
        log.publish("after").await.unwrap();
        known.push("after".into());
        log.close().await;
        let mut log = open(&disk, sync, 64 << 20).await;
        let jobs = log.all().await;
        assert_eq!(texts(&jobs), known[1..]);
        jobs.into_iter().for_each(Job::finish);
        log.close().await;
        let log = open(&disk, sync, 64 << 20).await;
        assert_eq!(log.metrics.queue_records.get(), 0);
        log.close().await;
    }
}

#[tokio::test]
async fn a_kernel_that_forgets_what_no_sync_followed_costs_that_alone_and_it_is_counted() {
    let disk = TestDisk::default();
    let defaults = super::config(std::path::Path::new("nowhere"));
    let sync = config::Sync::Every(Duration::from_secs(3600));
    // two records fit the memory: the others are read again from the file
    let limits =
        || QueueLimits::of(&config::QueueConfig { sync, memory_bytes: 9000, max_in_flight: 1, ..defaults.clone() });
    let open = || Log::of(async |tasks, metrics| open_on(&disk, limits(), tasks, metrics).await);
    let mut log = open().await.unwrap();
    for n in 0..5 {
        // each a row of its own
        log.publish(format!("{n}:{}", "x".repeat(4000))).await.unwrap();
    }
    disk.forget_write(1, 1);
    for n in [0, 1, 2] {
        let job = log.next().await;
        assert!(text(&job).starts_with(&format!("{n}:")));
        job.finish();
    }
    let last = log.next().await;
    assert!(text(&last).starts_with("4:"));
    let lost = log.metrics.drops.get_or_create(&DropReason::Lost).get();
    assert_eq!((lost, log.metrics.queue_records.get()), (1, 1));
    drop(last);
    log.close().await;
    let mut log = open().await.unwrap();
    assert_eq!(log.metrics.queue_records.get(), 1);
    assert!(text(&log.next().await).starts_with("4:"));
    log.close().await;
}

#[tokio::test]
async fn no_more_publishes_wait_than_max_publishes() {
    let disk = TestDisk::default();
    let defaults = super::config(std::path::Path::new("nowhere"));
    let limits = QueueLimits::of(&config::QueueConfig { max_publishes: 0, ..defaults });
    let log = Log::of(async |tasks, metrics| open_on(&disk, limits, tasks, metrics).await);
    let log = log.await.unwrap();
    // one at least; polled side by side before the writer can have taken the first
    let all = futures_util::future::join_all((0..50).map(|n| log.publish(n))).await;
    assert!(all.iter().any(Result::is_ok));
    assert!(all.iter().filter(|one| one.is_err()).all(|one| matches!(one, Err(PublishError::Full(_)))));
    log.publish("room again").await.unwrap();
    log.close().await;
}
