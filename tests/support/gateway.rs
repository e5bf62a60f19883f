//! A whole gateway in the test's process, on free ports and a folder of its own.

use std::{collections::HashMap, time::Duration};

use oxipush::internals::{
    cluster::Listeners,
    config,
    gateway::{FurtherListeners, Gateway},
    lifecycle::Died,
};
use tokio::{sync::oneshot, task::JoinHandle};

/// A running gateway; dropped without [`Node::stop`] it ends with the test's runtime.
pub struct Node {
    pub listeners: Listeners,
    pub also: FurtherListeners,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), Died>>,
    /// Its data folder, where the test gave none.
    pub dir: Option<tempfile::TempDir>,
}

/// The settings that let nodes run side by side, then `settings` (`QUEUE__BACKEND`, …).
pub fn settings(settings: &[(&str, &str)]) -> HashMap<String, String> {
    let mut all: HashMap<String, String> = HashMap::new();
    for section in ["SOCKET", "HTTP", "GRPC"] {
        all.insert(format!("OXIPUSH__{section}__LISTEN"), "127.0.0.1:0".into());
    }
    for (key, value) in settings {
        all.insert(format!("OXIPUSH__{key}"), (*value).to_owned());
    }
    all
}

impl Node {
    /// Starts one and waits until it is ready.
    pub async fn start(given: &[(&str, &str)]) -> Self {
        let node = Self::start_unready(given).await;
        node.ready().await;
        node
    }

    /// Starts one whose queue may be away.
    pub async fn start_unready(given: &[(&str, &str)]) -> Self {
        let mut all = settings(given);
        let mut dir = None;
        if !all.contains_key("OXIPUSH__DATA__DIR") {
            let fresh = tempfile::tempdir().expect("a temporary folder");
            all.insert("OXIPUSH__DATA__DIR".into(), fresh.path().to_string_lossy().into_owned());
            dir = Some(fresh);
        }
        let config = config::load(None, all).expect("valid settings");
        let gateway = Gateway::build(config).await.expect("the gateway builds");
        let listeners = gateway.listeners();
        let also = gateway.also().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(gateway.run(async move {
            let _ = stopped.await;
        }));
        Self { listeners, also, stop: Some(stop), ended, dir }
    }

    /// Waits for 200 of /readyz.
    pub async fn ready(&self) {
        let mut last = String::new();
        for _ in 0..600 {
            match super::http::get(self.url("/readyz")).await {
                Ok(answer) if answer.status() == 200 => return,
                Ok(answer) => last = answer.text().await.unwrap_or_default(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not ready within 30 s: {last}");
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listeners.http)
    }

    pub fn socket(&self) -> String {
        format!("ws://{}/ws", self.listeners.socket)
    }

    pub fn grpc(&self) -> String {
        format!("http://{}", self.listeners.grpc)
    }

    /// Posts a push and gives status and answer.
    pub async fn post(&self, path: &str, body: serde_json::Value) -> (u16, serde_json::Value) {
        let answer = super::http::client().post(self.url(path)).json(&body).send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    /// A push that must be accepted; gives its id.
    pub async fn push(&self, cards: &[&str], content: &str) -> String {
        let body = serde_json::json!({"from": "test", "to": cards, "appID": "", "content": content});
        let (status, answer) = self.post("/push", body).await;
        assert_eq!(status, 200, "{answer}");
        answer["id"].as_str().expect("an id").to_owned()
    }

    /// The sum of a metric's samples whose labels contain all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = super::http::get(self.url("/metrics")).await.expect("metrics").text().await.expect("text");
        sample(&text, name, labels)
    }

    /// Waits until a metric is at least `least`.
    pub async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let mut last = 0.0;
        for _ in 0..600 {
            last = self.metric(name, labels).await;
            if last >= least {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name}{labels:?} is {last} after 30 s, not {least}");
    }

    /// Waits until a metric is at most `most`.
    pub async fn metric_falls_to(&self, name: &str, labels: &[(&str, &str)], most: f64) {
        let mut last = f64::INFINITY;
        for _ in 0..600 {
            last = self.metric(name, labels).await;
            if last <= most {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name}{labels:?} is {last} after 30 s, not {most}");
    }

    /// Drains and ends it.
    pub async fn stop(mut self) -> Option<tempfile::TempDir> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), &mut self.ended).await;
        ended.expect("it ends within 60 s").expect("no panic").expect("no task died");
        self.dir.take()
    }
}

/// The sum of a metric's samples whose labels contain all of `labels`.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let all = labels.iter().all(|(key, value)| rest.contains(&format!("{key}=\"{value}\"")));
        (found == name && all).then(|| value.parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(of).sum()
}
