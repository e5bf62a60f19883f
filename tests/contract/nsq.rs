//! The contract on a real nsqd.

use std::time::Duration;

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
}
