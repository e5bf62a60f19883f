//! What each signal does to a running gateway.
//!
//! SIGTERM, SIGINT and SIGQUIT let it drain, a second one ends it at once. SIGHUP has the configuration read again; where it comes
//! because the terminal was closed that the process was started from, it is a drain. Each has a handler from the beginning on, so
//! that all hold for a process with the id 1 too, for which the kernel does nothing by itself.

use std::{fs, io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot},
};

use crate::telemetry;

/// A shell that ends tells its processes before it gives the terminal up.
const TERMINAL_ENDS: Duration = Duration::from_millis(200);

/// What the signals ask for.
pub(super) struct SignalRequests {
    /// Resolves when the gateway has to drain.
    pub(super) stop: oneshot::Receiver<()>,
    /// Told when the configuration has to be read again; several requests that wait are one.
    pub(super) reload: Arc<Notify>,
}

/// Watches the signals to the end of the process; it outlives the gateway's own tasks.
pub(super) fn watch() -> io::Result<SignalRequests> {
    // first: the handlers end what nohup asked for
    let terminal = Terminal::at_start();
    let mut signals = Signals::new()?;
    let (first, stop) = oneshot::channel();
    let reload = Arc::new(Notify::new());
    let requested = Arc::clone(&reload);
    tokio::spawn(async move {
        let name = loop {
            let (name, code) = signals.next().await;
            if code.is_none() && !terminal.is_closed().await {
                requested.notify_one();
                continue;
            }
            break name;
        };
        tracing::info!(signal = name, "stopping: finishing what is in flight; a second signal ends at once");
        let _ = first.send(());
        let (name, code) = signals.next_end().await;
        tracing::warn!(signal = name, "ended at once by a second signal; what was in flight comes again after a start");
        telemetry::finish();
        #[expect(clippy::disallowed_methods, reason = "this is the one end without a drain, asked for twice")]
        std::process::exit(code);
    });
    Ok(SignalRequests { stop, reload })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal's name, and the exit code that a shell knows it by if it always is a stop.
    async fn next(&mut self) -> (&'static str, Option<i32>) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", Some(143)),
            _ = self.interrupt.recv() => ("SIGINT", Some(130)),
            _ = self.quit.recv() => ("SIGQUIT", Some(131)),
            _ = self.hangup.recv() => ("SIGHUP", None),
        }
    }

    /// The next one that ends a process which drains already: a terminal's end is told more than once.
    async fn next_end(&mut self) -> (&'static str, i32) {
        loop {
            match self.next().await {
                (name, Some(code)) => return (name, code),
                (name, None) => tracing::info!(signal = name, "the node drains already"),
            }
        }
    }
}

/// The terminal that the process was started from.
struct Terminal {
    /// There was one, and its end matters: nohup says that it does not.
    matters: bool,
}

impl Terminal {
    fn at_start() -> Self {
        Self { matters: Self::is_there() && !ignores_hangup() }
    }

    async fn is_closed(&self) -> bool {
        if !self.matters {
            return false;
        }
        if Self::is_there() {
            tokio::time::sleep(TERMINAL_ENDS).await;
        }
        !Self::is_there()
    }

    /// Only a process with a controlling terminal can open it by this name.
    fn is_there() -> bool {
        fs::File::open("/dev/tty").is_ok()
    }
}

/// Whether the process was started with SIGHUP ignored, as nohup does.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // a bit for each signal, the first for SIGHUP
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
