//! Headless Chromium.

use std::{process::Stdio, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::client::PATIENCE;

pub struct Browser {
    /// Killed when dropped.
    _process: Child,
    _profile: tempfile::TempDir,
    devtools: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    calls: u64,
    errors: Vec<String>,
}

impl Browser {
    /// Headless Chromium with `url` open.
    pub async fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("chromium")
            .args(
                "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --remote-debugging-port=0"
                    .split(' '),
            )
            .args("--disable-background-networking --disable-component-update --disable-sync".split(' '))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium (scripts/tools installs it)");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("chromium says where its devtools listen");
                if let Some(rest) = line.strip_prefix("DevTools listening on ws://") {
                    return rest.split('/').next().unwrap().to_owned();
                }
            }
        };
        let address = tokio::time::timeout(PATIENCE * 2, address).await.expect("chromium starts");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let page = async {
            loop {
                let pages: Value = match super::http::get(format!("http://{address}/json")).await {
                    Ok(answer) => answer.json().await.unwrap_or_default(),
                    Err(_) => Value::Null,
                };
                let page = pages.as_array().into_iter().flatten().find(|page| page["type"] == "page");
                if let Some(url) = page.and_then(|page| page["webSocketDebuggerUrl"].as_str()) {
                    return url.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let page = tokio::time::timeout(PATIENCE * 2, page).await.expect("a page");
        let (devtools, _) = connect_async(page).await.unwrap();
        Self { _process: process, _profile: profile, devtools, calls: 0, errors: Vec::new() }
    }

    /// The value of a JavaScript expression in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &parameters).await["result"]["value"].clone()
    }

    /// From now on, and of what was before, [`Browser::errors`] has what goes wrong in the page.
    pub async fn note_errors(&mut self) {
        self.call("Runtime.enable", &json!({})).await;
        self.call("Log.enable", &json!({})).await;
    }

    /// Exceptions, what the page wrote as an error or a warning, and what the browser blocked. That an answer had the status of a
    /// refusal is none: the page says so itself.
    pub fn errors(&self) -> Vec<String> {
        self.errors.clone()
    }

    /// As on a screen of this size, of someone who prefers dark pages or light ones.
    pub async fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &size).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media).await;
    }

    /// What axe finds wrong with the page as it is seen now, and whether it has to be scrolled sideways.
    pub async fn faults(&mut self) -> Vec<String> {
        let axe = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web/console/node_modules/axe-core/axe.min.js");
        let axe = std::fs::read_to_string(axe).expect("axe-core (scripts/tools gets it)");
        self.evaluate(&axe).await;
        self.evaluate(
            "window.faults = undefined; axe.run().then(found => { \
             const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth; \
             window.faults = [...found.violations.map(one => `${one.id}: ${one.nodes.map(node => node.target).join(' ')}`), \
                              ...(wide ? ['it scrolls sideways'] : [])] })",
        )
        .await;
        self.until("Array.isArray(window.faults)").await;
        serde_json::from_value(self.evaluate("window.faults").await).unwrap()
    }

    /// The page as it is seen, for docs/: `OXIPUSH_SCREENSHOTS=FOLDER cargo test --test console --test page axe`.
    pub async fn photograph(&mut self, path: &std::path::Path) {
        let image = self.call("Page.captureScreenshot", &json!({"format": "png"})).await;
        let image = image["data"].as_str().expect("an image").to_owned();
        std::fs::write(path, base64(&image)).unwrap();
    }

    /// The result of a call of the devtools' protocol.
    async fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": parameters});
        self.devtools.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let message =
                tokio::time::timeout(PATIENCE * 4, self.devtools.next()).await.expect("an answer").unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).unwrap();
            self.errors.extend(error_of(&value));
            if value["id"] == self.calls {
                return value["result"].clone();
            }
        }
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        for _ in 0..600 {
            if self.evaluate(expression).await == json!(true) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let page = self.evaluate("document.body.innerText").await;
        panic!("{expression} was not true within 30 s; the page says\n{page}");
    }
}

/// What an event of the devtools' protocol says that went wrong.
fn error_of(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" => {
            let is_bad = ["error", "warning", "assert"].iter().any(|kind| parameters["type"] == *kind);
            is_bad.then(|| parameters["args"].to_string())
        }
        "Log.entryAdded" => {
            let entry = &parameters["entry"];
            (entry["level"] == "error" && entry["source"] != "network").then(|| entry["text"].to_string())
        }
        _ => None,
    }
}

/// The bytes of a text in base64.
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let four = |four: &[u8]| {
        let bits = four.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(four).collect()
}
