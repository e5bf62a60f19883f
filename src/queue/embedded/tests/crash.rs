//! SIGKILL at random moments: the test starts itself as a child, which works on a log and keeps a ledger on its stdout.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;

use super::{Log, text};
use crate::{config, queue::Destination};

const CHILD: &str = "OXIPUSH_CRASH_CHILD";
const SYNC: &str = "OXIPUSH_CRASH_SYNC";
const NAME: &str = "queue::embedded::tests::crash::a_killed_process_loses_nothing_that_was_acknowledged";
const WRITERS: u64 = 4;

fn tell(what: &str, id: &str) {
    // one write, so that a kill cannot cut it
    std::io::stdout().lock().write_all(format!("\n#{what} {id}\n").as_bytes()).unwrap();
}

fn id(record: &str) -> String {
    record.split(' ').next().unwrap().to_owned()
}

/// Small segments: many kills come in a segment's change.
fn config(dir: &Path) -> config::QueueConfig {
    config::QueueConfig { segment_bytes: 64 << 10, max_in_flight: 1_000_000, ..super::config(dir) }
}

/// Publishes, finishes and requeues until it is killed.
async fn child(dir: &Path) {
    let sync = match std::env::var(SYNC).unwrap().parse().unwrap() {
        0 => config::Sync::Always,
        millis => config::Sync::Every(Duration::from_millis(millis)),
    };
    let mut log = Log::open(&config::QueueConfig { sync, max_in_flight: 10_000, ..config(dir) }).await.unwrap();
    let round = fastrand::u32(..);
    for writer in 0..WRITERS {
        let publisher = log.publisher.clone();
        tokio::spawn(async move {
            for number in 0_u64.. {
                let id = format!("{round}:{writer}:{number:08}");
                tell("asked", &id);
                let record = format!("{id} {}", "x".repeat(fastrand::usize(0..2000)));
                publisher.publish(Destination::Live, Bytes::from(record)).await.unwrap();
                tell("acknowledged", &id);
            }
        });
    }
    let mut kept = Vec::new();
    loop {
        let job = log.next().await;
        match fastrand::u8(0..4) {
            0 => job.requeue(Duration::from_millis(fastrand::u64(0..50))),
            1 => kept.push(job),
            _ => {
                tell("finishing", &id(&text(&job)));
                job.finish();
            }
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(dir) = std::env::var_os(CHILD) {
        return runtime.block_on(child(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::new();
    let (mut asked, mut must, mut may) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let rounds = std::env::var("OXIPUSH_CRASH_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            // a kill takes nothing in either mode; one folder sees both
            .env(SYNC, random.choice(["0", "0", "10", "3000"]).unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (first, began) = std::sync::mpsc::channel();
        let ledger = std::thread::spawn(move || {
            let mut lines = Vec::new();
            for line in stdout.lines().map_while(Result::ok).filter(|line| line.starts_with('#')) {
                let _ = first.send(());
                lines.push(line);
            }
            lines
        });
        // now and then while it still opens the log
        if random.u8(0..8) > 0 {
            began.recv().expect("the child never published");
        }
        std::thread::sleep(Duration::from_millis(random.u64(0..100)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in ledger.join().unwrap() {
            let (what, id) = line[1..].split_once(' ').unwrap();
            match what {
                "asked" => _ = asked.insert(id.to_owned()),
                "acknowledged" => _ = must.insert(id.to_owned()),
                _ => _ = may.insert(id.to_owned()),
            }
        }
        must = must.difference(&may).cloned().collect();
        runtime.block_on(async {
            let mut log = Log::open(&config(dir.path())).await.unwrap();
            let jobs = log.all().await;
            let ids: Vec<_> = jobs.iter().map(|job| id(&text(job))).collect();
            let set: BTreeSet<_> = ids.iter().cloned().collect();
            assert_eq!(ids.len(), set.len(), "one twice in round {round}");
            let missing: Vec<_> = must.difference(&set).collect();
            assert!(missing.is_empty(), "acknowledged and gone in round {round}: {missing:?}");
            let invented: Vec<_> = set.difference(&asked).collect();
            assert!(invented.is_empty(), "never published, round {round}: {invented:?}");
            for job in jobs {
                if random.u8(0..3) > 0 {
                    must.remove(&id(&text(&job)));
                    job.finish();
                } else {
                    // may have been finished by the child, which the disk had not heard of: it has now
                    must.insert(id(&text(&job)));
                    may.remove(&id(&text(&job)));
                }
            }
            log.close().await;
        });
    }
    assert!(asked.len() > 10, "nothing happened");
}
