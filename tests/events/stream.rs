//! The gRPC stream: the back end acknowledges by position, and who only watches takes nothing.

use std::time::Duration;

use oxipush::internals::proto::rpc::{EventsReply, EventsRequest, rpc_client::RpcClient};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::support::{
    client::Client,
    gateway::Node,
    process::{Process, free},
};

const PATIENCE: Duration = Duration::from_secs(30);
const KINDS: (&str, &str) = ("EVENTS__KINDS", "message, joined, disconnected");

/// A back end that reads.
pub(crate) struct Reader {
    requests: mpsc::Sender<EventsRequest>,
    events: Streaming<EventsReply>,
}

impl Reader {
    pub(crate) async fn open(grpc: &str, first: EventsRequest) -> Result<Self, Status> {
        Self::open_as(grpc, first, None).await
    }

    async fn open_as(grpc: &str, first: EventsRequest, key: Option<&str>) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(16);
        requests.send(first).await.unwrap();
        let mut client = RpcClient::connect(grpc.to_owned()).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(sent));
        if let Some(key) = key {
            request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        let events = timeout(PATIENCE, client.events(request)).await.unwrap()?.into_inner();
        Ok(Self { requests, events })
    }

    pub(crate) async fn next(&mut self) -> Result<(u64, Value), Status> {
        let reply = timeout(PATIENCE, self.events.message()).await.expect("an event within 30 s")?;
        let EventsReply { position, event } = reply.expect("the stream goes on");
        Ok((position, serde_json::from_str(&event).unwrap()))
    }

    /// The next message's position and data; other events are passed over.
    async fn message(&mut self) -> (u64, Value) {
        loop {
            let (position, event) = self.next().await.unwrap();
            if event["type"] == "message" {
                assert!(position > 0);
                return (position, event["data"].clone());
            }
            assert_eq!(position, 0, "only messages are acknowledged");
        }
    }

    /// As [`Reader::message`]; `None`: none comes for a while.
    async fn no_message(&mut self) -> bool {
        timeout(Duration::from_millis(500), self.message()).await.is_err()
    }

    async fn ack(&self, ack: u64) {
        self.requests.send(EventsRequest { ack, ..EventsRequest::default() }).await.unwrap();
    }
}

fn all() -> EventsRequest {
    EventsRequest::default()
}

fn watching(kinds: &[&str]) -> EventsRequest {
    EventsRequest { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), watch: true, ack: 0 }
}

/// Sends a message and waits until it is durable.
pub(crate) async fn send(client: &mut Client, data: impl Into<Value>) -> Value {
    client.say(json!({"event": "message", "data": data.into(), "ref": 7})).await;
    client.hear().await
}

async fn received(client: &mut Client, data: impl Into<Value>) {
    let answer = send(client, data).await;
    assert_eq!((&answer["event"], &answer["data"]["ref"]), (&json!("received"), &json!(7)), "{answer}");
    assert_eq!(answer["data"]["id"].as_str().unwrap().len(), 26);
}

