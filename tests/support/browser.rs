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
        Self { _process: process, _profile: profile, devtools, calls: 0 }
    }

    /// The value of a JavaScript expression in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &parameters).await["result"]["value"].clone()
    }

    /// What README shows: `OXIPUSH_SCREENSHOT=docs/page.png cargo test --test page`.
    pub async fn screenshot(&mut self, path: &std::path::Path) {
        let parameters = json!({"width": 900, "height": 620, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &parameters).await;
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
                tokio::time::timeout(PATIENCE, self.devtools.next()).await.expect("an answer").unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).unwrap();
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
