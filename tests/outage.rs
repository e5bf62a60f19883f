//! The whole gateway while its nsqd comes and goes.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    client::{Client, PATIENCE},
    gateway::Node,
    nsq::Nsqd,
    process::Process,
    proxy::Proxy,
};

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
            while reqwest::get(node.url("/readyz")).await.unwrap().status() == 200 {
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
    let mut seen = std::collections::BTreeSet::new();
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
    let answer = reqwest::Client::new().post(node.url("/push")).json(&body).send().await.unwrap();
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
