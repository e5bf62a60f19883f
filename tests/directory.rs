//! A cluster of three gateways with a directory in Redis: a push is read by the nodes that hold its clients, and none is lost for it.
#![allow(clippy::duplicate_mod, clippy::unwrap_used, missing_docs)]

#[path = "cluster/fleet.rs"]
mod fleet;
#[path = "directory/movers.rs"]
mod movers;
#[path = "cluster/rig.rs"]
mod rig;
#[path = "cluster/support.rs"]
mod servers;
mod support;

use std::time::{Duration, Instant};

use fleet::Fleet;
use movers::Movers;
use nix::sys::signal::Signal;
use rig::Rig;
use serde_json::{Value, json};
use support::{client::Client, http, ledger::Findings, redis::RedisServer};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(30);
/// A session that ended so soon after a push was accepted may have ended before it.
const GRACE: Duration = Duration::from_secs(3);
/// `[directory] lease` here.
const LEASE: Duration = Duration::from_secs(3);

/// Three gateways with a directory.
async fn rig(redis: &RedisServer) -> Rig {
    Rig::start(3, &settings(&redis.url())).await
}

fn settings(url: &str) -> [(&'static str, &str); 8] {
    [
        ("DIRECTORY__BACKEND", "redis"),
        ("DIRECTORY__LEASE", "3s"),
        ("STORE__BACKEND", "none"),
        ("REDIS__URL", url),
        ("REDIS__MAX_BACKOFF", "300ms"),
        ("REDIS__CHECK_INTERVAL", "300ms"),
        ("CLUSTER__CHANNEL_GRACE", "16s"),
        ("QUEUE__REPLAY_HOLD", "0s"),
    ]
}

/// Until every node has written what it holds, and knows that the others have.
async fn ready(rig: &Rig) {
    let begun = Instant::now();
    for node in &rig.nodes {
        while node.metric("oxipush_directory_ready", &[]).await != 1.0 {
            assert!(begun.elapsed() < PATIENCE, "{} has not written what it holds", node.id);
            sleep(Duration::from_millis(20)).await;
        }
    }
    // etcd has told each of the others by now: a push to nobody goes nowhere
    for node in 0..rig.nodes.len() {
        let nobody = || rig.nodes[node].metric("oxipush_directory_routes_total", &[("route", "nobody")]);
        let before = nobody().await;
        while nobody().await == before {
            assert!(begun.elapsed() < PATIENCE, "{} does not know the others", rig.nodes[node].id);
            assert_eq!(push(rig, node, json!({"to": ["nobody"], "from": "", "content": "x"})).await.0, 200);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A push through the HTTP of a gateway; status and answer.
async fn push(rig: &Rig, node: usize, body: Value) -> (u16, Value) {
    let url = format!("http://{}/push", rig.nodes[node].at()[1]);
    let answer = http::client().post(url).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn push_to(rig: &Rig, node: usize, cards: &[&str], content: &str) {
    let (status, answer) = push(rig, node, json!({"to": cards, "from": "", "content": content})).await;
    assert_eq!(status, 200, "{answer}");
}

/// Waits for a push; others may come before it.
async fn hears(client: &mut Client, content: &str) {
    while client.content().await != content {}
}

fn ws(rig: &Rig, node: usize) -> String {
    format!("ws://{}/ws", rig.nodes[node].at()[0])
}

/// Jobs that each node has taken from the queue.
async fn jobs(rig: &Rig) -> Vec<f64> {
    let mut jobs = Vec::new();
    for node in &rig.nodes {
        jobs.push(node.metric("oxipush_jobs_total", &[("outcome", "finished")]).await);
    }
    jobs
}

fn check(what: &str, findings: &Findings) {
    println!("{what}: {findings}");
    assert!(findings.wrong.is_empty(), "{:#?}", findings.wrong);
    let some = &findings.missing[..findings.missing.len().min(10)];
    assert!(findings.missing.is_empty(), "{what}: {} are missing: {some:#?}", findings.missing.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_read_by_the_nodes_that_hold_its_clients_and_by_no_other() {
    let redis = RedisServer::start().await;
    let rig = rig(&redis).await;
    ready(&rig).await;
    // names that mean something to Redis or to NSQ
    let card = "{a} b:c\u{e9}*";
    let mut first = Client::modern(&ws(&rig, 0), card, "").await;
    let mut second = Client::modern(&ws(&rig, 1), "two", "").await;
    second.say(json!({"event": "subscribe", "data": {"room": "lobby"}})).await;
    assert_eq!(second.hear().await["event"], "subscribed");
    let before = jobs(&rig).await;
    for number in 0..20 {
        push_to(&rig, 2, &[card], &format!("one {number}")).await;
        assert_eq!(first.content().await, format!("one {number}"));
    }
    push_to(&rig, 2, &[card, "two", "nobody"], "both").await;
    assert_eq!((first.content().await, second.content().await), ("both".into(), "both".into()));
    assert_eq!(push(&rig, 0, json!({"room": "lobby", "from": "", "content": "room"})).await.0, 200);
    assert_eq!(second.content().await, "room");
    push_to(&rig, 0, &["nobody"], "nowhere").await;
    assert_eq!(push(&rig, 0, json!({"everyone": true, "from": "", "content": "all"})).await.0, 200);
    assert_eq!((first.content().await, second.content().await), ("all".into(), "all".into()));
    let wanted = [22.0, 3.0, 1.0];
    let begun = Instant::now();
    loop {
        let read: Vec<_> = jobs(&rig).await.iter().zip(&before).map(|(now, before)| now - before).collect();
        if read == wanted {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the nodes have read {read:?}, not {wanted:?}");
        sleep(Duration::from_millis(50)).await;
    }
    first.silent().await;
    second.silent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_push_through_any_door_reaches_its_clients_on_all_nodes_in_order() {
    let redis = RedisServer::start().await;
    let rig = rig(&redis).await;
    ready(&rig).await;
    let fleet = Fleet::start(rig.doors(), 150).await;
    fleet.push_through_every_door().await;
    let findings = fleet.ledger.settle(GRACE, PATIENCE).await;
    check("three nodes with a directory", &findings);
    println!("{}", fleet.ledger.times());
    assert_eq!(findings.disordered, 0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_move_between_nodes_under_load_miss_nothing_while_they_are_connected() {
    let redis = RedisServer::start().await;
    let rig = rig(&redis).await;
    ready(&rig).await;
    let movers = Movers::start(rig.doors(), 12).await;
    let accepted = movers.push_for(Duration::from_secs(5)).await;
    let sum = movers.stop().await;
    println!("{accepted} accepted, {} moves, {} copies", sum.moves, sum.copies);
    let mut sent_on = 0.0;
    for node in &rig.nodes {
        sent_on += node.metric("oxipush_directory_forwards_total", &[("outcome", "sent_on")]).await;
    }
    println!("{sent_on} sent on from node to node");
    assert!(sum.moves > 20 && accepted > 50, "{} moves", sum.moves);
    assert!(sum.missing.is_empty(), "{} of {accepted} are missing: {:?}", sum.missing.len(), sum.missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_live_push_to_who_is_connected() {
    let redis = RedisServer::start().await;
    let mut rig = rig(&redis).await;
    ready(&rig).await;
    let mut fleet = Fleet::start(rig.doors(), 100).await;
    fleet.push(2, Duration::from_millis(5));
    sleep(Duration::from_millis(500)).await;
    for node in 0..3 {
        rig.nodes[node].stop().await;
        fleet.all_joined(100).await;
        rig.again(node).await;
    }
    let refused = fleet.pushed().await;
    let findings = fleet.ledger.settle(GRACE, PATIENCE).await;
    println!("{}; refused: {refused:?}", fleet.ledger.times());
    check("a rolling restart with a directory", &findings);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_emptied_killed_or_frozen_costs_no_push_and_no_join() {
    let mut redis = RedisServer::start().await;
    let mut rig = rig(&redis).await;
    ready(&rig).await;
    let mut fleet = Fleet::start(rig.doors(), 60).await;
    fleet.push(1, Duration::from_millis(10));
    for _ in 0..3 {
        redis.cli(&["FLUSHALL"]);
        sleep(Duration::from_millis(400)).await;
    }
    redis.kill();
    let begun = Instant::now();
    let mut late = Client::modern(&ws(&rig, 0), "late", "").await;
    let waited = begun.elapsed();
    println!("joined {waited:.2?} after Redis was killed");
    assert!(waited < LEASE + Duration::from_secs(4), "a join waits for {waited:?}");
    rig.nodes[0].says("directory: Redis is away").await;
    push_to(&rig, 1, &["late"], "without a directory").await;
    hears(&mut late, "without a directory").await;
    redis.again().await;
    ready(&rig).await;
    redis.pause();
    sleep(LEASE).await;
    push_to(&rig, 1, &["late"], "with a frozen one").await;
    hears(&mut late, "with a frozen one").await;
    redis.resume();
    ready(&rig).await;
    // who comes while it fails is there afterwards
    push_to(&rig, 1, &["late"], "with it again").await;
    hears(&mut late, "with it again").await;
    let refused = fleet.pushed().await;
    let findings = fleet.ledger.settle(GRACE, PATIENCE).await;
    println!("{}; refused: {refused:?}", fleet.ledger.times());
    check("a directory that fails", &findings);
    assert!(refused.is_empty(), "{refused:?}");
    for node in &mut rig.nodes {
        node.stop().await;
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_killed_node_goes_to_where_its_clients_are_by_then() {
    let redis = RedisServer::start().await;
    let mut rig = rig(&redis).await;
    ready(&rig).await;
    // a node that reads nothing any more, and whose lease the others still rely on
    let gone = Client::modern(&ws(&rig, 2), "alice", "").await;
    rig.nodes[2].signal(Signal::SIGSTOP);
    for number in 0..5 {
        push_to(&rig, 0, &["alice"], &format!("waits {number}")).await;
    }
    let routed = rig.nodes[0].metric("oxipush_directory_routes_total", &[("route", "nodes")]).await;
    assert!(routed >= 5.0, "{routed} pushes went to single nodes");
    rig.nodes[2].kill();
    drop(gone);
    let mut back = Client::modern(&ws(&rig, 0), "alice", "").await;
    let mut got = Vec::new();
    for _ in 0..5 {
        got.push(back.content().await);
    }
    assert_eq!(got, (0..5).map(|number| format!("waits {number}")).collect::<Vec<_>>());
    // the topic goes with the node
    let begun = Instant::now();
    loop {
        let mut topics = Vec::new();
        for nsqd in &rig.nsqds {
            let stats: Value =
                http::get(format!("http://{}/stats?format=json", nsqd.http())).await.unwrap().json().await.unwrap();
            topics.extend(
                stats["topics"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|topic| topic["topic_name"].as_str().unwrap().to_owned()),
            );
        }
        if !topics.iter().any(|topic| topic.ends_with(".node.gw-3")) {
            assert!(topics.iter().any(|topic| topic.ends_with(".node.gw-1")), "{topics:?}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the topic of gw-3 is still there: {topics:?}");
        sleep(Duration::from_millis(200)).await;
    }
    push_to(&rig, 1, &["alice"], "goes on").await;
    assert_eq!(back.content().await, "goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_node_without_a_directory_every_node_reads_every_push() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let mut rig = Rig::new(2, &settings(&url)).await;
    rig.nodes[1].settings.push(("DIRECTORY__BACKEND", "none".into()));
    rig.start_all().await;
    let mut old = Client::modern(&ws(&rig, 1), "alice", "").await;
    let mut new = Client::modern(&ws(&rig, 0), "alice", "").await;
    for node in [0, 1] {
        push_to(&rig, node, &["alice"], "both").await;
        assert_eq!((old.content().await, new.content().await), ("both".into(), "both".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_etcd_takes_for_dead_gets_what_is_pushed_to_its_clients() {
    let redis = RedisServer::start().await;
    let rig = rig(&redis).await;
    ready(&rig).await;
    let mut client = Client::modern(&ws(&rig, 2), "alice", "").await;
    rig.nodes[2].signal(Signal::SIGSTOP);
    let mut pushed = Vec::new();
    let begun = Instant::now();
    // `[cluster] lease` and `[directory] lease` are 3 s
    while begun.elapsed() < Duration::from_secs(9) {
        let content = format!("{:?}", begun.elapsed());
        push_to(&rig, pushed.len() % 2, &["alice"], &content).await;
        pushed.push(content);
        sleep(Duration::from_millis(100)).await;
    }
    rig.nodes[0].says("cluster: nodes: gw-1, gw-2\"").await;
    rig.nodes[2].signal(Signal::SIGCONT);
    let mut got = std::collections::HashSet::new();
    while !pushed.iter().all(|content| got.contains(content)) {
        got.insert(client.content().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_keeps_nobody_out_and_loses_no_push() {
    let redis = RedisServer::start().await;
    let rig = rig(&redis).await;
    ready(&rig).await;
    let mut before = Client::modern(&ws(&rig, 0), "before", "").await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let begun = Instant::now();
    let mut after = Client::modern(&ws(&rig, 0), "after", "").await;
    println!("joined {:.2?} after Redis was full", begun.elapsed());
    rig.nodes[0].says("directory: what this node holds cannot be written").await;
    for content in ["one", "two"] {
        push_to(&rig, 1, &["before", "after"], content).await;
        assert_eq!((before.content().await, after.content().await), (content.into(), content.into()));
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    ready(&rig).await;
    push_to(&rig, 1, &["before", "after"], "three").await;
    assert_eq!((before.content().await, after.content().await), ("three".into(), "three".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_left_in_the_directory_is_taken_out_by_its_next_process() {
    let redis = RedisServer::start().await;
    let mut rig = rig(&redis).await;
    ready(&rig).await;
    let gone = Client::modern(&ws(&rig, 2), "alice", "").await;
    rig.nodes[2].kill();
    drop(gone);
    let mut client = Client::modern(&ws(&rig, 0), "alice", "").await;
    rig.again(2).await;
    ready(&rig).await;
    let key = redis.cli(&["--scan", "--pattern", "*:c:alice"]);
    let key = key.trim();
    assert!(redis.cli(&["SMEMBERS", key]).contains("gw-3"), "nothing was left of the killed process");
    let begun = Instant::now();
    let mut pushes = 0;
    while redis.cli(&["SMEMBERS", key]).contains("gw-3") {
        push_to(&rig, 1, &["alice"], &format!("push {pushes}")).await;
        hears(&mut client, &format!("push {pushes}")).await;
        pushes += 1;
        assert!(begun.elapsed() < PATIENCE, "gw-3 is still said to hold alice");
    }
    assert!(redis.cli(&["SMEMBERS", key]).contains("gw-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_without_a_directory_misses_nothing() {
    let redis = RedisServer::start().await;
    let mut rig = rig(&redis).await;
    ready(&rig).await;
    rig.nodes[2].stop().await;
    rig.nodes[2].settings.push(("DIRECTORY__BACKEND", "none".into()));
    rig.again(2).await;
    let mut client = Client::modern(&ws(&rig, 2), "alice", "").await;
    for number in 0..5 {
        push_to(&rig, number % 3, &["alice"], &format!("{number}")).await;
        assert_eq!(client.content().await, format!("{number}"));
    }
}
