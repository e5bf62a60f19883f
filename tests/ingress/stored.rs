//! Stored pushes by every way in: what is taken, told and deleted, and a retry that is taken once.

use oxipush::internals::proto::rpc::{PushBatchRequest, PushRequest, rpc_client::RpcClient};
use reqwest::Method;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

use super::support::{client::Client, gateway::Node, http};

/// What a request is answered: status and JSON.
async fn ask(node: &Node, method: Method, path: &str, key: &str) -> (u16, Value) {
    let answer = http::client().request(method, node.url(path)).bearer_auth(key).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn stored(card: &str, content: &str) -> Value {
    json!({"to": [card], "content": content, "offline": true})
}

fn request(card: &str, content: &str) -> PushRequest {
    PushRequest { to: vec![card.into()], content: content.into(), offline: true, ..PushRequest::default() }
}

async fn head(node: &Node, path: &str) -> u64 {
    let (status, stream) = ask(node, Method::GET, path, "").await;
    assert_eq!(status, 200, "{stream}");
    stream["head"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_stores_in_the_order_given() {
    let node = Node::start(&[("GPUSHER__TAGS", "app_gpusher")]).await;
    let mut grpc = RpcClient::connect(node.grpc()).await.unwrap();
    assert_eq!(node.post("/push", stored("a", "1")).await.0, 200);
    let (_, answer) = node.post("/push/batch", json!([stored("a", "2"), stored("b", "x"), stored("a", "3")])).await;
    assert_eq!(answer["failed"], 0, "{answer}");
    assert!(!grpc.push(request("a", "4")).await.unwrap().into_inner().replayed);
    let batch = PushBatchRequest { pushes: vec![request("a", "5"), request("a", "6")] };
    grpc.push_batch(batch).await.unwrap();
    let many: Vec<_> = (7..=206).map(|n| request("a", &n.to_string())).collect();
    let mut replies = grpc.push_stream(tokio_stream::iter(many)).await.unwrap().into_inner();
    for _ in 7..=206 {
        assert_eq!(replies.message().await.unwrap().unwrap().code, 0);
    }
    let gpusher = json!({"tag": "app_gpusher", "body": {"type": 1, "uuid": "a", "content": "207", "expireTime": 60, "offlinePush": true}});
    assert_eq!(node.post("/v1/push", gpusher).await, (200, json!({"Code": 1, "Msg": "ok"})));
    let room = json!({"room": "r", "content": "x", "offline": true, "ttl": 60});
    assert_eq!(node.post("/push", room).await.0, 200);
    assert_eq!((head(&node, "/cards/a/stream").await, head(&node, "/cards/b/stream").await), (207, 1));
    assert_eq!(head(&node, "/rooms/r/stream").await, 1);
    // who was away gets all of it, in order
    let mut client = Client::connect(&node.socket(), true).await;
    client.say(json!({"event": "join", "data": {"card_id": "a", "app_id": "app_gpusher", "device": "phone"}})).await;
    let mut contents = Vec::new();
    while contents.len() < 207 {
        let heard = client.hear().await;
        if heard["event"] == "push" {
            contents.push(heard["data"]["content"].as_str().unwrap().parse::<u32>().unwrap());
        }
    }
    assert_eq!(contents, (1..=207).collect::<Vec<_>>());
    node.metric_reaches("oxipush_push_options_total", &[("option", "offline")], 209.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_told_so_over_http_and_grpc_and_another_push_is_refused() {
    let node = Node::start(&[]).await;
    let mut grpc = RpcClient::connect(node.grpc()).await.unwrap();
    for offline in [false, true] {
        let key = format!("order-{offline}");
        let push = json!({"to": ["a"], "content": "x", "offline": offline, "idempotency_key": key});
        let (status, first) = node.post("/push", push.clone()).await;
        assert_eq!((status, &first["replayed"]), (200, &Value::Null), "{first}");
        // over HTTP told by a field, over gRPC by another
        let mut retry = first.clone();
        retry["replayed"] = json!(true);
        assert_eq!(node.post("/push", push.clone()).await, (200, retry.clone()));
        let (_, batch) = node.post("/push/batch", json!([push, push])).await;
        assert_eq!(batch["replies"], json!([retry, retry]));
        let same = PushRequest { offline, idempotency_key: key.clone(), ..request("a", "x") };
        let reply = grpc.push(same.clone()).await.unwrap().into_inner();
        assert_eq!((json!(reply.id), reply.replayed), (first["id"].clone(), true));
        let other = PushRequest { content: "y".into(), ..same };
        let status = grpc.push(other).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists);
        assert_eq!(status.get_details_error_info().unwrap().reason, "idempotency_conflict");
        let other = json!({"to": ["a"], "content": "x", "idempotency_key": key, "offline": offline, "ttl": 60});
        let (status, answer) = node.post("/push", other).await;
        assert_eq!((status, &answer["reason"]), (409, &json!("idempotency_conflict")));
    }
    node.metric_reaches("oxipush_pushes_total", &[("outcome", "replayed")], 8.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_pushes_of_one_batch_or_stream_arrive_in_its_order_whichever_have_keys() {
    let node = Node::start(&[]).await;
    let mut tab = Client::gopusher(&node.socket(), "a", "").await;
    let keyed = |n: u32| if n.is_multiple_of(3) { format!("k{n}") } else { String::new() };
    let live = |n: u32| PushRequest {
        to: vec!["a".into()],
        content: n.to_string(),
        idempotency_key: keyed(n),
        ..PushRequest::default()
    };
    let mut grpc = RpcClient::connect(node.grpc()).await.unwrap();
    let replies =
        grpc.push_batch(PushBatchRequest { pushes: (0..100).map(live).collect() }).await.unwrap().into_inner();
    assert!(replies.replies.iter().all(|reply| reply.code == 0));
    let mut replies =
        grpc.push_stream(tokio_stream::iter((100..300).map(live).collect::<Vec<_>>())).await.unwrap().into_inner();
    for _ in 100..300 {
        assert_eq!(replies.message().await.unwrap().unwrap().code, 0);
    }
    for n in 0..300 {
        assert_eq!(tab.content().await, n.to_string());
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_told_and_taken_back() {
    let node = Node::start(&[("NODE__ID", "told")]).await;
    let (status, answer) = ask(&node, Method::GET, "/cards/a%2Fb/stream", "").await;
    assert_eq!((status, &answer["reason"]), (404, &json!("not_found")));
    for content in ["1", "2", "3"] {
        assert_eq!(node.post("/push", stored("a/b", content)).await.0, 200);
    }
    let (_, stream) = ask(&node, Method::GET, "/cards/a%2Fb/stream", "").await;
    assert_eq!((&stream["node"], &stream["card"]), (&json!("told"), &json!("a/b")));
    assert_eq!((&stream["first"], &stream["head"], &stream["entries"]), (&json!(1), &json!(3), &json!(3)));
    assert_eq!((stream["epoch"].as_str().unwrap().len(), &stream["devices"]), (8, &json!([])));
    let ok = (200, json!({"code": 0, "message": "ok"}));
    assert_eq!(ask(&node, Method::DELETE, "/cards/a%2Fb/stream/2", "").await, ok);
    let again = ask(&node, Method::DELETE, "/cards/a%2Fb/stream/2", "").await;
    assert_eq!((again.0, &again.1["reason"]), (404, &json!("not_found")));
    let mut phone = Client::connect(&node.socket(), true).await;
    phone.say(json!({"event": "join", "data": {"card_id": "a/b", "device": "phone"}})).await;
    let mut contents = Vec::new();
    while contents.len() < 2 {
        let heard = phone.hear().await;
        if heard["event"] == "push" {
            contents.push(heard["data"]["content"].clone());
        }
    }
    assert_eq!(contents, ["1", "3"]);
    let (_, stream) = ask(&node, Method::GET, "/cards/a%2Fb/stream", "").await;
    let device = &stream["devices"][0];
    assert_eq!((&device["name"], &device["declared"]), (&json!("phone"), &json!(true)), "{stream}");
    drop(phone);
    assert_eq!(ask(&node, Method::DELETE, "/cards/a%2Fb/devices/phone", "").await, ok);
    assert_eq!(ask(&node, Method::DELETE, "/cards/a%2Fb/devices/phone", "").await.0, 404);
    assert_eq!(ask(&node, Method::DELETE, "/cards/a%2Fb/stream", "").await, ok);
    assert_eq!(ask(&node, Method::DELETE, "/cards/a%2Fb/stream", "").await.0, 404);
    // a later push begins a new epoch
    assert_eq!(node.post("/push", stored("a/b", "4")).await.0, 200);
    let (_, later) = ask(&node, Method::GET, "/cards/a%2Fb/stream", "").await;
    assert!(later["head"] == 1 && later["epoch"] != stream["epoch"], "{later} after {stream}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_push_to_it_may_take_back_and_who_may_ask_is_told() {
    let node = Node::start_unready(&[
        ("KEY_SOME__SECRET", "of-some"),
        ("KEY_SOME__SCOPES", "push,query"),
        ("KEY_SOME__CARDS", "a*"),
        ("KEY_QUERY__SECRET", "of-query"),
        ("KEY_QUERY__SCOPES", "query"),
        ("KEY_PUSH__SECRET", "of-push"),
        ("KEY_PUSH__SCOPES", "push"),
    ])
    .await;
    node.ready().await;
    for card in ["a", "b"] {
        let push = http::client().post(node.url("/push")).bearer_auth("of-push").json(&stored(card, "x"));
        assert_eq!(push.send().await.unwrap().status(), 200);
    }
    for (key, method, path, status, reason) in [
        ("of-some", Method::GET, "/cards/a/stream", 200, ""),
        ("of-some", Method::GET, "/cards/b/stream", 403, "not_admitted"),
        ("of-some", Method::DELETE, "/cards/b/stream/1", 403, "not_admitted"),
        ("of-some", Method::GET, "/rooms/a/stream", 403, "not_admitted"),
        ("of-query", Method::GET, "/cards/b/stream", 200, ""),
        ("of-query", Method::DELETE, "/cards/b/stream", 403, "no_scope"),
        ("of-push", Method::GET, "/cards/b/stream", 403, "no_scope"),
        ("of-some", Method::DELETE, "/cards/a/stream/1", 200, ""),
        ("of-push", Method::DELETE, "/cards/b/stream", 200, ""),
    ] {
        let (answered, answer) = ask(&node, method.clone(), path, key).await;
        let told = answer["reason"].as_str().unwrap_or_default();
        assert_eq!((answered, told), (status, reason), "{method} {path} with {key}: {answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_stream_is_refused_with_what_to_do() {
    let node = Node::start(&[]).await;
    let right = "a stored push is for cards (`to`, with or without `appID`) or for one `room`";
    for (target, problem) in [
        (json!({"everyone": true}), "cannot be for everyone"),
        (json!({"appID": "web"}), "cannot be for an app alone"),
        (
            json!({"to": ["a"], "room": "r"}),
            "cannot be for cards within a room: send one push to the cards or one to the room",
        ),
        (
            json!({"room": "r", "exclude": {"cards": ["a"]}}),
            "cannot exclude anybody: leave `exclude` out, or `offline`",
        ),
    ] {
        let mut push = target;
        push.as_object_mut().unwrap().extend([("content".into(), json!("x")), ("offline".into(), json!(true))]);
        let (status, answer) = node.post("/push", push).await;
        assert_eq!((status, &answer["message"]), (400, &json!(format!("`offline` {problem}; {right}"))));
    }
    for target in [json!({"to": ["a"], "appID": "web"}), json!({"room": "r", "appID": "web"})] {
        let mut push = target;
        push.as_object_mut().unwrap().extend([("content".into(), json!("x")), ("offline".into(), json!(true))]);
        assert_eq!(node.post("/push", push).await.0, 200);
    }
    let long = "k".repeat(256);
    for key in [&*long, "a b", "a\u{7f}", "ü"] {
        let (status, answer) = node.post("/push", json!({"to": ["a"], "content": "x", "idempotency_key": key})).await;
        assert_eq!((status, &answer["reason"]), (400, &json!("bad_field")), "{answer}");
        assert!(answer["message"].as_str().unwrap().starts_with("`idempotency_key` has "), "{answer}");
    }
    node.stop().await;
}
