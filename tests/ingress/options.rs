//! The options of a push: each bad one a clear refusal, over HTTP and gRPC alike, and on a node without a store.

use oxipush::internals::proto::rpc::{PushBatchRequest, PushRequest, rpc_client::RpcClient};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

use super::support::{client::Client, gateway::Node, http};

/// A push with these fields beside a card and a content.
fn with(fields: &Value) -> Value {
    let mut push = json!({"to": ["a"], "content": "x"});
    push.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    push
}

async fn without_store() -> Node {
    Node::start(&[("STORE__BACKEND", "none"), ("STORE__MAX_TTL", "1h"), ("STORE__TTL", "1h")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_that_is_no_time_within_its_bound_is_refused_with_both() {
    let node = without_store().await;
    let right = "it must be a whole number of seconds from 1 to 3600 ([store] max_ttl)";
    for (ttl, given) in [
        (json!(0), "0"),
        (json!(-5), "-5"),
        (json!(1.5), "1.5"),
        (json!(3601), "3601"),
        (json!(u64::MAX), "18446744073709551615"),
        (json!("60"), "a string"),
        (json!(true), "a boolean"),
        (json!([60]), "a list"),
    ] {
        let message = format!("`ttl` is {given}; {right}");
        let (status, answer) = node.post("/push", with(&json!({"ttl": ttl}))).await;
        assert_eq!((status, &answer["reason"], &answer["message"]), (400, &json!("bad_field"), &json!(message)));
        let (_, answer) = node.post("/push/batch", json!([with(&json!({"ttl": ttl})), with(&json!({}))])).await;
        assert_eq!((&answer["failed"], &answer["replies"][0]["message"]), (&json!(1), &json!(message)));
    }
    let mut grpc = RpcClient::connect(node.grpc()).await.unwrap();
    let push = |ttl| PushRequest { to: vec!["a".into()], content: "x".into(), ttl, ..PushRequest::default() };
    let status = grpc.push(push(3601)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, &*format!("`ttl` is 3601; {right}")));
    let batch = PushBatchRequest { pushes: vec![push(u64::MAX), push(3600)] };
    let replies = grpc.push_batch(batch).await.unwrap().into_inner().replies;
    assert_eq!((replies[0].code, &*replies[0].reason, replies[1].code), (3, "bad_field", 0));
    assert!(replies[0].message.starts_with("`ttl` is 18446744073709551615; "), "{}", replies[0].message);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_push_with_a_ttl_arrives_within_it() {
    let node = without_store().await;
    let mut tab = Client::gopusher(&node.socket(), "a", "").await;
    for ttl in [json!(3600), json!(60.0), json!(null)] {
        let (status, answer) = node.post("/push", with(&json!({"ttl": ttl}))).await;
        assert_eq!((status, tab.content().await), (200, "x".into()), "{answer}");
    }
    node.metric_reaches("oxipush_push_options_total", &[("option", "ttl")], 2.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_what_needs_one_is_refused_by_name_and_the_rest_goes_on() {
    let node = without_store().await;
    let mut tab = Client::gopusher(&node.socket(), "a", "").await;
    let mut grpc = RpcClient::connect(node.grpc()).await.unwrap();
    for (field, value) in [("offline", json!(true)), ("idempotency_key", json!("order-17"))] {
        let message = format!("`{field}` needs a store: [store] backend is none");
        let bad = with(&json!({field: value}));
        let (status, answer) = node.post("/push", bad.clone()).await;
        assert_eq!((status, &answer["reason"], &answer["message"]), (400, &json!("no_store"), &json!(message)));
        let (status, answer) = node.post("/push/batch", json!([bad, with(&json!({}))])).await;
        assert_eq!((status, &answer["replies"][0]["message"]), (200, &json!(message)));
        assert_eq!(tab.content().await, "x");
        let request = PushRequest {
            to: vec!["a".into()],
            offline: field == "offline",
            idempotency_key: value.as_str().unwrap_or_default().into(),
            ..PushRequest::default()
        };
        let status = grpc.push(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, &*message));
        assert_eq!(status.get_details_error_info().unwrap().reason, "no_store");
    }
    let asked = http::client().post(node.url("/push")).header("Idempotency-Key", "order-17").json(&with(&json!({})));
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json::<Value>().await.unwrap()["reason"], "no_store");
    for (path, method) in [
        ("/cards/a/stream", reqwest::Method::GET),
        ("/rooms/r/stream", reqwest::Method::DELETE),
        ("/cards/a/stream/1", reqwest::Method::DELETE),
        ("/cards/a/devices/phone", reqwest::Method::DELETE),
    ] {
        let answer = http::client().request(method, node.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["message"], "a stream needs a store: [store] backend is none", "{path}");
    }
    node.metric_reaches("oxipush_pushes_total", &[("source", "http"), ("outcome", "no_store")], 5.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_of_a_key_is_for_a_single_push() {
    let node = without_store().await;
    for (path, body, headers, message) in [
        (
            "/push/batch",
            json!([]),
            &[("idempotency-key", "k")][..],
            "the header `Idempotency-Key` is for a single push (POST /push); in a batch each push has its own `idempotency_key`",
        ),
        ("/disconnect", json!({"card_id": "a"}), &[("idempotency-key", "k")], "the header `Idempotency-Key` is for a"),
        (
            "/push",
            with(&json!({"idempotency_key": "other"})),
            &[("idempotency-key", "k")],
            "the header `Idempotency-Key` and `idempotency_key` differ",
        ),
        (
            "/push",
            with(&json!({})),
            &[("idempotency-key", "k"), ("idempotency-key", "k")],
            "the header `Idempotency-Key` is given twice",
        ),
        ("/push", with(&json!({})), &[("idempotency-key", "")], "the header `Idempotency-Key` is empty"),
        (
            "/push",
            with(&json!({})),
            &[("ttl", "60")],
            "the header `TTL` is not read; give `ttl` in the body, in seconds",
        ),
        ("/push", with(&json!({"idempotency_key": ""})), &[], "`idempotency_key` is empty"),
        ("/push", with(&json!({"idempotency_key": 17})), &[], "`idempotency_key` is a number"),
        ("/push", with(&json!({"offline": 1})), &[], "`offline` is a number; it must be true or false"),
    ] {
        let mut request = http::client().post(node.url(path)).json(&body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{message}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["reason"], "bad_field", "{answer}");
        assert!(answer["message"].as_str().unwrap().starts_with(message), "{answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_asked_for_by_a_path_that_says_all() {
    let node = without_store().await;
    for (method, path, status, reason) in [
        ("GET", "/cards/a/stream?limit=5", 400, "unknown_field"),
        ("DELETE", "/cards/a/stream/0", 400, "bad_field"),
        ("DELETE", "/cards/a/stream/-1", 400, "bad_field"),
        ("DELETE", "/rooms/r/stream/x", 400, "bad_field"),
        ("DELETE", "/rooms/r/stream/18446744073709551616", 400, "bad_field"),
        ("DELETE", "/cards/%00/stream", 400, "bad_field"),
        ("GET", "/cards/%ff/stream", 400, "not_utf8"),
        ("DELETE", "/cards/a/devices/%0a", 400, "bad_field"),
        ("POST", "/cards/a/stream", 405, "wrong_method"),
        ("GET", "/cards/a/stream/1", 405, "wrong_method"),
        ("GET", "/cards/a/stream/", 404, "no_such_route"),
        ("GET", "/rooms/r/devices/phone", 404, "no_such_route"),
    ] {
        let method: reqwest::Method = method.parse().unwrap();
        let answer = http::client().request(method, node.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.json::<Value>().await.unwrap()["reason"], reason, "{path}");
    }
    node.stop().await;
}
