//! Gateways of one cluster, each a process at a loopback address of its own.

use std::{
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Etcd, Nsqd, PATIENCE, Process, address, http, until};

/// The nodes' shared key.
pub const KEY: &str = "the-key-of-the-nodes";

/// `[peers] timeout`: more than the default, since nodes of a busy machine must not be missing by chance.
pub const TIMEOUT: Duration = Duration::from_millis(1500);

/// One gateway.
pub struct Gateway {
    pub id: String,
    pub process: Process,
    address: Ipv4Addr,
    _folder: tempfile::TempDir,
}

impl Gateway {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:8081{path}", self.address)
    }

    pub fn ws(&self) -> String {
        format!("ws://{}:8080/ws", self.address)
    }

    pub fn grpc(&self) -> String {
        format!("http://{}:9002", self.address)
    }

    pub fn peers(&self) -> String {
        format!("{}:9003", self.address)
    }

    /// Bytes that it held at most so far.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }
}

/// gw-1 and so on, with the etcd and the nsqd that they share.
pub struct Gateways {
    pub nodes: Vec<Gateway>,
    etcd: Etcd,
    nsqd: Nsqd,
}

impl Gateways {
    /// So many that know each other, with more variables in their environment (`NAME=value`).
    pub async fn start(count: usize, more: &[&str]) -> Self {
        let (etcd, nsqd) = tokio::join!(Etcd::start(), Nsqd::start(None));
        let mut gateways = Self { nodes: Vec::new(), etcd, nsqd };
        for nth in 1..=count {
            let gateway = gateways.spawn(&format!("gw-{nth}"), more);
            gateways.nodes.push(gateway);
        }
        for gateway in &gateways.nodes {
            ready(gateway).await;
        }
        // each is asked by each
        for at in 0..count {
            until("all are known", || async {
                let answered = gateways.metric(at, "oxipush_peer_questions_total", &[("outcome", "answered")]).await;
                let answer = gateways.get(at, "/isOnline?cardID=nobody").await;
                let now = gateways.metric(at, "oxipush_peer_questions_total", &[("outcome", "answered")]).await;
                let all = now - answered == (count - 1) as f64;
                (all && answer.get("missing").is_none()).then_some(())
            })
            .await;
        }
        gateways
    }

    /// One more.
    pub async fn more(&self, id: &str, more: &[&str]) -> Gateway {
        let gateway = self.spawn(id, more);
        ready(&gateway).await;
        gateway
    }

    fn spawn(&self, id: &str, more: &[&str]) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let address = address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_oxipush"));
        command
            .env("OXIPUSH__NODE__ID", id)
            .env("OXIPUSH__NODE__WORKERS", "2")
            .env("OXIPUSH__DATA__DIR", folder.path())
            .env("OXIPUSH__QUEUE__BACKEND", "nsq")
            .env("OXIPUSH__QUEUE__NSQD", self.nsqd.tcp())
            .env("OXIPUSH__QUEUE__NSQD_HTTP", self.nsqd.http())
            .env("OXIPUSH__CLUSTER__ETCD", self.etcd.url())
            .env("OXIPUSH__CLUSTER__ALLOW_LOOPBACK", "true")
            .env("OXIPUSH__CLUSTER__LEASE", "30s")
            .env("OXIPUSH__SOCKET__ANONYMOUS", "true")
            .env("OXIPUSH__SOCKET__LISTEN", format!("{address}:8080"))
            .env("OXIPUSH__HTTP__LISTEN", format!("{address}:8081"))
            .env("OXIPUSH__GRPC__LISTEN", format!("{address}:9002"))
            .env("OXIPUSH__PEERS__LISTEN", format!("{address}:9003"))
            .env("OXIPUSH__PEERS__KEY", KEY)
            .env("OXIPUSH__PEERS__TIMEOUT", format!("{}ms", TIMEOUT.as_millis()))
            .env("RUST_LOG", "warn,oxipush=info");
        for pair in more {
            let (name, value) = pair.split_once('=').unwrap();
            command.env(name, value);
        }
        let process = Process::start(&mut command, folder.path().join("log"));
        Gateway { id: id.to_owned(), process, address, _folder: folder }
    }

    /// Writes a node into etcd that is none of these; it is asked at `peers` (empty: it says no address).
    pub fn register(&self, id: &str, peers: &str) {
        let mut node = json!({
            "id": id, "socket": "127.0.0.1:1", "http": "127.0.0.1:2", "grpc": "127.0.0.1:3", "weight": 1, "version": "9",
            "phase": "serving", "ready": true, "incarnation": id,
        });
        if !peers.is_empty() {
            node["peers"] = peers.into();
        }
        self.etcd.ctl(&["put", &format!("/oxipush/nodes/{id}"), &node.to_string()]);
    }

    /// Publishes to NSQ what any of its clients can.
    pub async fn publish_raw(&self, topic: &str, push: &impl prost::Message) {
        let url = format!("http://{}/pub?topic={topic}", self.nsqd.http());
        let answer = http::client().post(url).body(push.encode_to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// The channels of a topic.
    pub async fn channels(&self, topic: &str) -> Vec<String> {
        self.nsqd.channels(topic).await
    }

    /// What a gateway answers; it must be 200.
    pub async fn get(&self, at: usize, path: &str) -> Value {
        let answer = http::client().get(self.nodes[at].url(path)).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn post(&self, at: usize, path: &str, body: Value) -> (u16, Value) {
        let answer = http::client().post(self.nodes[at].url(path)).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// The sum of a metric's samples with all of `labels`.
    pub async fn metric(&self, at: usize, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = http::get(self.nodes[at].url("/metrics")).await.unwrap().text().await.unwrap();
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let all = labels.iter().all(|(key, value)| series.contains(&format!("{key}=\"{value}\"")));
            (series.split('{').next() == Some(name) && all).then(|| value.parse::<f64>().ok()).flatten()
        };
        text.lines().filter_map(of).sum()
    }
}

async fn ready(gateway: &Gateway) {
    let begun = Instant::now();
    loop {
        if let Ok(answer) = http::get(gateway.url("/readyz")).await
            && answer.status() == 200
        {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{} is not ready:\n{}", gateway.id, gateway.process.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
