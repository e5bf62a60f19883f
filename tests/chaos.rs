//! What goes wrong with processes, disks, clocks and clients, with a ledger of the stored pushes that were accepted and of
//! what each reader was sent: nothing is lost, and each reader's pushes are its stream in order.
//!
//! `OXIPUSH_CHAOS_KILLS` (12) and `OXIPUSH_CHAOS_TROUBLES` (6) say how often; `just chaos` does 500 and 60.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "chaos/books.rs"]
mod books;
#[path = "chaos/faults.rs"]
mod faults;
mod support;
#[path = "chaos/traffic.rs"]
mod traffic;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use faults::{Faults, Switch};
use nix::sys::signal::Signal;
use support::process::{Process, free};
use tokio::time::sleep;
use traffic::{Rhythm, Sum, Traffic};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Two seconds away in each fifteen, in a long run; else a tenth of that.
fn rhythm(is_long: bool) -> Rhythm {
    let unit = if is_long { 1000 } else { 100 };
    Rhythm { stays: Duration::from_millis(13 * unit), away: Duration::from_millis(2 * unit) }
}

/// Small segments, so that much happens in their change; streams that hold all that a run pushes.
fn settings(dir: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("DATA__DIR", dir.to_str().unwrap().to_owned()),
        ("DATA__SEGMENT_BYTES", "64KiB".into()),
        ("PUSH__MAX_CONTENT", "16KiB".into()),
        ("OUTBOX__MAX_BYTES", "64KiB".into()),
        ("QUEUE__REPLAY_HOLD", "0s".into()),
        ("STORE__MAX_ENTRIES", "1000000".into()),
        ("STORE__MAX_STREAM_BYTES", "1GiB".into()),
        ("STORE__SWEEP_INTERVAL", "500ms".into()),
        // gopusher's clients have no device
        ("STORE__NEW_APP", "oldest".into()),
    ]
}

fn spawn(settings: &[(&'static str, String)], at: [std::net::SocketAddr; 3], faults: Option<&Faults>) -> Process {
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    match faults {
        Some(faults) => Process::spawn_in(&settings, at, &faults.environment()),
        None => Process::spawn_at(&settings, at),
    }
}

/// Nothing is lost, and nothing is wrong.
fn check(what: &str, sum: &Sum) {
    println!(
        "{what}: {} accepted, {} missing, {} deliveries to {} readers, {} copies",
        sum.accepted, sum.missing, sum.deliveries, sum.readers, sum.copies
    );
    assert!(sum.wrong.is_empty(), "{:#?}", sum.wrong);
    assert_eq!(sum.missing, 0, "of {}", sum.accepted);
}

/// Takes away what a start can do without.
fn remove_snapshots(dir: &Path) -> usize {
    let Ok(files) = std::fs::read_dir(dir.join("streams")) else { return 0 };
    let is_snapshot = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("snapshot"));
    let snapshots = files.map(|file| file.unwrap().path()).filter(|path| is_snapshot(path));
    snapshots.filter(|path| std::fs::remove_file(path).is_ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stored_push_is_lost_by_sigkills_at_any_moment() {
    let kills = number("OXIPUSH_CHAOS_KILLS", 12);
    let dir = tempfile::tempdir().unwrap();
    let (settings, at) = (settings(dir.path()), [free(), free(), free()]);
    let (traffic, tasks) = Traffic::start(&[at], rhythm(kills > 100));
    let mut snapshots = 0;
    for kill in 0..kills {
        traffic.begins(0);
        let mut process = spawn(&settings, at, None);
        // in its start, or in the flow
        if kill % 4 != 0 {
            assert!(process.ready().await, "kill {kill}: it must start on what the killed one left");
            assert!(traffic.accepts(20).await, "kill {kill}: no push is accepted");
        }
        sleep(Duration::from_millis(fastrand::u64(10..1500))).await;
        if kill % 5 == 4 {
            // what the kernel holds for its sockets goes with it
            process.signal(Signal::SIGSTOP);
            sleep(Duration::from_millis(fastrand::u64(10..300))).await;
        }
        traffic.dies(0, Instant::now());
        process.kill();
        if kill % 3 == 2 {
            snapshots += remove_snapshots(dir.path());
        }
    }
    traffic.begins(0);
    let mut last = spawn(&settings, at, None);
    assert!(last.ready().await);
    sleep(Duration::from_millis(500)).await;
    let sum = traffic.sum(tasks).await;
    check(&format!("{kills} kills, {snapshots} snapshots removed"), &sum);
}

/// What happens to a machine while a process runs.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Frozen,
    FullDisk,
    FailingDisk,
    ClockAhead,
    ClockBack,
    Stopped,
}

const TROUBLES: [Trouble; 6] = [
    Trouble::FullDisk,
    Trouble::Frozen,
    Trouble::FailingDisk,
    Trouble::ClockAhead,
    Trouble::ClockBack,
    Trouble::Stopped,
];

#[tokio::test(flavor = "multi_thread")]
async fn no_stored_push_is_lost_by_frozen_processes_bad_disks_and_wrong_clocks() {
    const HOUR: i64 = 3_600_000;
    let troubles = number("OXIPUSH_CHAOS_TROUBLES", 6);
    let dir = tempfile::tempdir().unwrap();
    let (settings, at) = (settings(&dir.path().join("data")), [free(), free(), free()]);
    let faults = Faults::new(dir.path());
    let (traffic, tasks) = Traffic::start(&[at], rhythm(troubles > 20));
    traffic.begins(0);
    let mut process = spawn(&settings, at, Some(&faults));
    assert!(process.ready().await);
    for number in 0..troubles {
        let trouble = TROUBLES[number % TROUBLES.len()];
        sleep(Duration::from_millis(fastrand::u64(200..1000))).await;
        let lasts = Duration::from_millis(fastrand::u64(300..1500));
        match trouble {
            Trouble::Frozen => {
                process.signal(Signal::SIGSTOP);
                sleep(lasts).await;
                process.signal(Signal::SIGCONT);
            }
            Trouble::FullDisk | Trouble::FailingDisk => {
                let switch = if matches!(trouble, Trouble::FullDisk) { Switch::FullDisk } else { Switch::FailingDisk };
                let begun = Instant::now();
                faults.set(switch, 1);
                sleep(lasts).await;
                if number % 4 == 2 {
                    // it dies of something else meanwhile
                    traffic.dies(0, begun);
                    process.kill();
                }
                faults.set(switch, 0);
                if number % 4 == 2 {
                    traffic.begins(0);
                    process = spawn(&settings, at, Some(&faults));
                }
            }
            Trouble::ClockAhead => faults.set(Switch::ClockStep, HOUR),
            Trouble::ClockBack => faults.set(Switch::ClockStep, -HOUR),
            Trouble::Stopped => {
                process.terminate();
                assert_eq!(process.ended().await, Some(0), "an orderly stop");
                faults.set(Switch::ClockStep, 0);
                traffic.begins(0);
                process = spawn(&settings, at, Some(&faults));
            }
        }
        assert!(process.ready().await, "it is well again after {trouble:?}");
        assert!(traffic.accepts(20).await, "no push is accepted after {trouble:?}");
    }
    let sum = traffic.sum(tasks).await;
    check(&format!("{troubles} troubles"), &sum);
}
