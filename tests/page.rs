//! The page at `/` in a real browser: it joins, pushes and shows what arrives.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{process::Stdio, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::{client::PATIENCE, gateway::Node, process::Process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

struct Browser {
    /// Killed when dropped.
    _process: Child,
    _profile: tempfile::TempDir,
    devtools: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    calls: u64,
}

impl Browser {
    /// Headless Chromium with `url` open.
    async fn open(url: &str) -> Self {
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
                let pages: Value = match crate::support::http::get(format!("http://{address}/json")).await {
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
    async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &parameters).await["result"]["value"].clone()
    }

    /// What README shows: `OXIPUSH_SCREENSHOT=docs/page.png cargo test --test page`.
    async fn screenshot(&mut self, path: &std::path::Path) {
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
    async fn until(&mut self, expression: &str) {
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

#[tokio::test(flavor = "multi_thread")]
async fn the_page_joins_pushes_and_shows_what_arrives() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    page.evaluate("document.getElementById('card').value = 'mayun'; document.getElementById('join').click()").await;
    let joined = async {
        while node.metric("oxipush_groups", &[]).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, joined).await.expect("the page joins");
    page.evaluate(
        "document.getElementById('content').value = 'from the page'; document.getElementById('push').click()",
    )
    .await;
    page.until("document.getElementById('log').innerText.includes('from the page')").await;
    node.push(&["mayun"], "<b>from a back end</b>").await;
    page.until("document.getElementById('log').innerText.includes('<b>from a back end</b>')").await;
    if let Some(path) = std::env::var_os("OXIPUSH_SCREENSHOT") {
        page.screenshot(path.as_ref()).await;
    }
    node.stop().await;
}

/// A page that has done its first script.
async fn open(url: &str) -> Browser {
    let mut page = Browser::open(url).await;
    page.until("document.readyState === 'complete' && !!document.getElementById('join')").await;
    page
}

fn set(id: &str, value: &str) -> String {
    format!("(it => {{ it.value = {}; it.oninput?.() }})(document.getElementById('{id}'))", json!(value))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_why_a_push_does_not_show() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    let says = |text: &str| format!("document.getElementById('log').innerText.includes({})", json!(text));
    let click = |id: &str| format!("document.getElementById('{id}').click()");
    page.evaluate(&click("push")).await;
    page.until(&says("nobody joined as mayun, so it is dropped: Join first")).await;
    page.evaluate(&click("join")).await;
    page.until("document.getElementById('state').className === 'open'").await;
    page.evaluate(&set("app", "shop")).await;
    page.evaluate(&click("push")).await;
    page.until(&says("for clients of app shop; this page joined without an app")).await;
    page.evaluate(&set("card", "jack")).await;
    page.evaluate(&click("push")).await;
    page.until(&says("nobody joined as jack")).await;
    // a card that no client may have
    page.evaluate(&set("card", "a\tb")).await;
    page.evaluate(&click("join")).await;
    page.until("document.getElementById('state').innerText.startsWith('not joined: ')").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_curl_line_is_quoted_for_a_shell() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    page.evaluate(&set("card", "o'brien")).await;
    let line = page.evaluate("document.getElementById('curl').innerText").await.as_str().unwrap().to_owned();
    let output = Command::new("sh").args(["-c", &format!("{line} -s")]).output().await.unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["code"], 0, "{line}: {answer}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_joins_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("DATA__DIR", folder.path().to_str().unwrap())];
    let mut node = Process::spawn(&settings);
    assert!(node.ready().await);
    let mut page = open(&node.url("/")).await;
    page.evaluate("document.getElementById('join').click()").await;
    page.until("document.getElementById('state').className === 'open'").await;
    let at = [node.socket, node.http, node.grpc];
    node.terminate();
    assert_eq!(node.ended().await, Some(0));
    page.until("document.getElementById('state').className === 'lost'").await;
    let mut node = Process::spawn_at(&settings, at);
    assert!(node.ready().await);
    page.until("document.getElementById('state').className === 'open'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_stays_away_after_a_mistake_of_its_own() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    // a binary message: 1003; more messages than are taken: 3500
    for (mistake, code) in [
        ("socket.send(new Uint8Array(1))", 1003),
        (r#"for (let i = 0; i < 5000; i++) socket.send('{"event":"ping"}')"#, 3500),
    ] {
        page.evaluate("document.getElementById('join').click()").await;
        page.until("document.getElementById('state').className === 'open'").await;
        page.evaluate(mistake).await;
        page.until(&format!("document.getElementById('log').innerText.includes('closed: {code}')")).await;
        page.until("document.getElementById('state').innerText === 'closed; Join tries again'").await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_joins_with_a_token_where_clients_have_to_prove_who_they_are() {
    let node = Node::start(&[("TOKEN__SECRET", support::token::SECRET)]).await;
    let mut page = open(&node.url("/")).await;
    let join = "document.getElementById('join').click()";
    page.evaluate(join).await;
    page.until("document.getElementById('state').innerText.startsWith('not joined: ')").await;
    page.evaluate(&set("token", &support::token::token(json!({"sub": "mayun"})))).await;
    page.evaluate(join).await;
    page.until("document.getElementById('state').className === 'open'").await;
    node.push(&["mayun"], "for whom it is").await;
    page.until("document.getElementById('log').innerText.includes('for whom it is')").await;
    node.stop().await;
}
