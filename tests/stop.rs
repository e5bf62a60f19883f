//! SIGTERM under load, and restarts within the replay hold, with a ledger of what was accepted and what was received.
//!
//! `OXIPUSH_STOPS` (4) says how often each is stopped; `just stops` does 30.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "stop/ledger.rs"]
mod ledger;
mod support;

use std::{collections::BTreeSet, ffi::OsStr, path::PathBuf, process::Command, time::Duration};

use ledger::Traffic;
use oxipush::internals::queue::record;
use support::{
    backlog,
    client::{Client, PATIENCE},
    gateway::Node,
    nsq::Nsqd,
    process::{Process, free},
};
use tempfile::TempDir;

/// The clients are back within it on a machine that does other things too.
const HOLD: Duration = Duration::from_secs(2);

fn stops() -> u64 {
    std::env::var("OXIPUSH_STOPS").map_or(4, |stops| stops.parse().unwrap())
}

/// Stops the gateway again and again while pushes go on, and starts it on what the last one left.
async fn nothing_is_missing_after_stops(given: &[(&str, &str)], environment: &[(&str, &OsStr)]) {
    let stops = stops();
    let hold = format!("{}ms", HOLD.as_millis());
    let settings = [given, &[("QUEUE__REPLAY_HOLD", hold.as_str())]].concat();
    let at = [free(), free(), free()];
    let (traffic, tasks) = Traffic::start(at);
    let mut process = None;
    for number in 1..=stops + 1 {
        traffic.enters(number);
        let started = process.insert(Process::spawn_in(&settings, at, environment));
        assert!(started.ready().await, "it starts on what the last one left");
        traffic.all_joined().await;
        if number > stops {
            break;
        }
        // most stops come into the flow, some into the hold
        let past = if number.is_multiple_of(4) { Duration::ZERO } else { HOLD };
        tokio::time::sleep(past + Duration::from_millis(fastrand::u64(50..500))).await;
        started.terminate();
        assert_eq!(started.ended().await, Some(0), "an orderly stop");
    }
    let sum = traffic.sum(tasks).await;
    println!("{stops} stops: {} accepted, {} missing, {} copies", sum.accepted, sum.missing, sum.copies);
    assert!(sum.accepted as u64 > stops * 20, "the test pushed next to nothing");
    assert_eq!(sum.missing, 0, "of {}", sum.accepted);
}

/// Restarts the gateway eleven times while it holds a backlog of `card`, then lets it hand that out.
async fn the_backlog_outlives_restarts_within_the_hold(settings: &[(&str, &str)], contents: &[String]) {
    for restart in 0..11 {
        let mut process = Process::spawn(&[settings, &[("QUEUE__REPLAY_HOLD", "1h")]].concat());
        assert!(process.ready().await);
        // time to take what it must not: a consumer of nsqd asks for messages after half a second
        tokio::time::sleep(Duration::from_millis(800)).await;
        match restart % 2 {
            0 => process.terminate(),
            _ => process.kill(),
        }
        process.ended().await;
    }
    let mut last = Process::spawn(&[settings, &[("QUEUE__REPLAY_HOLD", "2s")]].concat());
    assert!(last.ready().await);
    let mut tab = Client::gopusher(&last.ws(), "card", "").await;
    let mut missing: BTreeSet<&str> = contents.iter().map(String::as_str).collect();
    let all = async {
        while !missing.is_empty() {
            let content = tab.content().await;
            assert!(missing.remove(&*content), "{content} came twice");
        }
    };
    let came = tokio::time::timeout(PATIENCE, all).await;
    assert!(came.is_ok(), "{} of {} are missing", missing.len(), contents.len());
}

fn folder() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    (dir, path)
}

