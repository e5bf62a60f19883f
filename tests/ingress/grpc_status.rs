//! With what a gRPC call ends: deadlines, statuses and their details.

use oxipush::internals::proto::rpc::{PushBatchRequest, PushReply, rpc_client::RpcClient};
use prost::Message;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt;

use super::{
    raw::{Raw, framed, push},
    support::{gateway::Node, process::free},
};

/// A node whose queue is away, and where a push waits for it longer than any test.
async fn waiting(max_publishes: &str) -> Node {
    let (nsqd, http) = (free().to_string(), free().to_string());
    Node::start_unready(&[
        ("QUEUE__BACKEND", "nsq"),
        ("QUEUE__NSQD", &nsqd),
        ("QUEUE__NSQD_HTTP", &http),
        ("QUEUE__PUBLISH_TIMEOUT", "20s"),
        ("QUEUE__MAX_PUBLISHES", max_publishes),
        ("NODE__ID", "lonely"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_ends_at_its_deadline() {
    let node = waiting("100").await;
    let mut peer = Raw::connect(&node).await;
    let one = framed(&push("a", "x"));
    let batch = framed(&PushBatchRequest { pushes: vec![push("a", "x"); 2] });
    let watch = framed(&HealthCheckRequest::default());
    for (path, sent, whole) in [
        ("/proto.Rpc/Push", one.clone(), true),
        ("/proto.Rpc/PushBatch", batch, true),
        ("/proto.Rpc/PushStream", one, false),
        ("/proto.Rpc/PushStream", vec![], false),
        ("/grpc.health.v1.Health/Watch", watch, true),
    ] {
        let mut call = peer.call(path, &[("grpc-timeout", "300m")]).await.unwrap();
        call.send(sent, whole);
        let end = call.end().await;
        assert_eq!(
            (end.status, end.reason.as_str()),
            (Some(Code::DeadlineExceeded as i32), "deadline_passed"),
            "{path}"
        );
    }
    let outcome = |outcome| [("source", "grpc"), ("outcome", outcome)];
    node.metric_reaches("oxipush_pushes_total", &outcome("deadline_passed"), 4.0).await;
    assert_eq!(node.metric("oxipush_pushes_total", &outcome("caller_left")).await, 0.0);
    node.metric_reaches("oxipush_requests_total", &[("protocol", "grpc"), ("status", "DEADLINE_EXCEEDED")], 5.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_always_busy_ends_at_its_deadline_and_a_call_in_time_does_not() {
    let node = Node::start(&[]).await;
    let mut peer = Raw::connect(&node).await;
    let mut call = peer.call("/proto.Rpc/Push", &[("grpc-timeout", "1M")]).await.unwrap();
    call.send(framed(&push("a", "x")), true);
    assert_eq!(call.end().await.status, Some(0));
    let mut call = peer.call("/proto.Rpc/PushStream", &[("grpc-timeout", "500m")]).await.unwrap();
    // more than can be answered until then; what does not fit the window waits on this side
    call.send(framed(&push("a", "x")).repeat(300_000), false);
    let end = call.end().await;
    assert_eq!(end.status, Some(Code::DeadlineExceeded as i32));
    assert!(!end.body.is_empty(), "what was answered in time has come");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_grpc_is_refused_in_plain_http() {
    let node = Node::start(&[]).await;
    let mut peer = Raw::connect(&node).await;
    let body = framed(&push("a", "x"));
    for (method, content_type, http) in [
        ("GET", "", 405),
        ("GET", "application/grpc", 405),
        ("POST", "", 415),
        ("POST", "application/json", 415),
        ("POST", "application/grpc-web+proto", 415),
        ("POST", "application/grpc-web", 415),
        ("POST", "application/grpc+json", 415),
        ("POST", "application/grpcx", 415),
        ("POST", "application/grpc", 200),
        ("POST", "application/grpc+proto", 200),
        ("POST", "application/grpc;charset=utf-8", 200),
    ] {
        let headers: &[(&str, &str)] = if content_type.is_empty() { &[] } else { &[("content-type", content_type)] };
        let whole = method == "GET";
        let mut call = peer.request(method, "/proto.Rpc/Push", headers, whole).await.unwrap();
        if !whole {
            call.send(body.clone(), true);
        }
        let end = call.end().await;
        let status = (http == 200).then_some(0);
        assert_eq!((end.http, end.status), (http, status), "{method} {content_type}");
        if http != 200 {
            assert!(end.body.starts_with(if http == 405 { b"gRPC calls are POST" } else { b"send content-type" }));
        }
    }
    for (status, least) in [("405", 2.0), ("415", 6.0)] {
        assert_eq!(node.metric("oxipush_requests_total", &[("protocol", "grpc"), ("status", status)]).await, least);
    }
    let accepted = node.metric("oxipush_pushes_total", &[("source", "grpc"), ("outcome", "accepted")]).await;
    assert_eq!(accepted, 3.0, "nothing else was pushed");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_its_word_in_the_details_and_in_each_reply() {
    let node = Node::start_unready(&[("AUTH__KEYS", "secret"), ("GRPC__MAX_MESSAGE", "128KiB")]).await;
    node.ready().await;
    let mut peer = Raw::connect(&node).await;
    let key = ("authorization", "Bearer secret");
    let option = oxipush::internals::proto::rpc::PushRequest { deliver_at: 5, ..push("a", "x") };
    for (path, headers, sent, code, reason) in [
        ("/proto.Rpc/Push", vec![key], framed(&push("", "x")), Code::InvalidArgument, "bad_field"),
        (
            "/proto.Rpc/Push",
            vec![key],
            framed(&push("a", &"x".repeat(70_000))),
            Code::InvalidArgument,
            "push_too_large",
        ),
        (
            "/proto.Rpc/Push",
            vec![key],
            framed(&push("a", &"x".repeat(140_000))),
            Code::ResourceExhausted,
            "body_too_large",
        ),
        ("/proto.Rpc/Push", vec![key], framed(&option), Code::Unimplemented, "not_built"),
        (
            "/proto.Rpc/Push",
            vec![key, ("grpc-timeout", "soon")],
            framed(&push("a", "x")),
            Code::InvalidArgument,
            "bad_field",
        ),
        ("/proto.Rpc/Push", vec![], framed(&push("a", "x")), Code::Unauthenticated, "no_key"),
        ("/proto.Rpc/Pull", vec![key], framed(&push("a", "x")), Code::Unimplemented, "no_such_route"),
        ("/proto.Nothing/Push", vec![], framed(&push("a", "x")), Code::Unimplemented, "no_such_route"),
        (
            "/proto.Rpc/PushStream",
            vec![key],
            framed(&push("a", &"x".repeat(140_000))),
            Code::ResourceExhausted,
            "body_too_large",
        ),
        // what the library refuses itself
        ("/proto.Rpc/Push", vec![key], vec![0, 0, 0, 0, 1, 0xff], Code::Internal, "not_protobuf"),
        ("/proto.Rpc/PushStream", vec![key], vec![0, 0, 0, 0, 1, 0xff], Code::Internal, "not_protobuf"),
        ("/proto.Rpc/Events", vec![key], vec![0, 0, 0, 0, 1, 0xff], Code::Internal, "not_protobuf"),
        ("/proto.Rpc/Push", vec![key], vec![0, 0, 0, 0, 3, 0x0a, 1, 0xff], Code::Internal, "not_utf8"),
        (
            "/proto.Rpc/Push",
            vec![key, ("grpc-encoding", "gzip")],
            framed(&push("a", "x")),
            Code::Unimplemented,
            "wrong_type",
        ),
        (
            "/grpc.health.v1.Health/Check",
            vec![],
            framed(&HealthCheckRequest { service: "none".into() }),
            Code::NotFound,
            "not_found",
        ),
    ] {
        let mut call = peer.call(path, &headers).await.unwrap();
        call.send(sent, true);
        let end = call.end().await;
        assert_eq!((end.status, end.reason.as_str()), (Some(code as i32), reason), "{path}");
    }
    let mut call = peer.call("/proto.Rpc/PushStream", &[key]).await.unwrap();
    call.send(framed(&push("", "x")), true);
    let end = call.end().await;
    let reply = PushReply::decode(&end.body[5..]).unwrap();
    assert_eq!((end.status, reply.code, reply.reason.as_str()), (Some(0), Code::InvalidArgument as i32, "bad_field"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_another_try_helps_the_details_say_when() {
    let node = waiting("1").await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let retry = |status: &Status| status.get_details_retry_info().and_then(|info| info.retry_delay);
    let waits = tokio::spawn({
        let mut client = client.clone();
        async move { client.push(push("a", "x")).await }
    });
    node.metric_reaches("oxipush_publishes_waiting", &[], 1.0).await;
    let status = client.push(push("a", "x")).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "full");
    assert!(retry(&status).is_some_and(|delay| !delay.is_zero()), "{status:?}");
    let status = client.push(push("", "x")).await.unwrap_err();
    assert_eq!(retry(&status), None, "the same push is refused again");
    waits.abort();
    node.stop().await;
}

/// A client's library sends what it leaves out as 0, false or empty: all of that is an option that is not asked for.
#[tokio::test(flavor = "multi_thread")]
async fn an_option_at_its_default_is_none() {
    let node = Node::start(&[]).await;
    let mut peer = Raw::connect(&node).await;
    let mut message = push("a", "x").encode_to_vec();
    // offline, ttl, deliver_at, room, everyone and idempotency_key, each written out
    message.extend([6 << 3, 0, 7 << 3, 0, 8 << 3, 0, 9 << 3 | 2, 0, 10 << 3, 0, 11 << 3 | 2, 0]);
    let mut bytes = vec![0];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    let mut call = peer.call("/proto.Rpc/Push", &[]).await.unwrap();
    call.send(bytes, true);
    assert_eq!(call.end().await.status, Some(0));
    node.stop().await;
}
