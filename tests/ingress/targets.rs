//! Whom a push reaches and what it delivers: every target and content, by every way in, to clients that listen.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use oxipush::internals::proto::rpc::{Exclude, PushBatchRequest, PushRequest, rpc_client::RpcClient};
use prost::Message;
use serde_json::{Value, json};

use super::support::{
    client::{Client, PATIENCE},
    gateway::Node,
    nsq::Nsqd,
};

/// The ways in; the last one only where there is an nsqd.
const WAYS: [&str; 6] = ["push", "batch", "gRPC Push", "gRPC PushBatch", "gRPC PushStream", "NSQ"];

/// A client of oxipush.v1 that joined, its id, and what it is called here.
struct Listener {
    name: &'static str,
    id: String,
    client: Client,
}

impl Listener {
    async fn join(node: &Node, name: &'static str, card: &str, app: &str, rooms: &[&str]) -> Self {
        let mut client = Client::connect(&node.socket(), true).await;
        client.say(json!({"event": "join", "data": {"card_id": card, "app_id": app}})).await;
        let joined = client.hear().await;
        let id = joined["data"]["client"].as_str().unwrap_or_else(|| panic!("{joined}")).to_owned();
        for room in rooms {
            client.say(json!({"event": "subscribe", "data": {"room": room}})).await;
            assert_eq!(client.hear().await["event"], "subscribed");
        }
        Self { name, id, client }
    }
}

/// The five that listen: who they are is in their names.
async fn listeners(node: &Node) -> Vec<Listener> {
    join_all([
        Listener::join(node, "a web r", "a", "web", &["r"]),
        Listener::join(node, "a tv", "a", "tv", &[]),
        Listener::join(node, "b web r", "b", "web", &["r", "s"]),
        Listener::join(node, "b tv r", "b", "tv", &["r"]),
        Listener::join(node, "c", "c", "", &[]),
    ])
    .await
}

/// Each target as JSON says it, with the names of those whom it reaches. `first`: the id of "a web r".
fn targets(first: &str) -> Vec<(Value, Vec<&'static str>)> {
    let all = vec!["a web r", "a tv", "b web r", "b tv r", "c"];
    vec![
        (json!({"to": ["a"]}), vec!["a web r", "a tv"]),
        (json!({"to": ["a", "c", "a"]}), vec!["a web r", "a tv", "c"]),
        (json!({"room": "r"}), vec!["a web r", "b web r", "b tv r"]),
        (json!({"room": "nobody's"}), vec![]),
        (json!({"appID": "web"}), vec!["a web r", "b web r"]),
        (json!({"everyone": true}), all.clone()),
        (json!({"to": ["a", "c"], "room": "r"}), vec!["a web r"]),
        (json!({"to": ["a", "b"], "appID": "tv"}), vec!["a tv", "b tv r"]),
        (json!({"room": "r", "appID": "web"}), vec!["a web r", "b web r"]),
        (json!({"to": ["b", "c"], "room": "r", "appID": "tv"}), vec!["b tv r"]),
        (json!({"everyone": true, "exclude": {"cards": ["a", "c"]}}), vec!["b web r", "b tv r"]),
        (json!({"to": ["a", "b"], "exclude": {"cards": ["b"]}}), vec!["a web r", "a tv"]),
        (json!({"room": "r", "exclude": {"client": first}}), vec!["b web r", "b tv r"]),
        (json!({"appID": "web", "exclude": {"client": first, "cards": ["b"]}}), vec![]),
    ]
}

/// The same as gRPC and NSQ say it.
fn request(target: &Value, content: &str) -> PushRequest {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let text = |text: &Value| text.as_str().unwrap_or_default().to_owned();
    PushRequest {
        to: texts(&target["to"]),
        room: text(&target["room"]),
        app_id: text(&target["appID"]),
        everyone: target["everyone"] == true,
        exclude: target
            .get("exclude")
            .map(|exclude| Exclude { cards: texts(&exclude["cards"]), client: text(&exclude["client"]) }),
        content: content.into(),
        ..Default::default()
    }
}

