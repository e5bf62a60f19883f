//! docker-compose.yml's topology as processes: nsqlookupd, two nsqds, etcd, nginx with confd, and gateways behind it.
//!
//! These are the short versions. `just cluster-long` makes them long: 3,000 clients, 30 s without etcd.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "cluster/clients.rs"]
mod clients;
#[path = "cluster/support.rs"]
mod support;

use std::time::{Duration, Instant};

use clients::{Accepted, Clients, Pusher};
use oxipush::internals::proto::rpc;
use prost::Message as _;
use support::{Topology, until};

/// Cards that the clients share.
const CARDS: usize = 20;

fn client_count() -> usize {
    given("OXIPUSH_CLUSTER_CLIENTS").unwrap_or(200)
}

/// How long etcd is away; longer than the lease (5 s) in any case.
fn outage() -> Duration {
    Duration::from_secs(given("OXIPUSH_CLUSTER_OUTAGE").unwrap_or(8) as u64)
}

fn given(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

struct Cluster {
    topology: Topology,
    http: String,
    ws: String,
    grpc: String,
}

impl Cluster {
    fn start(environment: &[&str]) -> Self {
        let mut arguments = vec!["--without", "nsqadmin"];
        let usual = [
            "OXIPUSH__CLUSTER__LEASE=5s",
            "OXIPUSH__CLUSTER__MAX_BACKOFF=1s",
            "OXIPUSH__CLUSTER__CHANNEL_GRACE=4s",
            "OXIPUSH__QUEUE__LOOKUP_INTERVAL=1s",
            "OXIPUSH__DRAIN__RECONNECT_JITTER=500ms",
        ];
        for pair in usual.iter().chain(environment) {
            arguments.extend(["--env", pair]);
        }
        let topology = Topology::start(&arguments);
        let nginx = topology.at("nginx");
        Self {
            http: format!("http://{nginx}:8081"),
            ws: format!("ws://{nginx}:8080/ws"),
            grpc: format!("http://{nginx}:9002"),
            topology,
        }
    }

    /// Waits until nginx spreads over exactly these gateways.
    async fn spreads_over(&self, nodes: &[&str]) {
        let file = format!("{}/volumes/upstreams/upstreams.conf", self.topology.first["folder"].as_str().unwrap());
        until(&format!("confd renders {nodes:?}"), || async {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let rendered = text.matches("fail_timeout").count() == 3 * nodes.len();
            (rendered && nodes.iter().all(|node| text.contains(&format!("; # {node}\n")))).then_some(())
        })
        .await;
        // confd's reload waits for more changes; then old workers must have stopped to accept. A reload that was missed
        // because this looked late is over after a while too.
        let retired = || self.topology.log("nginx").matches("gracefully shutting down").count();
        let (before, begun) = (retired(), Instant::now());
        while retired() == before && begun.elapsed() < Duration::from_secs(4) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    async fn push(&self, card: &str, content: &str) -> Accepted {
        let sent = Instant::now();
        let body = serde_json::json!({"from": "test", "to": [card], "appID": "", "content": content});
        let answer =
            crate::support::http::client().post(format!("{}/push", self.http)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Accepted { card: card.into(), content: content.into(), sent, accepted: Instant::now() }
    }

    /// Publishes to NSQ what any of its clients can.
    async fn publish_raw(&self, nsqd: &str, card: &str, content: &str) -> Accepted {
        let sent = Instant::now();
        let request = rpc::PushRequest {
            from: "test".into(),
            to: vec![card.into()],
            content: content.into(),
            ..Default::default()
        };
        let url = format!("http://{nsqd}:4151/pub?topic=gopusher");
        let answer = crate::support::http::client().post(url).body(request.encode_to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Accepted { card: card.into(), content: content.into(), sent, accepted: Instant::now() }
    }

    async fn connections(&self, address: &str) -> f64 {
        let text =
            crate::support::http::get(format!("http://{address}:8081/metrics")).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with("oxipush_connections ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn ready(&self, address: &str) {
        until(&format!("{address} is ready"), || async {
            let answer = crate::support::http::get(format!("http://{address}:8081/readyz")).await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }

    async fn details(&self, address: &str, needle: &str) {
        until(&format!("{address} says {needle}"), || async {
            let answer = crate::support::http::get(format!("http://{address}:8081/readyz")).await.ok()?;
            answer.text().await.ok()?.contains(needle).then_some(())
        })
        .await;
    }

    async fn channels(&self, nsqd: &str) -> Vec<String> {
        let url = format!("http://{}:4151/stats?format=json&topic=gopusher.live", self.topology.at(nsqd));
        let stats: serde_json::Value = crate::support::http::get(url).await.unwrap().json().await.unwrap();
        let channels = stats["topics"][0]["channels"].as_array().cloned().unwrap_or_default();
        channels.iter().map(|channel| channel["channel_name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_through_any_door_reaches_every_connection_of_the_card_once() {
    let mut cluster = Cluster::start(&[]);
    cluster.spreads_over(&["gateway-1", "gateway-2"]).await;
    let clients = Clients::start(&cluster.ws, client_count(), CARDS).await;
    let even = client_count() as f64 / 2.0;
    for node in ["gateway-1", "gateway-2"] {
        let has = cluster.connections(&cluster.topology.at(node)).await;
        assert!((has - even).abs() <= even * 0.2, "{node} has {has} of {}", client_count());
    }

    let mut pushes = Vec::new();
    for number in 0..CARDS {
        pushes.push(cluster.push(&format!("card-{number}"), &format!("http {number}")).await);
    }
    let mut grpc = rpc::rpc_client::RpcClient::connect(cluster.grpc.clone()).await.unwrap();
    for number in 0..CARDS {
        let sent = Instant::now();
        let (card, content) = (format!("card-{number}"), format!("grpc {number}"));
        let request = rpc::PushRequest {
            from: "test".into(),
            to: vec![card.clone()],
            content: content.clone(),
            ..Default::default()
        };
        grpc.push(request).await.unwrap();
        pushes.push(Accepted { card, content, sent, accepted: Instant::now() });
    }
    for nsqd in ["nsqd-1", "nsqd-2"] {
        let address = cluster.topology.at(nsqd);
        for number in 0..CARDS {
            let content = format!("{nsqd} {number}");
            pushes.push(cluster.publish_raw(&address, &format!("card-{number}"), &content).await);
        }
    }
    clients.complete(&pushes).await;
    assert_eq!(clients.most_copies(), 1);

    // a third node takes clients once confd has rendered it
    let third = cluster.topology.tell("start gateway-3 like gateway-1").await["address"].as_str().unwrap().to_owned();
    cluster.spreads_over(&["gateway-1", "gateway-2", "gateway-3"]).await;
    clients.add(&cluster.ws, 60, CARDS).await;
    assert!(cluster.connections(&third).await >= 10.0, "{}", cluster.connections(&third).await);
    let pushes = [cluster.push("card-0", "with three").await];
    clients.complete(&pushes).await;
    assert_eq!(clients.most_copies(), 1);
    clients.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_no_push_that_was_accepted() {
    let mut cluster = Cluster::start(&[]);
    cluster.spreads_over(&["gateway-1", "gateway-2"]).await;
    let clients = Clients::start(&cluster.ws, client_count(), CARDS).await;
    let pusher = Pusher::start(&cluster.http, CARDS, Duration::from_millis(20));
    let mut restarted = Instant::now();
    for node in ["gateway-1", "gateway-2"] {
        let before = clients.closed_with(3000);
        let stopped = cluster.topology.tell(&format!("stop {node}")).await;
        assert_eq!(stopped["code"], 0, "an orderly end");
        assert!(clients.closed_with(3000) > before, "clients are told to come back");
        assert!(cluster.topology.etcdctl(&["get", &format!("/oxipush/nodes/{node}")]).unwrap().is_empty());
        restarted = Instant::now();
        cluster.topology.tell(&format!("start {node}")).await;
        cluster.ready(&cluster.topology.at(node)).await;
        cluster.spreads_over(&["gateway-1", "gateway-2"]).await;
    }
    clients.all_open(client_count()).await;
    let last = clients.last_joined().saturating_duration_since(restarted);
    let (pushes, refused) = pusher.stop().await;
    println!("{} accepted, refused: {refused:?}; last client back {last:?} after the last stop", pushes.len());
    assert!(pushes.len() > 100, "{}", pushes.len());
    clients.complete(&pushes).await;
    clients.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_forgotten_and_its_channel_deleted() {
    let mut cluster = Cluster::start(&[]);
    cluster.spreads_over(&["gateway-1", "gateway-2"]).await;
    let clients = Clients::start(&cluster.ws, client_count(), CARDS).await;
    let pusher = Pusher::start(&cluster.http, CARDS, Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.topology.tell("kill gateway-2").await;
    let killed = Instant::now();
    // nginx passes by what it cannot reach, before the lease has ended
    until("clients come back", || async { (clients.last_joined() > killed).then_some(()) }).await;
    clients.all_open(client_count()).await;
    println!("all clients back {:?} after the kill", killed.elapsed());
    cluster.spreads_over(&["gateway-1"]).await;
    until("gateway-1 has all clients", || async {
        (cluster.connections(&cluster.topology.at("gateway-1")).await == client_count() as f64).then_some(())
    })
    .await;
    for nsqd in ["nsqd-1", "nsqd-2"] {
        until("the channel is deleted", || async { (cluster.channels(nsqd).await == ["gateway-1"]).then_some(()) })
            .await;
    }
    let told =
        || cluster.topology.log("gateway-1").matches("the channel of a node that did not return is deleted").count();
    // the nsqds know of it a moment before the log has its line
    until("the log tells of it", || async { (told() > 0).then_some(()) }).await;
    assert_eq!(told(), 1);
    let (pushes, _) = pusher.stop().await;
    clients.complete(&pushes).await;

    // it comes back under its name, with a new channel
    cluster.topology.tell("start gateway-2").await;
    cluster.spreads_over(&["gateway-1", "gateway-2"]).await;
    clients.add(&cluster.ws, 40, CARDS).await;
    assert!(cluster.connections(&cluster.topology.at("gateway-2")).await > 0.0);
    let pushes = [cluster.push("card-0", "back").await];
    clients.complete(&pushes).await;
    clients.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_go_on_without_etcd_and_without_an_nsqd() {
    let mut cluster = Cluster::start(&[]);
    cluster.spreads_over(&["gateway-1", "gateway-2"]).await;
    let clients = Clients::start(&cluster.ws, client_count(), CARDS).await;
    let first = cluster.topology.at("gateway-1");

    let pusher = Pusher::start(&cluster.http, CARDS, Duration::from_millis(20));
    cluster.topology.tell("kill etcd").await;
    cluster.details(&first, "not registered: etcd").await;
    tokio::time::sleep(outage()).await;
    let (pushes, refused) = pusher.stop().await;
    assert!(refused.is_empty(), "{refused:?}");
    clients.complete(&pushes).await;
    cluster.topology.tell("start etcd").await;
    cluster.details(&first, "registered as gateway-1 (serving)").await;
    cluster.spreads_over(&["gateway-1", "gateway-2"]).await;

    // what a killed nsqd held may be lost: it holds nothing now
    cluster.topology.tell("kill nsqd-1").await;
    let pusher = Pusher::start(&cluster.http, CARDS, Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let added = cluster.topology.tell("start nsqd-3 like nsqd-2").await["address"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (mut pushes, refused) = pusher.stop().await;
    println!("{} accepted, refused: {refused:?} without nsqd-1", pushes.len());
    assert!(!pushes.is_empty());
    for number in 0..CARDS {
        pushes.push(cluster.publish_raw(&added, &format!("card-{number}"), &format!("nsqd-3 {number}")).await);
    }
    clients.complete(&pushes).await;
    cluster.topology.tell("start nsqd-1").await;
    cluster.ready(&first).await;
    let pushes = [cluster.push("card-1", "all there").await];
    clients.complete(&pushes).await;
    clients.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_of_one_id_does_not_start() {
    let mut cluster = Cluster::start(&[]);
    let stdin = cluster.topology.first["services"]["gateway-1"]["address"].as_str().unwrap().to_owned();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oxipush"));
    let address = support::address();
    command
        .env("OXIPUSH__NODE__ID", "gateway-1")
        .env("OXIPUSH__QUEUE__BACKEND", "nsq")
        .env("OXIPUSH__QUEUE__NSQD", format!("{}:4150", cluster.topology.at("nsqd-1")))
        .env("OXIPUSH__QUEUE__NSQD_HTTP", format!("{}:4151", cluster.topology.at("nsqd-1")))
        .env("OXIPUSH__CLUSTER__ETCD", format!("http://{}:2379", cluster.topology.at("etcd")))
        .env("OXIPUSH__CLUSTER__ALLOW_LOOPBACK", "true")
        .env("OXIPUSH__SOCKET__ANONYMOUS", "true")
        .env("OXIPUSH__SOCKET__LISTEN", format!("{address}:8080"))
        .env("OXIPUSH__HTTP__LISTEN", format!("{address}:8081"))
        .env("OXIPUSH__GRPC__LISTEN", format!("{address}:9002"));
    let folder = tempfile::tempdir().unwrap();
    let mut process = support::Process::start(&mut command, folder.path().join("log"));
    assert_eq!(process.ended().await.code(), Some(1));
    let text = process.text();
    assert!(text.contains("the node id gateway-1 is taken by a living node"), "{text}");
    assert!(text.contains(&format!("socket {stdin}:8080")), "{text}");
    // and the first one serves on
    cluster.ready(&stdin).await;
    assert_eq!(cluster.topology.tell("stop gateway-1").await["code"], 0);
}
