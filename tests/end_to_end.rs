//! One push's whole way, on both queues: from HTTP, gRPC and raw NSQ to joined WebSockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use oxipush::internals::proto::rpc::{PushRequest, rpc_client::RpcClient};
use prost::Message as _;
use serde_json::json;
use support::{
    backlog,
    client::{Client, PATIENCE},
    gateway::Node,
    nsq::Nsqd,
};

/// The settings of a node on `nsqd`.
fn on(nsqd: &Nsqd) -> Vec<(&'static str, String)> {
    vec![
        ("QUEUE__BACKEND", "nsq".into()),
        ("QUEUE__NSQD", nsqd.tcp()),
        ("QUEUE__NSQD_HTTP", nsqd.http()),
        ("NODE__ID", "end-to-end".into()),
    ]
}

async fn start(settings: &[(&'static str, String)]) -> Node {
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Node::start(&settings).await
}

async fn a_curl_push_reaches_the_card(node: Node) {
    let mut tab = Client::gopusher(&node.socket(), "mayun", "alibaba").await;
    // gopusher's own example: JSON under curl's default content type
    let body = r#"{"from":"server","to":["mayun"],"appID":"alibaba","content":"hello"}"#;
    let answer = crate::support::http::client()
        .post(node.url("/push"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!((&answer["code"], &answer["message"]), (&json!(0), &json!("ok")));
    assert_eq!(tab.text().await.unwrap(), "{\"type\":1,\"data\":\"hello\"}\n");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curl_push_reaches_the_card_on_the_embedded_queue() {
    a_curl_push_reaches_the_card(Node::start(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curl_push_reaches_the_card_through_nsqd() {
    let nsqd = Nsqd::start().await;
    a_curl_push_reaches_the_card(start(&on(&nsqd)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_with_two_tabs_gets_the_push_twice_and_a_card_named_twice_once_each() {
    let node = Node::start(&[]).await;
    let mut one = Client::gopusher(&node.socket(), "card", "web").await;
    let mut two = Client::modern(&node.socket(), "card", "phone").await;
    let id = node.push(&["card", "card"], "hi").await;
    assert_eq!(one.content().await, "hi");
    let push = two.hear().await;
    assert_eq!(
        (&push["event"], &push["data"]["id"], &push["data"]["from"]),
        (&json!("push"), &json!(id), &json!("test"))
    );
    one.silent().await;
    two.silent().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_filters_and_a_second_join_adds_a_card() {
    let node = Node::start(&[]).await;
    let mut web = Client::gopusher(&node.socket(), "a", "web").await;
    let mut phone = Client::gopusher(&node.socket(), "a", "phone").await;
    let body = json!({"from": "", "to": ["a"], "appID": "phone", "content": "only phones"});
    assert_eq!(node.post("/push", body).await.0, 200);
    assert_eq!(phone.content().await, "only phones");
    web.silent().await;
    web.join("b", "web").await;
    node.push(&["a"], "to a").await;
    node.push(&["b"], "to b").await;
    // of two cards, in no order
    let both = BTreeSet::from([web.content().await, web.content().await]);
    assert_eq!(both, BTreeSet::from(["to a".to_owned(), "to b".to_owned()]));
    assert_eq!(phone.content().await, "to a");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_push_of_another_nsq_client_is_delivered() {
    let nsqd = Nsqd::start().await;
    let node = start(&on(&nsqd)).await;
    let mut tab = Client::modern(&node.socket(), "card", "").await;
    let push = PushRequest { from: "raw".into(), to: vec!["card".into()], content: "hi".into(), ..Default::default() };
    nsqd.publish("gopusher", push.encode_to_vec()).await;
    assert_eq!(tab.content().await, "hi");
    nsqd.publish("gopusher", b"rubbish".to_vec()).await;
    node.metric_reaches("oxipush_pushes_total", &[("source", "nsq"), ("outcome", "bad_field")], 1.0).await;
    node.stop().await;
}

/// Connections on cards, pushes from three sides at once: each connection gets exactly its own, once, and in order for
/// each card and ingress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_gets_exactly_its_own_pushes_once_and_in_order() {
    const CARDS: usize = 100;
    const TABS: usize = 10;
    const PUSHES: usize = 20_000;
    let nsqd = Nsqd::start().await;
    let mut settings = on(&nsqd);
    settings.push(("OUTBOX__MAX_BYTES", "4MiB".into()));
    let node = start(&settings).await;
    let mut tabs = Vec::new();
    for index in 0..CARDS * TABS {
        tabs.push(Client::gopusher(&node.socket(), &format!("card-{}", index % CARDS), "").await);
    }
    let readers: Vec<_> = tabs
        .into_iter()
        .enumerate()
        .map(|(index, mut tab)| {
            tokio::spawn(async move {
                let mut next: HashMap<String, usize> = HashMap::new();
                for _ in 0..PUSHES / CARDS {
                    let content = tab.content().await;
                    let (side, rest) = content.split_once(' ').unwrap();
                    let (card, number) = rest.split_once(' ').unwrap();
                    assert_eq!(card, (index % CARDS).to_string());
                    let expected = next.entry(side.to_owned()).or_default();
                    assert_eq!(number.parse::<usize>().unwrap(), *expected, "{side}");
                    *expected += 1;
                }
                tab.silent().await;
            })
        })
        .collect();
    // each card: half of its pushes over gRPC, a quarter over HTTP, a quarter raw
    let (stream, http, raw) = (PUSHES / 2, PUSHES / 4, PUSHES / 4);
    let content = |side: &str, n: usize| (format!("card-{}", n % CARDS), format!("{side} {} {}", n % CARDS, n / CARDS));
    let grpc = async {
        let mut client = RpcClient::connect(node.grpc()).await.unwrap();
        let requests = tokio_stream::iter((0..stream).map(move |n| {
            let (card, content) = content("grpc", n);
            PushRequest { to: vec![card], content, ..Default::default() }
        }));
        let mut replies = client.push_stream(requests).await.unwrap().into_inner();
        let mut accepted = 0;
        while let Some(reply) = replies.message().await.unwrap() {
            assert_eq!(reply.code, 0, "{}", reply.message);
            accepted += 1;
        }
        assert_eq!(accepted, stream);
    };
    let http = async {
        let client = crate::support::http::client();
        for chunk in (0..http).collect::<Vec<_>>().chunks(500) {
            let pushes: Vec<_> = chunk
                .iter()
                .map(|n| {
                    let (card, content) = content("http", *n);
                    json!({"from": "", "to": [card], "appID": "", "content": content})
                })
                .collect();
            let answer = client.post(node.url("/push/batch")).json(&pushes).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let answer: serde_json::Value = answer.json().await.unwrap();
            assert!(answer["replies"].as_array().unwrap().iter().all(|reply| reply["code"] == 0), "{answer}");
        }
    };
    let raw = async {
        for n in 0..raw {
            let (card, content) = content("raw", n);
            let push = PushRequest { to: vec![card], content, ..Default::default() };
            nsqd.publish("gopusher", push.encode_to_vec()).await;
        }
    };
    tokio::join!(grpc, http, raw);
    for reader in readers {
        tokio::time::timeout(PATIENCE * 4, reader).await.expect("all within two minutes").unwrap();
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_holds_what_waited_and_what_follows_until_its_clients_rejoined() {
    let dir = tempfile::tempdir().unwrap();
    backlog::leave(dir.path(), "card", &["one", "two"]).await;
    let path = dir.path().to_string_lossy();
    let node = Node::start(&[("DATA__DIR", &path), ("QUEUE__REPLAY_HOLD", "12s")]).await;
    node.push(&["card"], "three").await;
    node.metric_reaches("oxipush_queue_records", &[], 3.0).await;
    // whoever comes now, after all three, gets all three
    let mut tab = Client::gopusher(&node.socket(), "card", "").await;
    for content in ["one", "two", "three"] {
        assert_eq!(tab.content().await, content);
    }
    node.metric_reaches("oxipush_jobs_total", &[("outcome", "finished")], 3.0).await;
    assert_eq!(node.metric("oxipush_drops_total", &[]).await, 0.0);
    drop(tab);
    node.stop().await;
    // what was finished before an orderly end is no backlog
    let next = Node::start(&[("DATA__DIR", &path), ("QUEUE__REPLAY_HOLD", "1h")]).await;
    let mut tab = Client::gopusher(&next.socket(), "card", "").await;
    next.push(&["card"], "at once").await;
    assert_eq!(tab.content().await, "at once");
    drop(tab);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_says_3000_and_refuses_new_pushes() {
    let node = Node::start(&[("DRAIN__GRACE", "2s"), ("DRAIN__RECONNECT_JITTER", "1s")]).await;
    let mut old = Client::gopusher(&node.socket(), "a", "").await;
    let mut modern = Client::modern(&node.socket(), "b", "").await;
    let url = node.url("/push");
    let stopping = tokio::spawn(node.stop());
    let body = json!({"from": "", "to": ["a"], "appID": "", "content": "late"});
    let refused = async {
        loop {
            let answer = crate::support::http::client().post(&url).json(&body).send().await.unwrap();
            if answer.status() == 503 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let event = modern.hear().await;
    assert_eq!(event["event"], "drain", "{event}");
    assert!(event["data"]["reconnect_in_ms"].as_u64().unwrap() <= 1000);
    assert_eq!(modern.close_code().await, 3000);
    assert_eq!(old.close_code().await, 3000);
    stopping.await.unwrap();
}
