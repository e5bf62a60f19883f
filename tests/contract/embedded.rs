//! The contract on the embedded log.

use std::{sync::Arc, time::Duration};

use oxipush::internals::{
    config::Config,
    lifecycle::Tasks,
    queue::{self, OpenError, Queue},
    telemetry::Metrics,
};

use crate::suite::{Backend, Settings};

pub struct Embedded {
    dir: tempfile::TempDir,
}

impl Backend for Embedded {
    const TIMEOUT: Option<Duration> = None;
    const LARGEST: usize = 16 << 20;

    async fn start() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> Settings {
        let dir = self.dir.path().to_str().unwrap().to_owned();
        vec![("QUEUE__BACKEND", "embedded".into()), ("DATA__DIR", dir)]
    }

    async fn open(config: &Config, tasks: &Tasks, metrics: &Arc<Metrics>) -> Result<Queue, OpenError> {
        queue::embedded::open(&config.queue, tasks, metrics).await
    }
}
