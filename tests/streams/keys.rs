//! Idempotency keys: a retry is answered as the first was, and nobody gets it twice.

use serde_json::{Value, json};

use super::rig::with;
use crate::support::{gateway::Node, http, stream::StreamClient};

/// A push for alice; both kinds are told apart by `offline`.
fn body(content: &str, key: &str, offline: bool) -> Value {
    let body = json!({"to": ["alice"], "content": content, "idempotency_key": key});
    if offline { with(body, json!({"offline": true})) } else { body }
}

async fn push(node: &Node, body: Value) -> String {
    let (status, answer) = node.post("/push", body).await;
    assert_eq!(status, 200, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_has_the_same_id_and_is_delivered_once() {
    let node = Node::start(&[]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    for offline in [true, false] {
        let key = format!("order-{offline}");
        let id = push(&node, body("hello", &key, offline)).await;
        for _ in 0..5 {
            assert_eq!(push(&node, body("hello", &key, offline)).await, id);
        }
        let other = push(&node, body("hello", &format!("another-{key}"), offline)).await;
        assert_ne!(other, id);
        for id in [&id, &other] {
            let heard = phone.hear().await;
            assert_eq!((&heard["data"]["content"], &heard["data"]["id"]), (&json!("hello"), &json!(id)), "{heard}");
        }
        phone.silent().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_push_under_the_same_key_is_refused() {
    let node = Node::start(&[]).await;
    for offline in [true, false] {
        let key = format!("order-{offline}");
        let id = push(&node, body("hello", &key, offline)).await;
        for other in [
            body("bye", &key, offline),
            body("hello", &key, !offline),
            with(body("hello", &key, offline), json!({"to": ["bob"]})),
            with(body("hello", &key, offline), json!({"ttl": 77})),
        ] {
            let (status, answer) = node.post("/push", other.clone()).await;
            assert_eq!(status, 409, "{other}: {answer}");
        }
        assert_eq!(push(&node, body("hello", &key, offline)).await, id);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_come_at_once_are_one_push() {
    let node = Node::start(&[]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    for offline in [true, false] {
        let key = format!("key-{offline}");
        let body = body("once", &key, offline);
        let ids = futures_util::future::join_all((0..20).map(|_| push(&node, body.clone()))).await;
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(phone.hear().await["data"]["id"], ids[0].as_str());
        // a live retry of which nobody knows yet may be published again, under the same id
        phone.client.say(json!({"event": "ping"})).await;
        loop {
            let heard = phone.hear().await;
            if heard["event"] == "pong" {
                break;
            }
            assert!(!offline && heard["data"]["id"] == ids[0].as_str(), "{heard}");
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_is_a_key_too() {
    let node = Node::start(&[]).await;
    let post = async |content: &str, key: &str| {
        let body = json!({"to": ["alice"], "content": content, "offline": true});
        let request = http::client().post(node.url("/push")).header("Idempotency-Key", key).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["id"].clone())
    };
    let first = post("hello", "k").await;
    assert_eq!(first.0, 200);
    assert_eq!(post("hello", "k").await, first);
    assert_ne!(post("hello", "l").await, first);
    assert_eq!(post("other", "k").await.0, 409);
    node.stop().await;
}
