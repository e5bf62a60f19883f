//! The program with a config.ini of its own, which a test may change, and its log in a file.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{client::PATIENCE, gateway::sample, http, process::free};

pub struct Program {
    pub child: Child,
    pub folder: TempDir,
    pub at: [SocketAddr; 3],
}

/// Where a program will run that is not started yet: its folder with a config.ini, and its listeners.
pub struct Place {
    pub folder: TempDir,
    pub at: [SocketAddr; 3],
}

impl Place {
    /// With `text` in its config.ini, beside what lets programs run side by side.
    pub fn new(text: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), at: [free(), free(), free()] };
        place.write(text);
        place
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("config.ini")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    /// The command that runs it, by `words` before the program's own (`nohup`).
    pub fn command(&self, words: &[&str]) -> Command {
        let words: Vec<_> = words.iter().copied().chain([env!("CARGO_BIN_EXE_oxipush")]).collect();
        let mut command = Command::new(words[0]);
        let [socket, http, grpc] = self.at;
        command
            .args(&words[1..])
            .arg("--config")
            .arg(self.file())
            .env("OXIPUSH__SOCKET__LISTEN", socket.to_string())
            .env("OXIPUSH__HTTP__LISTEN", http.to_string())
            .env("OXIPUSH__GRPC__LISTEN", grpc.to_string())
            .env("OXIPUSH__DATA__DIR", self.folder.path().join("data"))
            .env("OXIPUSH__NODE__WORKERS", "2")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.log()).unwrap());
        command
    }

    pub fn start(self, command: &mut Command) -> Program {
        let child = command.spawn().unwrap();
        Program { child, folder: self.folder, at: self.at }
    }
}

impl Program {
    /// Started with `text` as its config.ini, and ready.
    pub async fn start(text: &str) -> Self {
        let place = Place::new(text);
        let mut command = place.command(&[]);
        let program = place.start(&mut command);
        program.ready().await;
        program
    }

    pub fn ws(&self) -> String {
        format!("ws://{}/ws", self.at[0])
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at[1])
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub async fn logged(&self, text: &str) {
        until(text, || async { self.log().contains(text) }).await;
    }

    pub fn write(&self, text: &str) {
        fs::write(self.folder.path().join("config.ini"), text).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub async fn ready(&self) {
        until("readiness", || async {
            crate::support::http::get(self.url("/readyz")).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sample(&crate::support::http::get(self.url("/metrics")).await.unwrap().text().await.unwrap(), name, labels)
    }

    /// Lets it read this config.ini, and waits until it has: with this `outcome`.
    pub async fn reload_to(&self, text: &str, outcome: &str) {
        let labels = [("outcome", outcome)];
        let before = self.metric("oxipush_reloads_total", &labels).await;
        self.write(text);
        self.signal(Signal::SIGHUP);
        until("the reload", || async { self.metric("oxipush_reloads_total", &labels).await > before }).await;
    }

    pub async fn reload(&self, text: &str) {
        self.reload_to(text, "applied").await;
    }

    pub async fn push(&self, card: &str, content: &str) -> (u16, Value) {
        let body = json!({"from": "test", "to": [card], "appID": "", "content": content});
        let answer = crate::support::http::client().post(self.url("/push")).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// The head of the answer to a handshake from `source` with more `headers`; the connection, too, which holds its place.
    pub async fn handshake(&self, source: &str, headers: &str) -> (String, TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source.parse::<IpAddr>().unwrap(), 0)).unwrap();
        let mut stream = socket.connect(self.at[0]).await.unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer") {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        (String::from_utf8_lossy(&head).into_owned(), stream)
    }

    /// The status of a handshake; 0: the connection was dropped.
    pub async fn status(&self, source: &str, headers: &str) -> u16 {
        let (head, _) = self.handshake(source, headers).await;
        head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
    }

    /// Waits for its end; the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        for _ in 0..2400 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("it did not end within 60 s:\n{}", self.log());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `holds`.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..1200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what} did not come within 30 s");
}
