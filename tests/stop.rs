//! SIGTERM under load, and restarts within the replay hold, with a ledger of what was accepted and what was received.
//!
//! `OXIPUSH_STOPS` (4) says how often each is stopped; `just stops` does 30.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "stop/ledger.rs"]
mod ledger;
mod support;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ledger::Traffic;
use oxipush::internals::queue::record;
use serde_json::json;
use support::{
    backlog,
    client::{Client, PATIENCE},
    gateway::Node,
    nsq::Nsqd,
    process::{Process, free},
};
use tempfile::TempDir;

/// The clients are back within it on a machine that does many other things too; it ends as soon as they are.
const HOLD: Duration = Duration::from_secs(20);
/// What a process gets to come into the flow of pushes.
const FLOW: Duration = Duration::from_secs(1);

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
        // most stops come into the flow, some into its first moments
        let past = if number.is_multiple_of(4) { Duration::ZERO } else { FLOW };
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

/// Pushes to `card`, one each 50 ms whether or not anybody serves, until `over`; the contents that were accepted.
async fn push_all_the_time(at: std::net::SocketAddr, over: Arc<AtomicBool>) -> Vec<String> {
    let client = support::http::client();
    let mut clock = tokio::time::interval(Duration::from_millis(50));
    let (mut accepted, mut number) = (Vec::new(), 0);
    while !over.load(Ordering::SeqCst) {
        clock.tick().await;
        let content = number.to_string();
        let body = json!({"from": "", "to": ["card"], "appID": "", "content": content});
        let answer = client.post(format!("http://{at}/push")).json(&body).send().await;
        accepted.extend(answer.is_ok_and(|answer| answer.status() == 200).then_some(content));
        number += 1;
    }
    accepted
}

/// Restarts a node with a client that is away for 2 s, whatever it was told, while pushes come all the time.
async fn a_planned_restart_loses_nothing(settings: &[(&str, &str)]) {
    let at = [free(), free(), free()];
    let mut before = Process::spawn_at(settings, at);
    assert!(before.ready().await);
    let mut tab = Client::modern(&before.ws(), "card", "").await;
    let over = Arc::new(AtomicBool::new(false));
    let pushing = tokio::spawn(push_all_the_time(at[1], Arc::clone(&over)));
    let mut received = Vec::new();
    while received.len() < 10 {
        received.push(tab.content().await);
    }
    before.terminate();
    let (mut delay, began) = (None, Instant::now());
    loop {
        match tab.text().await.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap()) {
            Some(event) if event["event"] == "drain" => delay = event["data"]["reconnect_in_ms"].as_u64(),
            Some(event) => received.push(event["data"]["content"].as_str().unwrap().to_owned()),
            None => break,
        }
    }
    // one client has nobody to make room for
    assert!(delay.is_some_and(|delay| delay <= 1), "{delay:?}");
    let closed = Instant::now();
    assert!(closed - began < Duration::from_secs(1), "{:?}", closed - began);
    assert_eq!(before.ended().await, Some(0));
    let mut after = Process::spawn_at(settings, at);
    assert!(after.ready().await);
    tokio::time::sleep_until((closed + Duration::from_secs(2)).into()).await;
    let mut tab = Client::modern(&after.ws(), "card", "").await;
    let back = Instant::now();
    received.push(tab.content().await);
    // the hold ends with the return of who was there, not with its time
    assert!(back.elapsed() < Duration::from_secs(30), "{:?}", back.elapsed());
    for _ in 0..40 {
        received.push(tab.content().await);
    }
    over.store(true, Ordering::SeqCst);
    let accepted = pushing.await.unwrap();
    while accepted.iter().any(|content| !received.contains(content)) {
        received.push(tab.content().await);
    }
    let numbers: Vec<u64> = received.iter().map(|content| content.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "a copy, or out of order: {numbers:?}");
    println!("a planned restart: {} accepted, none missing", accepted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_restart_loses_no_push_to_a_client_that_comes_back_in_time() {
    let (_dir, path) = folder();
    a_planned_restart_loses_nothing(&[("DATA__DIR", &path), ("QUEUE__REPLAY_HOLD", "60s")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_restart_of_the_only_node_on_nsqd_loses_no_push_either() {
    let (_dir, path) = folder();
    let nsqd = Nsqd::start().await;
    let nsq = on(&nsqd);
    let mut settings: Vec<_> = nsq.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.extend([("DATA__DIR", &*path), ("QUEUE__REPLAY_HOLD", "60s")]);
    a_planned_restart_loses_nothing(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_had_two_tabs_gets_what_waits_in_both() {
    let (_dir, path) = folder();
    let settings = [("DATA__DIR", &*path), ("QUEUE__REPLAY_HOLD", "60s")];
    let node = Node::start(&settings).await;
    let mut tabs = Vec::new();
    for _ in 0..2 {
        tabs.push(Client::gopusher(&node.socket(), "card", "").await);
    }
    node.stop().await;
    drop(tabs);
    let node = Node::start(&settings).await;
    let mut first = Client::gopusher(&node.socket(), "card", "").await;
    let _another = Client::gopusher(&node.socket(), "another", "").await;
    node.push(&["card"], "waits").await;
    // as many clients as before, and yet one is missing
    first.silent().await;
    let mut second = Client::gopusher(&node.socket(), "card", "").await;
    assert_eq!((first.content().await, second.content().await), ("waits".into(), "waits".into()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_and_one_after_a_stop_without_clients_hold_nothing() {
    let (_dir, path) = folder();
    let settings = [("DATA__DIR", &*path), ("QUEUE__REPLAY_HOLD", "1h")];
    for content in ["the first", "the second"] {
        let node = Node::start(&settings).await;
        let mut tab = Client::gopusher(&node.socket(), "card", "").await;
        node.push(&["card"], content).await;
        assert_eq!(tab.content().await, content);
        drop(tab);
        node.metric_falls_to("oxipush_connections", &[], 0.0).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_pushes_wait_for_the_whole_hold_since_nobody_knows_who_was_there() {
    let (_dir, path) = folder();
    let mut killed = Process::spawn(&[("DATA__DIR", &path)]);
    assert!(killed.ready().await);
    let mut tab = Client::gopusher(&killed.ws(), "card", "").await;
    let body = json!({"from": "", "to": ["card"], "appID": "", "content": "before"});
    support::http::client().post(killed.url("/push")).json(&body).send().await.unwrap();
    assert_eq!(tab.content().await, "before");
    // until the log knows that it is finished
    tokio::time::sleep(Duration::from_millis(1500)).await;
    killed.kill();
    let node = Node::start(&[("DATA__DIR", &path), ("QUEUE__REPLAY_HOLD", "3s")]).await;
    let started = Instant::now();
    node.push(&["card"], "after").await;
    let mut tab = Client::gopusher(&node.socket(), "card", "").await;
    assert_eq!(tab.content().await, "after");
    assert!(started.elapsed() > Duration::from_secs(1), "{:?}", started.elapsed());
    node.stop().await;
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