async fn push(node: &Node, nsqd: Option<&Nsqd>, way: &str, target: &Value, content: &str) {
    let mut body = target.clone();
    body["content"] = content.into();
    let push = request(target, content);
    if way == "push" {
        let (status, answer) = node.post("/push", body).await;
        assert_eq!(status, 200, "{content}: {answer}");
        return;
    }
    if way == "batch" {
        let (status, answer) = node.post("/push/batch", json!([body])).await;
        assert_eq!((status, &answer["failed"]), (200, &json!(0)), "{content}: {answer}");
        return;
    }
    if way == "NSQ" {
        return nsqd.unwrap().publish("gopusher", push.encode_to_vec()).await;
    }
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let reply = match way {
        "gRPC Push" => client.push(push).await.unwrap().into_inner(),
        "gRPC PushBatch" => {
            let mut replies =
                client.push_batch(PushBatchRequest { pushes: vec![push] }).await.unwrap().into_inner().replies;
            replies.remove(0)
        }
        _ => {
            let mut replies = client.push_stream(tokio_stream::iter([push])).await.unwrap().into_inner();
            replies.message().await.unwrap().unwrap()
        }
    };
    assert_eq!(reply.code, 0, "{content}: {}", reply.message);
}

/// Pushes to every target by every way, and holds what each client hears against the table.
async fn every_target_by_every_way(node: &Node, nsqd: Option<&Nsqd>) {
    let mut listeners = listeners(node).await;
    let targets = targets(&listeners[0].id);
    let ways = if nsqd.is_some() { &WAYS[..] } else { &WAYS[..5] };
    let mut pushed = 0;
    for (target, _) in &targets {
        for way in ways {
            push(node, nsqd, way, target, &format!("{target} by {way}")).await;
            pushed += 1;
        }
    }
    // what was not offered by now never will be
    node.metric_reaches("oxipush_jobs_total", &[("outcome", "finished")], f64::from(pushed)).await;
    for Listener { name, client, .. } in &mut listeners {
        let expected: BTreeSet<String> = targets
            .iter()
            .filter(|(_, reached)| reached.contains(name))
            .flat_map(|(target, _)| ways.iter().map(move |way| format!("{target} by {way}")))
            .collect();
        let mut heard = BTreeSet::new();
        while heard.len() < expected.len() {
            let content = client.content().await;
            assert!(expected.contains(&content), "{name} heard {content}");
            assert!(heard.insert(content.clone()), "{name} heard twice {content}");
        }
        client.silent().await;
    }
    let nobody_there = node.metric("oxipush_drops_total", &[("reason", "no_match")]).await
        + node.metric("oxipush_drops_total", &[("reason", "no_connection")]).await;
    assert!(nobody_there >= 2.0 * ways.len() as f64, "pushes for nobody are counted: {nobody_there}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_target_reaches_whom_it_names_and_nobody_else() {
    let node = Node::start(&[]).await;
    every_target_by_every_way(&node, None).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_nsq_and_raw_each_target_reaches_whom_it_names_and_nobody_else() {
    let nsqd = Nsqd::start().await;
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let node = Node::start(&[
        ("QUEUE__BACKEND", "nsq"),
        ("QUEUE__NSQD", &tcp),
        ("QUEUE__NSQD_HTTP", &http),
        ("NODE__ID", "targets"),
    ])
    .await;
    every_target_by_every_way(&node, Some(&nsqd)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_arrives_in_the_form_that_it_has_or_as_its_text() {
    let node = Node::start(&[]).await;
    let mut modern = Client::modern(&node.socket(), "a", "").await;
    let mut gopusher = Client::gopusher(&node.socket(), "a", "").await;
    let mut grpc = RpcClient::connect(node.grpc()).await.unwrap();
    let to_a = || PushRequest { to: vec!["a".into()], ..Default::default() };
    // as HTTP writes it; as oxipush.v1 gets it; the text that gopusher's dialect gets
    for (written, modern_gets, text) in [
        (r#""hello""#, r#""hello""#, "hello"),
        (r#""""#, r#""""#, ""),
        (
            r#"{ "b" : 1.0e2, "a" : [ 0.10, "x y" ] }"#,
            r#"{"b":1.0e2,"a":[0.10,"x y"]}"#,
            r#"{"b":1.0e2,"a":[0.10,"x y"]}"#,
        ),
        ("[]", "[]", "[]"),
        ("12345678901234567890", "12345678901234567890", "12345678901234567890"),
        ("true", "true", "true"),
        ("\"<\\u2028>\"", "\"<\u{2028}>\"", "<\u{2028}>"),
    ] {
        let body = format!(r#"{{"to":["a"],"content":{written}}}"#);
        let sent = crate::support::http::client().post(node.url("/push")).body(body).send().await.unwrap();
        assert_eq!(sent.status(), 200, "{written}");
        let as_json = PushRequest { json: written.into(), ..to_a() };
        assert_eq!(grpc.push(as_json).await.unwrap().into_inner().code, 0, "{written}");
        for way in ["HTTP", "gRPC"] {
            let frame = modern.text().await.unwrap();
            assert!(frame.contains(&format!(r#""content":{modern_gets}}}"#)), "{way}: {frame}");
            assert_eq!(gopusher.content().await, text, "{way}: {written}");
        }
    }
    let bytes = PushRequest { data: b"\xff\xfe\x00".to_vec(), ..to_a() };
    assert_eq!(grpc.push(bytes).await.unwrap().into_inner().code, 0);
    let frame = modern.text().await.unwrap();
    assert!(frame.contains(r#""content":"//4A","encoding":"base64""#), "{frame}");
    assert_eq!(gopusher.content().await, "//4A");
    let text = PushRequest { data: "text".into(), ..to_a() };
    assert_eq!(grpc.push(text).await.unwrap().into_inner().code, 0);
    assert_eq!((modern.content().await, gopusher.content().await), ("text".into(), "text".into()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gopushers_callers_are_taken_as_they_are_where_that_is_asked_for() {
    let node = Node::start(&[("HTTP__UNKNOWN_FIELDS", "ignore")]).await;
    let mut tab = Client::gopusher(&node.socket(), "mayun", "alibaba").await;
    let post = async |path: &str, body: &str| {
        let sent = crate::support::http::client().post(node.url(path)).body(body.to_owned()).send().await.unwrap();
        (sent.status().as_u16(), sent.json::<Value>().await.unwrap())
    };
    for (path, body, content) in [
        ("/push", r#"{"to":["mayun"],"content":"1","trace":{"id":7},"app_id":"none"}"#, "1"),
        ("/push?trace=7", r#"{"to":["mayun"],"content":"2"}"#, "2"),
        ("/push", r#"{"to":["mayun"]}"#, ""),
        ("/push", r#"{"to":["mayun"],"content":null}"#, ""),
        ("/push/batch?trace=7", r#"[{"to":["mayun"],"content":"3","trace":7}]"#, "3"),
    ] {
        assert_eq!(post(path, body).await.0, 200, "{path} {body}");
        assert_eq!(tab.content().await, content, "{path} {body}");
    }
    // an empty target is nobody, never all
    for body in [r#"{"content":"x"}"#, r#"{"to":[],"appID":"alibaba"}"#, r#"{"to":null,"appID":"alibaba"}"#, "{}"] {
        let (status, answer) = post("/push", body).await;
        assert_eq!((status, answer["reason"].as_str()), (400, Some("bad_field")), "{body}: {answer}");
    }
    let asked = crate::support::http::get(node.url("/isOnline?cardID=mayun&trace=7")).await.unwrap();
    assert_eq!(asked.text().await.unwrap(), r#"{"result":"yes"}"#);
    // what only this gateway has is as strict as ever
    assert_eq!(post("/disconnect", r#"{"card_id":"mayun","trace":7}"#).await.0, 400);
    tab.silent().await;
    let stopped = tokio::time::timeout(PATIENCE, node.stop());
    stopped.await.expect("it stops");
}
