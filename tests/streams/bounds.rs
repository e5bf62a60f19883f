//! What a stream is bounded by, what a back end takes out of it, and that it is counted.

use serde_json::json;

use super::rig::{delete, describe, store, store_all, store_with};
use crate::support::{gateway::Node, stream::StreamClient};

/// The pushes that bounds pushed out before every device had them.
async fn trimmed(node: &Node, reason: &str) -> f64 {
    node.metric("oxipush_drops_total", &[("reason", reason)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_full_lets_its_oldest_go_and_counts_them() {
    let node = Node::start(&[("STORE__MAX_ENTRIES", "3")]).await;
    store_all(&node, "alice", &["1", "2", "3", "4", "5"]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    let push = phone.any_stored().await;
    assert_eq!((push.seq, push.content.as_str()), (3, "3"));
    assert_eq!(phone.place.take(&push), crate::support::stream::Step::Next, "what is gone is no gap: {push:?}");
    assert_eq!(phone.contents(2).await, ["4", "5"]);
    assert_eq!(trimmed(&node, "pushed_out").await, 2.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_too_many_bytes_lets_its_oldest_go_and_counts_them() {
    let node = Node::start(&[("STORE__MAX_STREAM_BYTES", "64KiB")]).await;
    for number in 0..20 {
        store(&node, "alice", &format!("{number} {}", "x".repeat(10_000))).await;
    }
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    let first = phone.any_stored().await.seq;
    assert!((14..=16).contains(&first), "of 64 KiB: {first}");
    assert_eq!(trimmed(&node, "pushed_out").await, (first - 1) as f64);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_bounds_the_streams_of_its_patterns() {
    let settings = [("STREAM_CHAT__ROOMS", "chat-*"), ("STREAM_CHAT__MAX_ENTRIES", "2")];
    let node = Node::start(&settings).await;
    for room in ["chat-1", "news"] {
        for content in ["1", "2", "3"] {
            store_with(&node, content, json!({"room": room})).await;
        }
    }
    for (room, first) in [("chat-1", 2), ("news", 1)] {
        let (status, info) = describe(&node, &format!("/rooms/{room}/stream")).await;
        assert_eq!((status, &info["first"]), (200, &json!(first)), "{info}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_counted() {
    let node = Node::start(&[]).await;
    for content in ["1", "2"] {
        store_with(&node, content, json!({"to": ["alice"], "ttl": 1})).await;
    }
    node.metric_reaches("oxipush_drops_total", &[("reason", "expired")], 2.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_deletes_a_push_a_device_and_a_stream() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2", "3"]).await;
    assert_eq!(delete(&node, "/cards/alice/stream/2").await, 200);
    assert_eq!(delete(&node, "/cards/alice/stream/2").await, 404);
    assert_eq!(delete(&node, "/cards/alice/stream/99").await, 404);
    assert_eq!(delete(&node, "/cards/bob/stream/1").await, 404);
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    // no gap, though there is a hole
    assert_eq!(phone.contents(2).await, ["1", "3"]);
    phone.ack("alice").await;
    let epoch = phone.place.epoch.clone();
    drop(phone);
    let (status, info) = describe(&node, "/cards/alice/stream").await;
    assert_eq!((status, &info["entries"]), (200, &json!(2)), "{info}");
    // a device that is forgotten begins anew
    assert_eq!(delete(&node, "/cards/alice/devices/phone").await, 200);
    assert_eq!(delete(&node, "/cards/alice/devices/phone").await, 404);
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    assert_eq!(phone.contents(2).await, ["1", "3"]);
    // the stream begins anew, and who is in it is told
    assert_eq!(delete(&node, "/cards/alice/stream").await, 200);
    assert_eq!(describe(&node, "/cards/alice/stream").await.0, 404);
    store(&node, "alice", "new").await;
    let push = phone.any_stored().await;
    assert_eq!((push.seq, push.prev, push.content.as_str()), (1, 0, "new"));
    assert_ne!(phone.place.epoch, epoch);
    assert_eq!(phone.resets, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_s_history_is_deleted_too() {
    let node = Node::start(&[]).await;
    for content in ["1", "2", "3"] {
        store_with(&node, content, json!({"room": "news"})).await;
    }
    assert_eq!(delete(&node, "/rooms/news/stream/2").await, 200);
    let first = StreamClient::subscribe(&node.socket(), "alice", "news", json!({})).await;
    let resume = json!({"epoch": first.place.epoch, "seq": 0});
    let mut reader = StreamClient::subscribe(&node.socket(), "bob", "news", json!({"resume": resume})).await;
    assert_eq!(reader.contents(2).await, ["1", "3"]);
    assert_eq!(delete(&node, "/rooms/news/stream").await, 200);
    assert_eq!(delete(&node, "/rooms/news/stream").await, 404);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_has_no_more_devices_than_the_bound_and_who_is_one_more_is_told() {
    let node = Node::start(&[("STORE__MAX_DEVICES", "3")]).await;
    store(&node, "alice", "1").await;
    for device in ["a", "b", "c", "a"] {
        let mut reader = StreamClient::join(&node.socket(), "alice", json!({"device": device})).await;
        assert_eq!(reader.contents(1).await, ["1"]);
    }
    let mut one_more = crate::support::client::Client::connect(&node.socket(), true).await;
    one_more.say(json!({"event": "join", "data": {"card_id": "alice", "device": "d"}})).await;
    let answer = one_more.hear().await;
    assert_eq!((&answer["event"], &answer["data"]["code"]), (&json!("error"), &json!("too_many_devices")), "{answer}");
    // the others lost nothing
    store(&node, "alice", "2").await;
    let mut reader = StreamClient::join(&node.socket(), "alice", json!({"device": "c"})).await;
    assert_eq!(reader.contents(2).await, ["1", "2"]);
    node.stop().await;
}
