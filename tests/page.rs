//! The page at `/` in a real browser: it joins, pushes and shows what arrives.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use support::{
    browser::Browser,
    client::{Client, PATIENCE},
    gateway::Node,
    process::Process,
};
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
    // how long it took, and its id
    page.until("/accepted as [0-9A-Z]{26} in [0-9.]+ ms; arrived after [0-9.]+ ms/.test(document.getElementById('sent').innerText)").await;
    page.until("/[0-9A-Z]{26}, [0-9]+ ms after it was accepted/.test(document.getElementById('log').innerText)").await;
    node.stop().await;
}

/// The first card of the page is joined.
const OPEN: &str = "document.getElementById('state').classList.contains('open')";

/// A page that has done its first script.
async fn open(url: &str) -> Browser {
    let mut page = Browser::open(url).await;
    page.until("document.readyState === 'complete' && !!document.getElementById('join')").await;
    page
}

fn set(id: &str, value: &str) -> String {
    format!(
        "(it => {{ it.value = {}; it.dispatchEvent(new Event('input')) }})(document.getElementById('{id}'))",
        json!(value)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_why_a_push_does_not_show() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    let says = |text: &str| format!("document.getElementById('sent').innerText.includes({})", json!(text));
    let click = |id: &str| format!("document.getElementById('{id}').click()");
    page.evaluate(&click("push")).await;
    page.until(&says("nobody joined as mayun, so it is dropped: Join first")).await;
    page.evaluate(&click("join")).await;
    page.until(OPEN).await;
    page.evaluate(&set("to-app", "shop")).await;
    page.evaluate(&click("push")).await;
    page.until(&says("for clients of app shop; this page joined without an app")).await;
    page.evaluate(&set("name", "jack")).await;
    page.evaluate(&click("push")).await;
    page.until(&says("nobody joined as jack")).await;
    page.evaluate(&set("kind", "room")).await;
    page.evaluate(&click("push")).await;
    page.until(&says("nobody is in the room jack")).await;
    page.evaluate(&set("name", "a\tb")).await;
    page.evaluate(&click("push")).await;
    page.until(&says("refused: 400")).await;
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
    let mut client = Client::modern(&node.socket(), "o'brien", "").await;
    page.evaluate(&set("name", "o'brien")).await;
    page.evaluate(&set("content", "it's\n\"$HOME\" \\ `new`")).await;
    let line = page.evaluate("document.getElementById('curl').innerText").await.as_str().unwrap().to_owned();
    let output = Command::new("sh").args(["-c", &format!("{line} -s")]).output().await.unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["code"], 0, "{line}: {answer}");
    assert_eq!(client.content().await, "it's\n\"$HOME\" \\ `new`");
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
    page.until(OPEN).await;
    let at = [node.socket, node.http, node.grpc];
    node.terminate();
    assert_eq!(node.ended().await, Some(0));
    page.until("document.getElementById('state').classList.contains('lost')").await;
    let mut node = Process::spawn_at(&settings, at);
    assert!(node.ready().await);
    page.until(OPEN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_stays_away_after_a_mistake_of_its_own() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    page.evaluate("{ const Plain = WebSocket; window.WebSocket = class extends Plain { constructor(...given) { super(...given); window.socket = this } } }")
        .await;
    // a binary message: 1003; more messages than are taken: 3500
    for (mistake, code) in [
        ("socket.send(new Uint8Array(1))", 1003),
        (r#"for (let i = 0; i < 5000; i++) socket.send('{"event":"ping"}')"#, 3500),
    ] {
        page.evaluate("document.getElementById('join').click()").await;
        page.until(OPEN).await;
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
    page.until(OPEN).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn two_cards_of_the_page_get_their_own_pushes_and_those_of_their_room() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    page.evaluate(&set("room", "lobby")).await;
    page.evaluate(&set("room2", "lobby")).await;
    page.evaluate("document.getElementById('join').click(); document.getElementById('join2').click()").await;
    for state in ["state", "state2"] {
        page.until(&format!("document.getElementById('{state}').innerText.endsWith(', in lobby')")).await;
    }
    node.push(&["mayun"], "for the first").await;
    node.push(&["jack"], "for the second").await;
    let (_, answer) = node.post("/push", json!({"room": "lobby", "content": "for both"})).await;
    assert_eq!(answer["code"], 0, "{answer}");
    for (log, own, other) in [("log", "for the first", "for the second"), ("log2", "for the second", "for the first")] {
        page.until(&format!("document.getElementById('{log}').innerText.includes('for both')")).await;
        let text = page.evaluate(&format!("document.getElementById('{log}').innerText")).await;
        let text = text.as_str().unwrap();
        assert!(text.contains(own) && !text.contains(other), "{text}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_script_receives_where_it_is_pasted() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    let card = "</script>'\"\\";
    page.evaluate(&format!(
        "document.getElementById('card').value = {}; document.getElementById('card').dispatchEvent(new Event('input'))",
        json!(card)
    ))
    .await;
    page.evaluate(
        "const frame = document.createElement('iframe'); \
         frame.srcdoc = '<script>console.log = text => { parent.heard = text }</' + 'script>' + document.getElementById('script').innerText; \
         document.body.append(frame)",
    )
    .await;
    node.metric_reaches("oxipush_groups", &[], 1.0).await;
    node.push(&[card], "it works").await;
    page.until("window.heard === 'it works'").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_no_fault_that_axe_finds_in_dark_and_light_on_a_desk_and_a_phone() {
    let node = Node::start(&[]).await;
    let mut page = open(&node.url("/")).await;
    page.note_errors().await;
    page.evaluate("document.getElementById('join').click(); document.getElementById('join2').click()").await;
    page.until(OPEN).await;
    page.evaluate("document.getElementById('push').click()").await;
    page.until("document.getElementById('sent').innerText.includes('arrived after')").await;
    for (width, dark) in [(1000, false), (1000, true), (360, false), (360, true)] {
        page.look(width, 900, dark).await;
        assert_eq!(page.faults().await, Vec::<String>::new(), "{width} wide, dark: {dark}");
        if let Some(folder) = std::env::var_os("OXIPUSH_SCREENSHOTS") {
            let name = format!("page-{}-{width}.png", if dark { "dark" } else { "light" });
            page.photograph(&Path::new(&folder).join(name)).await;
        }
    }
    assert_eq!(page.errors(), Vec::<String>::new());
    node.stop().await;
}
