//! The contract on a real nsqd.

use std::{sync::Arc, time::Duration};

use oxipush::internals::{
    config::Config,
    lifecycle::Tasks,
    queue::{self, OpenError, Queue},
    telemetry::Metrics,
};

use crate::{
    suite::{Backend, Settings},
    support::nsq::Nsqd,
};

pub struct Nsq {
    nsqd: Nsqd,
}

impl Backend for Nsq {
    const TIMEOUT: Option<Duration> = Some(Duration::from_secs(5));
    const LARGEST: usize = 1 << 20;

    async fn start() -> Self {
        Self { nsqd: Nsqd::start().await }
    }

    fn settings(&self) -> Settings {
        vec![("QUEUE__BACKEND", "nsq".into()), ("QUEUE__NSQD", self.nsqd.tcp()), ("QUEUE__NSQD_HTTP", self.nsqd.http())]
    }

    async fn open(config: &Config, tasks: &Tasks, metrics: &Arc<Metrics>) -> Result<Queue, OpenError> {
        let nobody = tokio::sync::watch::channel(Vec::new()).1;
        let (queue, ..) = queue::nsq::open(&config.queue, &config.node.id, nobody, tasks, metrics).await?;
        Ok(queue)
    }
}
