//! A gateway started for one run: on free ports of loopback, with a folder of its own, ended with the run.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    cli::{Load, Via},
};

/// How long it may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running oxipush; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    program: PathBuf,
    settings: Vec<(&'static str, String)>,
    folder: PathBuf,
    socket: SocketAddr,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Gateway {
    /// Starts the program and waits until it is ready. What `OXIPUSH__…` variables this process has, it has too.
    pub(crate) fn start(program: &Path, settings: &[(&'static str, String)]) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("pushbench-{}-{}", std::process::id(), free()?.port()));
        fs::create_dir_all(&folder)?;
        let [socket, http, grpc] = [free()?, free()?, free()?];
        let child = spawn(program, &folder, [socket, http, grpc], settings)?;
        let (program, settings) = (program.to_path_buf(), settings.to_vec());
        let mut gateway = Self { child, program, settings, folder, socket, http, grpc };
        gateway.wait_until_ready()?;
        Ok(gateway)
    }

    /// SIGKILL, and a start on the same folder; how long that took until it was ready.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let begun = Instant::now();
        self.child = spawn(&self.program, &self.folder, [self.socket, self.http, self.grpc], &self.settings)?;
        self.wait_until_ready()?;
        Ok(begun.elapsed())
    }

    /// The load as it meets this gateway.
    pub(crate) fn load(&self, load: &Load) -> Load {
        Load {
            ws: Some(format!("ws://{}", self.socket)),
            http: Some(format!("http://{}", self.http)),
            grpc: Some(format!("http://{}", self.grpc)),
            pid: vec![self.child.id()],
            // one stream keeps the order
            via: load.via.or_else(|| load.callers().grpc().then_some(Via::Grpc)),
            ..load.clone()
        }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the gateway ended ({status}); its own words stand above").into());
            }
            if ready(self.http) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the gateway was not ready within {} s", PATIENCE.as_secs()).into())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // it may have ended by itself; a folder that stays is one of temporary files
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(
    program: &Path,
    folder: &Path,
    [socket, http, grpc]: [SocketAddr; 3],
    settings: &[(&'static str, String)],
) -> Result<Child> {
    let started = Command::new(program)
        .env("OXIPUSH__DATA__DIR", folder)
        .env("OXIPUSH__SOCKET__LISTEN", socket.to_string())
        .env("OXIPUSH__HTTP__LISTEN", http.to_string())
        .env("OXIPUSH__GRPC__LISTEN", grpc.to_string())
        .env("OXIPUSH__LOG__LEVEL", "warn")
        .envs(settings.iter().map(|(key, value)| (format!("OXIPUSH__{key}"), value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    started.map_err(|error| format!("{}: {error}", program.display()).into())
}

/// An address that nobody listens on just now.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Whether /readyz answers 200.
fn ready(http: SocketAddr) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&http, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    asked().is_ok_and(|head| head.starts_with("HTTP/1.1 200"))
}
