//! A real Prometheus that scrapes one gateway.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{client::PATIENCE, http, ports::Port};

/// Killed when dropped.
pub struct Prometheus {
    child: Child,
    port: Port,
    _dir: TempDir,
}

impl Prometheus {
    /// Scrapes `gateway` (host:port) with `key` twice a second, and evaluates the rules of a file as often.
    pub async fn start(gateway: &str, key: &str, rules: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = Port::claim();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [{rules:?}]\n\
             scrape_configs:\n  - job_name: oxipush\n    authorization: {{credentials: {key}}}\n    static_configs: [{{targets: [\"{gateway}\"]}}]\n",
        );
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.address()))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus does not start ({error}); run scripts/tools"));
        let mut prometheus = Self { child, port, _dir: dir };
        let began = Instant::now();
        while !http::get(prometheus.url("/-/ready", &[])).await.is_ok_and(|answer| answer.status() == 200) {
            assert_eq!(prometheus.child.try_wait().unwrap(), None, "prometheus ended");
            assert!(began.elapsed() < PATIENCE, "prometheus is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        prometheus
    }

    fn url(&self, path: &str, parameters: &[(&str, &str)]) -> url::Url {
        let base = format!("http://{}{path}", self.port.address());
        if parameters.is_empty() { base.parse() } else { url::Url::parse_with_params(&base, parameters) }.unwrap()
    }

    /// What it answers to a question of its API.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let answer = http::get(self.url(path, parameters)).await.unwrap().json::<Value>().await.unwrap();
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// Whether a query gives a number now; one that is no query ends the test.
    pub async fn has_data(&self, query: &str) -> bool {
        let data = self.ask("/api/v1/query", &[("query", query)]).await;
        let results = data["result"].as_array().unwrap();
        results.iter().any(|series| series["value"][1].as_str().unwrap().parse::<f64>().is_ok_and(f64::is_finite))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
