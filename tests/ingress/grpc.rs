//! The gRPC API.

use std::time::Duration;

use futures_util::StreamExt;
use oxipush::internals::proto::rpc::{Exclude, PushBatchRequest, PushRequest, rpc_client::RpcClient};
use prost::Message;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::support::{
    client::{Client, PATIENCE},
    gateway::Node,
    process::free,
};

/// What gopusher's own definition generates.
#[allow(clippy::all, missing_docs)]
mod gopusher {
    include!(concat!(env!("OUT_DIR"), "/gopusher/proto.rs"));
}

async fn channel(node: &Node) -> Channel {
    Channel::from_shared(node.grpc()).unwrap().connect().await.unwrap()
}

fn push(card: &str, content: &str) -> PushRequest {
    PushRequest { from: "test".into(), to: vec![card.into()], content: content.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_generated_from_gopushers_definition_works_unchanged() {
    use gopusher::{GroupRequest, IsOnlineRequest, PushRequest, SystemRequest, rpc_client::RpcClient};
    let node = Node::start(&[]).await;
    let mut tab = Client::gopusher(&node.socket(), "mayun", "alibaba").await;
    let _other = Client::gopusher(&node.socket(), "mayun", "taobao").await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let push = PushRequest {
        from: "server".into(),
        to: vec!["mayun".into(), "mayun".into()],
        app_id: "alibaba".into(),
        content: "hello".into(),
    };
    let reply = client.push(push).await.unwrap().into_inner();
    assert_eq!((reply.code, reply.message.as_str()), (0, "ok"));
    assert_eq!(tab.text().await.unwrap(), "{\"type\":1,\"data\":\"hello\"}\n");
    let card = |id: &str| id.to_owned();
    let group = client.group(GroupRequest { card_id: card("mayun") }).await.unwrap().into_inner();
    assert_eq!(group.client_num, 2);
    let group = client.group(GroupRequest { card_id: card("nobody") }).await.unwrap().into_inner();
    assert_eq!(group.client_num, -1);
    let online = client.is_online(IsOnlineRequest { card_id: card("mayun") }).await.unwrap().into_inner();
    assert_eq!(online.result, "yes");
    let system = client.system(SystemRequest { from: "test".into() }).await.unwrap().into_inner();
    assert_eq!((system.client_num, system.group_num), (2, 1));
    assert!(system.cpu_num > 0 && system.goroutine_num > 0);
    tab.silent().await;
    node.stop().await;
}

/// Go's generator refuses a file without one; the others make up names that clash.
#[test]
fn each_definition_names_its_package_for_every_generator() {
    let files = prost_types::FileDescriptorSet::decode(oxipush::internals::proto::DESCRIPTORS).unwrap().file;
    assert!(files.iter().any(|file| file.name() == "rpc.proto"));
    for file in files {
        let options = file.options.clone().unwrap_or_default();
        assert!(options.go_package().contains('/'), "{}: Go wants a path", file.name());
        assert!(options.java_multiple_files(), "{}", file.name());
        for package in [options.java_package(), options.php_namespace(), options.csharp_namespace()] {
            assert!(package.to_lowercase().starts_with("oxipush"), "{}: {package}", file.name());
        }
    }
}

fn exclude(cards: &[&str], client: &str) -> Option<Exclude> {
    Some(Exclude { cards: cards.iter().map(|&card| card.into()).collect(), client: client.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_status_and_names_the_field() {
    let node = Node::start(&[("GRPC__MAX_MESSAGE", "128KiB"), ("PUSH__MAX_BATCH", "2")]).await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let rows = [
        (PushRequest { to: vec![], ..push("a", "x") }, Code::InvalidArgument, "nobody is named"),
        (push("", "x"), Code::InvalidArgument, "`to[0]` is empty"),
        (push(&"n".repeat(129), "x"), Code::InvalidArgument, "`to[0]` has 129 bytes"),
        (PushRequest { app_id: "\n".into(), ..push("a", "x") }, Code::InvalidArgument, "`appID` has the control"),
        (push("a", &"x".repeat(70_000)), Code::InvalidArgument, "`content` has 70000 bytes"),
        (push("a", &"x".repeat(200_000)), Code::ResourceExhausted, "a message of 200"),
        (PushRequest { ttl: 1 << 40, ..push("a", "x") }, Code::InvalidArgument, "`ttl` is 1099511627776; it must be"),
        (PushRequest { deliver_at: 1, ..push("a", "x") }, Code::Unimplemented, "`deliver_at` is not supported yet"),
        (PushRequest { room: "\n".into(), ..push("a", "x") }, Code::InvalidArgument, "`room` has the control"),
        (PushRequest { everyone: true, ..push("a", "x") }, Code::InvalidArgument, "`everyone` stands beside `to`"),
        (PushRequest { data: vec![0], ..push("a", "x") }, Code::InvalidArgument, "`data` stands beside `content`"),
        (PushRequest { json: "null".into(), ..push("a", "") }, Code::InvalidArgument, "`json` is null"),
        (PushRequest { json: "{".into(), ..push("a", "") }, Code::InvalidArgument, "`json` is no JSON"),
        (PushRequest { exclude: exclude(&[""], ""), ..push("a", "x") }, Code::InvalidArgument, "`exclude.cards[0]` is"),
        (PushRequest { exclude: exclude(&[], "a"), ..push("a", "x") }, Code::InvalidArgument, "`exclude.client` is no"),
    ];
    for (push, code, message) in rows {
        let status = client.push(push).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().starts_with(message), "{status}");
    }
    let batch = PushBatchRequest { pushes: vec![push("a", "x"); 3] };
    let status = client.push_batch(batch).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "`pushes` are more than 2; split the batch"));
    let batch = PushBatchRequest { pushes: vec![push("", "x"), push("a", "x")] };
    let reply = client.push_batch(batch).await.unwrap().into_inner();
    assert_eq!(reply.failed, 1, "of two");
    let replies = reply.replies;
    assert_eq!(replies.iter().map(|reply| reply.code).collect::<Vec<_>>(), [Code::InvalidArgument as i32, 0]);
    assert_eq!(client.push(push("a", "x")).await.unwrap().into_inner().code, 0);
    let counted = node.metric("oxipush_requests_total", &[("protocol", "grpc"), ("status", "INVALID_ARGUMENT")]).await;
    assert_eq!(counted, 14.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_answered_in_order_and_a_bad_push_costs_only_its_own_reply() {
    const PUSHES: usize = 3000;
    let node = Node::start(&[("GRPC__MAX_UNACKNOWLEDGED", "64")]).await;
    let mut tab = Client::gopusher(&node.socket(), "a", "").await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    // every tenth is bad
    let requests = (0..PUSHES).map(|n| push(if n % 10 == 3 { "" } else { "a" }, &n.to_string()));
    let mut replies = client.push_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let reader = tokio::spawn(async move {
        for n in (0..PUSHES).filter(|n| n % 10 != 3) {
            assert_eq!(tab.content().await, n.to_string());
        }
    });
    let mut last = String::new();
    for n in 0..PUSHES {
        let reply = replies.message().await.unwrap().expect("a reply for each push");
        if n % 10 == 3 {
            assert_eq!((reply.code, reply.id.as_str()), (Code::InvalidArgument as i32, ""), "{n}");
            assert_eq!(reply.message, "`to[0]` is empty");
        } else {
            assert_eq!(reply.code, 0, "{n}: {}", reply.message);
            assert!(reply.id > last, "ids grow in the order of the pushes");
            last = reply.id;
        }
    }
    assert!(replies.message().await.unwrap().is_none());
    tokio::time::timeout(PATIENCE * 2, reader).await.expect("all arrive").unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_a_message_that_is_too_large_and_nothing_behind_it_is_published() {
    for unacknowledged in ["1", "2", "1024"] {
        let node = Node::start(&[("GRPC__MAX_MESSAGE", "1KiB"), ("GRPC__MAX_UNACKNOWLEDGED", unacknowledged)]).await;
        let mut tab = Client::gopusher(&node.socket(), "a", "").await;
        let mut client = RpcClient::connect(node.grpc()).await.unwrap();
        let requests = ["first", "second", &"x".repeat(2000), "behind"].map(|content| push("a", content));
        let mut replies = client.push_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
        for _ in 0..2 {
            assert_eq!(replies.message().await.unwrap().unwrap().code, 0);
        }
        let status = replies.message().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let refused = [("protocol", "grpc"), ("status", "RESOURCE_EXHAUSTED")];
        let counted = node.metric("oxipush_requests_total", &refused).await;
        assert_eq!(counted, 1.0);
        assert_eq!(client.push(push("a", "last")).await.unwrap().into_inner().code, 0);
        for content in ["first", "second", "last"] {
            assert_eq!(tab.content().await, content);
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_with_unavailable_when_the_node_stops() {
    let node = Node::start(&[]).await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let (sender, requests) = mpsc::channel(4);
    sender.send(push("a", "x")).await.unwrap();
    let mut replies = client.push_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().code, 0);
    let stopping = tokio::spawn(node.stop());
    let status = tokio::time::timeout(PATIENCE, replies.message()).await.expect("an end").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    stopping.await.unwrap();
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_only_their_holders_call() {
    let node = Node::start_unready(&[("AUTH__KEYS", "one,two")]).await;
    node.ready().await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    for key in ["", "Bearer three"] {
        let mut request = Request::new(push("a", "x"));
        if !key.is_empty() {
            request.metadata_mut().insert("authorization", key.parse().unwrap());
        }
        let status = client.push(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("Bearer"), "{status}");
    }
    let mut request = Request::new(push("a", "x"));
    request.metadata_mut().insert("authorization", "Bearer two".parse().unwrap());
    assert_eq!(client.push(request).await.unwrap().into_inner().code, 0);
    let mut health = HealthClient::new(channel(&node).await);
    assert!(health.check(HealthCheckRequest::default()).await.is_ok(), "health is open");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness() {
    let node = Node::start(&[]).await;
    let mut client = HealthClient::new(channel(&node).await);
    let mut watches = Vec::new();
    for service in ["", "proto.Rpc"] {
        let request = HealthCheckRequest { service: service.into() };
        let mut watch = client.watch(request).await.unwrap().into_inner();
        let serving = async { while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {} };
        tokio::time::timeout(PATIENCE, serving).await.expect("it serves");
        watches.push(watch);
    }
    let stopping = tokio::spawn(node.stop());
    for mut watch in watches {
        let ended = async {
            while let Ok(Some(update)) = watch.message().await {
                assert_ne!(update.status(), ServingStatus::Serving);
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the watch ends");
    }
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_queue_is_away_pushes_are_unavailable_and_health_says_so() {
    let (nsqd, http) = (free().to_string(), free().to_string());
    let node = Node::start_unready(&[
        ("QUEUE__BACKEND", "nsq"),
        ("QUEUE__NSQD", &nsqd),
        ("QUEUE__NSQD_HTTP", &http),
        ("QUEUE__PUBLISH_TIMEOUT", "300ms"),
        ("NODE__ID", "lonely"),
    ])
    .await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let status = client.push(push("a", "x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let mut health = HealthClient::new(channel(&node).await);
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_of_waiting_publishes_resource_exhausted_comes_and_who_leaves_is_counted() {
    let (nsqd, http) = (free().to_string(), free().to_string());
    let node = Node::start_unready(&[
        ("QUEUE__BACKEND", "nsq"),
        ("QUEUE__NSQD", &nsqd),
        ("QUEUE__NSQD_HTTP", &http),
        ("QUEUE__PUBLISH_TIMEOUT", "20s"),
        ("QUEUE__MAX_PUBLISHES", "1"),
        ("NODE__ID", "lonely"),
    ])
    .await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let waits = tokio::spawn({
        let mut client = client.clone();
        let pushes = vec![push("a", "x"), push("", "bad"), push("a", "one too many")];
        async move { client.push_batch(PushBatchRequest { pushes }).await }
    });
    node.metric_reaches("oxipush_publishes_waiting", &[], 1.0).await;
    assert_eq!(client.push(push("a", "x")).await.unwrap_err().code(), Code::ResourceExhausted);
    waits.abort();
    // only the one that was under way: the others had their answer, though nobody heard it
    for (outcome, pushes) in [("caller_left", 1.0), ("bad_field", 1.0), ("full", 2.0)] {
        node.metric_reaches("oxipush_pushes_total", &[("source", "grpc"), ("outcome", outcome)], pushes).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_names_the_services() {
    let node = Node::start(&[]).await;
    let mut client = ServerReflectionClient::new(channel(&node).await);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["proto.Rpc", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_gives_its_place_to_others() {
    let node = Node::start(&[("GRPC__MAX_CONNECTIONS", "1"), ("HTTP__REQUEST_TIMEOUT", "1s")]).await;
    let mut silent = TcpStream::connect(node.listeners.grpc).await.unwrap();
    let pushed = async {
        let mut client = RpcClient::connect(node.grpc()).await.unwrap();
        client.push(push("a", "x")).await.unwrap().into_inner().code
    };
    let (closed, code) = tokio::join!(
        tokio::time::timeout(PATIENCE, async {
            let mut buffer = [0; 256];
            while let Ok(1..) = silent.read(&mut buffer).await {}
        }),
        tokio::time::timeout(PATIENCE + Duration::from_secs(10), pushed),
    );
    closed.expect("the silent one is closed");
    assert_eq!(code.expect("the other is served"), 0);
    node.stop().await;
}