async fn waiting(node: &Node) -> f64 {
    node.metric("oxipush_events_waiting", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_acknowledged_by_position_and_the_others_come_again_to_the_next_reader() {
    let node = Node::start(&[KINDS]).await;
    let mut reader = Reader::open(&node.grpc(), all()).await.unwrap();
    let mut alice = Client::modern(&node.socket(), "alice", "web").await;
    let (position, joined) = reader.next().await.unwrap();
    assert_eq!(
        (position, &joined["type"], &joined["card"], &joined["app"]),
        (0, &json!("joined"), &json!("alice"), &json!("web"))
    );
    let mut positions = Vec::new();
    for n in 0..10_u64 {
        received(&mut alice, json!({"n": n, "text": "h\u{e9}"})).await;
        let (position, data) = reader.message().await;
        assert_eq!(data, json!({"n": n, "text": "h\u{e9}"}));
        positions.push(position);
    }
    assert!(positions.is_sorted() && positions[0] > 0);
    let second = Reader::open(&node.grpc(), all()).await.err().unwrap();
    assert_eq!(second.code(), Code::FailedPrecondition, "{second}");
    assert!(second.message().contains("another reader"), "{second}");
    reader.ack(positions[5]).await;
    for _ in 0..200 {
        if waiting(&node).await == 4.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(waiting(&node).await, 4.0);
    drop(reader);
    // the node learns a moment later that it is gone
    let mut reader = loop {
        match Reader::open(&node.grpc(), all()).await {
            Ok(reader) => break reader,
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for n in 6..10 {
        assert_eq!(reader.message().await, (positions[n as usize], json!({"n": n, "text": "h\u{e9}"})));
    }
    reader.ack(u64::MAX).await;
    let refused = loop {
        if let Err(status) = reader.next().await {
            break status;
        }
    };
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_no_more_than_it_may_leave_unacknowledged() {
    let node = Node::start(&[KINDS, ("GRPC__MAX_UNACKNOWLEDGED", "5")]).await;
    let mut alice = Client::modern(&node.socket(), "alice", "").await;
    for n in 0..12_u64 {
        received(&mut alice, n).await;
    }
    let mut reader = Reader::open(&node.grpc(), all()).await.unwrap();
    let mut last = 0;
    for n in 0..5 {
        let (position, data) = reader.message().await;
        assert_eq!(data, json!(n));
        last = position;
    }
    assert!(reader.no_message().await);
    reader.ack(last).await;
    for n in 5..10 {
        assert_eq!(reader.message().await.1, json!(n));
    }
    assert!(reader.no_message().await);
    // the other kinds go on
    let _bob = Client::modern(&node.socket(), "bob", "").await;
    let (position, joined) = reader.next().await.unwrap();
    assert_eq!((position, &joined["card"]), (0, &json!("bob")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_sees_what_happens_from_then_on_and_takes_nothing() {
    let node = Node::start(&[("EVENTS__KINDS", "message")]).await;
    let mut alice = Client::modern(&node.socket(), "alice", "web").await;
    received(&mut alice, "before").await;
    let mut seen = Reader::open(&node.grpc(), watching(&[])).await.unwrap();
    received(&mut alice, "after").await;
    assert_eq!(seen.next().await.unwrap().1["data"], "after");
    // of a kind that the back end is not told of
    drop(alice);
    let (position, gone) = seen.next().await.unwrap();
    assert_eq!((position, &gone["type"], &gone["card"]), (0, &json!("disconnected"), &json!("alice")));
    let mut some = Reader::open(&node.grpc(), watching(&["joined"])).await.unwrap();
    let _bob = Client::modern(&node.socket(), "bob", "").await;
    assert_eq!(some.next().await.unwrap().1["type"], "joined");
    let mut reader = Reader::open(&node.grpc(), all()).await.unwrap();
    assert_eq!((reader.message().await.1, reader.message().await.1), (json!("before"), json!("after")));
    for (first, words) in [
        (watching(&["gone"]), "`kinds` has \"gone\""),
        (EventsRequest { ack: 1, ..all() }, "nothing to acknowledge yet"),
        (EventsRequest { kinds: vec!["joined".into()], ..all() }, "[events] kinds has not"),
    ] {
        drop(reader);
        let status = loop {
            let status = Reader::open(&node.grpc(), first.clone()).await.err().unwrap();
            if status.code() != Code::FailedPrecondition {
                break status;
            }
        };
        assert!(status.code() == Code::InvalidArgument && status.message().contains(words), "{status}");
        reader = Reader::open(&node.grpc(), all()).await.unwrap();
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_need_a_key_with_their_scope_and_without_bounds() {
    let node = Node::start(&[
        ("EVENTS__KINDS", "message"),
        ("KEY_READER__SECRET", "0123456789abcdef-reader"),
        ("KEY_READER__SCOPES", "events"),
        ("KEY_PUSHER__SECRET", "0123456789abcdef-pusher"),
        ("KEY_PUSHER__SCOPES", "push, query, metrics"),
        ("KEY_BOUNDED__SECRET", "0123456789abcdef-bounded"),
        ("KEY_BOUNDED__SCOPES", "events"),
        ("KEY_BOUNDED__CARDS", "alice"),
    ])
    .await;
    let grpc = node.grpc();
    let open = async |key: Option<&'static str>| Reader::open_as(&grpc, watching(&[]), key).await;
    assert!(open(Some("0123456789abcdef-reader")).await.is_ok());
    for (key, code) in [
        (None, Code::Unauthenticated),
        (Some("0123456789abcdef-pusher"), Code::PermissionDenied),
        (Some("0123456789abcdef-bounded"), Code::PermissionDenied),
    ] {
        assert_eq!(open(key).await.err().unwrap().code(), code, "{key:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_the_stream_and_a_sigkill_loses_no_message_that_was_received() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_string_lossy().into_owned();
    let given = [("DATA__DIR", path.as_str()), KINDS];
    let at = [free(), free(), free()];
    let mut node = Process::spawn_at(&given, at);
    assert!(node.ready().await);
    let mut alice = Client::modern(&node.ws(), "alice", "").await;
    let mut reader = Reader::open(&format!("http://{}", node.grpc), all()).await.unwrap();
    for n in 0..50_u64 {
        received(&mut alice, n).await;
    }
    let mut done = 0;
    for n in 0..20 {
        let (position, data) = reader.message().await;
        assert_eq!(data, json!(n));
        done = position;
    }
    reader.ack(done).await;
    for _ in 0..200 {
        let text = crate::support::http::get(node.url("/metrics")).await.unwrap().text().await.unwrap();
        if crate::support::gateway::sample(&text, "oxipush_events_waiting", &[]) == 30.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.kill();
    let mut node = Process::spawn_at(&given, at);
    assert!(node.ready().await);
    let mut reader = Reader::open(&format!("http://{}", node.grpc), all()).await.unwrap();
    let (position, first) = reader.message().await;
    let first = first.as_u64().unwrap();
    assert!(first <= 20 && position <= done + 1, "what was acknowledged a moment ago may come again: {first}");
    for n in first + 1..50 {
        assert_eq!(reader.message().await.1, json!(n));
    }
    node.terminate();
    let end = loop {
        if let Err(status) = reader.next().await {
            break status;
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    assert_eq!(node.ended().await, Some(0));
}
