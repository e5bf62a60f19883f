//! The log: lines on stderr, for people or as JSON. No line stops or ends anything: they wait for a thread that writes them,
//! and what finds no room, or no disk, is counted and told later.

use std::{
    io::{self, IsTerminal, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, filter::ParseError, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use super::{
    labels::LineDropReason,
    limit::RepeatLimit,
    metrics::dropped_lines,
    spool::{LostLines, Spool},
};
use crate::config;

/// How long the end of the process may wait for the last lines.
const LAST: Duration = Duration::from_secs(1);

/// The log of this process; tracing has but one, too.
static LOG: OnceLock<ProcessLog> = OnceLock::new();

struct ProcessLog {
    /// `None`: `RUST_LOG` is the filter.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    spool: Spool,
    limit: RepeatLimit,
    lost: LostLines,
    /// How many lost lines the log has reported.
    reported: AtomicU64,
}

impl ProcessLog {
    /// Reports what nobody saw: repeated lines whose period is over (at the end: all), and lost ones.
    fn report(&self, all: bool) {
        self.limit.report(all);
        let lost = self.lost.all();
        let lines = lost.saturating_sub(self.reported.swap(lost, Ordering::Relaxed));
        if lines > 0 {
            tracing::warn!(lines, "lines of the log were lost: they could not be written");
        }
    }
}

/// Why the log cannot be started as asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// `RUST_LOG` is not a filter.
    #[error(
        "RUST_LOG={value:?} is no filter: {error}; write say RUST_LOG=debug or RUST_LOG=warn,oxipush::cluster=debug"
    )]
    Filter {
        /// What it is.
        value: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// There is no thread to write it.
    #[error("the log's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// Starts the log as `[log]` says; `RUST_LOG` overrides its level. A log that was started before stays.
///
/// # Errors
/// `RUST_LOG` is not a filter; there is no thread.
pub(crate) fn init(config: &config::LogConfig) -> Result<(), LogError> {
    let given = std::env::var("RUST_LOG").ok().filter(|value| !value.trim().is_empty());
    let filter = match &given {
        Some(value) => {
            EnvFilter::builder().parse(value).map_err(|error| LogError::Filter { value: value.clone(), error })?
        }
        None => EnvFilter::new(own_level(&config.level)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let limit = RepeatLimit::new(config.max_repeats, config.repeat_period, dropped_lines(LineDropReason::Repeated));
    let lost = LostLines { full: dropped_lines(LineDropReason::Full), failed: dropped_lines(LineDropReason::Failed) };
    let pause = || {
        if let Some(log) = LOG.get() {
            log.report(false);
        }
    };
    let spool = Spool::start(config.buffer, lost.clone(), io::stderr(), pause)?;
    let lines = {
        let spool = spool.clone();
        tracing_subscriber::fmt::layer().with_writer(move || spool.clone()).log_internal_errors(false)
    };
    let lines = match config.format {
        config::LogFormat::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            lines.with_ansi(colours).boxed()
        }
        config::LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    match tracing_subscriber::registry().with(filter).with(limit.clone()).with(lines).try_init() {
        Ok(()) => {
            let _ = LOG.set(ProcessLog {
                filter: given.is_none().then_some(handle),
                spool,
                limit,
                lost,
                reported: AtomicU64::new(0),
            });
            log_panics();
        }
        Err(error) => tracing::debug!(%error, "the log was started before"),
    }
    Ok(())
}

/// `[log] level` from now on; `false`: `RUST_LOG` stands over it.
pub(crate) fn set_level(level: &str) -> bool {
    let Some(filter) = LOG.get().and_then(|log| log.filter.as_ref()) else { return false };
    filter.reload(EnvFilter::new(own_level(level))).is_ok()
}

/// Says one more thing on stderr, behind the lines that wait.
pub(crate) fn say(text: &str) {
    match LOG.get() {
        Some(log) => log.spool.put(text.as_bytes()),
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Waits until the last lines are written, a second at most. For the end of the process.
pub(crate) fn finish() {
    if let Some(log) = LOG.get() {
        log.report(true);
        log.spool.flush(LAST);
    }
}

/// `[log] level` is the gateway's own; of the crates below it only what goes wrong is worth a line.
fn own_level(level: &str) -> String {
    let foreign = if level == "error" { "error" } else { "warn" };
    // tokio-nsq calls every cut connection an error and actix-http every malformed request: queue/nsq says what matters, and a
    // hostile client must not fill the log
    format!("{foreign},tokio_nsq=off,actix_http=off,oxipush={level}")
}

/// A panic is a log line like all others, so that a collector of JSON lines does not lose it.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(thread = thread.name().unwrap_or(""), place, message, "panic; please report it");
        // the process ends with this thread
        if thread.name() == Some("main") {
            finish();
        }
    }));
}

/// What the innermost cause of an error says, which is what the system said; the others only wrap it.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
