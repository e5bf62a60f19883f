//! The exchanges in tests/compat/*.txt, each asked of a running gateway and compared byte for byte; what the client beside it gets, in
//! order and nothing else.

use reqwest::Method;

use super::support::{client::Client, gateway::Node, http};

/// One line of a file, without what marks it.
#[derive(Debug)]
struct Exchange {
    /// Where it stands.
    line: usize,
    method: Method,
    path: String,
    content_type: Option<String>,
    body: String,
    status: u16,
    answer: String,
    frames: Vec<String>,
}

fn exchanges(text: &str) -> Vec<Exchange> {
    let mut all: Vec<Exchange> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let (mark, rest) = line.split_at(line.len().min(1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match (mark, all.last_mut()) {
            ("" | "#", _) => {}
            (">", _) => {
                let mut words = rest.splitn(3, ' ');
                let mut word = || words.next().unwrap().to_owned();
                let (method, path, content_type) = (word(), word(), word());
                all.push(Exchange {
                    line: at + 1,
                    method: method.parse().unwrap(),
                    path,
                    content_type: (content_type != "-").then_some(content_type),
                    body: String::new(),
                    status: 0,
                    answer: String::new(),
                    frames: Vec::new(),
                });
            }
            ("<", Some(last)) => last.status = rest.parse().unwrap(),
            ("|", Some(last)) if last.status == 0 => last.body.push_str(rest),
            ("|", Some(last)) => last.answer.push_str(rest),
            ("@", Some(last)) => last.frames.push(rest.to_owned()),
            _ => panic!("line {}: {line}", at + 1),
        }
    }
    all
}

/// `…` stands for anything.
fn fits(expected: &str, got: &str) -> bool {
    match expected.split_once('…') {
        None => expected == got,
        Some((before, after)) => {
            got.len() >= before.len() + after.len() && got.starts_with(before) && got.ends_with(after)
        }
    }
}

/// go-push's frames hold one item or several, as they come to be written together: only the items are compared.
async fn expect(client: &mut Client, frames: Vec<String>, line: usize) {
    let items =
        |frame: &str| Some(frame.strip_prefix(r#"{"type":"PUSH","data":{"items":["#)?.strip_suffix("]}}")?.to_owned());
    if frames.first().is_some_and(|frame| items(frame).is_some()) {
        let expected: Vec<_> = frames.iter().map(|frame| items(frame).unwrap()).collect();
        let expected = expected.join(",");
        let mut got = Vec::new();
        while got.join(",").len() < expected.len() {
            let frame = client.text().await.unwrap();
            got.push(items(&frame).unwrap_or_else(|| panic!("line {line}: {frame}")));
        }
        return assert_eq!(got.join(","), expected, "line {line}");
    }
    for frame in frames {
        let got = client.text().await.unwrap();
        assert_eq!(got.strip_suffix('\n').unwrap_or(&got), frame, "line {line}");
    }
}

async fn replay(text: &str, node: &Node, client: &mut Client) {
    let all = exchanges(text);
    assert!(all.len() > 5, "the file could not be read");
    for Exchange { line, method, path, content_type, body, status, answer, frames } in all {
        let mut request = http::client().request(method, node.url(&path)).body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let got = request.send().await.unwrap();
        let got_status = got.status().as_u16();
        let got_answer = got.text().await.unwrap();
        assert_eq!(got_status, status, "line {line}: {got_answer}");
        assert!(fits(&answer, &got_answer), "line {line}: {got_answer}\n     not {answer}");
        expect(client, frames, line).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_go_push_get_what_they_know_and_its_clients_the_items() {
    let node = Node::start(&[]).await;
    let mut client = Client::connect(&format!("ws://{}/connect", node.listeners.socket), false).await;
    client.say(serde_json::json!({"type": "JOIN", "data": {"room": "default"}})).await;
    client.say(serde_json::json!({"type": "PING"})).await;
    assert_eq!(client.text().await.unwrap(), r#"{"type":"PONG","data":{}}"#);
    replay(include_str!("go-push.txt"), &node, &mut client).await;
    client.say(serde_json::json!({"type": "PING"})).await;
    assert_eq!(client.text().await.unwrap(), r#"{"type":"PONG","data":{}}"#, "nothing more came");
    for (outcome, number) in [("to_nobody", 3.0), ("accepted", 12.0), ("bad_field", 3.0), ("bad_json", 1.0)] {
        let labels = [("source", "http"), ("outcome", outcome)];
        assert_eq!(node.metric("oxipush_pushes_total", &labels).await, number, "{outcome}");
    }

    let stats = http::get(node.url("/stats")).await.unwrap();
    assert_eq!(stats.headers()["content-type"], "text/plain; charset=utf-8");
    let stats: serde_json::Value = serde_json::from_str(&stats.text().await.unwrap()).unwrap();
    for (field, number) in [
        ("onlineConnections", 1),
        ("roomCount", 1),
        ("sendMessageFail", 0),
        ("dispatchPending", 0),
        ("pushJobPending", 0),
        ("dispatchFail", 0),
        ("mergerPending", 0),
        ("mergerRoomFail", 0),
        ("mergerAllFail", 0),
        ("DispatchTotal", 12),
        ("DispatchFail", 0),
        ("PushFail", 0),
    ] {
        assert_eq!(stats[field], number, "{field} of {stats}");
    }
    let sent = stats["sendMessageTotal"].as_u64().unwrap();
    assert!((5..=11).contains(&sent), "frames of one item or several: {stats}");
    assert!(stats["mergerRoomTotal"].is_u64() && stats["mergerAllTotal"].is_u64(), "{stats}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_gpush_get_what_they_know_and_its_clients_the_data() {
    let node = Node::start(&[]).await;
    let mut client = Client::connect(&format!("ws://{}/gpush/ws", node.listeners.socket), false).await;
    client.say(serde_json::json!({"code": 1, "topic": "test", "data": "any"})).await;
    assert_eq!(client.text().await.unwrap(), r#"{"code":20000,"message":"连接成功"}"#);
    assert_eq!(client.text().await.unwrap(), r#"{"code":20001,"message":"订阅成功"}"#);
    replay(include_str!("gpush.txt"), &node, &mut client).await;
    client.say(serde_json::json!({"code": 2, "topic": "test"})).await;
    assert_eq!(client.text().await.unwrap(), r#"{"code":20002,"message":"取消订阅成功"}"#, "nothing more came");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_gpusher_get_the_table_that_was_meant_and_clients_the_content() {
    let node = Node::start(&[("GPUSHER__TAGS", "app_gpusher, app_tv")]).await;
    let mut client = Client::gopusher(&node.socket(), "liangjf", "app_gpusher").await;
    replay(include_str!("gpusher.txt"), &node, &mut client).await;
    client.silent().await;
    node.stop().await;
}

/// As wire/go-push.txt has it: two items in one frame, and of 250 a hundred at most.
#[tokio::test(flavor = "multi_thread")]
async fn items_within_a_merge_window_come_in_frames_of_a_hundred_at_most() {
    let node = Node::start(&[("ROOMS__MERGE_WINDOW", "3s"), ("ROOMS__MERGE_COUNT", "100")]).await;
    let mut client = Client::connect(&format!("ws://{}/connect", node.listeners.socket), false).await;
    client.say(serde_json::json!({"type": "JOIN", "data": {"room": "default"}})).await;
    client.say(serde_json::json!({"type": "PING"})).await;
    assert_eq!(client.text().await.unwrap(), r#"{"type":"PONG","data":{}}"#);
    let push = async |items: String| {
        let request = http::client().post(node.url("/push/room")).body(format!("room=default&items={items}"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, ""));
    };
    push(r#"[{"msg": "hi"},{"msg": "bye"}]"#.into()).await;
    assert_eq!(client.text().await.unwrap(), r#"{"type":"PUSH","data":{"items":[{"msg":"hi"},{"msg":"bye"}]}}"#);
    push(serde_json::json!((0..250).collect::<Vec<_>>()).to_string()).await;
    let mut numbers = Vec::new();
    for length in [100, 100, 50] {
        let frame = client.hear().await;
        let items = frame["data"]["items"].as_array().unwrap().clone();
        assert_eq!(items.len(), length);
        numbers.extend(items.into_iter().map(|item| item.as_u64().unwrap()));
    }
    assert_eq!(numbers, (0..250).collect::<Vec<_>>());
    let stats: serde_json::Value = http::get(node.url("/stats")).await.unwrap().json().await.unwrap();
    assert_eq!((&stats["mergerRoomTotal"], &stats["mergerAllTotal"]), (&4.into(), &0.into()), "{stats}");
    assert_eq!(stats["mergerPending"], 0, "{stats}");
    node.stop().await;
}
