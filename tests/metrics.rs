//! The numbers at `/metrics`, read by Prometheus's own programs.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "metrics/grafana.rs"]
mod grafana;
#[path = "metrics/prometheus.rs"]
mod prometheus;
mod support;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use oxipush::internals::telemetry::Metrics;
use serde_json::json;
use support::{
    client::Client,
    gateway::{Node, sample},
    http,
    process::Process,
};

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
    let (status, _) = node.post("/push", json!({"from": "test"})).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_process_tells_its_own_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(&[("DATA__DIR", dir.path().to_str().unwrap())]);
    assert!(process.ready().await);
    let scrape = async || http::get(process.url("/metrics")).await.unwrap().text().await.unwrap();
    let text = scrape().await;
    let number = |text: &str, name: &str| sample(text, name, &[]);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count() as f64;
    let open = number(&text, "process_open_fds");
    assert!((open - descriptors).abs() <= 8.0, "{open} descriptors are told, and there are {descriptors}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - number(&text, "process_start_time_seconds");
    assert!((-2.0..120.0).contains(&age), "it is {age} s old");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: f64 = limit.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(number(&text, "process_max_fds"), limit);
    assert!(number(&text, "process_resident_memory_bytes") > 4e6, "{text}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(sample(&text, "oxipush_build_info", &[("version", version), ("arch", std::env::consts::ARCH)]), 1.0);

    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(Client::connect(&process.ws(), true).await);
    }
    let mut later = scrape().await;
    // what takes time is counted in ticks
    while number(&later, "process_cpu_seconds_total") <= number(&text, "process_cpu_seconds_total") {
        later = scrape().await;
    }
    assert!(number(&later, "process_open_fds") >= open + 40.0, "{later}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bound_stands_beside_what_it_bounds() {
    let node = Node::start(&[
        ("SOCKET__MAX_CONNECTIONS", "100"),
        ("HTTP__MAX_CONNECTIONS", "100"),
        ("GRPC__MAX_CONNECTIONS", "11"),
        ("QUEUE__MAX_IN_FLIGHT", "12"),
        ("QUEUE__MAX_PUBLISHES", "13"),
        ("QUEUE__MAX_BYTES", "14MiB"),
        ("OUTBOX__MAX_BYTES", "2MiB"),
        ("STORE__MAX_BYTES", "16MiB"),
        ("STORE__MAX_STREAMS", "17"),
        ("EVENTS__MAX_BYTES", "18MiB"),
        ("TOKEN__MAX_REVOCATIONS", "19"),
    ])
    .await;
    let (_, text) = scrape(&node, "*/*").await;
    let mib = 1024.0 * 1024.0;
    for (name, bound) in [
        ("grpc_connections", 11.0),
        ("jobs_in_flight", 12.0),
        ("publishes_waiting", 13.0),
        ("queue_bytes", 14.0 * mib),
        ("outbox_bytes", 2.0 * mib),
        ("store_bytes", 16.0 * mib),
        ("store_streams", 17.0),
        ("event_bytes", 18.0 * mib),
        ("revocations", 19.0),
    ] {
        assert_eq!(sample(&text, &format!("oxipush_max_{name}"), &[]), bound, "{name}");
    }
    // no bound is without what it bounds; an outbox is a connection's
    for (name, _) in Metrics::NAMES {
        if let Some(bounded) = name.strip_prefix("max_").filter(|bounded| *bounded != "outbox_bytes") {
            assert!(Metrics::NAMES.iter().any(|(name, _)| *name == bounded), "{name} bounds nothing that is shown");
        }
    }
    node.stop().await;
}

/// Of these pushes, as many as are sampled: their ids end in four bits of 0.
fn sampled(ids: &[String]) -> f64 {
    ids.iter().filter(|id| id.ends_with(['0', 'G'])).count() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stages_of_a_push_are_measured_for_one_in_sixteen() {
    let node = Node::start(&[]).await;
    let mut live = Client::modern(&node.socket(), "alice", "").await;
    let mut device = Client::connect(&node.socket(), true).await;
    device.say(json!({"event": "join", "data": {"card_id": "bob", "device": "phone"}})).await;
    assert_eq!(device.hear().await["event"], "joined");
    let (mut to_alice, mut to_bob) = (Vec::new(), Vec::new());
    while sampled(&to_alice) < 3.0 {
        to_alice.push(node.push(&["alice"], "live").await);
        assert_eq!(live.hear().await["data"]["content"], "live");
    }
    while sampled(&to_bob) < 3.0 {
        let body = json!({"from": "test", "to": ["bob"], "content": "stored", "offline": true});
        let (status, answer) = node.post("/push", body).await;
        assert_eq!(status, 200, "{answer}");
        to_bob.push(answer["id"].as_str().unwrap().to_owned());
        let mut heard = device.hear().await;
        // the stream begins with the first
        while heard["event"] != "push" {
            heard = device.hear().await;
        }
        device.say(json!({"event": "ack", "data": {"card": "bob", "seq": heard["data"]["seq"]}})).await;
    }
    let all = sampled(&to_alice) + sampled(&to_bob);
    for (name, count) in [
        ("oxipush_publish_seconds_count", (to_alice.len() + to_bob.len()) as f64),
        ("oxipush_offer_seconds_count", all),
        ("oxipush_write_seconds_count", all),
        ("oxipush_ack_seconds_count", sampled(&to_bob)),
    ] {
        node.metric_reaches(name, &[], count).await;
        assert_eq!(node.metric(name, &[]).await, count, "{name}");
    }
    // 5 s for each would be a clock of another kind
    for name in ["publish", "offer", "write", "ack"] {
        let name = format!("oxipush_{name}_seconds_sum");
        let seconds = node.metric(&name, &[]).await;
        assert!((0.0..5.0 * all).contains(&seconds), "{name} is {seconds}");
    }
    node.stop().await;
}
