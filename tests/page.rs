//! The page at `/` in a real browser: it joins, pushes and shows what arrives.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{browser::Browser, client::PATIENCE, gateway::Node, process::Process};
use tokio::process::Command;

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

/// Loads the gateway's script into the page, and starts a client that keeps its places there.
async fn receives(page: &mut Browser, node: &Node) {
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), {src: '/oxipush.js'})); 0")
        .await;
    page.until("typeof Oxipush === 'function'").await;
    let start = format!(
        "taken = []; client = new Oxipush({}, {{card: 'alice', device: 'phone', storage: localStorage}}); \
         client.on('push', (push) => taken.push(push.content)); 0",
        json!(node.socket())
    );
    page.evaluate(&start).await;
    page.until("client.state === 'joined'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_script_receives_and_goes_on_after_a_reload() {
    let node = Node::start(&[]).await;
    let script = support::http::get(node.url("/oxipush.js")).await.unwrap();
    assert_eq!(script.headers()["content-type"], "text/javascript; charset=utf-8");
    let mut page = open(&node.url("/")).await;
    page.evaluate("localStorage.clear()").await;
    let store = async |content: &str| {
        let (status, answer) = node.post("/push", json!({"to": ["alice"], "content": content, "offline": true})).await;
        assert_eq!(status, 200, "{answer}");
    };
    receives(&mut page, &node).await;
    store("1").await;
    page.until("taken.join() === '1'").await;
    page.evaluate("beforeReload = true; location.reload(); 0").await;
    store("2").await;
    page.until("typeof beforeReload === 'undefined' && document.readyState === 'complete'").await;
    receives(&mut page, &node).await;
    store("3").await;
    page.until("taken.join() === '2,3'").await;
    node.stop().await;
}
