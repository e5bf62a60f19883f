//! `[queue] copies = 2`: what an accepted push outlasts, and what a client sees of it.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::BTreeSet,
    sync::LazyLock,
    time::{Duration, Instant},
};

use serde_json::json;
use support::{client::Client, gateway::Node, http, nsq::Nsqd};

const LIVE: &str = "gopusher.live";

/// A node whose pushes are put at both nsqds.
async fn node(id: &str, nsqds: &[&Nsqd], more: &[(&str, &str)]) -> Node {
    let node = unready(id, nsqds, more).await;
    node.ready().await;
    node
}

async fn unready(id: &str, nsqds: &[&Nsqd], more: &[(&str, &str)]) -> Node {
    let list = |of: fn(&Nsqd) -> String| nsqds.iter().map(|nsqd| of(nsqd)).collect::<Vec<_>>().join(",");
    let (tcp, http) = (list(Nsqd::tcp), list(Nsqd::http));
    let mut settings = vec![
        ("QUEUE__BACKEND", "nsq"),
        ("NODE__ID", id),
        ("QUEUE__NSQD", &tcp),
        ("QUEUE__NSQD_HTTP", &http),
        ("QUEUE__COPIES", "2"),
        ("QUEUE__PUBLISH_TIMEOUT", "2s"),
        ("QUEUE__RETURN_AFTER", "300ms"),
    ];
    settings.extend(more);
    Node::start_unready(&settings).await
}

/// What /readyz says, or why it says nothing.
async fn details(node: &Node) -> String {
    // one for all: each takes a while to make, in which a server may give up
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(http::client);
    match CLIENT.get(node.url("/readyz")).send().await {
        Ok(answer) => answer.text().await.unwrap_or_default(),
        Err(error) => error.to_string(),
    }
}

