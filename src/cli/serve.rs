//! Runs the gateway: configuration, log, runtime, signals, banner, exit code.

use std::{fmt::Write as _, io, path::Path, process::ExitCode, thread, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::{check, failed, near, print};
use crate::{
    cluster::Listeners,
    config::{self, Config, LogFormat},
    gateway::Gateway,
    telemetry,
};

/// Runs until a signal, or until a part of it dies.
pub(super) fn run(file: Option<&Path>) -> ExitCode {
    let config = match config::load(file, config::environment()) {
        Ok(config) => config,
        Err(error) => return failed(check::mistakes(&error)),
    };
    if let Err(error) = telemetry::init(&config.log) {
        return failed(error);
    }
    let outcome = run_with(config, check::sources(file));
    if let Err(error) = &outcome {
        telemetry::say(&format!("oxipush: {error}\n"));
    }
    telemetry::finish();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_with(config: Config, sources: String) -> Result<(), String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if config.node.workers > 0 {
        builder.worker_threads(config.node.workers);
    }
    let runtime = builder.enable_all().thread_name("oxipush").build();
    let runtime = runtime.map_err(|error| format!("the runtime cannot be started: {error}"))?;
    let outcome = runtime.block_on(serve(config, sources));
    // what still blocks a thread has no more to say: the gateway has drained
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(config: Config, sources: String) -> Result<(), String> {
    // before anything is built, so that a signal finds its handler at any time
    let mut stop = stop_signal().map_err(|error| format!("signals cannot be watched: {error}"))?;
    let banner = Banner::new(&config, sources);
    // dropping a half-built gateway is safe: it serves nobody yet, and its lease, if it has one, ends by itself
    let gateway = tokio::select! {
        built = Gateway::build(config) => built.map_err(|error| error.to_string())?,
        _ = &mut stop => return Ok(()),
    };
    banner.show(&gateway.listeners(), &gateway.queue_name());
    let outcome = gateway.run(async { drop(stop.await) }).await;
    outcome.map_err(|died| format!("{died}; the log above may say why"))
}

/// Resolves at the first SIGTERM or SIGINT; the second ends the process.
fn stop_signal() -> io::Result<oneshot::Receiver<()>> {
    let (first, stop) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // it outlives the gateway's own tasks, to watch for the second signal to the very end
    tokio::spawn(async move {
        let (name, _) = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping: finishing what is in flight; a second signal ends at once");
        let _ = first.send(());
        let (name, code) = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "ended at once by a second signal; what was in flight comes again after a start");
        telemetry::finish();
        #[expect(clippy::disallowed_methods, reason = "this is the one end without a drain, asked for twice")]
        std::process::exit(code);
    });
    Ok(stop)
}

/// The next signal's name, and the exit code that a shell knows it by.
async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 143),
        _ = interrupt.recv() => ("SIGINT", 130),
    }
}

/// What is said at the start.
struct Banner {
    node: String,
    sources: String,
    page: bool,
    keys: bool,
    json: bool,
}

impl Banner {
    fn new(config: &Config, sources: String) -> Self {
        Self {
            node: config.node.id.as_str().to_owned(),
            sources,
            page: config.http.page,
            keys: !config.is_open(),
            json: config.log.format == LogFormat::Json,
        }
    }

    /// People get a banner on stdout; a collector of JSON lines gets one of these instead.
    fn show(&self, at: &Listeners, queue: &str) {
        if self.json {
            let node = &self.node;
            let config = &self.sources;
            tracing::info!(version = env!("CARGO_PKG_VERSION"), node, socket = %at.socket, http = %at.http, grpc = %at.grpc,
                queue, config, "serving");
            return;
        }
        let banner = self.text(at, queue);
        // a pipe that nobody reads must not hold the start up
        drop(thread::Builder::new().name("banner".into()).spawn(move || print(&banner)));
    }

    fn text(&self, at: &Listeners, queue: &str) -> String {
        let Self { node, sources, .. } = self;
        let socket = near(at.socket);
        let http = near(at.http);
        let grpc = near(at.grpc);
        let mut text = format!(
            "oxipush {version}, node {node}\n\
             \n  clients  ws://{}/ws\
             \n  HTTP     http://{}   (push, queries, /metrics, /readyz)\
             \n  gRPC     http://{}   (proto.Rpc)\
             \n  queue    {queue}\
             \n  config   {sources}\n\nTry it:\n",
            at.socket,
            at.http,
            at.grpc,
            version = env!("CARGO_PKG_VERSION"),
        );
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
        text.push_str("Ctrl-C stops it.\n");
        text
    }
}
