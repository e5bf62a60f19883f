//! Stored pushes in a cluster of three gateways whose store is one Redis, with a ledger: nothing that was accepted is lost.
//!
//! `just cluster-chaos` makes more of it: OXIPUSH_FAULT_ROUNDS (1) of each fault.
#![allow(clippy::duplicate_mod, clippy::unwrap_used, missing_docs)]

#[path = "chaos/books.rs"]
mod books;
#[path = "chaos/faults.rs"]
mod faults;
#[path = "cluster/fleet.rs"]
mod fleet;
#[path = "cluster/rig.rs"]
mod rig;
#[path = "cluster/support.rs"]
mod servers;
mod support;
#[path = "chaos/traffic.rs"]
mod traffic;

use std::time::{Duration, Instant};

use faults::{Faults, Switch};
use nix::sys::signal::Signal;
use oxipush::internals::queue::record;
use rig::Rig;
use serde_json::{Value, json};
use support::{
    backlog,
    client::Client,
    http,
    link::{Link, Weather},
    process::{Process, free},
    redis::RedisServer,
    stream::StreamClient,
};
use tokio::time::sleep;
use traffic::{Rhythm, Sum, Traffic};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The settings of a cluster whose store is at `redis` (host:port).
fn settings(redis: &str) -> Vec<(&'static str, String)> {
    vec![
        ("STORE__BACKEND", "redis".into()),
        ("REDIS__URL", format!("redis://{redis}")),
        ("REDIS__MAX_BACKOFF", "300ms".into()),
        ("REDIS__CHECK_INTERVAL", "300ms".into()),
        ("STORE__MAX_ENTRIES", "1000000".into()),
        ("STORE__MAX_STREAM_BYTES", "1GiB".into()),
        ("STORE__SWEEP_INTERVAL", "500ms".into()),
        // gopusher's clients have no device
        ("STORE__NEW_APP", "oldest".into()),
        ("QUEUE__REPLAY_HOLD", "0s".into()),
    ]
}