/// The settings of a node on `nsqd`.
fn on(nsqd: &Nsqd) -> [(&'static str, String); 4] {
    [
        ("QUEUE__BACKEND", "nsq".into()),
        ("QUEUE__NSQD", nsqd.tcp()),
        ("QUEUE__NSQD_HTTP", nsqd.http()),
        ("NODE__ID", "stopped".into()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_push_of_the_embedded_queue() {
    let (_dir, path) = folder();
    nothing_is_missing_after_stops(&[("DATA__DIR", &path)], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_push_on_a_disk_that_syncs_slowly() {
    let (dir, path) = folder();
    let shim = slow_sync(&dir);
    nothing_is_missing_after_stops(&[("DATA__DIR", &path)], &[("LD_PRELOAD", shim.as_os_str())]).await;
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_embedded_queue_holds_is_not_dropped_by_restarts() {
    let (dir, path) = folder();
    let contents = numbered(200);
    backlog::leave(dir.path(), "card", &contents.iter().map(String::as_str).collect::<Vec<_>>()).await;
    the_backlog_outlives_restarts_within_the_hold(&[("DATA__DIR", &path)], &contents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nsqd_holds_is_not_dropped_by_restarts() {
    let (_dir, path) = folder();
    let nsqd = Nsqd::start().await;
    let nsq = on(&nsqd);
    let mut settings: Vec<_> = nsq.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.push(("DATA__DIR", &path));
    let contents = numbered(200);
    // the node's channel exists once it ran, and nobody reads it then
    let mut first = Process::spawn(&settings);
    assert!(first.ready().await);
    first.kill();
    for content in &contents {
        nsqd.publish("gopusher.live", record::encode(&backlog::push("card", content)).to_vec()).await;
    }
    the_backlog_outlives_restarts_within_the_hold(&settings, &contents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_grows_too_old_within_the_hold_reaches_nobody() {
    let (dir, path) = folder();
    backlog::leave(dir.path(), "card", &["old"; 50]).await;
    let settings = [("DATA__DIR", &*path), ("QUEUE__MAX_AGE", "2s"), ("QUEUE__REPLAY_HOLD", "6s")];
    let node = Node::start(&settings).await;
    let mut tab = Client::gopusher(&node.socket(), "card", "").await;
    node.metric_reaches("oxipush_drops_total", &[("reason", "expired")], 50.0).await;
    // the hold is over once a push arrives; those that come within it grow too old as well
    let fresh = async {
        loop {
            node.push(&["card"], "fresh").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        content = tab.content() => assert_eq!(content, "fresh"),
        () = fresh => {}
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_gets_a_backlog_of_forty_outboxes_though_another_does_not_read() {
    let (dir, path) = folder();
    let contents: Vec<_> = (0..100).map(|number| format!("{number} {}", "x".repeat(60_000))).collect();
    let contents: Vec<_> = contents.iter().map(String::as_str).collect();
    for half in contents.chunks(50) {
        backlog::leave(dir.path(), "frozen", half).await;
        backlog::leave(dir.path(), "card", half).await;
    }
    let settings = [("DATA__DIR", &*path), ("QUEUE__REPLAY_HOLD", "4s"), ("OUTBOX__MAX_BYTES", "150KiB")];
    let node = Node::start(&settings).await;
    let _frozen = Client::narrow(&node.socket(), "frozen").await;
    let mut tab = Client::narrow(&node.socket(), "card").await;
    for content in contents {
        assert_eq!(tab.content().await, content);
        // 12 MB a second, less than what the queue can hand out
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.push(&["card"], "and what follows").await;
    assert_eq!(tab.content().await, "and what follows");
    node.stop().await;
}

/// A library that makes each sync take longer.
fn slow_sync(dir: &TempDir) -> PathBuf {
    let shim = dir.path().join("slow_sync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stop/slow_sync.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).args([source, "-ldl"]).status();
    assert!(built.unwrap().success(), "cc builds the library");
    shim
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_push_of_nsqd() {
    let (_dir, path) = folder();
    let nsqd = Nsqd::start().await;
    let nsq = on(&nsqd);
    let mut settings: Vec<_> = nsq.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.push(("DATA__DIR", &path));
    nothing_is_missing_after_stops(&settings, &[]).await;
}
