//! The log.

use crate::config;

/// Starts the log as `[log]` says; `RUST_LOG` overrides its level.
pub fn init(config: &config::Log) {
    use tracing_subscriber::EnvFilter;
    // tokio-nsq calls every cut connection an error; queue/nsq says what matters
    let default = || EnvFilter::new(format!("{},tokio_nsq=off", config.level));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match config.format {
        config::LogFormat::Text => builder.try_init(),
        config::LogFormat::Json => builder.json().try_init(),
    };
    if let Err(error) = done {
        tracing::debug!(%error, "the log was started before");
    }
}