async fn rig(nodes: usize, redis: &str, more: &[(&'static str, &str)]) -> Rig {
    let settings = settings(redis);
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).chain(more.to_vec()).collect();
    Rig::new(nodes, &settings).await
}

/// A stored push through the HTTP of a gateway; status and answer.
async fn store(rig: &Rig, node: usize, mut body: Value) -> (u16, Value) {
    body["offline"] = true.into();
    let url = format!("http://{}/push", rig.nodes[node].at()[1]);
    let answer = http::client().post(url).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

/// As a caller does: again, with the same key, until it is answered.
async fn stored(rig: &Rig, node: usize, mut body: Value) {
    body["idempotency_key"] = format!("key-{:x}", fastrand::u128(..)).into();
    let begun = Instant::now();
    loop {
        let (status, answer) = store(rig, node, body.clone()).await;
        if status == 200 {
            return;
        }
        assert!(status == 503 && begun.elapsed() < Duration::from_secs(30), "{status} {answer}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn ws(rig: &Rig, node: usize) -> String {
    format!("ws://{}/ws", rig.nodes[node].at()[0])
}

fn check(what: &str, sum: &Sum) {
    println!(
        "{what}: {} accepted, {} missing, {} deliveries to {} readers, {} copies",
        sum.accepted, sum.missing, sum.deliveries, sum.readers, sum.copies
    );
    assert!(sum.wrong.is_empty(), "{:#?}", sum.wrong);
    assert_eq!(sum.missing, 0, "of {}", sum.accepted);
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    NodeKilled,
    NodeFrozen,
    RedisKilled,
    RedisFrozen,
    NsqdKilled,
    EtcdKilled,
    NodeCutFromRedis,
    NodeHeldFromRedis,
}

const FAULTS: [Fault; 8] = [
    Fault::NodeKilled,
    Fault::RedisKilled,
    Fault::NodeCutFromRedis,
    Fault::NodeFrozen,
    Fault::RedisFrozen,
    Fault::NsqdKilled,
    Fault::NodeHeldFromRedis,
    Fault::EtcdKilled,
];

#[tokio::test(flavor = "multi_thread")]
async fn no_stored_push_is_lost_by_the_fault_of_any_part() {
    let rounds = number("OXIPUSH_FAULT_ROUNDS", 1);
    let mut redis = RedisServer::start().await;
    let link = Link::to(&redis.address()).await;
    let mut rig = rig(3, &redis.address(), &[]).await;
    // the first gateway reaches Redis over a network that fails
    rig.nodes[0].settings.push(("REDIS__URL", format!("redis://{}", link.address())));
    let at: Vec<_> = rig.nodes.iter().map(rig::Member::at).collect();
    let rhythm = Rhythm { stays: Duration::from_millis(1300), away: Duration::from_millis(200) };
    let (traffic, tasks) = Traffic::start(&at, rhythm);
    (0..3).for_each(|node| traffic.begins(node));
    rig.start_all().await;
    assert!(traffic.accepts(20).await, "no push is accepted");
    for turn in 0..rounds * FAULTS.len() {
        let fault = FAULTS[turn % FAULTS.len()];
        let lasts = Duration::from_millis(fastrand::u64(500..1500));
        let (begun, node) = (Instant::now(), turn / FAULTS.len() % 3);
        // what a gateway is told while Redis is away it has in memory only
        let dying: Vec<usize> = match fault {
            Fault::NodeKilled => vec![node],
            Fault::RedisKilled | Fault::RedisFrozen => vec![0, 1, 2],
            Fault::NodeCutFromRedis | Fault::NodeHeldFromRedis => vec![0],
            Fault::NodeFrozen | Fault::NsqdKilled | Fault::EtcdKilled => vec![],
        };
        dying.iter().for_each(|node| traffic.dies(*node, begun));
        match fault {
            Fault::NodeKilled => {
                rig.nodes[node].kill();
                sleep(lasts).await;
                traffic.begins(node);
                rig.begin(node);
            }
            Fault::NodeFrozen => {
                rig.nodes[node].signal(Signal::SIGSTOP);
                sleep(lasts).await;
                rig.nodes[node].signal(Signal::SIGCONT);
            }
            Fault::RedisKilled => {
                redis.kill();
                sleep(lasts).await;
                redis.again().await;
            }
            Fault::RedisFrozen => {
                redis.pause();
                sleep(lasts).await;
                redis.resume();
            }
            Fault::NsqdKilled => {
                rig.nsqds[turn % 2].kill().await;
                sleep(lasts).await;
                rig.nsqds[turn % 2].again().await;
            }
            Fault::EtcdKilled => {
                rig.etcd.down();
                sleep(lasts).await;
                rig.etcd.up().await;
            }
            Fault::NodeCutFromRedis | Fault::NodeHeldFromRedis => {
                let cut = matches!(fault, Fault::NodeCutFromRedis);
                link.set(if cut { Weather::Cut } else { Weather::Held });
                sleep(lasts).await;
                link.mend();
            }
        }
        for node in &mut rig.nodes {
            node.ready().await;
        }
        // a number of its own: what they are told from now on is written down again
        dying.iter().filter(|_| !matches!(fault, Fault::NodeKilled)).for_each(|node| traffic.begins(*node));
        assert!(traffic.accepts(20).await, "no push is accepted after {fault:?}");
        println!("{fault:?} for {lasts:.1?}: pushes are accepted again after {:.1?}", begun.elapsed() - lasts);
    }
    let sum = traffic.sum(tasks).await;
    check(&format!("{} faults", rounds * FAULTS.len()), &sum);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_between_commit_and_wake_up_loses_nothing() {
    let redis = RedisServer::start().await;
    let mut rig = rig(2, &redis.address(), &[("QUEUE__PUBLISH_TIMEOUT", "20s")]).await;
    let (one, two) = (Link::to(&rig.nsqds[0].tcp()).await, Link::to(&rig.nsqds[1].tcp()).await);
    let through = format!("{},{}", one.address(), two.address());
    rig.nodes[0].settings.push(("QUEUE__NSQD", through));
    rig.start_all().await;
    let mut reader = StreamClient::join(&ws(&rig, 1), "alice", json!({"device": "phone"})).await;
    stored(&rig, 0, json!({"from": "test", "to": ["alice"], "content": "before"})).await;
    assert_eq!(reader.stored().await.content, "before");
    for link in [&one, &two] {
        link.set(Weather::Held);
    }
    stored(&rig, 0, json!({"from": "test", "to": ["alice"], "content": "no wake-up"})).await;
    rig.nodes[0].kill();
    let begun = Instant::now();
    assert_eq!(reader.stored().await.content, "no wake-up");
    println!("a push without a wake-up came {:.1?} after its gateway was killed", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_promoted_with_lost_writes_is_told_as_reset_and_drops_nothing_new() {
    let mut first = RedisServer::start().await;
    let replica = RedisServer::with(&["--appendonly", "yes", "--repl-diskless-sync-delay", "0"]).await;
    let link = Link::to(&first.address()).await;
    let mut rig = rig(2, &link.address(), &[]).await;
    replica.cli(&["REPLICAOF", "127.0.0.1", &first.port().to_string()]);
    replica.wait_for(&["INFO", "replication"], "master_link_status:up").await;
    rig.start_all().await;
    let mut reader = StreamClient::join(&ws(&rig, 1), "alice", json!({"device": "phone"})).await;
    let push = |content: &str| json!({"from": "test", "to": ["alice"], "content": content});
    stored(&rig, 0, push("replicated")).await;
    assert_eq!(reader.stored().await.content, "replicated");
    first.wait_for(&["WAIT", "1", "1000"], "1").await;
    // from here on it takes nothing more
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    replica.wait_for(&["INFO", "replication"], "role:master").await;
    for content in ["lost 1", "lost 2", "lost 3"] {
        stored(&rig, 0, push(content)).await;
        assert_eq!(reader.stored().await.content, content);
    }
    let epoch = reader.place.epoch.clone();
    first.kill();
    link.lead_to(&replica.address());
    for node in &mut rig.nodes {
        node.ready().await;
    }
    for content in ["new 1", "new 2"] {
        stored(&rig, 0, push(content)).await;
    }
    // what was lost is not taken for what comes now under its numbers
    let mut heard = Vec::new();
    while !heard.contains(&"new 2".to_owned()) {
        heard.push(reader.any_stored().await.content);
    }
    assert!(heard.contains(&"new 1".to_owned()), "{heard:?}");
    assert!(reader.resets >= 1 && reader.place.epoch != epoch, "it was told: {} {:?}", reader.resets, reader.place);
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_by_minutes_cost_nothing() {
    let redis = RedisServer::start().await;
    let mut rig = rig(3, &redis.address(), &[]).await;
    let dir = tempfile::tempdir().unwrap();
    let mut faults = Vec::new();
    for (node, minutes) in [(0, 5), (1, -5)] {
        let dir = dir.path().join(node.to_string());
        std::fs::create_dir(&dir).unwrap();
        let switches = Faults::new(&dir);
        switches.set(Switch::ClockStep, minutes * 60_000);
        let variables = switches.environment().map(|(name, value)| (name, value.to_owned()));
        rig.nodes[node].environment.extend(variables);
        faults.push(switches);
    }
    let at: Vec<_> = rig.nodes.iter().map(rig::Member::at).collect();
    let rhythm = Rhythm { stays: Duration::from_millis(1300), away: Duration::from_millis(200) };
    let (traffic, tasks) = Traffic::start(&at, rhythm);
    (0..3).for_each(|node| traffic.begins(node));
    rig.start_all().await;
    assert!(traffic.accepts(300).await, "pushes are accepted");
    check("clocks 10 minutes apart", &traffic.sum(tasks).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_days_ahead_does_not_forget_what_others_revoked() {
    let redis = RedisServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let url = redis.url();
    let revoke = async |nth: usize, minutes: i64, subject: &str| {
        let dir = dir.path().join(nth.to_string());
        std::fs::create_dir(&dir).unwrap();
        let clock = Faults::new(&dir);
        clock.set(Switch::ClockStep, minutes * 60_000);
        let data = dir.to_str().unwrap().to_owned();
        let given = [
            ("DATA__DIR", &*data),
            ("STORE__BACKEND", "redis"),
            ("REDIS__URL", &url),
            ("TOKEN__SECRET", support::token::SECRET),
        ];
        let mut node = Process::spawn_in(&given, [free(), free(), free()], &clock.environment());
        assert!(node.ready().await);
        let order = json!({"sub": subject, "revoke": true});
        let answer = http::client().post(node.url("/disconnect")).json(&order).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    };
    // [token] max_life is a day
    for (nth, (minutes, subject)) in [(0, "alice"), (5 * 24 * 60, "bob"), (0, "carol")].into_iter().enumerate() {
        revoke(nth, minutes, subject).await;
    }
    let mut kept: Vec<_> = redis.cli(&["ZRANGE", "oxipush:{revoked}", "0", "-1"]).lines().map(str::to_owned).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["alice", "bob", "carol"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_share_a_redis_by_their_prefixes() {
    let redis = RedisServer::start().await;
    let mut rig = rig(2, &redis.address(), &[]).await;
    for (node, name) in ["one", "two"].into_iter().enumerate() {
        rig.nodes[node].settings.extend([
            ("REDIS__PREFIX", name.to_owned()),
            ("QUEUE__TOPIC", name.to_owned()),
            ("CLUSTER__PREFIX", format!("/{name}")),
        ]);
    }
    rig.start_all().await;
    for (node, content) in ["for one", "for two"].into_iter().enumerate() {
        stored(&rig, node, json!({"from": "test", "to": ["alice"], "content": content})).await;
    }
    for (node, content) in ["for one", "for two"].into_iter().enumerate() {
        let mut reader = StreamClient::join(&ws(&rig, node), "alice", json!({"device": "phone"})).await;
        assert_eq!(reader.stored().await.content, content);
        reader.silent().await;
    }
    // in quotes: a key may have a line's end in it
    let keys = redis.cli(&["--no-raw", "KEYS", "*"]);
    assert!(keys.lines().all(|key| key.contains(" \"one:") || key.contains(" \"two:")), "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_the_version_before_lives_beside_these() {
    let redis = RedisServer::start().await;
    let mut rig = rig(2, &redis.address(), &[]).await;
    rig.start_all().await;
    // what it says of itself, without what is new
    let old = json!({
        "id": "old", "phase": "serving", "socket": "127.0.0.1:1", "http": "127.0.0.1:1",
        "grpc": "127.0.0.1:1", "weight": 1, "version": "0.1.0",
    });
    rig.etcd.ctl(&["put", "/oxipush/nodes/old", &old.to_string()]);
    let mut client = Client::modern(&ws(&rig, 1), "alice", "").await;
    // what it publishes
    let push = backlog::push("alice", "of the version before");
    rig.nsqds[0].publish("gopusher.live", record::encode(&push).to_vec()).await;
    assert_eq!(client.content().await, "of the version before");
    let mut reader = StreamClient::join(&ws(&rig, 0), "bob", json!({"device": "phone"})).await;
    stored(&rig, 1, json!({"from": "test", "to": ["bob"], "content": "stored"})).await;
    assert_eq!(reader.stored().await.content, "stored");
    for node in &mut rig.nodes {
        node.ready().await;
    }
}
