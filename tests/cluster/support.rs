//! What the cluster's tests start: etcd, nsqd and others, each at a loopback address of its own, so that their usual ports
//! are free whatever runs beside them.
#![allow(dead_code, unreachable_pub)] // each test crate uses a part of it

#[path = "../support/http.rs"]
pub mod http;

use std::{
    fs::File,
    future::Future,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

/// Enough for the slowest machine; a passing test does not wait for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program of scripts/tools, or of the system.
pub fn tool(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [std::env::var_os("OXIPUSH_TOOLS").map(PathBuf::from), Some(root.join(".tools/bin"))];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders
        .into_iter()
        .flatten()
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run scripts/tools"))
}

/// A loopback address that no other test, of this or another process, uses.
pub fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    loop {
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(last < 250, "one test process has at most 250 addresses");
        let address = Ipv4Addr::new(127, 64 + (pid / 250 % 128) as u8, (pid % 250) as u8 + 1, last);
        if [2379, 4150, 8080].iter().all(|port| TcpListener::bind((address, *port)).is_ok()) {
            return address;
        }
    }
}

/// A child process that ends with its value.
pub struct Process {
    pub child: Child,
    pub log: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")), log }
    }

    /// Sends a signal (TERM, STOP, …).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The exit status, once it has ended by itself.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = self.text();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}\n{}", self.log.display(), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Asks `question` until it gives an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut question: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn listening(address: (Ipv4Addr, u16), process: &mut Process) {
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        if let Some(status) = process.child.try_wait().unwrap() {
            panic!("{status}:\n{}", process.text());
        }
        assert!(begun.elapsed() < PATIENCE, "{address:?} does not listen:\n{}", process.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A real etcd.
pub struct Etcd {
    process: Option<Process>,
    pub address: Ipv4Addr,
    pub folder: tempfile::TempDir,
    tls: Option<Certificates>,
}

impl Etcd {
    pub async fn start() -> Self {
        Self::with(None).await
    }

    pub async fn with(tls: Option<Certificates>) -> Self {
        let address = tls.as_ref().map_or_else(address, |tls| tls.address);
        let mut etcd = Self { address, folder: tempfile::tempdir().unwrap(), tls, process: None };
        etcd.up().await;
        etcd
    }

    pub fn url(&self) -> String {
        format!("http{}://{}:2379", if self.tls.is_some() { "s" } else { "" }, self.address)
    }

    /// Starts it (again, with the same data).
    pub async fn up(&mut self) {
        let peer = format!("http://{}:2380", self.address);
        let mut command = Command::new(tool("etcd"));
        command
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--logger=zap", "--log-outputs=stderr"])
            // a login's token ends after a second without a call
            .arg("--auth-token-ttl=1");
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
            if tls.clients {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
            }
        }
        let mut process = Process::start(&mut command, self.folder.path().join("log"));
        listening((self.address, 2379), &mut process).await;
        self.process = Some(process);
        if self.tls.is_none() {
            until("etcd has a leader", || async { self.try_ctl(&["endpoint", "health"]).ok() }).await;
        }
    }

    /// Kills it.
    pub fn down(&mut self) {
        self.process = None;
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it is up")
    }

    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    pub fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(tool("etcdctl"));
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), "--command-timeout=5s"]).args(arguments);
        let output = command.output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Option<String> {
        let text = self.try_ctl(&["get", key, "--print-value-only"]).ok()?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// A real nsqd.
pub struct Nsqd {
    pub process: Option<Process>,
    pub address: Ipv4Addr,
    pub folder: tempfile::TempDir,
    lookupd: Option<Ipv4Addr>,
    more: Vec<String>,
}

impl Nsqd {
    pub async fn start(lookupd: Option<Ipv4Addr>) -> Self {
        Self::with(lookupd, &[]).await
    }

    /// With more arguments, which override the usual ones.
    pub async fn with(lookupd: Option<Ipv4Addr>, more: &[&str]) -> Self {
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        let mut nsqd = Self { address: address(), folder: tempfile::tempdir().unwrap(), process: None, lookupd, more };
        nsqd.up().await;
        nsqd
    }

    pub async fn up(&mut self) {
        let mut command = Command::new(tool("nsqd"));
        command
            .arg(format!("--tcp-address={}:4150", self.address))
            .arg(format!("--http-address={}:4151", self.address))
            .arg(format!("--broadcast-address={}", self.address))
            .arg(format!("--data-path={}", self.folder.path().display()))
            .args(["--output-buffer-timeout=1ms", "--mem-queue-size=0"])
            .args(&self.more);
        if let Some(lookupd) = self.lookupd {
            command.arg(format!("--lookupd-tcp-address={lookupd}:4160"));
        }
        let mut process = Process::start(&mut command, self.folder.path().join("log"));
        listening((self.address, 4151), &mut process).await;
        self.process = Some(process);
    }

    pub fn tcp(&self) -> String {
        format!("{}:4150", self.address)
    }

    pub fn http(&self) -> String {
        format!("{}:4151", self.address)
    }

    pub async fn post(&self, path: &str) {
        let answer = crate::support::http::client().post(format!("http://{}{path}", self.http())).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    /// The channels of a topic.
    pub async fn channels(&self, topic: &str) -> Vec<String> {
        let url = format!("http://{}/stats?format=json&topic={topic}", self.http());
        let Ok(answer) = crate::support::http::get(url).await else { return Vec::new() };
        let stats: serde_json::Value = answer.json().await.unwrap();
        let channels = stats["topics"][0]["channels"].as_array().cloned().unwrap_or_default();
        channels.iter().map(|channel| channel["channel_name"].as_str().unwrap().to_owned()).collect()
    }
}

/// Certificates for one address, made by openssl.
#[derive(Clone)]
pub struct Certificates {
    pub address: Ipv4Addr,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    /// Whether clients need one too.
    pub clients: bool,
}

impl Certificates {
    pub fn make(folder: &Path, address: Ipv4Addr, clients: bool) -> Self {
        let file = |name: &str| folder.join(name);
        let openssl = |arguments: &str| {
            let mut command = Command::new(tool("openssl"));
            let output = command.current_dir(folder).args(arguments.split_whitespace()).output().unwrap();
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=ca -keyout ca.key -out ca.pem",
        );
        for name in ["server", "client"] {
            let names = format!("subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n");
            std::fs::write(file("names"), names).unwrap();
            openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out {name}.pem"
            ));
        }
        Self {
            address,
            ca: file("ca.pem"),
            cert: file("server.pem"),
            key: file("server.key"),
            client_cert: file("client.pem"),
            client_key: file("client.key"),
            clients,
        }
    }
}

