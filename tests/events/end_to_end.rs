//! From a client's WebSocket to the webhook, to NSQ, and to who watches on a terminal.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use oxipush::internals::proto::rpc::EventsRequest;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use crate::{
    hook::{Hook, SECRET},
    stream::{Reader, send},
    support::{client::Client, gateway::Node, http_server::Told, nsq::Nsqd},
};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_and_does_reaches_the_webhook_which_delays_no_push() {
    // each request for this card takes longer than the test
    let hook = Hook::start(|events| {
        let delay = if events[0]["card"] == "slow" { Duration::from_secs(3600) } else { Duration::ZERO };
        Told { delay, ..Told::ok("") }
    })
    .await;
    let url = hook.url();
    let kinds = "message, connected, joined, left, subscribed, unsubscribed, disconnected, presence";
    let node = Node::start(&[
        ("EVENTS__URL", &url),
        ("EVENTS__SECRET", SECRET),
        ("EVENTS__KINDS", kinds),
        ("EVENTS__TIMEOUT", "60s"),
        ("ROOMS__PRESENCE", "*"),
        ("NODE__SHUTDOWN_TIMEOUT", "2s"),
    ])
    .await;
    let mut slow = Client::modern(&node.socket(), "slow", "").await;
    assert_eq!(send(&mut slow, 1).await["event"], "received");
    let mut alice = Client::modern(&node.socket(), "alice", "web").await;
    alice.say(json!({"event": "subscribe", "data": {"room": "lobby"}})).await;
    alice.say(json!({"event": "message", "data": {"text": "hello"}})).await;
    alice.say(json!({"event": "unsubscribe", "data": {"room": "lobby"}})).await;
    let began = Instant::now();
    node.push(&["alice"], "a push").await;
    loop {
        let heard = alice.hear().await;
        if heard["event"] == "push" {
            assert_eq!(heard["data"]["content"], "a push");
            break;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // an orderly end is told with the card too
    alice.socket.close(None).await.unwrap();
    let of = |events: &[Value], kind: &str| {
        events.iter().find(|event| event["type"] == kind && event["card"] != "slow").cloned()
    };
    let all = ["connected", "joined", "subscribed", "message", "unsubscribed", "disconnected", "presence"];
    let events = hook.heard.until("each kind", |events| all.iter().all(|kind| of(events, kind).is_some())).await;
    let message = of(&events, "message").unwrap();
    assert_eq!(
        (&message["card"], &message["app"], &message["data"]),
        (&json!("alice"), &json!("web"), &json!({"text": "hello"}))
    );
    assert_eq!(message["client"].as_str().unwrap().len(), 26);
    for kind in ["subscribed", "unsubscribed", "presence"] {
        assert_eq!(of(&events, kind).unwrap()["room"], "lobby", "{kind}");
    }
    assert_eq!(of(&events, "joined").unwrap()["client"], message["client"]);
    assert_eq!(of(&events, "disconnected").unwrap()["card"], "alice");
    let batches = hook.heard.batches();
    let hanging = batches.iter().filter(|batch| batch[0]["card"] == "slow").count();
    assert_eq!(hanging, 1, "a card has one request under way");
    let ids: BTreeSet<String> = events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), events.len(), "each once");
    let refused = Reader::open(&node.grpc(), EventsRequest::default()).await.err().unwrap();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("[events] url"), "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_when_messages_go_nowhere_or_the_back_end_has_too_many() {
    let node = Node::start(&[]).await;
    let mut alice = Client::modern(&node.socket(), "alice", "").await;
    let answer = send(&mut alice, 1).await;
    assert_eq!((&answer["event"], &answer["data"]["code"]), (&json!("error"), &json!("unsupported")), "{answer}");
    node.stop().await;
    let node = Node::start(&[("EVENTS__KINDS", "message"), ("EVENTS__MAX_BYTES", "128KiB")]).await;
    let mut alice = Client::modern(&node.socket(), "alice", "").await;
    let mut taken = 0;
    let refused = loop {
        let answer = send(&mut alice, "x".repeat(4000)).await;
        if answer["event"] != "received" {
            break answer;
        }
        taken += 1;
        // within the client's rate
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(refused["data"]["code"], "busy", "{refused}");
    assert!((20..40).contains(&taken), "{taken}");
    let mut reader = Reader::open(&node.grpc(), EventsRequest::default()).await.unwrap();
    for _ in 0..taken {
        assert_eq!(reader.next().await.unwrap().1["data"], "x".repeat(4000));
    }
    // pushes go on, and so does the client
    node.push(&["alice"], "still here").await;
    assert_eq!(alice.hear().await["data"]["content"], "still here");
    node.stop().await;
}

/// An NSQ client that finishes each message.
struct Consumer {
    stream: TcpStream,
}

impl Consumer {
    async fn start(nsqd: &Nsqd, topic: &str) -> Self {
        let mut stream = TcpStream::connect(nsqd.tcp()).await.unwrap();
        stream.write_all(format!("  V2SUB {topic} backend\nRDY 1\n").as_bytes()).await.unwrap();
        Self { stream }
    }

    /// The next message's body; an error: nsqd is gone.
    async fn next(&mut self) -> std::io::Result<Vec<u8>> {
        loop {
            let size = self.stream.read_u32().await?;
            let kind = self.stream.read_u32().await?;
            let mut data = vec![0; size as usize - 4];
            self.stream.read_exact(&mut data).await?;
            match kind {
                0 if data == b"_heartbeat_" => self.stream.write_all(b"NOP\n").await?,
                0 => {}
                2 => {
                    self.stream.write_all(&[b"FIN ", &data[10..26], b"\n"].concat()).await?;
                    return Ok(data.split_off(26));
                }
                _ => panic!("nsqd refuses: {}", String::from_utf8_lossy(&data)),
            }
        }
    }

    async fn event(&mut self) -> Value {
        let body = timeout(PATIENCE, self.next()).await.expect("an event within 30 s").unwrap();
        serde_json::from_slice(&body).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nsq_events_stand_in_their_topic_and_each_message_arrives_though_nsqd_is_away_meanwhile() {
    let mut nsqd = Nsqd::start().await;
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let node = Node::start(&[
        ("QUEUE__BACKEND", "nsq"),
        ("QUEUE__TOPIC", "t"),
        ("QUEUE__NSQD", &tcp),
        ("QUEUE__NSQD_HTTP", &http),
        ("QUEUE__PUBLISH_TIMEOUT", "30s"),
        ("EVENTS__KINDS", "message, joined"),
    ])
    .await;
    let mut alice = Client::modern(&node.socket(), "alice", "web").await;
    assert_eq!(send(&mut alice, 0).await["event"], "received");
    // what was published before anybody reads is kept
    let mut consumer = Consumer::start(&nsqd, "t.events").await;
    let mut first = [consumer.event().await, consumer.event().await];
    first.sort_by_key(|event| event["type"].to_string());
    assert_eq!(
        (&first[0]["type"], &first[0]["card"], &first[1]["type"]),
        (&json!("joined"), &json!("alice"), &json!("message"))
    );
    nsqd.stop().await;
    // it waits for nsqd
    alice.say(json!({"event": "message", "data": 1, "ref": 1})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    nsqd.again().await;
    assert_eq!(alice.hear().await["event"], "received");
    let mut consumer = Consumer::start(&nsqd, "t.events").await;
    let mut seen = BTreeSet::new();
    while !seen.contains("1") {
        seen.insert(consumer.event().await["data"].to_string());
    }
    for n in 2..10 {
        assert_eq!(send(&mut alice, n).await["event"], "received");
    }
    while seen.len() < 9 {
        let event = consumer.event().await;
        if event["type"] == "message" {
            seen.insert(event["data"].to_string());
        }
    }
    let refused = Reader::open(&node.grpc(), EventsRequest::default()).await.err().unwrap();
    assert!(refused.message().contains("<[queue] topic>.events"), "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oxipush_events_prints_one_line_of_json_for_each_event() {
    let node = Node::start(&[("EVENTS__KINDS", "message")]).await;
    let mut printing = Command::new(env!("CARGO_BIN_EXE_oxipush"))
        .args(["events", "--grpc", &node.grpc(), "--kinds", "joined,message"])
        .env_remove("OXIPUSH_KEY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(printing.stdout.take().unwrap()).lines();
    let read = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        while read.len() < 50 {
            let line = lines.next().unwrap().unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            let is_last = event["type"] == "message";
            read.push(event);
            if is_last {
                break;
            }
        }
        read
    });
    // it sees what happens once it watches, which nobody says
    let mut read = read;
    let events = loop {
        let mut alice = Client::modern(&node.socket(), "alice", "").await;
        assert_eq!(send(&mut alice, json!({"text": "hello"})).await["event"], "received");
        if let Ok(events) = timeout(Duration::from_millis(500), &mut read).await {
            break events.unwrap();
        }
    };
    assert_eq!(events.last().unwrap()["data"], json!({"text": "hello"}));
    printing.kill().unwrap();
    printing.wait().unwrap();
    // the back end gets it all the same
    let mut reader = Reader::open(&node.grpc(), EventsRequest::default()).await.unwrap();
    assert_eq!(reader.next().await.unwrap().1["data"], json!({"text": "hello"}));
    node.stop().await;
}
