//! Runs the gateway: configuration, log, runtime, signals, banner, exit code.

use std::{fmt::Write as _, net::SocketAddr, path::Path, process::ExitCode, thread, time::Duration};

use tokio::sync::Notify;

use super::{check, failed, near, print, signals};
use crate::{
    cluster::Listeners,
    config::{self, Config, ConfigChanges, LoadedConfig, LogFormat, NodeRoles},
    gateway::{FurtherListeners, Gateway, GatewayReload},
    telemetry,
};

/// Runs until a signal, or until a part of it dies.
pub(super) fn run(file: Option<&Path>) -> ExitCode {
    let loaded = match LoadedConfig::load(file, config::environment()) {
        Ok(loaded) => loaded,
        Err(error) => return failed(check::mistakes(&error)),
    };
    if let Err(error) = telemetry::init(&loaded.config.log) {
        return failed(error);
    }
    let outcome = run_with(loaded, check::sources(file));
    if let Err(error) = &outcome {
        telemetry::say(&format!("oxipush: {error}\n"));
    }
    telemetry::finish();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_with(loaded: LoadedConfig, sources: String) -> Result<(), String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let workers = loaded.config.node.workers;
    if workers > 0 {
        builder.worker_threads(workers);
    }
    let runtime = builder.enable_all().thread_name("oxipush").build();
    let runtime = runtime.map_err(|error| format!("the runtime cannot be started: {error}"))?;
    let outcome = runtime.block_on(serve(loaded, sources));
    // what still blocks a thread has no more to say: the gateway has drained
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(loaded: LoadedConfig, sources: String) -> Result<(), String> {
    // before anything is built, so that a signal finds its handler at any time
    let mut requests = signals::watch().map_err(|error| format!("signals cannot be watched: {error}"))?;
    let banner = Banner::new(&loaded.config, sources);
    // dropping a half-built gateway is safe: it serves nobody yet, and its lease, if it has one, ends by itself
    let gateway = tokio::select! {
        built = Gateway::build(loaded.config.clone()) => built.map_err(|error| error.to_string())?,
        _ = &mut requests.stop => return Ok(()),
    };
    banner.show(&gateway.listeners(), gateway.also(), &gateway.queue_name());
    let reload = gateway.reload();
    let outcome = tokio::select! {
        outcome = gateway.run(async { drop(requests.stop.await) }) => outcome,
        never = reload_on(&requests.reload, loaded, &reload) => never,
    };
    outcome.map_err(|died| format!("{died}; the log above may say why"))
}

/// Reads the configuration again at each request; never ends.
async fn reload_on(requests: &Notify, mut running: LoadedConfig, gateway: &GatewayReload) -> ! {
    loop {
        requests.notified().await;
        let before = running.clone();
        // files may lie on a disk that hangs
        let read = tokio::task::spawn_blocking(move || before.reload(config::environment())).await;
        match read {
            Ok(Ok((loaded, changes))) => match gateway.apply(&loaded.config) {
                Ok(()) => {
                    tell_changes(&changes, set_level(&running.config, &loaded.config));
                    running = loaded;
                }
                Err(error) => tracing::error!("nothing was reloaded and nothing changed: {error}"),
            },
            Ok(Err(error)) => {
                gateway.refuse();
                let mistakes = check::mistakes(&error);
                tracing::error!("nothing was reloaded and nothing changed: {mistakes}");
            }
            Err(error) => {
                gateway.refuse();
                tracing::error!(%error, "nothing was reloaded and nothing changed: reading failed");
            }
        }
    }
}

/// Changes the level of the log; `false`: `RUST_LOG` stands over it.
fn set_level(old: &Config, new: &Config) -> bool {
    old.log.level == new.log.level || telemetry::set_level(&new.log.level)
}

fn tell_changes(changes: &ConfigChanges, level: bool) {
    let listed = |what: &[String]| if what.is_empty() { "nothing".to_owned() } else { what.join(", ") };
    let changed = listed(&changes.live);
    tracing::info!(
        changed,
        "the configuration was read again; keys and files were taken over, and nobody was disconnected"
    );
    if !changes.after_restart.is_empty() {
        let keys = listed(&changes.after_restart);
        tracing::warn!(keys, "these changes need a restart, the running values stay");
    }
    if !level {
        tracing::warn!("[log] level was changed, and RUST_LOG stands over it: the lines stay as they are");
    }
}

/// What is said at the start.
struct Banner {
    node: String,
    roles: NodeRoles,
    sources: String,
    page: bool,
    keys: bool,
    json: bool,
}

impl Banner {
    fn new(config: &Config, sources: String) -> Self {
        Self {
            node: config.node.id.as_str().to_owned(),
            roles: config.node.roles,
            sources,
            page: config.http.page && config.node.roles.is_all(),
            keys: !config.is_open(),
            json: config.log.format == LogFormat::Json,
        }
    }

    /// People get a banner on stdout; a collector of JSON lines gets one of these instead.
    fn show(&self, at: &Listeners, also: &FurtherListeners, queue: &str) {
        if self.json {
            let node = &self.node;
            let config = &self.sources;
            let go_push = listed(also.go_push.as_slice());
            let gpush = listed(also.gpush.as_slice());
            let http_also = listed(&also.http);
            let grpc_also = listed(&also.grpc);
            let roles = self.roles.to_string();
            let socket = if self.roles.has_socket() { at.socket.to_string() } else { String::new() };
            tracing::info!(version = env!("CARGO_PKG_VERSION"), node, roles, socket, http = %at.http, grpc = %at.grpc,
                go_push, gpush, http_also, grpc_also, queue, config, "serving");
            return;
        }
        let banner = self.text(at, also, queue);
        // a pipe that nobody reads must not hold the start up
        drop(thread::Builder::new().name("banner".into()).spawn(move || print(&banner)));
    }

    fn text(&self, at: &Listeners, also: &FurtherListeners, queue: &str) -> String {
        let Self { node, roles, sources, .. } = self;
        let socket = near(at.socket);
        let http = near(at.http);
        let grpc = near(at.grpc);
        let only = if roles.is_all() { String::new() } else { format!(", the role {roles} alone") };
        let clients = self.clients(at, also);
        let calls = if roles.has_ingress() { "push, queries, /metrics, /readyz" } else { "queries, /metrics, /readyz" };
        let mut text = format!(
            "oxipush {version}, node {node}{only}\n{clients}\
             \n  HTTP     http://{}   ({calls}){}\
             \n  gRPC     http://{}   (proto.Rpc){}\
             \n  queue    {queue}\
             \n  config   {sources}\n",
            at.http,
            further(&also.http),
            at.grpc,
            further(&also.grpc),
            version = env!("CARGO_PKG_VERSION"),
        );
        text.push_str(&self.advice(socket, http, grpc));
        text.push_str("Ctrl-C stops it.\n");
        text
    }

    /// The lines that tell where clients connect, if they do.
    fn clients(&self, at: &Listeners, also: &FurtherListeners) -> String {
        if !self.roles.has_socket() {
            return String::new();
        }
        let go_push = of_dialect("go-push", also.go_push, "/connect");
        let gpush = of_dialect("gpush", also.gpush, "/ws");
        format!("\n  clients  ws://{}/ws{go_push}{gpush}", at.socket)
    }

    /// How to try it; nothing for a node that does a part of it.
    fn advice(&self, socket: SocketAddr, http: SocketAddr, grpc: SocketAddr) -> String {
        if !self.roles.is_all() {
            return String::new();
        }
        let mut text = String::from("\nTry it:\n");
        if self.page {
            let _ = writeln!(text, "  open http://{http}/ in a browser and join as alice, or");
        }
        if self.keys {
            // `push` and curl read it from there
            text.push_str("  export OXIPUSH_KEY=…   (one of [auth] keys, or of a [key.NAME])\n");
        }
        let url = if socket.port() == 8080 { String::new() } else { format!(" --url ws://{socket}/ws") };
        let _ = writeln!(text, "  oxipush tail --card alice{url}");
        let key = if self.keys { " -H \"Authorization: Bearer $OXIPUSH_KEY\"" } else { "" };
        let body = r#"{"from":"me","to":["alice"],"appID":"","content":"hello"}"#;
        let _ = writeln!(text, "  curl http://{http}/push{key} -d '{body}'");
        let url = if grpc.port() == 9002 { String::new() } else { format!(" --grpc http://{grpc}") };
        let _ = writeln!(text, "  oxipush push --to alice hello{url}");
        text
    }
}

/// The line that names a dialect's own listener, if it has one.
fn of_dialect(dialect: &str, address: Option<SocketAddr>, path: &str) -> String {
    address.map(|address| format!("\n           ws://{address}{path}   ({dialect})")).unwrap_or_default()
}

/// The line that names further addresses, if there are any.
fn further(also: &[SocketAddr]) -> String {
    if also.is_empty() { String::new() } else { format!("\n           also at {}", listed(also)) }
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}