/// docker-compose.yml as processes, through scripts/cluster.
pub struct Topology {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    answers: std::sync::Mutex<std::io::BufReader<std::process::ChildStdout>>,
    pub first: serde_json::Value,
}

impl Topology {
    pub fn start(arguments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new("python3")
            .arg(root.join("scripts/cluster"))
            .args(["control", "--binary", env!("CARGO_BIN_EXE_oxipush")])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let answers = std::sync::Mutex::new(std::io::BufReader::new(child.stdout.take().unwrap()));
        let mut topology = Self { child, stdin, answers, first: serde_json::Value::Null };
        topology.first = topology.answer("the start");
        topology
    }

    fn answer(&self, to: &str) -> serde_json::Value {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut *self.answers.lock().unwrap(), &mut line).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("scripts/cluster ended at {to}; its errors are above"));
        assert_eq!(answer["ok"], true, "{to}: {}", answer["error"].as_str().unwrap_or_default());
        answer
    }

    /// One command of `scripts/cluster control`.
    #[allow(clippy::disallowed_methods)] // a test's own thread may stall
    pub async fn tell(&mut self, command: &str) -> serde_json::Value {
        let stdin = self.stdin.as_mut().unwrap();
        std::io::Write::write_all(stdin, format!("{command}\n").as_bytes()).unwrap();
        tokio::task::block_in_place(|| self.answer(command))
    }

    /// The address of a service.
    pub fn at(&self, service: &str) -> String {
        self.first["services"][service]["address"].as_str().unwrap().to_owned()
    }

    /// What a service has logged.
    pub fn log(&self, service: &str) -> String {
        let folder = self.first["folder"].as_str().unwrap();
        std::fs::read_to_string(format!("{folder}/logs/{service}.log")).unwrap_or_default()
    }

    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        let url = format!("http://{}:2379", self.at("etcd"));
        let mut command = Command::new(tool("etcdctl"));
        command.env("ETCDCTL_API", "3").args(["--endpoints", &url, "--command-timeout=5s"]).args(arguments);
        let output = command.output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let services = self.first["services"].as_object().cloned().unwrap_or_default();
            for name in services.keys() {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
