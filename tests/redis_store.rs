//! What only the store in Redis has to promise: Redis away, cut back, failed over, full, shared, or set up in a way that loses pushes.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code, unused_macros)]

#[macro_use]
#[path = "contract_store/suite.rs"]
mod suite;
mod support;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use oxipush::internals::{
    config,
    lifecycle::Tasks,
    push::{Resume, StreamPosition, unix_millis},
    redis_client::{RedisClient, RedisOpenError, RedisState},
    store::{AttachError, Claim, NewPush, Reader, StoreError, StreamChanges},
    telemetry::Metrics,
};
use serde_json::Value;
use suite::{Open, PATIENCE, PHONE, Settings, at, card, open_with, room, to};
use support::{gateway::Node, http, redis::RedisServer};
use tokio::time::timeout;

fn settings(server: &RedisServer) -> Settings {
    // long time-outs, since servers of many tests share a machine
    let patient = [("REDIS__TIMEOUT", "5s"), ("STORE__TIMEOUT", "10s"), ("REDIS__MAX_BACKOFF", "100ms")];
    let backend = [("STORE__BACKEND", "redis".to_owned()), ("REDIS__URL", server.url())];
    backend.into_iter().chain(patient.map(|(key, value)| (key, value.to_owned()))).collect()
}

fn with(server: &RedisServer, more: &[(&'static str, &str)]) -> Settings {
    let more = more.iter().map(|&(key, value)| (key, value.to_owned()));
    settings(server).into_iter().chain(more).collect()
}

/// Connects as a gateway does at its start.
async fn start(settings: Settings) -> Result<RedisClient, RedisOpenError> {
    let settings = settings.into_iter().map(|(key, value)| (format!("OXIPUSH__{key}"), value));
    let config = config::load(None, settings).unwrap();
    let (tasks, _deaths) = Tasks::new();
    RedisClient::start(&config.redis, &tasks, &Arc::new(Metrics::new())).await
}

async fn refusal(settings: Settings) -> String {
    start(settings).await.err().expect("it must not start").to_string()
}

fn is_unavailable<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Unavailable(_)))
}

