//! The contract on the embedded log.

use crate::suite::{Backend, Settings};

pub struct Embedded {
    dir: tempfile::TempDir,
}

impl Backend for Embedded {
    async fn start() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> Settings {
        vec![("STORE__BACKEND", "embedded".into()), ("DATA__DIR", self.dir.path().to_str().unwrap().into())]
    }
}
