//! The console at `/console` in a real browser, against real nodes: its plots move, it finds, pushes, disconnects, and tells what
//! became of a push.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use support::{browser::Browser, client::Client, client::PATIENCE, gateway::Node};

/// A console that is in.
async fn open(node: &Node) -> Browser {
    let mut page = Browser::open(&node.url("/console")).await;
    page.note_errors().await;
    page.until("!!document.getElementById('content') && !document.getElementById('content').hidden").await;
    page
}

fn set(id: &str, value: &str) -> String {
    format!("(it => {{ it.value = {} }})(document.getElementById('{id}'))", json!(value))
}

/// Sends a form as its button does.
fn send(form: &str) -> String {
    format!("document.getElementById('{form}').requestSubmit()")
}

fn says(id: &str, text: &str) -> String {
    format!("document.getElementById('{id}').innerText.includes({})", json!(text))
}

fn press(label: &str) -> String {
    format!("document.querySelector('[aria-label={}]').click()", json!(label))
}

async fn find(page: &mut Browser, kind: &str, name: &str) {
    page.evaluate(&set("find-kind", kind)).await;
    page.evaluate(&set("find-name", name)).await;
    page.evaluate(&send("find")).await;
    page.until(&says("find-said", &format!("{kind} {name}"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plots_move_as_pushes_come_and_go() {
    let node = Node::start(&[]).await;
    let mut page = open(&node).await;
    let mut client = Client::modern(&node.socket(), "mayun", "").await;
    page.until(&says("now-connections", "1")).await;
    page.until(&says("plot-connections", "Connections\n1")).await;
    let pushed = "parseFloat(document.querySelector('#plot-pushes b').innerText) > 0";
    let delivered = "parseFloat(document.querySelector('#plot-deliveries b').innerText) > 0";
    let dropped = "document.getElementById('plot-drops').innerText.includes('no_connection')";
    for _ in 0..200 {
        node.push(&["mayun"], "hello").await;
        client.content().await;
        node.push(&["nobody"], "hello").await;
        if page.evaluate(&format!("{pushed} && {delivered} && {dropped}")).await == json!(true) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    page.until(dropped).await;
    assert_ne!(page.evaluate("document.getElementById('now-pushes').innerText").await, "0");
    // what is drawn, not only what is written
    let has_line = "(canvas => { const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data; \
                    return data.some((value, place) => place % 4 === 3 && value > 0) })(document.querySelector('#plot-connections canvas'))";
    page.until(has_line).await;
    assert_eq!(page.errors(), Vec::<String>::new());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_found_pushed_to_and_disconnected() {
    let node = Node::start(&[]).await;
    let mut page = open(&node).await;
    let mut client = Client::connect(&node.socket(), true).await;
    client.say(json!({"event": "join", "data": {"card_id": "o'brien/7", "device": "phone"}})).await;
    while client.hear().await["event"] != "joined" {}
    find(&mut page, "card", "o'brien/7").await;
    page.until(&says("found", "oxipush.v1")).await;
    // stored: its stream and the device's cursor are shown
    page.evaluate("document.getElementById('find-push-stored').checked = true").await;
    page.evaluate(&set("find-push-content", "from the console")).await;
    page.evaluate(&send("find-push")).await;
    let mut push = client.hear().await;
    while push["event"] != "push" {
        push = client.hear().await;
    }
    assert_eq!(push["data"]["content"], "from the console");
    page.until(&says("action-said", push["data"]["id"].as_str().unwrap())).await;
    find(&mut page, "card", "o'brien/7").await;
    page.until(&says("found", "phone")).await;
    page.until(&says("found", "1 stored push")).await;
    let shown = page.evaluate("document.querySelector('#found td code').innerText").await.as_str().unwrap().to_owned();
    find(&mut page, "client", &shown).await;
    page.evaluate(&press(&format!("disconnect {shown}"))).await;
    let (code, reason) = client.closed().await;
    assert_eq!((code, &*reason), (3504, "disconnected by the console"));
    page.until(&says("action-said", "Disconnected.")).await;
    assert_eq!(page.errors(), Vec::<String>::new());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_push_is_told_by_its_id() {
    let node = Node::start(&[]).await;
    let mut first = Client::modern(&node.socket(), "mayun", "").await;
    let mut second = Client::modern(&node.socket(), "mayun", "").await;
    let got = node.push(&["mayun"], "hello").await;
    first.content().await;
    second.content().await;
    let lost = node.push(&["nobody"], "hello").await;
    let mut client = Client::connect(&node.socket(), true).await;
    client.say(json!({"event": "join", "data": {"card_id": "jack", "device": "phone"}})).await;
    while client.hear().await["event"] != "joined" {}
    let body = json!({"to": ["jack"], "content": "kept", "offline": true});
    let (_, answer) = node.post("/push", body).await;
    let stored = answer["id"].as_str().unwrap().to_owned();
    let push = loop {
        let heard = client.hear().await;
        if heard["event"] == "push" {
            break heard["data"].clone();
        }
    };
    let mut page = open(&node).await;
    page.until(&says("push-list", &lost)).await;
    for (id, told) in
        [(&got, "offered to 2 connections"), (&lost, "dropped: no_connection, 1 time"), (&stored, "not yet")]
    {
        page.evaluate(&set("push-id", id)).await;
        page.evaluate(&send("lookup")).await;
        page.until(&says("push-found", told)).await;
        page.until(&says("push-found", "by http")).await;
    }
    client.say(json!({"event": "ack", "data": {"card": "jack", "epoch": push["epoch"], "seq": push["seq"]}})).await;
    let acknowledged = async {
        loop {
            page.evaluate(&send("lookup")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if page.evaluate(&says("push-found", "acknowledged")).await == json!(true) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, acknowledged).await.expect("the acknowledgement is told");
    page.evaluate(&set("push-id", "01JD4PXV6V4ZJ8Q0K3T5W9Y2AB")).await;
    page.evaluate(&send("lookup")).await;
    page.until(&says("lookup-said", "knows nothing of 01JD4PXV6V4ZJ8Q0K3T5W9Y2AB")).await;
    assert_eq!(page.errors(), Vec::<String>::new());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_as_they_come_and_nodes_with_their_phase() {
    let node = Node::start(&[]).await;
    let mut page = open(&node).await;
    page.until(&says("nodes-list", "serving")).await;
    page.evaluate("document.getElementById('events-watch').click()").await;
    page.until("document.getElementById('events-said').innerText === 'watching'").await;
    let client = Client::modern(&node.socket(), "mayun", "").await;
    page.until(&says("events-list", "joined card mayun")).await;
    drop(client);
    page.until(&says("events-list", "disconnected card mayun")).await;
    page.evaluate("document.getElementById('events-watch').click()").await;
    page.until("document.getElementById('events-said').innerText === 'not watching'").await;
    assert_eq!(page.errors(), Vec::<String>::new());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_where_the_node_has_keys_and_kept_in_the_tab_alone() {
    let node =
        Node::start(&[("AUTH__KEYS", "hunter2"), ("KEY_BILLING__SECRET", "hunter3"), ("KEY_BILLING__SCOPES", "push")])
            .await;
    let mut page = Browser::open(&node.url("/console")).await;
    page.until("!!document.getElementById('asking') && !document.getElementById('asking').hidden").await;
    page.until(&says("asking-said", "This node has keys")).await;
    for (key, said) in [("wrong", "this key is not known"), ("hunter3", "has not the scope admin")] {
        page.evaluate(&set("key", key)).await;
        page.evaluate(&send("asking")).await;
        page.until(&says("asking-said", said)).await;
    }
    page.evaluate(&set("key", "hunter2")).await;
    page.evaluate(&send("asking")).await;
    page.until(&says("state", "live")).await;
    assert_eq!(page.evaluate("document.cookie + JSON.stringify(localStorage)").await, "{}");
    assert_eq!(page.evaluate("Object.values(sessionStorage).join()").await, "hunter2");
    page.evaluate("document.getElementById('leave').click()").await;
    page.until("!document.getElementById('asking').hidden && sessionStorage.length === 0").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_has_no_fault_that_axe_finds_in_dark_and_light_on_a_desk_and_a_phone() {
    let node = Node::start(&[]).await;
    let _client = Client::modern(&node.socket(), "mayun", "").await;
    let id = node.push(&["mayun", "nobody"], "hello").await;
    let mut page = open(&node).await;
    find(&mut page, "card", "mayun").await;
    page.evaluate(&set("push-id", &id)).await;
    page.evaluate(&send("lookup")).await;
    page.until(&says("push-found", "offered to")).await;
    page.until(&says("nodes-list", "serving")).await;
    for (width, dark) in [(1200, false), (1200, true), (360, false), (360, true)] {
        page.look(width, 900, dark).await;
        assert_eq!(page.faults().await, Vec::<String>::new(), "{width} wide, dark: {dark}");
        if let Some(folder) = std::env::var_os("OXIPUSH_SCREENSHOTS") {
            let name = format!("console-{}-{width}.png", if dark { "dark" } else { "light" });
            page.photograph(&Path::new(&folder).join(name)).await;
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_come_with_a_policy_that_lets_nothing_else_in() {
    let node = Node::start(&[]).await;
    for (path, kind) in
        [("/console", "text/html"), ("/console/console.js", "text/javascript"), ("/console/console.css", "text/css")]
    {
        let answer = support::http::get(node.url(path)).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with(kind), "{path}");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains("https://") || path.ends_with(".js"), "{path} names another host");
    }
    node.stop().await;
    let node = Node::start(&[("HTTP__CONSOLE", "false")]).await;
    assert_eq!(support::http::get(node.url("/console")).await.unwrap().status(), 404);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_over_http_are_of_the_kinds_asked_for_and_end_with_the_node() {
    let node = Node::start(&[("EVENTS__MAX_WATCHERS", "1")]).await;
    let (status, refused) = get(&node, "/events?kinds=joined,nonsense").await;
    assert_eq!((status, &refused["reason"]), (400, &json!("bad_field")));
    let mut answer = support::http::get(node.url("/events?kinds=joined")).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let begun = answer.chunk().await.unwrap().unwrap();
    assert_eq!(begun, "retry: 3000\n\n");
    // there may be one
    let (status, refused) = get(&node, "/events").await;
    assert_eq!((status, &refused["reason"]), (429, &json!("full")));
    let _client = Client::modern(&node.socket(), "mayun", "shop").await;
    let block = tokio::time::timeout(PATIENCE, answer.chunk()).await.unwrap().unwrap().unwrap();
    let text = std::str::from_utf8(&block).unwrap();
    let event: Value = serde_json::from_str(text.strip_prefix("data: ").unwrap().trim_end()).unwrap();
    assert_eq!((&event["type"], &event["card"]), (&json!("joined"), &json!("mayun")));
    node.stop().await;
    // it ended as an answer does, and was not cut
    let rest = tokio::time::timeout(PATIENCE, answer.chunk()).await.unwrap();
    assert!(matches!(rest, Ok(None)), "{rest:?}");
}

async fn get(node: &Node, path: &str) -> (u16, Value) {
    let answer = support::http::get(node.url(path)).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_pushes_are_listed_and_each_tells_its_way() {
    let node = Node::start(&[]).await;
    let mut client = Client::modern(&node.socket(), "mayun", "").await;
    let mut pushed = Vec::new();
    for number in 0..20 {
        pushed.push(node.push(&["mayun"], &number.to_string()).await);
        client.content().await;
    }
    let (_, list) = get(&node, "/pushes?limit=5").await;
    let ids: Vec<&str> = list["pushes"].as_array().unwrap().iter().map(|push| push["id"].as_str().unwrap()).collect();
    let newest: Vec<&str> = pushed.iter().rev().take(5).map(String::as_str).collect();
    assert_eq!(ids, newest);
    let (_, one) = get(&node, &format!("/pushes/{}", pushed[0])).await;
    assert_eq!((&one["source"], &one["offered"], &one["is_complete"]), (&json!("http"), &json!(1), &json!(true)));
    assert!(one["published_in"].is_u64() && one["offered_in"].is_u64(), "{one}");
    assert_eq!(get(&node, "/pushes/nonsense").await.0, 400);
    assert_eq!(get(&node, "/pushes?limit=0").await.0, 400);
    assert_eq!(get(&node, "/pushes/01JD4PXV6V4ZJ8Q0K3T5W9Y2AB").await.0, 404);
    node.stop().await;
    let node = Node::start(&[("HTTP__TRACED_PUSHES", "0")]).await;
    node.push(&["mayun"], "hello").await;
    assert_eq!(get(&node, "/pushes").await.1["pushes"], json!([]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_found_by_its_id_while_it_is_there() {
    let node = Node::start(&[]).await;
    let client = Client::modern(&node.socket(), "mayun", "shop").await;
    let (_, card) = get(&node, "/cards/mayun").await;
    let id = card["clients"][0]["client"].as_str().unwrap().to_owned();
    let (status, found) = get(&node, &format!("/clients/{id}")).await;
    assert_eq!(status, 200, "{found}");
    assert_eq!(found["clients"][0]["cards"], json!([{"card": "mayun", "app": "shop"}]));
    drop(client);
    node.metric_falls_to("oxipush_connections", &[], 0.0).await;
    let (status, gone) = get(&node, &format!("/clients/{id}")).await;
    assert_eq!((status, &gone["reason"]), (404, &json!("not_found")));
    assert_eq!(get(&node, "/clients/nonsense").await.0, 400);
    node.stop().await;
}