/// Waits until /readyz says that pushes are put at one nsqd only, or that no more.
async fn misses_a_copy(node: &Node, misses: bool) {
    let begun = Instant::now();
    loop {
        let told = details(node).await;
        if told.contains("details") && told.contains("put at one nsqd") == misses {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Pushes until told to stop; the contents that were accepted, and the longest wait for an answer.
async fn push_while(node: &Node, meanwhile: impl Future<Output = ()>) -> (Vec<String>, Duration) {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let pushing = async {
        let (mut accepted, mut longest, run) = (Vec::new(), Duration::ZERO, fastrand::u32(..));
        while !*stopped.borrow() {
            let batch = (0..8).map(|number| format!("{run}-{}", accepted.len() + number)).collect::<Vec<_>>();
            let begun = Instant::now();
            // a push that is refused is a failure of the test
            futures_util::future::join_all(batch.iter().map(|content| node.push(&["alice"], content))).await;
            longest = longest.max(begun.elapsed());
            accepted.extend(batch);
        }
        (accepted, longest)
    };
    let end = async {
        meanwhile.await;
        stop.send_replace(true);
    };
    tokio::join!(pushing, end).0
}

/// Hears so many pushes, each once.
async fn hears_each_once(client: &mut Client, accepted: &[String]) {
    let mut left: BTreeSet<&String> = accepted.iter().collect();
    while !left.is_empty() {
        let content = client.content().await;
        assert!(left.remove(&content), "{content} came twice, or nobody sent it; {} are missing", left.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_push_is_at_two_nsqds_and_comes_to_its_clients_once() {
    let (one, two, three) = tokio::join!(Nsqd::start(), Nsqd::start(), Nsqd::start());
    let node = node("node-1", &[&one, &two, &three], &[]).await;
    let mut client = Client::modern(&node.socket(), "alice", "").await;
    misses_a_copy(&node, false).await;
    let contents: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for content in &contents {
        node.push(&["alice"], content).await;
    }
    for content in &contents {
        assert_eq!(client.content().await, *content, "in order");
    }
    client.silent().await;
    assert_eq!((one.messages(LIVE).await, two.messages(LIVE).await), (50, 50));
    assert_eq!(three.messages(LIVE).await, 0, "the first two that work");
    node.metric_reaches("oxipush_drops_total", &[("reason", "copy")], 50.0).await;
    assert_eq!(node.metric("oxipush_copies_missing_total", &[]).await, 0.0);
    // none of both copies is left
    for nsqd in [&one, &two] {
        let begun = Instant::now();
        while nsqd.channel(LIVE, "node-1").await["in_flight_count"] != 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", nsqd.channel(LIVE, "node-1").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nsqd_that_is_killed_under_load_takes_no_accepted_push_with_it() {
    let (mut one, two) = tokio::join!(Nsqd::start(), Nsqd::start());
    let node = node("node-1", &[&one, &two], &[]).await;
    misses_a_copy(&node, false).await;
    let mut client = Client::modern(&node.socket(), "alice", "").await;
    let (accepted, longest) = push_while(&node, async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            one.kill().await;
            misses_a_copy(&node, true).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            one.again().await;
            misses_a_copy(&node, false).await;
        }
    })
    .await;
    println!("{} accepted over two kills, none refused; the longest wait {longest:?}", accepted.len());
    hears_each_once(&mut client, &accepted).await;
    let missing = node.metric("oxipush_copies_missing_total", &[]).await;
    assert!(missing > 0.0 && missing < accepted.len() as f64, "{missing} of {}", accepted.len());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nsqd_that_hangs_lets_no_push_be_refused() {
    let (one, two) = tokio::join!(Nsqd::start(), Nsqd::start());
    let node = node("node-1", &[&one, &two], &[("QUEUE__PUBLISH_TIMEOUT", "1s"), ("QUEUE__MAX_PUBLISHES", "64")]).await;
    misses_a_copy(&node, false).await;
    let mut client = Client::modern(&node.socket(), "alice", "").await;
    let (accepted, longest) = push_while(&node, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        two.hang();
        misses_a_copy(&node, true).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        two.go_on();
        misses_a_copy(&node, false).await;
    })
    .await;
    println!("{} accepted over a hang, none refused; the longest wait {longest:?}", accepted.len());
    assert!(longest >= Duration::from_millis(900), "it waited for the copy: {longest:?}");
    hears_each_once(&mut client, &accepted).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_node_outlasts_the_loss_of_an_nsqd_and_its_disk() {
    let (mut one, two) = tokio::join!(Nsqd::start(), Nsqd::start());
    let dir = tempfile::tempdir().unwrap();
    let data = [("DATA__DIR", dir.path().to_str().unwrap())];
    let ingress = node("ingress", &[&one, &two], &[]).await;
    let reader = node("reader", &[&one, &two], &data).await;
    misses_a_copy(&ingress, false).await;
    drop(Client::modern(&reader.socket(), "alice", "").await);
    let _away = Client::modern(&reader.socket(), "alice", "").await;
    reader.stop().await;
    let contents: BTreeSet<String> = (0..200).map(|number| number.to_string()).collect();
    for content in &contents {
        ingress.push(&["alice"], content).await;
    }
    one.kill().await;
    one.lose_folder();
    let reader = unready("reader", &[&one, &two], &data).await;
    let mut client = Client::modern(&reader.socket(), "alice", "").await;
    let mut left = contents;
    while !left.is_empty() {
        let heard = client.hear().await;
        left.remove(heard["data"]["content"].as_str().unwrap_or_default());
    }
    reader.stop().await;
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_nsqds_away_pushes_are_refused_and_come_after_their_return() {
    let (mut one, mut two) = tokio::join!(Nsqd::start(), Nsqd::start());
    let node = node("node-1", &[&one, &two], &[("QUEUE__PUBLISH_TIMEOUT", "500ms")]).await;
    misses_a_copy(&node, false).await;
    tokio::join!(one.kill(), two.kill());
    let body = json!({"from": "test", "to": ["alice"], "content": "nobody has it"});
    let (status, answer) = node.post("/push", body).await;
    assert_eq!(status, 503, "{answer}");
    tokio::join!(one.again(), two.again());
    node.ready().await;
    misses_a_copy(&node, false).await;
    let mut client = Client::modern(&node.socket(), "alice", "").await;
    node.push(&["alice"], "both have it").await;
    assert_eq!(client.content().await, "both have it");
    node.stop().await;
}
