//! How the tests of streams push.

use serde_json::{Value, json};

use crate::support::{gateway::Node, http};

/// Two objects as one.
pub fn with(mut object: Value, more: Value) -> Value {
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

/// Stores a push for a card; its id.
pub async fn store(node: &Node, card: &str, content: &str) -> String {
    store_with(node, content, json!({"to": [card]})).await
}

/// Stores a push with these fields; its id.
pub async fn store_with(node: &Node, content: &str, more: Value) -> String {
    let (status, answer) = node.post("/push", with(json!({"content": content, "offline": true}), more)).await;
    assert_eq!(status, 200, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// Stores one push after the other for a card, with these contents.
pub async fn store_all(node: &Node, card: &str, contents: &[&str]) -> Vec<String> {
    let mut ids = Vec::new();
    for content in contents {
        ids.push(store(node, card, content).await);
    }
    ids
}

/// Posts a push to any gateway: its status and answer; `None`: there was no answer.
pub async fn post(url: &str, body: &Value) -> Option<(u16, Value)> {
    let answer = http::client().post(url).json(body).send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.unwrap_or_default()))
}

/// `DELETE` of a path: its status.
pub async fn delete(node: &Node, path: &str) -> u16 {
    http::client().delete(node.url(path)).send().await.unwrap().status().as_u16()
}

/// A stream as a back end sees it.
pub async fn describe(node: &Node, path: &str) -> (u16, Value) {
    let answer = http::get(node.url(path)).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}
