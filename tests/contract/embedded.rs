//! The contract on the embedded log.

use std::time::Duration;

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
}
