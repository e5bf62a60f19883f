//! Pushes to rooms and to everyone that are gathered in windows, through a node's public sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{client::Client, gateway::Node};

/// A client of a room; `merge`: as its join says.
async fn client(node: &Node, card: &str, merge: bool) -> Client {
    let mut client = Client::connect(&node.socket(), true).await;
    client.say(json!({"event": "join", "data": {"card_id": card, "merge": merge}})).await;
    assert_eq!(client.hear().await["event"], "joined");
    client.say(json!({"event": "subscribe", "data": {"room": "lobby"}})).await;
    assert_eq!(client.hear().await["event"], "subscribed");
    client
}

async fn push(node: &Node, body: Value) {
    let (status, answer) = node.post("/push", body).await;
    assert_eq!(status, 200, "{answer}");
}

fn contents(frame: &Value) -> Vec<&str> {
    assert_eq!(frame["event"], "pushes", "{frame}");
    frame["data"].as_array().unwrap().iter().map(|push| push["content"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_comes_as_one_frame_to_who_asked_for_it_and_each_push_at_once_to_the_others() {
    let node = Node::start(&[("ROOMS__MERGE_WINDOW", "5s")]).await;
    let mut merging = client(&node, "ada", true).await;
    let mut other = client(&node, "bob", false).await;
    for target in [json!({"room": "lobby"}), json!({"everyone": true})] {
        let begun = Instant::now();
        for content in ["1", "2", "3"] {
            let mut body = target.clone();
            body["content"] = content.into();
            push(&node, body).await;
            assert_eq!(other.content().await, content);
        }
        // none of it waits for the window
        assert!(begun.elapsed() < Duration::from_secs(5));
        let frame = merging.hear().await;
        assert_eq!(contents(&frame), ["1", "2", "3"]);
        let first = &frame["data"][0];
        assert_eq!(first["room"], target["room"]);
        assert!(first["id"].is_string() && first["ts"].is_number() && first["from"].is_string(), "{first}");
    }
    // what is for its card does not wait
    push(&node, json!({"to": ["ada"], "content": "at once"})).await;
    assert_eq!(merging.content().await, "at once");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_leaves_at_once_and_the_last_one_before_the_node_ends() {
    let node = Node::start(&[("ROOMS__MERGE_WINDOW", "10s"), ("ROOMS__MERGE_COUNT", "3")]).await;
    let mut merging = client(&node, "ada", true).await;
    for content in ["1", "2", "3", "4", "5"] {
        push(&node, json!({"room": "lobby", "content": content})).await;
    }
    assert_eq!(contents(&merging.hear().await), ["1", "2", "3"]);
    let stopping = tokio::spawn(node.stop());
    assert_eq!(contents(&merging.hear().await), ["4", "5"]);
    drop(merging);
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_excludes_somebody_comes_behind_what_waited_before_it() {
    let node = Node::start(&[("ROOMS__MERGE_WINDOW", "10s")]).await;
    let mut merging = client(&node, "ada", true).await;
    let mut excluded = client(&node, "bob", true).await;
    for content in ["1", "2"] {
        push(&node, json!({"room": "lobby", "content": content})).await;
    }
    push(&node, json!({"room": "lobby", "content": "3", "exclude": {"cards": ["bob"]}})).await;
    assert_eq!(contents(&merging.hear().await), ["1", "2"]);
    assert_eq!(merging.content().await, "3");
    assert_eq!(contents(&excluded.hear().await), ["1", "2"]);
    excluded.silent().await;
    node.stop().await;
}
