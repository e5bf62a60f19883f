//! What a gRPC peer may hold: places, calls and memory are given back in time, whatever it does.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use oxipush::internals::proto::rpc::{PushReply, rpc_client::RpcClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;

use super::{
    raw::{Raw, begun, framed, push},
    support::{client::PATIENCE, gateway::Node},
};

const PUSH: &str = "/proto.Rpc/Push";
const STREAM: &str = "/proto.Rpc/PushStream";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_a_key_do_not_hold_the_places() {
    let settings = [("AUTH__KEYS", "secret"), ("GRPC__MAX_CONNECTIONS", "3"), ("GRPC__IDLE_TIMEOUT", "1s")];
    let node = Node::start(&[&settings[..], &[("GRPC__PING_INTERVAL", "200ms")]].concat()).await;
    let silent = Raw::connect(&node).await;
    let (mut watching, mut knocking) = (Raw::connect(&node).await, Raw::connect(&node).await);
    let mut watch = watching.call(WATCH, &[]).await.unwrap();
    watch.send(framed(&HealthCheckRequest::default()), true);
    let knock = async {
        while let Ok(mut call) = knocking.call(PUSH, &[("authorization", "Bearer guess")]).await {
            call.send(framed(&push("a", "x")), true);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        knocking.ended().await;
    };
    let pushed = async {
        let mut client = RpcClient::connect(node.grpc()).await.unwrap();
        let mut request = Request::new(push("a", "x"));
        request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
        client.push(request).await.unwrap().into_inner().code
    };
    let pushed = tokio::time::timeout(PATIENCE * 2, pushed);
    let (code, ..) = tokio::join!(pushed, silent.ended(), watching.ended(), knock);
    assert_eq!(code.expect("a place is free in time"), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_ends_while_one_with_an_open_stream_stays() {
    let node = Node::start(&[("GRPC__IDLE_TIMEOUT", "300ms")]).await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let (sender, requests) = mpsc::channel(4);
    let mut replies = client.push_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    // each has its time to the end after the stream began
    for _ in 0..2 {
        Raw::connect(&node).await.ended().await;
        sender.send(push("a", "x")).await.unwrap();
        assert_eq!(replies.message().await.unwrap().unwrap().code, 0);
    }
    node.metric_reaches("oxipush_grpc_closes_total", &[("reason", "idle")], 2.0).await;
    assert_eq!(node.metric("oxipush_grpc_connections", &[]).await, 1.0);
    drop(sender);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_unfinished_messages_are_bounded_and_small_pushes_still_pass() {
    const CALLS: usize = 40;
    let node = Node::start(&[
        ("GRPC__MAX_MESSAGE", "64KiB"),
        ("GRPC__MAX_UNFINISHED_PER_CONNECTION", "256KiB"),
        ("GRPC__MAX_UNFINISHED", "384KiB"),
        ("GRPC__MESSAGE_TIMEOUT", "1m"),
    ])
    .await;
    let mut peer = Raw::connect(&node).await;
    // nearly whole, or only announced
    for arrived in [59_000, 0] {
        let mut ends = FuturesUnordered::new();
        for _ in 0..CALLS {
            let mut call = peer.call(STREAM, &[]).await.unwrap();
            call.send(begun(60_000, arrived), false);
            ends.push(call.end());
        }
        // 4 of them fit
        for _ in 0..CALLS - 4 {
            let end = ends.next().await.unwrap();
            assert_eq!((end.status, end.reason.as_str()), (Some(Code::ResourceExhausted as i32), "full"));
        }
        let mut call = peer.call(PUSH, &[]).await.unwrap();
        call.send(framed(&push("a", "x")), true);
        assert_eq!(call.end().await.status, Some(0), "what arrives whole needs none of it");
        drop(ends);
        // what was held comes back, once the gateway has seen that those calls are gone
        let pushed = async {
            loop {
                let mut call = peer.call(PUSH, &[]).await.unwrap();
                call.send(framed(&push("a", &"x".repeat(60_000))), true);
                let end = call.end().await;
                if end.status == Some(0) {
                    break;
                }
                assert_eq!(end.reason, "full");
            }
        };
        tokio::time::timeout(PATIENCE, pushed).await.expect("a push of 60,000 bytes within 30 s");
    }
    let refused = [("protocol", "grpc"), ("status", "RESOURCE_EXHAUSTED")];
    assert!(node.metric("oxipush_requests_total", &refused).await >= (CALLS - 4) as f64);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_arrive_in_time_ends() {
    let node = Node::start(&[("GRPC__MESSAGE_TIMEOUT", "300ms")]).await;
    let mut peer = Raw::connect(&node).await;
    let whole = framed(&push("a", "x"));
    let two = [whole.clone(), whole[..9].to_vec()].concat();
    for (path, sent, what) in [
        (PUSH, vec![], "nothing"),
        (PUSH, begun(1000, 10), "a part"),
        (PUSH, whole.clone(), "a message, and no end"),
        (CHECK, begun(100, 0), "a head"),
        (WATCH, vec![0, 0], "a part of a head"),
        (STREAM, begun(1000, 10), "a part"),
        (STREAM, two, "a message and a part"),
    ] {
        let mut call = peer.call(path, &[]).await.unwrap();
        call.send(sent, false);
        let end = call.end().await;
        assert_eq!(
            (end.status, end.reason.as_str()),
            (Some(Code::DeadlineExceeded as i32), "too_slow"),
            "{path}: {what}"
        );
    }
    let counted = [("protocol", "grpc"), ("status", "DEADLINE_EXCEEDED")];
    node.metric_reaches("oxipush_requests_total", &counted, 7.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_pause_between_its_pushes() {
    let node = Node::start(&[("GRPC__MESSAGE_TIMEOUT", "200ms")]).await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let (sender, requests) = mpsc::channel(4);
    let mut replies = client.push_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    for _ in 0..3 {
        sender.send(push("a", "x")).await.unwrap();
        let reply: PushReply = replies.message().await.unwrap().unwrap();
        assert_eq!(reply.code, 0);
        // longer than a message may take
        let mut other = Raw::connect(&node).await.call(PUSH, &[]).await.unwrap();
        other.send(begun(10, 0), false);
        assert_eq!(other.end().await.reason, "too_slow");
    }
    drop(sender);
    assert!(replies.message().await.unwrap().is_none());
    node.stop().await;
}
