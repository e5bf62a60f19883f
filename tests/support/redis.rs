//! Real redis-servers, in temporary folders, that can be stopped, killed, paused and started again; Sentinels and a Redis Cluster
//! of them.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::ports::Port;

/// How long a server may take to answer or end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running redis-server, or Sentinel; killed when dropped.
pub struct RedisServer {
    port: Port,
    dir: TempDir,
    args: Vec<String>,
    /// What redis-cli needs to reach it.
    cli: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// With an AOF that is fsynced before each answer, as the gateway recommends.
    pub async fn start() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    /// Without any file, and with more arguments.
    pub async fn with(more: &[&str]) -> Self {
        for _ in 0..10 {
            let port = Port::claim();
            let number = port.number.to_string();
            let base = ["--port", &number, "--bind", "127.0.0.1", "--save", ""];
            let args = base.iter().chain(more).map(|&arg| arg.to_owned()).collect();
            let mut server = Self::new(port, args, tempfile::tempdir().unwrap());
            if server.run().await {
                return server;
            }
        }
        panic!("redis-server does not start; run scripts/tools");
    }

    /// Only with TLS, for clients with a certificate: `ca`, `cert` and `key` are files.
    pub async fn with_tls(ca: &Path, cert: &Path, key: &Path, more: &[&str]) -> Self {
        for _ in 0..10 {
            let port = Port::claim();
            let number = port.number.to_string();
            let [ca, cert, key] = [ca, cert, key].map(|path| path.to_str().unwrap());
            let base = ["--port", "0", "--tls-port", &number, "--bind", "127.0.0.1", "--save", ""];
            let tls = ["--tls-ca-cert-file", ca, "--tls-cert-file", cert, "--tls-key-file", key];
            let args = base.iter().chain(&tls).chain(more).map(|&arg| arg.to_owned()).collect();
            let mut server = Self::new(port, args, tempfile::tempdir().unwrap());
            server.cli.extend(["--tls", "--cacert", ca, "--cert", cert, "--key", key].map(str::to_owned));
            if server.run().await {
                return server;
            }
        }
        panic!("redis-server does not start with TLS; run scripts/tools");
    }

    /// A Sentinel that watches `master` alone, under the name `name`, and promotes a replica a second after it is gone.
    pub async fn sentinel(name: &str, master: &Self) -> Self {
        let port = Port::claim();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sentinel.conf");
        let lines = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {name} 127.0.0.1 {} 1\nsentinel down-after-milliseconds {name} 1000\n\
             sentinel failover-timeout {name} 5000\n",
            port.number,
            dir.path().display(),
            master.port.number
        );
        std::fs::write(&file, lines).unwrap();
        let args = vec![file.to_str().unwrap().to_owned(), "--sentinel".into()];
        let mut server = Self::new(port, args, dir);
        assert!(server.run().await, "the Sentinel does not start");
        server
    }

    fn new(port: Port, args: Vec<String>, dir: TempDir) -> Self {
        let cli = ["-h", "127.0.0.1", "-p", &port.number.to_string()].map(str::to_owned).to_vec();
        Self { port, dir, args, cli, child: None }
    }

    /// Starts the process; true once it answers, false if it ended instead.
    async fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(&self.args);
        if self.args.iter().all(|arg| arg != "--sentinel") {
            command.arg("--dir").arg(self.dir.path());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        self.child =
            Some(child.unwrap_or_else(|error| panic!("redis-server does not start ({error}); run scripts/tools")));
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.child = None;
                return false;
            }
            // NOAUTH is an answer, too; LOADING is none
            let answer = self.cli_output(&["PING"]);
            let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
            if ["PONG", "NOAUTH", "NOPERM"].iter().any(|word| answer.contains(word)) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("redis-server does not answer");
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// `redis://…`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn cli_output(&self, words: &[&str]) -> Output {
        Command::new("redis-cli").args(&self.cli).args(words).stdin(Stdio::null()).output().expect("redis-cli runs")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What redis-cli answers to a command.
    pub fn cli(&self, words: &[&str]) -> String {
        let output = self.cli_output(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The process's signals.
    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.child.as_ref().expect("it runs").id();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    }

    /// SIGSTOP: it keeps its connections and does not answer.
    pub fn pause(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on its port and folder.
    pub async fn again(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        for _ in 0..50 {
            if self.run().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("redis-server does not start again");
    }

    /// Waits until redis-cli's answer to a command has a text.
    pub async fn wait_for(&self, words: &[&str], text: &str) {
        let started = Instant::now();
        loop {
            let answer = self.cli(words);
            if answer.contains(text) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{words:?}: {text:?} is not in {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Redis Cluster of three masters.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        while nodes.len() < 3 {
            // its bus takes another port
            let bus = Port::claim();
            let bus_port = bus.number.to_string();
            let more = ["--cluster-enabled", "yes", "--cluster-port", &bus_port, "--cluster-node-timeout", "1000"];
            nodes.push(
                RedisServer::with(&[&more[..], &["--appendonly", "yes", "--appendfsync", "always"]].concat()).await,
            );
        }
        let mut words = vec!["--cluster".to_owned(), "create".into()];
        words.extend(nodes.iter().map(RedisServer::address));
        words.extend(["--cluster-replicas".into(), "0".into(), "--cluster-yes".into()]);
        let created = Command::new("redis-cli").args(&words).stdin(Stdio::null()).output().expect("redis-cli runs");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        for node in &nodes {
            node.wait_for(&["CLUSTER", "INFO"], "cluster_state:ok").await;
        }
        Self { nodes }
    }

    /// For `[redis] url`.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(RedisServer::url).collect::<Vec<_>>().join(",")
    }
}
