//! The numbers at `/metrics`, read by Prometheus's own programs.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use support::{client::Client, gateway::Node, http};

/// What `promtool` says to what it is given; empty: nothing is wrong.
fn promtool(words: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool does not start ({error}); run scripts/tools"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success() || !said.is_empty(), "promtool {words:?}: {}", output.status);
    said
}

/// The metrics, with the content type, for who accepts `accept`.
async fn scrape(node: &Node, accept: &str) -> (String, String) {
    let answer = http::client().get(node.url("/metrics")).header("accept", accept).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong_with_the_classic_text() {
    let node = Node::start(&[]).await;
    let mut client = Client::modern(&node.socket(), "alice", "").await;
    node.push(&["alice"], "hello").await;
    client.hear().await;
    // a family with a label shows nothing before its first value
    let (status, _) = node.post("/push", serde_json::json!({"from": "test"})).await;
    assert_eq!(status, 400);
    let (kind, text) = scrape(&node, "text/plain;version=0.0.4;q=0.5,*/*;q=0.1").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("oxipush_pushes_total{source=\"http\",outcome=\"accepted\"} 1\n"), "{text}");
    assert!(!text.contains("# EOF"));
    assert_eq!(promtool(&["check", "metrics"], &text), "");
    assert!(promtool(&["check", "metrics"], "# TYPE a info\na 1\n").contains("unknown metric type"));

    let (kind, text) = scrape(&node, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5").await;
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(text.ends_with("# EOF\n"));
    node.stop().await;
}
