//! The log: lines on stderr, for people or as JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::config;

/// Why the log cannot be started as asked for.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG={value:?} is no filter: {error}; write say RUST_LOG=debug or RUST_LOG=warn,oxipush::cluster=debug")]
pub struct LogError {
    value: String,
    error: ParseError,
}

/// Starts the log as `[log]` says; `RUST_LOG` overrides its level. A log that was started before stays.
///
/// # Errors
/// `RUST_LOG` is not a filter.
pub fn init(config: &config::Log) -> Result<(), LogError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(value) if !value.trim().is_empty() => {
            EnvFilter::builder().parse(&value).map_err(|error| LogError { value, error })?
        }
        _ => EnvFilter::new(own_level(&config.level)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match config.format {
        config::LogFormat::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            builder.with_ansi(colours).try_init()
        }
        config::LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    match started {
        Ok(()) => tell_panics(),
        Err(error) => tracing::debug!(%error, "the log was started before"),
    }
    Ok(())
}

/// `[log] level` is the gateway's own; of the crates below it only what goes wrong is worth a line.
fn own_level(level: &str) -> String {
    let foreign = if level == "error" { "error" } else { "warn" };
    // tokio-nsq calls every cut connection an error and actix-http every malformed request: queue/nsq says what matters, and a
    // hostile client must not fill the log
    format!("{foreign},tokio_nsq=off,actix_http=off,oxipush={level}")
}

/// A panic is a log line like all others, so that a collector of JSON lines does not lose it.
fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(thread = thread.name().unwrap_or(""), place, message, "panic; please report it");
    }));
}

/// What the innermost cause of an error says, which is what the system said; the others only wrap it.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
