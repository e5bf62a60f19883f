//! Real nsqds and nsqlookupds, in temporary folders, that can be stopped, killed and started again.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::ports::Port;

/// How long a server may take to answer or end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program of scripts/tools: from OXIPUSH_TOOLS, .tools/bin, or PATH.
pub fn tool(name: &str) -> PathBuf {
    let folders = [
        std::env::var_os("OXIPUSH_TOOLS").map(PathBuf::from),
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin")),
    ];
    let found = folders.into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| name.into())
}

/// A server process with a TCP and an HTTP port.
struct Server {
    program: &'static str,
    args: Vec<String>,
    tcp: Port,
    http: Port,
    child: Option<Child>,
}

impl Server {
    async fn start(program: &'static str, args: impl Fn(&Port, &Port) -> Vec<String>) -> Self {
        for _ in 0..10 {
            let (tcp, http) = (Port::claim(), Port::claim());
            let mut server = Self { program, args: args(&tcp, &http), tcp, http, child: None };
            if server.run().await {
                return server;
            }
        }
        panic!("{program} does not start; run scripts/tools");
    }

    /// Starts the process; true once it answers, false if it ended instead.
    async fn run(&mut self) -> bool {
        let child =
            Command::new(tool(self.program)).args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("{} does not start ({error}); run scripts/tools", self.program));
        let child = self.child.insert(child);
        let url = format!("http://{}/ping", self.http.address());
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if super::http::get(&url).await.is_ok_and(|answer| answer.status() == 200) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} does not answer", self.program);
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id();
        // the shell's own kill: no package needed
        let told = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
        assert!(told.success(), "{} cannot be told {signal}", self.program);
    }

    async fn end(&mut self, signal: &str) {
        if self.child.is_none() {
            return;
        }
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "{} does not end", self.program);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn again(&mut self) {
        assert!(self.child.is_none(), "{} still runs", self.program);
        for _ in 0..50 {
            if self.run().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} does not start again", self.program);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running nsqd; killed when dropped.
pub struct Nsqd {
    server: Server,
    dir: TempDir,
}

impl Nsqd {
    /// With what the gateway recommends, and a message time-out of 5 s.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more arguments, which override the usual ones.
    pub async fn with(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args = |tcp: &Port, http: &Port| {
            let mut args = vec![
                format!("--tcp-address={}", tcp.address()),
                format!("--http-address={}", http.address()),
                format!("--data-path={}", dir.path().display()),
                format!("--node-id={}", fastrand::u16(..1024)),
                "--broadcast-address=127.0.0.1".into(),
                "--output-buffer-timeout=1ms".into(),
                "--mem-queue-size=0".into(),
                "--msg-timeout=5s".into(),
                "--log-level=fatal".into(),
            ];
            args.extend(more.iter().map(|&arg| arg.to_owned()));
            args
        };
        Self { server: Server::start("nsqd", args).await, dir }
    }

    pub fn tcp(&self) -> String {
        self.server.tcp.address()
    }

    pub fn http(&self) -> String {
        self.server.http.address()
    }

    /// Stops it in order (SIGTERM).
    pub async fn stop(&mut self) {
        self.server.end("TERM").await;
    }

    /// Kills it (SIGKILL).
    pub async fn kill(&mut self) {
        self.server.end("KILL").await;
    }

    /// Stops it where it stands (SIGSTOP): the kernel goes on accepting connections for it.
    pub fn hang(&self) {
        self.server.signal("STOP");
    }

    /// After [`Nsqd::hang`].
    pub fn go_on(&self) {
        self.server.signal("CONT");
    }

    /// From now on no queue on disk can be begun.
    pub fn lose_folder(&self) {
        std::fs::remove_dir_all(self.dir.path()).unwrap();
    }

    /// Starts it again on the same ports and folder.
    pub async fn again(&mut self) {
        self.server.again().await;
    }

    /// Waits until it has written down where its queues on disk begin and end, as it does every `--sync-timeout` (2 s): an
    /// nsqd that is killed before forgets all that they hold, and writes over it.
    pub async fn synced(&self, queues: &[&str]) {
        let started = Instant::now();
        for queue in queues {
            while !self.dir.path().join(format!("{queue}.diskqueue.meta.dat")).exists() {
                assert!(started.elapsed() < PATIENCE, "nsqd does not sync {queue}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Lets no write of a queue that has none yet succeed, or again each.
    pub fn block(&self, queue: &str, blocked: bool) {
        let file = self.dir.path().join(format!("{queue}.diskqueue.000000.dat"));
        match blocked {
            // nsqd would remove an empty folder with the topic
            true => std::fs::create_dir_all(file.join("full")).unwrap(),
            false => std::fs::remove_dir_all(file).unwrap(),
        }
    }

    /// Publishes as another NSQ client does.
    pub async fn publish(&self, topic: &str, body: Vec<u8>) {
        let url = format!("http://{}/pub?topic={topic}", self.http());
        let answer = super::http::client().post(url).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// POST to one of its HTTP paths.
    pub async fn post(&self, path: &str) {
        let answer = super::http::client().post(format!("http://{}{path}", self.http())).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }

    /// How many messages came to a topic since it runs.
    pub async fn messages(&self, topic: &str) -> u64 {
        let url = format!("http://{}/stats?format=json&topic={topic}", self.http());
        let stats: Value = super::http::get(url).await.unwrap().json().await.unwrap();
        stats["topics"][0]["message_count"].as_u64().unwrap_or(0)
    }

    /// What /stats says of a channel; null when it has none of that name.
    pub async fn channel(&self, topic: &str, channel: &str) -> Value {
        let url = format!("http://{}/stats?format=json&topic={topic}&channel={channel}", self.http());
        let stats: Value = super::http::get(url).await.unwrap().json().await.unwrap();
        stats["topics"][0]["channels"][0].clone()
    }
}

/// A running nsqlookupd; killed when dropped.
pub struct Lookupd {
    server: Server,
}

impl Lookupd {
    pub async fn start() -> Self {
        let args = |tcp: &Port, http: &Port| {
            vec![
                format!("--tcp-address={}", tcp.address()),
                format!("--http-address={}", http.address()),
                "--broadcast-address=127.0.0.1".into(),
                "--inactive-producer-timeout=5s".into(),
                "--log-level=fatal".into(),
            ]
        };
        Self { server: Server::start("nsqlookupd", args).await }
    }

    /// Where nsqds register.
    pub fn tcp(&self) -> String {
        self.server.tcp.address()
    }

    /// Where it is asked.
    /// What its HTTP answers at `path`.
    pub async fn get(&self, path: &str) -> Value {
        super::http::get(format!("http://{}{path}", self.http())).await.unwrap().json().await.unwrap()
    }

    pub fn http(&self) -> String {
        self.server.http.address()
    }

    pub async fn stop(&mut self) {
        self.server.end("TERM").await;
    }

    pub async fn again(&mut self) {
        self.server.again().await;
    }
}
