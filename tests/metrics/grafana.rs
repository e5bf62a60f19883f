//! The dashboard and the alert rules of grafana/, on a Prometheus that scrapes a gateway at work.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use oxipush::internals::telemetry::Metrics;
use serde_json::{Value, json};

use crate::{
    prometheus::Prometheus,
    support::{client::Client, client::PATIENCE, http, process::Process},
};

/// What a node shows only with nsqd, or with other nodes.
const NEED_MORE: &[&str] = &["nsqd to hand-out", "nsq: rebuilds and missing copies", "Questions to other nodes"];
const KEY: &str = "a-key-of-this-test";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn alerts() -> PathBuf {
    root().join("grafana/alerts.yml")
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("grafana/dashboard.json")).unwrap()).unwrap()
}

/// Each panel that shows something.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

fn queries(panel: &Value) -> Vec<&str> {
    panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].as_str().unwrap()).collect()
}

/// As Grafana fills it in, for all nodes.
fn filled(query: &str) -> String {
    query.replace("$instance", ".*").replace("$__rate_interval", "15s")
}

/// The names of the gateway's own metrics in a query, as `Metrics::NAMES` has them.
fn names(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter_map(|word| word.strip_prefix("oxipush_"));
    names
        .map(|name| {
            let stem = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            stem.unwrap_or(name)
        })
        .collect()
}

#[test]
fn the_dashboard_has_one_data_source_and_each_panel_a_unit_and_a_description() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64() >= Some(38), "Grafana 10");
    let sources: Vec<_> = dashboard["templating"]["list"].as_array().unwrap().iter().collect();
    assert_eq!(sources.iter().filter(|variable| variable["type"] == "datasource").count(), 1);
    let (mut ids, mut titles, mut cells) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} lies over another panel", panel["title"]);
        }
    }
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(titles.insert(title), "two panels are called {title}");
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 20), "{title} has no description");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert!(!queries(panel).is_empty());
        let own = [panel].into_iter().chain(panel["targets"].as_array().unwrap());
        assert!(own.into_iter().all(|place| place["datasource"]["uid"] == "${datasource}"), "{title}");
    }
    assert!(NEED_MORE.iter().all(|title| titles.contains(title)));
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_are_there() {
    let known: BTreeSet<&str> = Metrics::NAMES.iter().map(|(name, _)| *name).collect();
    let rules = std::fs::read_to_string(alerts()).unwrap();
    let dashboard = dashboard();
    let mut all: BTreeSet<&str> = panels(&dashboard).into_iter().flat_map(queries).flat_map(names).collect();
    assert!(all.len() > 40, "the dashboard could not be read: {all:?}");
    all.extend(names(&rules));
    let unknown: Vec<_> = all.difference(&known).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn promtool_takes_the_alerts_and_they_fire_when_they_should() {
    let test = root().join("tests/metrics/alerts.test.yml");
    for words in [["check", "rules", alerts().to_str().unwrap()], ["test", "rules", test.to_str().unwrap()]] {
        let ended = Command::new("promtool").args(words).output().expect("promtool runs; run scripts/tools");
        assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// A bit of everything that a node alone does, for as long as this is polled.
async fn work(gateway: &Process) {
    let push = async |body: Value, key: &str| {
        let sent = http::client().post(gateway.url("/push")).bearer_auth(key).json(&body).send().await;
        sent.unwrap().status().as_u16()
    };
    let mut live = Client::modern(&gateway.ws(), "alice", "").await;
    let mut device = Client::connect(&gateway.ws(), true).await;
    device.say(json!({"event": "join", "data": {"card_id": "bob", "device": "phone"}})).await;
    loop {
        for _ in 0..8 {
            let body = json!({"from": "test", "to": ["alice"], "content": "live"});
            assert_eq!(push(body, KEY).await, 200);
            live.hear().await;
            let body = json!({"from": "test", "to": ["bob"], "content": "stored", "offline": true});
            assert_eq!(push(body, KEY).await, 200);
            let mut heard = device.hear().await;
            while heard["event"] != "push" {
                heard = device.hear().await;
            }
            device.say(json!({"event": "ack", "data": {"card": "bob", "seq": heard["data"]["seq"]}})).await;
        }
        assert_eq!(push(json!({"from": "test"}), KEY).await, 400);
        assert_eq!(push(json!({"from": "test", "to": ["nobody"], "content": "x"}), "no-key-at-all").await, 401);
        let mut guest = Client::modern(&gateway.ws(), "carol", "").await;
        guest.say(json!({"event": "no such event"})).await;
        assert_eq!(guest.hear().await["event"], "error");
        drop(guest);
        assert_eq!(handshake(gateway, "origin", "https://a.test").await, 403);
        let mut stranger = Client::connect(&format!("{}?token=no-token", gateway.ws()), true).await;
        stranger.say(json!({"event": "join", "data": {"card_id": "alice"}})).await;
        assert!(stranger.text().await.is_some(), "it is told why");
    }
}

/// The status of a handshake with one more header.
async fn handshake(gateway: &Process, name: &str, value: &str) -> u16 {
    let mut handshake = http::client().get(format!("http://{}/ws", gateway.socket)).header(name, value);
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        handshake = handshake.header(name, value);
    }
    handshake.send().await.unwrap().status().as_u16()
}

/// Waits until each query of the dashboard has data, where it must have some.
async fn all_have_data(prometheus: &Prometheus) {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        for query in queries(panel) {
            let query = filled(query);
            let began = Instant::now();
            // with an error it ends here, whatever it is
            while !prometheus.has_data(&query).await && !NEED_MORE.contains(&title) {
                assert!(began.elapsed() < PATIENCE * 2, "{title} has no data: {query}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_and_of_the_alerts_runs_and_shows_a_node_at_work() {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = Process::spawn(&[
        ("DATA__DIR", dir.path().to_str().unwrap()),
        ("AUTH__KEYS", KEY),
        ("SOCKET__ANONYMOUS", "true"),
        ("SOCKET__ALLOWED_ORIGINS", "https://example.org"),
        ("TOKEN__SECRET", "a-secret-of-this-test-that-is-long-enough"),
    ]);
    assert!(gateway.ready().await);
    let prometheus = Prometheus::start(&gateway.http.to_string(), KEY, &alerts()).await;
    tokio::select! {
        () = work(&gateway) => {}
        () = all_have_data(&prometheus) => {}
    }
    let groups = prometheus.ask("/api/v1/rules", &[]).await;
    let rules = groups["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 20, "{groups}");
    for rule in rules {
        assert_eq!((&rule["health"], &rule["lastError"]), (&json!("ok"), &Value::Null), "{rule}");
        assert_ne!(rule["state"], "firing", "a healthy node fires {}", rule["name"]);
        assert!(rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(), "{rule}");
    }
}
