//! The whole gateway while its nsqd comes and goes.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use oxipush::internals::proto::rpc::PushRequest;
use prost::Message;
use serde_json::json;
use support::{
    client::{Client, PATIENCE},
    gateway::Node,
    nsq::Nsqd,
    process::Process,
    proxy::Proxy,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn settings(nsqd: &Nsqd) -> Vec<(&'static str, String)> {
    vec![
        ("QUEUE__BACKEND", "nsq".into()),
        ("QUEUE__NSQD", nsqd.tcp()),
        ("QUEUE__NSQD_HTTP", nsqd.http()),
        ("QUEUE__PUBLISH_TIMEOUT", "2s".into()),
        ("QUEUE__REBUILD_AFTER", "1s".into()),
        ("NODE__ID", "outage".into()),
    ]
}

async fn start(settings: &[(&'static str, String)]) -> Node {
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Node::start(&settings).await
}

/// Pushes to `card` until one is accepted; refusals must be 503, and come within the wait that is configured.
async fn push_until_accepted(node: &Node, card: &str, content: &str) {
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let body = json!({"from": "", "to": [card], "appID": "", "content": content});
        let (status, answer) = node.post("/push", body).await;
        if status == 200 {
            return;
        }
        assert_eq!(status, 503, "{answer}");
        assert!(asked.elapsed() < Duration::from_secs(12), "the refusal took {:?}", asked.elapsed());
        assert!(began.elapsed() < PATIENCE * 2, "no push was accepted again: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_refused_while_nsqd_is_away_and_delivered_once_it_is_back() {
    let mut nsqd = Nsqd::start().await;
    let node = start(&settings(&nsqd)).await;
    let mut tab = Client::modern(&node.socket(), "card", "").await;
    for _ in 0..2 {
        nsqd.kill().await;
        let body = json!({"from": "", "to": ["card"], "appID": "", "content": "lost"});
        let (status, answer) = node.post("/push", body).await;
        assert_eq!(status, 503, "{answer}");
        let unready = async {
            while crate::support::http::get(node.url("/readyz")).await.unwrap().status() == 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, unready).await.expect("the node says that it is not ready");
        nsqd.again().await;
        push_until_accepted(&node, "card", "back").await;
        let came = async { while tab.content().await != "back" {} };
        tokio::time::timeout(PATIENCE * 2, came).await.expect("delivered again");
        tokio::time::timeout(PATIENCE, node.ready()).await.expect("ready again");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_restart_of_nsqd_loses_at_most_the_message_under_way() {
    let mut nsqd = Nsqd::start().await;
    let node = start(&settings(&nsqd)).await;
    let mut tab = Client::modern(&node.socket(), "card", "").await;
    let mut accepted = 0;
    for n in 0..300 {
        push_until_accepted(&node, "card", &n.to_string()).await;
        accepted += 1;
        if n == 150 {
            nsqd.stop().await;
            nsqd.again().await;
        }
    }
    push_until_accepted(&node, "card", "end").await;
    let mut seen = BTreeSet::new();
    loop {
        match tab.content().await.as_str() {
            "end" => break,
            content => seen.insert(content.parse::<u32>().unwrap()),
        };
    }
    // a requeue may come after the end
    while seen.len() < accepted {
        match tokio::time::timeout(Duration::from_secs(8), tab.content()).await {
            Ok(content) if content != "end" => seen.insert(content.parse::<u32>().unwrap()),
            Ok(_) => false,
            Err(_) => break,
        };
    }
    println!("{} of {accepted} arrived through nsqd's restart", seen.len());
    // docs/adr/0008: nsqd v1.3.0 may lose the one message that it is just sending to each connection
    assert!(seen.len() + 1 >= accepted, "{} of {accepted}", seen.len());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_nsqd_refuses_costs_only_itself() {
    let nsqd = Nsqd::with(&["--max-msg-size=4096"]).await;
    let node = start(&settings(&nsqd)).await;
    let mut tab = Client::modern(&node.socket(), "card", "").await;
    let body = json!({"from": "", "to": ["card"], "appID": "", "content": "x".repeat(8000)});
    let (status, _) = node.post("/push", body).await;
    assert!(status == 413 || status == 503, "{status}");
    push_until_accepted(&node, "card", "small").await;
    assert_eq!(tab.content().await, "small");
    node.stop().await;
}

/// A program behind a proxy to nsqd's HTTP that hears and answers nothing once it is ready, then told to stop.
async fn stops_in_time_without_an_answer_from_nsqd_http(more: &[(&'static str, &str)], within: Duration) {
    let nsqd = Nsqd::start().await;
    let http = Proxy::to(nsqd.http()).await;
    let dir = tempfile::tempdir().unwrap();
    let (mut settings, folder) = (settings(&nsqd), dir.path().to_string_lossy().into_owned());
    settings.retain(|(key, _)| *key != "QUEUE__NSQD_HTTP");
    settings.extend([("QUEUE__NSQD_HTTP", http.address()), ("DATA__DIR", folder)]);
    settings.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let mut node = Process::spawn(&settings);
    assert!(node.ready().await, "it ended");
    let mut tab = Client::modern(&node.ws(), "card", "").await;
    http.mute(true);
    let body = json!({"from": "", "to": ["card"], "appID": "", "content": "hello"});
    let answer = crate::support::http::client().post(node.url("/push")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(tab.content().await, "hello");
    let told = Instant::now();
    node.terminate();
    assert_eq!(tab.close_code().await, 3000);
    drop(tab);
    assert_eq!(node.ended().await, Some(0));
    let took = told.elapsed();
    assert!(took < within, "it took {took:?}");
    // what was delivered is finished all the same
    let unfinished = async {
        loop {
            let channel = nsqd.channel("gopusher.live", "outage").await;
            match (channel["depth"].as_u64(), channel["in_flight_count"].as_u64()) {
                (Some(0), Some(0)) => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, unfinished).await.expect("nothing waits in the channel");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_with_0_though_nsqds_http_hangs() {
    stops_in_time_without_an_answer_from_nsqd_http(&[], Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_timeout_bounds_a_stop_however_long_nsqds_http_may_take() {
    let settings = [("QUEUE__LOOKUP_TIMEOUT", "10m"), ("NODE__SHUTDOWN_TIMEOUT", "3s")];
    stops_in_time_without_an_answer_from_nsqd_http(&settings, Duration::from_secs(20)).await;
}

/// How often a client got each content.
type Seen = Arc<Mutex<BTreeMap<String, u32>>>;

/// Notes what comes until the connection ends.
async fn note(mut tab: Client, seen: Seen) {
    loop {
        let content = tab.content().await;
        *seen.lock().unwrap().entry(content).or_default() += 1;
    }
}

/// Pushes numbered contents until `stop`; those that were accepted.
async fn push_on(url: String, worker: u32, cards: [&str; 3], stop: CancellationToken) -> BTreeSet<String> {
    let (client, mut accepted) = (crate::support::http::client(), BTreeSet::new());
    for n in 0.. {
        let content = format!("{worker} {n}");
        let request = if worker == 0 {
            // as another NSQ client, on the raw topic
            let to = cards.map(Into::into).to_vec();
            let raw = PushRequest { to, content: content.clone(), ..Default::default() };
            client.post(&url).body(raw.encode_to_vec())
        } else {
            client.post(&url).json(&json!({"from": "", "to": cards, "appID": "", "content": content}))
        };
        if request.send().await.is_ok_and(|answer| answer.status() == 200) {
            accepted.insert(content);
        }
        if stop.is_cancelled() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nsqd_that_returns_gives_each_client_each_push_and_none_twice() {
    let mut nsqd = Nsqd::start().await;
    let node = start(&settings(&nsqd)).await;
    let cards = ["a", "b", "c"];
    let mut notes = JoinSet::new();
    let mut all_seen = Vec::new();
    for card in cards {
        let seen = Seen::default();
        notes.spawn(note(Client::modern(&node.socket(), card, "").await, seen.clone()));
        all_seen.push(seen);
    }
    let (stop, raw) = (CancellationToken::new(), format!("http://{}/pub?topic=gopusher", nsqd.http()));
    let url = |worker| if worker == 0 { raw.clone() } else { node.url("/push") };
    let pushing: Vec<_> =
        (0..8).map(|worker| tokio::spawn(push_on(url(worker), worker, cards, stop.clone()))).collect();
    nsqd.synced(&["gopusher", "gopusher:oxipush", "gopusher.live", "gopusher.live:outage"]).await;
    for _ in 0..2 {
        // within nsqd's --sync-timeout, so that it returns to an earlier place
        tokio::time::sleep(Duration::from_millis(1500)).await;
        nsqd.kill().await;
        nsqd.again().await;
        tokio::time::timeout(PATIENCE, node.ready()).await.expect("ready again");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();
    let mut accepted = BTreeSet::new();
    for worker in pushing {
        accepted.extend(worker.await.unwrap());
    }
    // what nsqd hands out a third time comes after its --msg-timeout
    let settled = async {
        for (topic, channel) in [("gopusher", "oxipush"), ("gopusher.live", "outage")] {
            loop {
                let stats = nsqd.channel(topic, channel).await;
                // nsqd's own count of depth may be below 0 after a SIGKILL
                if stats["depth"].as_i64().unwrap() <= 0
                    && stats["in_flight_count"] == 0
                    && stats["deferred_count"] == 0
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE * 2, settled).await.expect("nothing waits in nsqd");
    push_until_accepted(&node, "a", "end").await;
    let ended = async {
        while !all_seen[0].lock().unwrap().contains_key("end") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the end comes");
    let dropped = node.metric("oxipush_drops_total", &[("reason", "copy")]).await;
    println!("{} pushes through two SIGKILLs of nsqd, {dropped} copies dropped", accepted.len());
    assert!(dropped > 0.0, "nsqd sent no copies: nothing was tried");
    for (card, seen) in cards.iter().zip(all_seen) {
        let seen = seen.lock().unwrap();
        let missing: Vec<_> = accepted.iter().filter(|content| !seen.contains_key(*content)).collect();
        let copies: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
        assert!(missing.is_empty() && copies.is_empty(), "{card} misses {missing:?}, has twice {copies:?}");
    }
    drop(notes);
    node.stop().await;
}