/// Looks at changes until the answer is that all may have changed, as after each time that Redis was away.
async fn all_may_have_changed(open: &Open) {
    let told = async {
        loop {
            match open.store.take_changes(1000, |_| true).await {
                Ok(StreamChanges::Unknown) => return,
                Ok(StreamChanges::Some(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(PATIENCE, told).await.expect("it is told");
}

async fn away(open: &Open, redis: &mut RedisServer, how: impl FnOnce(&mut RedisServer)) {
    let alice = card("alice");
    open.append(to(&alice, "before")).await.unwrap();
    how(redis);
    let started = Instant::now();
    let outcome = open.append(to(&alice, "while it is away")).await;
    assert!(is_unavailable(&outcome), "{outcome:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // from then on at once
    for _ in 0..100 {
        let started = Instant::now();
        let outcome = open.append(to(&alice, "while it is away")).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
        assert!(is_unavailable(&open.store.head(&alice, None).await));
        assert!(open.store.claim(to(&alice, "").id, claim()).is_err());
        let attached = open.store.attach(&alice, Reader::Device(PHONE, None)).await;
        assert!(matches!(attached, Err(AttachError::Unavailable(_))), "{attached:?}");
        assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
    }
    shows_ready(open, 0).await;
}

/// Waits until the metric says so.
async fn shows_ready(open: &Open, ready: u8) {
    let shown = async {
        while !open.metrics.text().contains(&format!("oxipush_redis_ready {ready}\n")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, shown).await.expect("the metric follows");
}

fn claim() -> Claim {
    Claim { key: [9; 16], body: 1, deadline: unix_millis() + 60_000 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_stands_still_pushes_are_refused_in_time_then_at_once_and_then_it_goes_on() {
    let mut redis = RedisServer::start().await;
    let quick = [("REDIS__TIMEOUT", "300ms"), ("STORE__TIMEOUT", "600ms"), ("REDIS__CHECK_INTERVAL", "10s")];
    let open = open_with(with(&redis, &quick)).await;
    away(&open, &mut redis, |redis| redis.pause()).await;
    redis.resume();
    open.ready().await;
    open.append(to(&card("alice"), "after")).await.unwrap();
    shows_ready(&open, 1).await;
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_that_syncs_always_has_lost_nothing_when_it_is_back() {
    let mut redis = RedisServer::start().await;
    let open = open_with(with(&redis, &[("REDIS__TIMEOUT", "300ms"), ("STORE__TIMEOUT", "600ms")])).await;
    let alice = card("alice");
    open.store_all(&alice, &["one", "two"]).await;
    let head = open.head(&alice).await;
    away(&open, &mut redis, RedisServer::kill).await;
    redis.again().await;
    open.ready().await;
    assert_eq!(open.texts(&alice, 0).await.len(), 3);
    let known = StreamPosition { ..head };
    assert_eq!(open.store.head(&alice, Some(known)).await.unwrap().unwrap().epoch, head.epoch);
    open.append(to(&alice, "after")).await.unwrap();
    assert_eq!(open.head(&alice).await.seq, 4);
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_redis_and_uses_it_when_it_comes() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let client = start(settings(&redis)).await.expect("a Redis that is away is no reason not to start");
    let mut state = client.state();
    assert!(matches!(&*state.borrow(), RedisState::NotReady(_)));
    redis.again().await;
    timeout(PATIENCE, state.wait_for(|state| *state == RedisState::Ready)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_restored_from_an_old_dump_begins_another_epoch_once_and_nothing_new_is_taken_for_a_copy() {
    let mut redis = RedisServer::with(&["--appendonly", "no"]).await;
    let one = open_with(settings(&redis)).await;
    let two = open_with(settings(&redis)).await;
    let (alice, quiet) = (card("alice"), card("quiet"));
    one.store_all(&alice, &["one", "two"]).await;
    one.store_all(&quiet, &["kept"]).await;
    redis.cli(&["SAVE"]);
    one.store_all(&alice, &["lost", "lost too"]).await;
    let (known, kept) = (one.head(&alice).await, one.head(&quiet).await);
    assert_eq!(at(one.attach(&alice, Reader::Device(PHONE, None)).await.unwrap()).1, 0);
    one.store.ack("alice", PHONE, known.epoch, 4);
    one.acknowledged(&alice, "phone", 4).await;
    one.changes().await;
    redis.kill();
    redis.again().await;
    one.answers().await;
    two.answers().await;

    // the numbers are given again, as nobody knows yet
    two.store_all(&alice, &["new"]).await;
    assert_eq!(two.head(&alice).await.epoch, known.epoch);
    all_may_have_changed(&one).await;
    // what a client acknowledges now may be of what is gone
    one.store.ack("alice", PHONE, known.epoch, 3);

    let renewed = one.store.head(&alice, Some(known)).await.unwrap().unwrap();
    assert_ne!(renewed.epoch, known.epoch);
    assert_eq!(renewed.seq, 3);
    // who asks later, with what it knows, finds the same epoch
    assert_eq!(two.store.head(&alice, Some(known)).await.unwrap().unwrap(), renewed);
    // one that lost nothing stays as it is
    assert_eq!(one.store.head(&quiet, Some(kept)).await.unwrap().unwrap(), kept);
    // a client that had the lost ones is told, and gets the new one
    let resume = Resume { epoch: known.epoch, seq: 4, id: Some(known.id) };
    let (head, from, waiting, reset) = at(one.attach(&alice, Reader::Device(PHONE, Some(resume))).await.unwrap());
    assert!(reset && head == 3 && from < 3 && waiting >= 1, "{head} {from} {waiting} {reset}");
    // a head that has another id is one, too
    let other = StreamPosition { id: to(&alice, "").id, ..renewed };
    assert_ne!(one.store.head(&alice, Some(other)).await.unwrap().unwrap().epoch, renewed.epoch);
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinels_fail_over_to_a_replica_that_missed_writes_is_followed_and_found() {
    let quick = ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
    let mut master = RedisServer::with(&quick).await;
    let port = master.port().to_string();
    let replica = RedisServer::with(&["--appendonly", "yes", "--replicaof", "127.0.0.1", &port]).await;
    let sentinel = RedisServer::sentinel("mymaster", &master).await;
    replica.wait_for(&["INFO", "replication"], "master_link_status:up").await;
    sentinel.wait_for(&["SENTINEL", "MASTER", "mymaster"], &replica_count_line()).await;
    let open = open_with(vec![
        ("STORE__BACKEND", "redis".into()),
        ("REDIS__URL", sentinel.url()),
        ("REDIS__SENTINEL_MASTER", "mymaster".into()),
        ("REDIS__TIMEOUT", "500ms".into()),
        ("REDIS__MAX_BACKOFF", "200ms".into()),
    ])
    .await;
    let alice = card("alice");
    open.store_all(&alice, &["one", "two"]).await;
    let key = master.cli(&["KEYS", "*:s:c:alice"]);
    replica.wait_for(&["HGET", &key, "s"], "2").await;
    // its link is cut off: what comes now it does not get
    replica.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    open.store_all(&alice, &["lost"]).await;
    let known = open.head(&alice).await;
    master.kill();
    replica.wait_for(&["INFO", "replication"], "role:master").await;
    let found = async {
        loop {
            if let Ok(Some(head)) = open.store.head(&alice, Some(known)).await {
                return head;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let head = timeout(PATIENCE, found).await.expect("the new master answers");
    assert_eq!(head.seq, 2, "the replica had all that came before");
    assert_ne!(head.epoch, known.epoch);
    open.append(to(&alice, "new")).await.unwrap();
    assert_eq!(open.texts(&alice, 2).await, [(3, "new".into())]);
    open.close().await;
}

fn replica_count_line() -> String {
    "num-slaves\n1".into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_with_two_prefixes_share_a_redis_and_see_nothing_of_each_other() {
    let redis = RedisServer::start().await;
    let one = open_with(with(&redis, &[("REDIS__PREFIX", "one")])).await;
    let two = open_with(with(&redis, &[("REDIS__PREFIX", "two")])).await;
    let alice = card("alice");
    one.changes().await;
    two.changes().await;
    one.store_all(&alice, &["of one"]).await;
    assert_eq!(two.store.head(&alice, None).await, Ok(None));
    two.store_all(&alice, &["of two"]).await;
    one.store.revoke("alice", unix_millis() / 1000).await.unwrap();
    assert_eq!(one.texts(&alice, 0).await, [(1, "of one".into())]);
    assert_eq!(two.changes().await.len(), 1);
    assert!(two.store.revocations().await.unwrap().is_empty());
    // each key goes by itself
    for key in redis.cli(&["KEYS", "*"]).lines() {
        assert!(key.starts_with("one:{") || key.starts_with("two:{"), "{key}");
        let ttl: i64 = redis.cli(&["PTTL", key]).parse().unwrap();
        assert!(ttl > 0, "{key} stays");
    }
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_leaves_nothing_behind_once_its_pushes_are_over() {
    let redis = RedisServer::start().await;
    let open = open_with(settings(&redis)).await;
    let mut push = to(&room("r"), "short");
    push.deadline = Some(unix_millis() + 200);
    open.append(push).await.unwrap();
    let entries = async {
        while redis.cli(&["KEYS", "*:e:*"]).contains(":e:") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, entries).await.expect("its pushes go");
    // its epoch is kept for who comes back
    let head = open.head(&room("r")).await;
    open.append(to(&room("r"), "next")).await.unwrap();
    let next = open.head(&room("r")).await;
    assert_eq!((next.epoch, next.seq), (head.epoch, 2));
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_would_lose_pushes_is_refused_with_the_way_out() {
    let evicts = RedisServer::with(&["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let told = refusal(settings(&evicts)).await;
    assert!(told.contains("maxmemory-policy is allkeys-lru") && told.contains("set noeviction"), "{told}");
    let locked = RedisServer::with(&["--requirepass", "right"]).await;
    let told = refusal(with(&locked, &[("REDIS__PASSWORD", "wrong")])).await;
    assert!(told.contains("[redis] user and password"), "{told}");
    let told = refusal(settings(&locked)).await;
    assert!(told.contains("NOAUTH") && told.contains("[redis] user and password"), "{told}");
    let file = vec![("REDIS__URL", "rediss://127.0.0.1:1".into()), ("REDIS__TLS_CA", "/nowhere/ca.pem".into())];
    assert!(refusal(file).await.contains("tls_ca: /nowhere/ca.pem cannot be read"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_whose_settings_became_bad_while_it_was_away_is_not_used() {
    let mut redis = RedisServer::start().await;
    let open = open_with(with(&redis, &[("REDIS__TIMEOUT", "300ms"), ("REDIS__CHECK_INTERVAL", "50ms")])).await;
    let mut state = open.control.state();
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    redis.pause();
    let is_away = |state: &oxipush::internals::store::StoreState, what: &str| format!("{state:?}").contains(what);
    timeout(PATIENCE, state.wait_for(|state| is_away(state, "NotReady"))).await.unwrap().unwrap();
    redis.resume();
    timeout(PATIENCE, state.wait_for(|state| is_away(state, "set noeviction"))).await.unwrap().unwrap();
    assert!(is_unavailable(&open.append(to(&card("alice"), "one")).await));
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    open.ready().await;
    open.append(to(&card("alice"), "one")).await.unwrap();
    open.close().await;
    redis.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_refuses_pushes_as_full_and_is_read_on() {
    let redis = RedisServer::start().await;
    let open = open_with(settings(&redis)).await;
    let alice = card("alice");
    open.store_all(&alice, &["one"]).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let outcome = open.append(to(&alice, "two")).await;
    assert!(matches!(outcome, Err(StoreError::Full(told)) if told.contains("maxmemory")), "{outcome:?}");
    assert_eq!(open.texts(&alice, 0).await, [(1, "one".into())]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    open.append(to(&alice, "two")).await.unwrap();
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_the_scripts_is_told_them_again() {
    let redis = RedisServer::start().await;
    let open = open_with(settings(&redis)).await;
    let alice = card("alice");
    open.store_all(&alice, &["one"]).await;
    redis.cli(&["SCRIPT", "FLUSH"]);
    let pushes = (0..50).map(|n| NewPush { push: to(&alice, &n.to_string()), claim: None }).collect();
    for outcome in open.store.append_all(pushes) {
        outcome.unwrap().await.unwrap();
    }
    let texts: Vec<_> = open.texts(&alice, 1).await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, (0..50).map(|n| n.to_string()).collect::<Vec<_>>(), "in order all the same");
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_new_connection_begins_with_all_scripts() {
    let mut redis = RedisServer::start().await;
    let open = open_with(settings(&redis)).await;
    let cached = "number_of_cached_scripts:11";
    redis.wait_for(&["INFO", "memory"], cached).await;
    // before the first push of many that are sent together, whichever of them needs which script
    redis.kill();
    redis.again().await;
    redis.wait_for(&["INFO", "memory"], cached).await;
    open.answers().await;
    open.store_all(&card("alice"), &["one"]).await;
    redis.wait_for(&["INFO", "memory"], cached).await;
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_names_a_replica_is_not_believed_while_another_names_the_master() {
    let master = RedisServer::start().await;
    let port = master.port().to_string();
    let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &port]).await;
    replica.wait_for(&["INFO", "replication"], "master_link_status:up").await;
    // as one that was away since a fail-over: it names what was the master then
    let behind = RedisServer::sentinel("mymaster", &replica).await;
    let right = RedisServer::sentinel("mymaster", &master).await;
    assert!(behind.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]).contains(&replica.port().to_string()));
    let settings = |urls: String| -> Settings {
        vec![
            ("STORE__BACKEND", "redis".into()),
            ("REDIS__URL", urls),
            ("REDIS__SENTINEL_MASTER", "mymaster".into()),
            ("REDIS__CHECK_INTERVAL", "100ms".into()),
            ("REDIS__MAX_BACKOFF", "100ms".into()),
        ]
    };
    let open = open_with(settings(format!("{},{}", behind.url(), right.url()))).await;
    let alice = card("alice");
    open.store_all(&alice, &["one"]).await;
    assert_eq!(master.cli(&["KEYS", "*:s:c:alice"]).lines().count(), 1);
    // nor does it go from one to the other
    tokio::time::sleep(Duration::from_secs(1)).await;
    open.store_all(&alice, &["two"]).await;
    assert!(open.metrics.text().contains("oxipush_redis_connects_total 1\n"), "{}", open.metrics.text());
    open.close().await;
    let client = start(settings(behind.url())).await.unwrap();
    let told = async {
        let mut state = client.state();
        let told = |state: &RedisState| matches!(state, RedisState::NotReady(told) if told.contains("says that it is a replica"));
        state.wait_for(told).await.is_ok()
    };
    assert!(timeout(PATIENCE, told).await.expect("it is told"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readyz_names_the_roles_and_that_redis_is_away_and_the_node_stays_ready() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let quick = [("REDIS__CHECK_INTERVAL", "100ms"), ("REDIS__TIMEOUT", "500ms"), ("REDIS__MAX_BACKOFF", "100ms")];
    let node = Node::start(&[&[("STORE__BACKEND", "redis"), ("REDIS__URL", &*url)], &quick[..]].concat()).await;
    let told_of = async |away: bool| {
        loop {
            let answer = http::get(node.url("/readyz")).await.unwrap();
            assert_eq!(answer.status().as_u16(), 200);
            let answer: Value = answer.json().await.unwrap();
            let details = answer["details"].as_array().unwrap();
            assert!(details.contains(&"roles: ingress, socket".into()), "{answer}");
            let is_redis = |line: &Value| line.as_str().unwrap().starts_with("redis: it is away: ");
            if details.iter().any(is_redis) == away {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, told_of(false)).await.expect("it is there");
    redis.pause();
    timeout(PATIENCE, told_of(true)).await.expect("it is told");
    redis.resume();
    timeout(PATIENCE, told_of(false)).await.expect("it is back");
    node.stop().await;
}

/// Seconds of processor time that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// Stored pushes a second to 1,000 cards, 256 waiting at a time; and the seconds that it took.
async fn stored_each_second(open: &Open, pushes: usize) -> (f64, f64) {
    let started = Instant::now();
    for batch in 0..pushes / 256 {
        let push = |n: usize| to(&card(&format!("card-{}", (batch * 256 + n) % 1000)), &"x".repeat(200));
        let together = (0..256).map(|n| NewPush { push: push(n), claim: None }).collect();
        for outcome in open.store.append_all(together) {
            outcome.unwrap().await.unwrap();
        }
    }
    let took = started.elapsed().as_secs_f64();
    ((pushes / 256 * 256) as f64 / took, took)
}

/// Prints what a stored push costs through Redis (appendfsync always) beside the embedded store, both on this machine's disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release --test redis_store -- --ignored --nocapture"]
async fn stored_pushes_a_second_beside_the_embedded_store() {
    const PUSHES: usize = 51_200;
    let dir = tempfile::tempdir().unwrap();
    let embedded =
        vec![("STORE__BACKEND", "embedded".to_owned()), ("DATA__DIR", dir.path().to_str().unwrap().to_owned())];
    let redis = RedisServer::start().await;
    let own = std::process::id();
    for (name, settings, server) in [("embedded", embedded, None), ("redis", settings(&redis), Some(redis.pid()))] {
        let open = open_with(settings).await;
        stored_each_second(&open, 5120).await;
        let before = (cpu_seconds(own), server.map_or(0.0, cpu_seconds));
        let (rate, took) = stored_each_second(&open, PUSHES).await;
        let (gateway, server) = (cpu_seconds(own) - before.0, server.map_or(0.0, cpu_seconds) - before.1);
        let each = |seconds: f64| seconds / PUSHES as f64 * 1e6;
        println!(
            "{name}: {rate:.0} pushes/s in {took:.1} s; CPU of each: gateway {:.0} µs, redis-server {:.0} µs",
            each(gateway),
            each(server)
        );
        open.close().await;
    }
}

/// Files of a certificate authority, and of a server's and a client's certificate.
fn certificates(dir: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::CertifiedIssuer::self_signed(authority, authority_key).unwrap();
    std::fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut of = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        // another name than the authority's, or OpenSSL takes it for self-signed
        of.distinguished_name.push(rcgen::DnType::CommonName, name);
        std::fs::write(dir.join(format!("{name}.pem")), of.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_a_user_of_the_acl_that_may_only_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name);
    // as docs/adr/0020 lists them
    let adr =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/adr/0020-redis-store.md")).unwrap();
    let rights = adr.split('`').find(|text| text.starts_with("+ping")).unwrap();
    let mut more =
        vec!["--appendonly", "yes", "--appendfsync", "always", "--user", "gateway", "on", ">secret", "~oxipush:*"];
    more.extend(rights.split_whitespace());
    let redis = RedisServer::with_tls(&file("ca.pem"), &file("server.pem"), &file("server.key"), &more).await;
    let path = |name: &str| file(name).to_str().unwrap().to_owned();
    let settings = |user: &str, ca: &str| -> Settings {
        vec![
            ("STORE__BACKEND", "redis".into()),
            ("REDIS__URL", format!("rediss://{}", redis.address())),
            ("REDIS__TLS_CA", ca.to_owned()),
            ("REDIS__TLS_CERT", path("client.pem")),
            ("REDIS__TLS_KEY", path("client.key")),
            ("REDIS__USER", user.to_owned()),
            ("REDIS__PASSWORD", "secret".into()),
        ]
    };
    let open = open_with(settings("gateway", &path("ca.pem"))).await;
    let alice = card("alice");
    open.append_new(NewPush { push: to(&alice, "one"), claim: Some(claim()) }).await.unwrap();
    assert_eq!(at(open.attach(&alice, Reader::Device(PHONE, None)).await.unwrap()).2, 1);
    open.store.revoke("alice", unix_millis() / 1000).await.unwrap();
    open.store.ack("alice", PHONE, open.head(&alice).await.epoch, 1);
    open.acknowledged(&alice, "phone", 1).await;
    assert_eq!(open.store.delete_entry(&alice, 1).await, Ok(true));
    assert_eq!(open.store.delete_stream(&alice).await, Ok(true));
    assert!(matches!(open.store.take_changes(10, |_| true).await, Ok(StreamChanges::Some(_))));
    open.close().await;
    let told = refusal(settings("nobody", &path("ca.pem"))).await;
    assert!(told.contains("[redis] user and password"), "{told}");
    let told = refusal(settings("gateway", &path("server.pem"))).await;
    assert!(told.contains("not signed by [redis] tls_ca"), "{told}");
    // a user that may not ask can use it all the same: a line in the log says what nobody knows
    let asking = "-info -config|get";
    redis.cli(&["ACL", "SETUSER", "quiet", "on", ">secret", "~oxipush:*"]);
    let words: Vec<_> = rights.split_whitespace().collect();
    redis.cli(&[&["ACL", "SETUSER", "quiet"], words.as_slice(), &asking.split(' ').collect::<Vec<_>>()].concat());
    start(settings("quiet", &path("ca.pem"))).await.unwrap();
}
