//! The stream of a room: its history.

use serde_json::json;

use super::rig::store_with;
use crate::support::{gateway::Node, stream::StreamClient};

async fn store(node: &Node, content: &str) -> String {
    store_with(node, content, json!({"room": "news"})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_s_history_is_read_on_from_a_position() {
    let node = Node::start(&[]).await;
    for content in ["1", "2", "3"] {
        store(&node, content).await;
    }
    // who comes without a position begins at the newest
    let mut alice = StreamClient::subscribe(&node.socket(), "alice", "news", json!({})).await;
    store(&node, "4").await;
    let push = alice.stored().await;
    assert_eq!((push.seq, push.prev, push.content.as_str()), (4, 3, "4"));
    let resume = alice.place.resume().unwrap();
    drop(alice);
    store(&node, "5").await;
    store(&node, "6").await;
    let mut alice = StreamClient::subscribe(&node.socket(), "alice", "news", json!({"resume": resume})).await;
    assert_eq!(alice.contents(2).await, ["5", "6"]);
    store(&node, "7").await;
    assert_eq!(alice.contents(1).await, ["7"]);
    // from the beginning
    let resume = json!({"epoch": alice.place.epoch, "seq": 0});
    let mut bob = StreamClient::subscribe(&node.socket(), "bob", "news", json!({"resume": resume})).await;
    assert_eq!(bob.contents(7).await, ["1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(bob.resets, 0);
    bob.silent().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_has_no_cursors_and_a_position_holds_as_often_as_it_is_used() {
    let node = Node::start(&[]).await;
    store(&node, "1").await;
    let first = StreamClient::subscribe(&node.socket(), "alice", "news", json!({})).await;
    let resume = first.place.resume().unwrap();
    store(&node, "2").await;
    for _ in 0..3 {
        let data = json!({"resume": resume});
        let mut alice = StreamClient::subscribe(&node.socket(), "alice", "news", data).await;
        assert_eq!(alice.contents(1).await, ["2"]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_a_room_before_its_history_begins_knows_where_it_is() {
    let node = Node::start(&[]).await;
    let mut alice = StreamClient::subscribe(&node.socket(), "alice", "news", json!({})).await;
    store(&node, "1").await;
    assert_eq!(alice.contents(1).await, ["1"]);
    let resume = alice.place.resume().expect("it was not told the stream's epoch");
    drop(alice);
    store(&node, "2").await;
    let mut alice = StreamClient::subscribe(&node.socket(), "alice", "news", json!({"resume": resume})).await;
    assert_eq!(alice.contents(1).await, ["2"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_another_epoch_is_reset_and_read_from_the_oldest_that_is_there() {
    let node = Node::start(&[]).await;
    store(&node, "1").await;
    store(&node, "2").await;
    let resume = json!({"epoch": "0a1b2c3d", "seq": 77});
    let mut alice = StreamClient::subscribe(&node.socket(), "alice", "news", json!({"resume": resume})).await;
    store(&node, "3").await;
    assert_eq!(alice.contents(3).await, ["1", "2", "3"]);
    assert_eq!(alice.resets, 1);
    assert_ne!(alice.place.epoch.as_deref(), Some("0a1b2c3d"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsubscribing_stops_what_still_had_to_come() {
    let settings = [
        ("STORE__PAGE_ENTRIES", "1"),
        ("PUSH__MAX_CONTENT", "32KiB"),
        ("OUTBOX__MAX_BYTES", "64KiB"),
        ("STORE__MAX_STREAM_BYTES", "64MiB"),
    ];
    let node = Node::start(&settings).await;
    for _ in 0..200 {
        store(&node, &"x".repeat(30_000)).await;
    }
    let first = StreamClient::subscribe(&node.socket(), "alice", "news", json!({})).await;
    let resume = json!({"epoch": first.place.epoch, "seq": 0});
    let mut bob = StreamClient::subscribe(&node.socket(), "bob", "news", json!({"resume": resume})).await;
    bob.stored().await;
    bob.client.say(json!({"event": "unsubscribe", "data": {"room": "news"}})).await;
    let mut before = 0;
    while bob.hear().await["event"] != "unsubscribed" {
        before += 1;
    }
    assert!(before < 199, "all of it came");
    bob.silent().await;
    store(&node, "to the others").await;
    store_with(&node, "to bob", json!({"to": ["bob"]})).await;
    let heard = bob.hear().await;
    assert_eq!(heard["data"]["content"], "to bob", "{heard}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_in_several_streams_at_once_each_in_its_order() {
    let node = Node::start(&[("STORE__PAGE_ENTRIES", "2")]).await;
    for number in 0..20 {
        store_with(&node, &format!("card {number}"), json!({"to": ["alice"]})).await;
        store_with(&node, &format!("room {number}"), json!({"room": "news"})).await;
    }
    let first = StreamClient::subscribe(&node.socket(), "bob", "news", json!({})).await;
    let resume = json!({"epoch": first.place.epoch, "seq": 0});
    let mut alice = StreamClient::subscribe(&node.socket(), "alice", "news", json!({"resume": resume})).await;
    let (mut cards, mut rooms) = (Vec::new(), Vec::new());
    while cards.len() + rooms.len() < 40 {
        let push = alice.any_stored().await;
        match push.content.split_once(' ').unwrap() {
            ("card", number) => cards.push(number.parse::<usize>().unwrap()),
            (_, number) => rooms.push(number.parse::<usize>().unwrap()),
        }
    }
    assert_eq!(cards, (0..20).collect::<Vec<_>>());
    assert_eq!(rooms, (0..20).collect::<Vec<_>>());
    alice.silent().await;
    node.stop().await;
}
