//! A gateway under attack: what it holds, what it counts, and whether it still serves others.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use oxipush::internals::proto::rpc::{PushRequest, rpc_client::RpcClient};
use serde_json::json;
use tonic::{Request, transport::Channel};

use super::support::{
    client::{Client, PATIENCE},
    gateway::sample,
    process::Process,
};

/// The key that bystanders have, and attackers have not.
pub const KEY: &str = "a-bystanders-key-of-24-bytes";

/// Bytes of memory that attack and others may take beyond what there was before; measured, they take 1 to
/// 3 MiB, and 22 where 32 connections hold all that they can.
const FLAT: u64 = 40 * 1024 * 1024;

pub struct Victim {
    process: Process,
    _dir: tempfile::TempDir,
}

impl Victim {
    /// Starts it with two workers and a key.
    pub async fn start(given: &[(&str, &str)]) -> Self {
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_string_lossy().into_owned();
            let settings = [("NODE__WORKERS", "2"), ("AUTH__KEYS", KEY), ("DATA__DIR", &path)];
            let mut process = Process::spawn(&[&settings[..], given].concat());
            if process.ready().await {
                return Self { process, _dir: dir };
            }
            // another process took one of its ports
        }
        panic!("the gateway does not start");
    }

    pub fn socket(&self) -> SocketAddr {
        self.process.socket
    }

    pub fn http(&self) -> SocketAddr {
        self.process.http
    }

    pub fn grpc(&self) -> SocketAddr {
        self.process.grpc
    }

    /// Bytes of memory of its own that it has now.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Processor time that it has used so far.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // the name may have spaces: it ends at the last parenthesis
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ, which is 100 wherever Linux runs
        Duration::from_millis(ticks * 10)
    }

    async fn metrics(&self) -> String {
        let asked =
            super::support::http::client().get(self.process.url("/metrics")).bearer_auth(KEY).send().await.unwrap();
        asked.text().await.unwrap()
    }

    /// The sum of a metric's samples with these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sample(&self.metrics().await, name, labels)
    }

    /// Waits until a metric is at least `least`.
    pub async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let reached = async {
            while self.metric(name, labels).await < least {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            panic!("{name}{labels:?} is {} after 30 s, not {least}", self.metric(name, labels).await);
        }
    }

    /// Runs an attack while others push over HTTP and gRPC and a client reads; sees that all of it arrives and that memory stays
    /// flat. Gives what the attack gives.
    pub async fn endures<T>(&self, what: &str, attack: impl Future<Output = T>) -> T {
        let mut others = Others::of(self).await;
        // the first of everything allocates
        others.are_served().await;
        let before = self.memory();
        let (most, rounds, slowest) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Duration::ZERO));
        let over = AtomicBool::new(false);
        let served = async {
            loop {
                let last = over.load(Relaxed);
                let asked = Instant::now();
                others.are_served().await;
                let mut slowest = slowest.lock().unwrap();
                *slowest = asked.elapsed().max(*slowest);
                most.fetch_max(self.memory(), Relaxed);
                rounds.fetch_add(1, Relaxed);
                if last {
                    break;
                }
            }
        };
        let attacked = async {
            let result = attack.await;
            over.store(true, Relaxed);
            result
        };
        let (result, ()) = tokio::join!(attacked, served);
        let (most, slowest) = (most.into_inner(), slowest.into_inner().unwrap());
        eprintln!(
            "{what}: {} → {} KiB; {} rounds of others, the slowest {slowest:?}",
            before / 1024,
            most / 1024,
            rounds.into_inner()
        );
        assert!(most < before + FLAT, "{what}: memory grew from {before} to {most} bytes");
        result
    }
}

/// Those who do nothing wrong.
struct Others {
    grpc: RpcClient<Channel>,
    http: reqwest::Client,
    url: String,
    reader: Client,
    number: usize,
}

impl Others {
    async fn of(victim: &Victim) -> Self {
        Self {
            grpc: RpcClient::connect(format!("http://{}", victim.grpc())).await.unwrap(),
            http: super::support::http::client(),
            url: victim.process.url("/push"),
            reader: Client::gopusher(&victim.process.ws(), "bystander", "").await,
            number: 0,
        }
    }

    /// A push over each API, and both reach their client.
    async fn are_served(&mut self) {
        self.number += 1;
        let (one, two) = (format!("http {}", self.number), format!("grpc {}", self.number));
        let body = json!({"from": "test", "to": ["bystander"], "content": one});
        let answer = tokio::time::timeout(PATIENCE, self.http.post(&self.url).bearer_auth(KEY).json(&body).send());
        assert_eq!(answer.await.expect("an answer within 30 s").unwrap().status(), 200);
        assert_eq!(self.reader.content().await, one);
        let push = PushRequest {
            from: "test".into(),
            to: vec!["bystander".into()],
            content: two.clone(),
            ..Default::default()
        };
        let mut request = Request::new(push);
        request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
        let reply = tokio::time::timeout(PATIENCE, self.grpc.push(request)).await.expect("a reply within 30 s");
        assert_eq!(reply.unwrap().into_inner().code, 0);
        assert_eq!(self.reader.content().await, two);
    }
}
