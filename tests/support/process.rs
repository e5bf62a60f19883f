//! The gateway's program as a process of its own, to be killed.

use std::{
    ffi::OsStr,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;

use super::gateway::settings;

/// A running `oxipush`; killed when dropped.
pub struct Process {
    child: Child,
    pub socket: SocketAddr,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

/// An address that nobody listens on just now.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

impl Process {
    /// Starts the program on free ports; it may not be ready yet.
    pub fn spawn(given: &[(&str, &str)]) -> Self {
        Self::spawn_at(given, [free(), free(), free()])
    }

    /// Starts the program on these addresses (socket, http, grpc).
    pub fn spawn_at(given: &[(&str, &str)], at: [SocketAddr; 3]) -> Self {
        Self::spawn_in(given, at, &[])
    }

    /// As [`Process::spawn_at`], with more variables in its environment.
    pub fn spawn_in(
        given: &[(&str, &str)],
        [socket, http, grpc]: [SocketAddr; 3],
        environment: &[(&str, &OsStr)],
    ) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_oxipush"))
            .envs(settings(given))
            .envs(environment.iter().copied())
            .env("OXIPUSH__SOCKET__LISTEN", socket.to_string())
            .env("OXIPUSH__HTTP__LISTEN", http.to_string())
            .env("OXIPUSH__GRPC__LISTEN", grpc.to_string())
            .env("RUST_LOG", "warn,actix_http=off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        Self { child, socket, http, grpc }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub fn ws(&self) -> String {
        format!("ws://{}/ws", self.socket)
    }

    /// Waits for 200 of /readyz; false if the process ended instead.
    pub async fn ready(&mut self) -> bool {
        for _ in 0..1200 {
            if let Ok(answer) = super::http::get(self.url("/readyz")).await
                && answer.status() == 200
            {
                return true;
            }
            if self.child.try_wait().expect("its state").is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not ready within 30 s");
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Any signal.
    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("a signal");
    }

    /// Waits for its end, 60 s at most, and gives the exit code (`None`: a signal).
    pub async fn ended(&mut self) -> Option<i32> {
        for _ in 0..2400 {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("it did not end within 60 s");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
