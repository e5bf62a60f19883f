//! Several gateways as processes of their own, with real nsqds, an nsqlookupd and an etcd.
#![allow(dead_code, unreachable_pub)] // each test crate uses a part of it

use std::{
    ffi::OsString,
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{
    fleet::Doors,
    servers::Etcd,
    support::{
        gateway::sample,
        http,
        nsq::{Lookupd, Nsqd},
        ports::Port,
        process::Process,
    },
};

/// A gateway, whether or not its process runs.
pub struct Member {
    pub id: String,
    ports: [Port; 3],
    dir: tempfile::TempDir,
    /// Beside those of all.
    pub settings: Vec<(&'static str, String)>,
    pub environment: Vec<(&'static str, OsString)>,
    pub process: Option<Process>,
}

impl Member {
    pub fn at(&self) -> [SocketAddr; 3] {
        [0, 1, 2].map(|port| self.ports[port].address().parse().unwrap())
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// SIGTERM, and its end.
    pub async fn stop(&mut self) {
        self.process().terminate();
        assert_eq!(self.process().ended().await, Some(0), "{} ends in order", self.id);
        self.process = None;
    }

    pub async fn ready(&mut self) {
        assert!(self.process().ready().await, "{} ended instead of starting", self.id);
    }

    /// Waits until `/readyz` answers, whatever its status, with `needle` in it.
    pub async fn says(&self, needle: &str) {
        let begun = Instant::now();
        loop {
            let url = format!("http://{}/readyz", self.at()[1]);
            let text = match http::get(url).await {
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            if text.contains(needle) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{} says {text}, not {needle}", self.id);
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let url = format!("http://{}/metrics", self.at()[1]);
        let text = http::get(url).await.expect("metrics").text().await.expect("text");
        sample(&text, name, labels)
    }
}

pub struct Rig {
    pub lookupd: Lookupd,
    pub nsqds: Vec<Nsqd>,
    pub etcd: Etcd,
    pub nodes: Vec<Member>,
    settings: Vec<(&'static str, String)>,
}

impl Rig {
    /// Servers for so many gateways, none of which runs yet; `settings` are those of all gateways beside the usual ones.
    pub async fn new(nodes: usize, settings: &[(&'static str, &str)]) -> Self {
        let lookupd = Lookupd::start().await;
        let register = format!("--lookupd-tcp-address={}", lookupd.tcp());
        // a busy machine may stand for seconds
        let arguments = [register.as_str(), "--msg-timeout=30s"];
        let (one, two, etcd) = tokio::join!(Nsqd::with(&arguments), Nsqd::with(&arguments), Etcd::start());
        let member = |number: usize| Member {
            id: format!("gw-{}", number + 1),
            ports: [Port::claim(), Port::claim(), Port::claim()],
            dir: tempfile::tempdir().unwrap(),
            settings: Vec::new(),
            environment: Vec::new(),
            process: None,
        };
        let nsqds = vec![one, two];
        let list = |of: fn(&Nsqd) -> String| nsqds.iter().map(of).collect::<Vec<_>>().join(",");
        let mut all = vec![
            ("QUEUE__BACKEND", "nsq".to_owned()),
            ("QUEUE__NSQD", list(Nsqd::tcp)),
            ("QUEUE__NSQD_HTTP", list(Nsqd::http)),
            ("QUEUE__LOOKUPD", lookupd.http()),
            ("QUEUE__LOOKUP_INTERVAL", "1s".into()),
            ("QUEUE__PUBLISH_TIMEOUT", "2s".into()),
            ("QUEUE__RETURN_AFTER", "500ms".into()),
            ("QUEUE__JOB_TIMEOUT", "10s".into()),
            ("CLUSTER__ETCD", etcd.url()),
            ("CLUSTER__ALLOW_LOOPBACK", "true".into()),
            ("CLUSTER__LEASE", "3s".into()),
            ("SOCKET__ANONYMOUS", "true".into()),
            ("CLUSTER__MAX_BACKOFF", "500ms".into()),
            ("DRAIN__RECONNECT_JITTER", "300ms".into()),
            ("HTTP__MAX_CONNECTIONS", "2000".into()),
        ];
        all.extend(settings.iter().map(|(key, value)| (*key, (*value).to_owned())));
        Self { lookupd, nsqds, etcd, nodes: (0..nodes).map(member).collect(), settings: all }
    }

    /// As [`Rig::new`], and all gateways serve.
    pub async fn start(nodes: usize, settings: &[(&'static str, &str)]) -> Self {
        let mut rig = Self::new(nodes, settings).await;
        rig.start_all().await;
        rig
    }

    pub async fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.begin(node);
        }
        for node in &mut self.nodes {
            node.ready().await;
        }
    }

    /// Starts a gateway's process; it may not be ready yet.
    pub fn begin(&mut self, node: usize) {
        let member = &mut self.nodes[node];
        let mut settings = self.settings.clone();
        settings.push(("NODE__ID", member.id.clone()));
        settings.push(("DATA__DIR", member.dir.path().to_str().unwrap().to_owned()));
        settings.extend(member.settings.clone());
        let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let environment: Vec<_> = member.environment.iter().map(|(key, value)| (*key, value.as_os_str())).collect();
        member.process = Some(Process::spawn_in(&settings, member.at(), &environment));
    }

    /// Starts one that does not run, and waits until it is ready.
    pub async fn again(&mut self, node: usize) {
        self.begin(node);
        self.nodes[node].ready().await;
    }

    pub fn doors(&self) -> Doors {
        let of = |place: usize| self.nodes.iter().map(|node| node.at()[place]).collect();
        Doors { sockets: of(0), http: of(1), grpc: of(2), nsqds: self.nsqds.iter().map(Nsqd::http).collect() }
    }
}
