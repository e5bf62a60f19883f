//! Bad input: a clear answer by name, and nothing is lost by it.

use serde_json::{Value, json};

use super::rig::{store, with};
use crate::support::{gateway::Node, stream::StreamClient};

async fn refused(node: &Node, more: Value, named: &str) {
    let body = with(json!({"content": "x"}), more);
    let (status, answer) = node.post("/push", body.clone()).await;
    assert_eq!(status, 400, "{body}: {answer}");
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(message.contains(named), "{body}: {answer} does not name {named}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_stream_is_refused_by_name() {
    let node = Node::start(&[]).await;
    for more in [
        json!({"everyone": true}),
        json!({"appID": "web"}),
        json!({"to": ["alice"], "room": "news"}),
        json!({"to": ["alice"], "exclude": {"cards": ["bob"]}}),
        json!({"room": "news", "exclude": {"cards": ["bob"]}}),
    ] {
        refused(&node, with(more, json!({"offline": true})), "offline").await;
    }
    for ttl in [json!(0), json!(-1), json!(1_u64 << 40), json!("60"), json!(1.5)] {
        for offline in [true, false] {
            refused(&node, json!({"to": ["alice"], "ttl": ttl, "offline": offline}), "ttl").await;
        }
    }
    refused(&node, json!({"to": ["alice"], "idempotency_key": ""}), "idempotency_key").await;
    refused(&node, json!({"to": ["alice"], "idempotency_key": "k".repeat(10_000)}), "idempotency_key").await;
    refused(&node, json!({"to": ["alice"], "deliver_at": 1}), "deliver_at").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_what_needs_one_is_refused_by_name() {
    let node = Node::start(&[("STORE__BACKEND", "none")]).await;
    for more in [
        json!({"to": ["alice"], "offline": true}),
        json!({"room": "news", "offline": true}),
        json!({"to": ["alice"], "idempotency_key": "k"}),
    ] {
        refused(&node, more, "[store] backend").await;
    }
    // what needs none works
    let mut tab = StreamClient::join(&node.socket(), "alice", json!({})).await;
    let body = json!({"to": ["alice"], "content": "live", "ttl": 60});
    assert_eq!(node.post("/push", body).await.0, 200);
    assert_eq!(tab.hear().await["data"]["content"], "live");
    node.stop().await;
}

/// The code of the error that an event is answered with.
async fn error(client: &mut StreamClient, event: &str, data: Value) -> String {
    client.client.say(json!({"event": event, "data": data})).await;
    let heard = client.hear().await;
    assert_eq!(heard["event"], "error", "{event} {data}: {heard}");
    heard["data"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_acknowledgement_is_told_so_and_moves_nothing() {
    let node = Node::start(&[]).await;
    for content in ["1", "2"] {
        store(&node, "alice", content).await;
    }
    store(&node, "bob", "bob's").await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    phone.contents(2).await;
    for data in [
        // never sent
        json!({"card": "alice", "seq": 3}),
        json!({"card": "alice", "seq": u64::MAX}),
        // another's stream
        json!({"card": "bob", "seq": 1}),
        json!({"card": "", "seq": 1}),
        json!({"card": "alice"}),
        json!({"card": "alice", "seq": -1}),
    ] {
        error(&mut phone, "ack", data).await;
    }
    drop(phone);
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    assert_eq!(phone.contents(2).await, ["1", "2"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_device_or_place_is_told_so() {
    let node = Node::start(&[]).await;
    store(&node, "alice", "1").await;
    for more in [
        json!({"device": ""}),
        json!({"device": "d".repeat(10_000)}),
        json!({"device": 7}),
        json!({"resume": {"epoch": "zz", "seq": 1}}),
        json!({"resume": {"epoch": "0a1b2c3d"}}),
        json!({"resume": {"epoch": "0a1b2c3d", "seq": 1, "id": "no id"}}),
    ] {
        let mut client = StreamClient::join(&node.socket(), "carol", json!({})).await;
        error(&mut client, "join", with(json!({"card_id": "alice"}), more)).await;
        client.silent().await;
    }
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    assert_eq!(phone.contents(1).await, ["1"]);
    node.stop().await;
}
