//! Streams at the client's socket: places, devices, acknowledgements by `ack`, by Pong and by an orderly close.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use support::{browser::Browser, client::Client, client::PATIENCE, gateway::Node, process::Process, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A client of gopusher that answers a Ping only where the test does.
struct RawClient(TcpStream);

impl RawClient {
    async fn join(address: SocketAddr, card: &str, app: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "GET /ws HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        let mut client = Self(stream);
        client.say(json!({"event": "join", "data": {"card_id": card, "app_id": app}})).await;
        assert_eq!(client.data().await, "ok");
        client
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        assert!(payload.len() < 126);
        let header = [0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        self.0.write_all(&[&header, payload].concat()).await.unwrap();
    }

    async fn say(&mut self, value: Value) {
        self.send(TEXT, value.to_string().as_bytes()).await;
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let mut header = [0; 2];
            self.0.read_exact(&mut header).await.unwrap();
            let length = match header[1] {
                126 => usize::from(self.0.read_u16().await.unwrap()),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.unwrap();
            (header[0] & 0xF, payload)
        };
        timeout(PATIENCE, read).await.expect("a frame within 30 s")
    }

    /// The data of the next text; nothing else may come before it.
    async fn data(&mut self) -> String {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, TEXT, "{payload:?}");
        let value: Value = serde_json::from_slice(&payload).unwrap();
        value["data"].as_str().unwrap().to_owned()
    }

    /// The payload of the Ping that is next.
    async fn ping(&mut self) -> Vec<u8> {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, PING, "{payload:?}");
        payload
    }

    /// All that it said before was done.
    async fn is_heard(&mut self) {
        self.say(json!({"event": "ping"})).await;
        assert_eq!(self.data().await, "ok");
    }

    async fn close(mut self) {
        self.send(CLOSE, &1000_u16.to_be_bytes()).await;
        while self.frame().await.0 != CLOSE {}
    }
}

/// Stores a push; its id.
async fn store(node: &Node, card: &str, content: &str) -> String {
    store_with(node, json!({"to": [card], "content": content})).await
}

async fn store_in(node: &Node, room: &str, content: &str) -> String {
    store_with(node, json!({"room": room, "content": content})).await
}

async fn store_with(node: &Node, mut body: Value) -> String {
    body["offline"] = json!(true);
    let (status, answer) = node.post("/push", body).await;
    assert_eq!(status, 200, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// Up to where a device, or an app, has acknowledged a card's stream.
async fn cursor(node: &Node, card: &str, name: &str, declared: bool) -> Option<u64> {
    let answer = support::http::get(node.url(&format!("/cards/{card}/stream"))).await.unwrap();
    let info: Value = answer.json().await.unwrap();
    let devices = info["devices"].as_array().unwrap().clone();
    let device = devices.iter().find(|device| device["name"] == name && device["declared"] == declared)?;
    device["seq"].as_u64()
}

/// A client of oxipush.v1 that says a join and has heard the answer.
async fn joined(node: &Node, data: Value) -> Client {
    let mut client = Client::connect(&node.socket(), true).await;
    client.say(json!({"event": "join", "data": data})).await;
    assert_eq!(client.hear().await["event"], "joined");
    client
}

/// The next event, which must be this one; its data.
async fn hears(client: &mut Client, event: &str) -> Value {
    let heard = client.hear().await;
    assert_eq!(heard["event"], event, "{heard}");
    heard["data"].clone()
}

async fn hears_pushes(client: &mut Client, contents: &[&str]) {
    for content in contents {
        assert_eq!(hears(client, "push").await["content"], *content);
    }
}

async fn refuses(client: &mut Client, event: &str, data: Value, code: &str, words: &str) {
    client.say(json!({"event": event, "data": data})).await;
    let error = hears(client, "error").await;
    assert_eq!(error["code"], code, "{event} {data}: {error}");
    assert!(error["message"].as_str().unwrap().contains(words), "{event} {data}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_is_told_its_place_and_what_waits_at_once() {
    let node = Node::start(&[]).await;
    // nothing is stored: nothing is told, but to who asks
    let mut client = joined(&node, json!({"card_id": "alice"})).await;
    client.silent().await;
    let nowhere = |seq: u64| json!({"card": "alice", "epoch": "00000000", "seq": seq, "waiting": 0});
    let mut client = joined(&node, json!({"card_id": "alice", "device": "phone"})).await;
    assert_eq!(hears(&mut client, "stream").await, nowhere(0));
    client.silent().await;
    let resume = json!({"epoch": "0a1b2c3d", "seq": 7});
    let mut client = joined(&node, json!({"card_id": "alice", "resume": resume})).await;
    assert_eq!(hears(&mut client, "reset").await, nowhere(0));
    drop(client);

    for content in ["1", "2", "3"] {
        store(&node, "bob", content).await;
    }
    let mut phone = joined(&node, json!({"card_id": "bob", "device": "phone"})).await;
    let told = hears(&mut phone, "stream").await;
    let epoch = told["epoch"].as_str().unwrap().to_owned();
    assert_eq!(told, json!({"card": "bob", "epoch": epoch, "seq": 0, "waiting": 3}));
    let push = hears(&mut phone, "push").await;
    assert_eq!((&push["card"], &push["seq"], &push["prev"]), (&json!("bob"), &json!(1), &json!(0)));
    let id = push["id"].clone();
    hears_pushes(&mut phone, &["2", "3"]).await;
    // a live one has no place
    node.push(&["bob"], "live").await;
    let live = hears(&mut phone, "push").await;
    assert_eq!((&live["card"], &live["seq"], &live["prev"]), (&json!(null), &json!(null), &json!(null)));

    let resume = json!({"epoch": epoch, "seq": 1, "id": id});
    let mut tab = joined(&node, json!({"card_id": "bob", "device": "phone", "resume": resume})).await;
    assert_eq!(hears(&mut tab, "stream").await, json!({"card": "bob", "epoch": epoch, "seq": 1, "waiting": 2}));
    hears_pushes(&mut tab, &["2", "3"]).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_sends_nothing_twice_unless_it_says_resume_or_another_device() {
    let node = Node::start(&[]).await;
    for content in ["1", "2"] {
        store(&node, "alice", content).await;
    }
    let mut phone = joined(&node, json!({"card_id": "alice", "device": "phone"})).await;
    let epoch = hears(&mut phone, "stream").await["epoch"].clone();
    hears_pushes(&mut phone, &["1", "2"]).await;
    for data in [json!({"card_id": "alice", "device": "phone"}), json!({"card_id": "alice", "app_id": "web"})] {
        phone.say(json!({"event": "join", "data": data})).await;
        hears(&mut phone, "joined").await;
        phone.silent().await;
    }
    // it is still that device
    phone.say(json!({"event": "ack", "data": {"card": "alice", "seq": 1}})).await;
    phone.silent().await;
    assert_eq!(cursor(&node, "alice", "phone", true).await, Some(1));
    let again = json!({"card_id": "alice", "resume": {"epoch": epoch, "seq": 0}});
    phone.say(json!({"event": "join", "data": again})).await;
    hears(&mut phone, "joined").await;
    assert_eq!(hears(&mut phone, "stream").await["waiting"], 2);
    hears_pushes(&mut phone, &["1", "2"]).await;
    phone.say(json!({"event": "join", "data": {"card_id": "alice", "device": "tablet"}})).await;
    hears(&mut phone, "joined").await;
    assert_eq!(hears(&mut phone, "stream").await["seq"], 0);
    hears_pushes(&mut phone, &["1", "2"]).await;
    phone.say(json!({"event": "ack", "data": {"card": "alice", "seq": 2}})).await;
    store(&node, "alice", "3").await;
    hears_pushes(&mut phone, &["3"]).await;
    assert_eq!(cursor(&node, "alice", "phone", true).await, Some(1));
    assert_eq!(cursor(&node, "alice", "tablet", true).await, Some(2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_cards_of_one_connection_are_two_streams() {
    let node = Node::start(&[]).await;
    for content in ["a1", "a2", "a3"] {
        store(&node, "alice", content).await;
    }
    store(&node, "bob", "b1").await;
    let mut client = joined(&node, json!({"card_id": "alice", "device": "phone"})).await;
    assert_eq!(hears(&mut client, "stream").await["card"], "alice");
    hears_pushes(&mut client, &["a1", "a2", "a3"]).await;
    client.say(json!({"event": "join", "data": {"card_id": "bob", "device": "phone"}})).await;
    hears(&mut client, "joined").await;
    assert_eq!(hears(&mut client, "stream").await["card"], "bob");
    let push = hears(&mut client, "push").await;
    assert_eq!((&push["card"], &push["seq"]), (&json!("bob"), &json!(1)));
    refuses(&mut client, "ack", json!({"card": "bob", "seq": 3}), "bad_ack", "up to 1 was").await;
    for (card, seq) in [("alice", 3), ("bob", 1), ("alice", 2)] {
        client.say(json!({"event": "ack", "data": {"card": card, "seq": seq}})).await;
    }
    client.silent().await;
    assert_eq!(cursor(&node, "alice", "phone", true).await, Some(3), "an older ack does no harm");
    assert_eq!(cursor(&node, "bob", "phone", true).await, Some(1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_acknowledgement_says_what_is_wrong() {
    let node = Node::start(&[]).await;
    store(&node, "alice", "1").await;
    let mut client = joined(&node, json!({"card_id": "alice", "device": "phone"})).await;
    hears(&mut client, "stream").await;
    hears_pushes(&mut client, &["1"]).await;
    client.say(json!({"event": "join", "data": {"card_id": "bob"}})).await;
    hears(&mut client, "joined").await;
    for (data, code, words) in [
        (json!({"card": "alice", "seq": 2}), "bad_ack", "2 of the card \"alice\" was not sent"),
        (json!({"card": "alice", "seq": u64::MAX}), "bad_ack", "was not sent"),
        (json!({"card": "carol", "seq": 1}), "bad_ack", "join it before"),
        (json!({"card": "bob", "seq": 0}), "bad_ack", "without `device`"),
        (json!({"card": "", "seq": 1}), "bad_name", "card is empty"),
        (json!({"card": "c".repeat(10_000), "seq": 1}), "bad_name", "card has 10000 bytes"),
        (json!({"card": "alice"}), "bad_json", "seq"),
        (json!({"card": "alice", "seq": -1}), "bad_json", "seq"),
        (json!({"seq": 1}), "bad_json", "card"),
    ] {
        refuses(&mut client, "ack", data, code, words).await;
    }
    assert_eq!(cursor(&node, "alice", "phone", true).await, Some(0));
    assert!(node.metric("oxipush_client_errors_total", &[("error", "bad_ack")]).await >= 4.0);
    // gopusher's clients have no word for it
    let mut old = Client::gopusher(&node.socket(), "alice", "").await;
    old.say(json!({"event": "ack", "data": {"card": "alice", "seq": 1}})).await;
    assert_eq!(old.close_code().await, 3500);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_devices_places_and_acks_are_refused_and_the_rest_works() {
    let node = Node::start(&[("STORE__BACKEND", "none")]).await;
    let mut client = Client::connect(&node.socket(), true).await;
    let resume = json!({"epoch": "0a1b2c3d", "seq": 7});
    let joins = [json!({"card_id": "alice", "device": "phone"}), json!({"card_id": "alice", "resume": resume})];
    for (data, field) in joins.into_iter().zip(["`device`", "`resume`"]) {
        refuses(&mut client, "join", data, "unsupported", field).await;
    }
    client.join("alice", "").await;
    client.silent().await;
    refuses(&mut client, "ack", json!({"card": "alice", "seq": 1}), "unsupported", "`ack`").await;
    refuses(&mut client, "subscribe", json!({"room": "news", "resume": resume}), "unsupported", "`resume`").await;
    client.say(json!({"event": "subscribe", "data": {"room": "news"}})).await;
    assert_eq!(hears(&mut client, "subscribed").await, json!({"room": "news"}));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pong_acknowledges_what_its_ping_followed_and_nothing_that_was_not_sent() {
    let node = Node::start(&[]).await;
    store(&node, "alice", "1").await;
    let mut tab = RawClient::join(node.listeners.socket, "alice", "web").await;
    assert_eq!(tab.data().await, "1");
    let first = tab.ping().await;
    store(&node, "alice", "2").await;
    assert_eq!(tab.data().await, "2");
    let second = tab.ping().await;
    assert_ne!(first, second);
    tab.is_heard().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(0), "nothing was answered");
    tab.send(PONG, &first).await;
    tab.is_heard().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(1));
    // of another card, of another length, of nothing
    for made_up in [&[1, 9, 9, 9, 9, 7, 7, 7, 7, 2, 0, 0, 0, 0, 0, 0, 0][..], &first[..16], b""] {
        tab.send(PONG, made_up).await;
    }
    tab.is_heard().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(1));
    // up to what was never sent: as far as it was
    let mut forged = second.clone();
    forged[9..].copy_from_slice(&u64::MAX.to_le_bytes());
    tab.send(PONG, &forged).await;
    tab.is_heard().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(2));
    store(&node, "alice", "3").await;
    assert_eq!(tab.data().await, "3");
    // it dies; what it had not answered comes again
    drop(tab);
    let mut tab = RawClient::join(node.listeners.socket, "alice", "web").await;
    assert_eq!(tab.data().await, "3");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_no_ping_has_what_was_written_if_it_closes_in_order() {
    let node = Node::start(&[("SOCKET__PING_INTERVAL", "500ms")]).await;
    for content in ["1", "2"] {
        store(&node, "alice", content).await;
    }
    for _ in 0..2 {
        let mut breaks_off = RawClient::join(node.listeners.socket, "alice", "web").await;
        assert_eq!((breaks_off.data().await, breaks_off.data().await), ("1".into(), "2".into()));
    }
    // one that had no time to answer may not have read them
    let mut leaves = RawClient::join(node.listeners.socket, "alice", "web").await;
    assert_eq!((leaves.data().await, leaves.data().await), ("1".into(), "2".into()));
    leaves.close().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(0));
    let mut closes = RawClient::join(node.listeners.socket, "alice", "web").await;
    assert_eq!((closes.data().await, closes.data().await), ("1".into(), "2".into()));
    // a Ping of the heartbeat says nothing
    while !closes.ping().await.is_empty() {}
    tokio::time::sleep(Duration::from_secs(3)).await;
    closes.close().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(2));
    // one that answers pings is believed by its Pongs alone
    store(&node, "alice", "3").await;
    let mut answers = RawClient::join(node.listeners.socket, "alice", "web").await;
    assert_eq!(answers.data().await, "3");
    answers.ping().await;
    answers.send(PONG, b"").await;
    answers.close().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_that_stored_pushes_asked_for_are_no_flood() {
    const PUSHES: usize = 300;
    let node = Node::start(&[("SOCKET__MAX_MESSAGES_PER_SECOND", "1"), ("SOCKET__MESSAGE_BURST", "100")]).await;
    let mut tab = RawClient::join(node.listeners.socket, "alice", "web").await;
    for number in 0..PUSHES {
        store(&node, "alice", &number.to_string()).await;
        assert_eq!(tab.data().await, number.to_string());
        let ping = tab.ping().await;
        tab.send(PONG, &ping).await;
    }
    tab.is_heard().await;
    assert_eq!(cursor(&node, "alice", "web", false).await, Some(PUSHES as u64));
    // Pongs that nobody asked for are
    for _ in 0..101 {
        tab.send(PONG, b"").await;
    }
    assert_eq!(tab.frame().await.0, CLOSE);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_devices_of_one_card_are_sixteen_and_a_clear_answer() {
    const DEVICES: usize = 10_000;
    let settings = [("SOCKET__MAX_MESSAGES_PER_SECOND", "1000000"), ("SOCKET__MESSAGE_BURST", "65535")];
    let node = Node::start(&settings).await;
    store(&node, "alice", "1").await;
    let mut client = joined(&node, json!({"card_id": "alice", "device": "0"})).await;
    hears(&mut client, "stream").await;
    hears_pushes(&mut client, &["1"]).await;
    let mut refused = 0;
    for device in 1..DEVICES {
        let data = json!({"card_id": "alice", "device": device.to_string()});
        client.say(json!({"event": "join", "data": data})).await;
        let answer = client.hear().await;
        if answer["event"] == "joined" {
            hears(&mut client, "stream").await;
            hears_pushes(&mut client, &["1"]).await;
            continue;
        }
        assert_eq!(answer["data"]["code"], "too_many_devices", "{answer}");
        refused += 1;
    }
    assert_eq!(refused, DEVICES - 16);
    assert!(node.metric("oxipush_client_errors_total", &[("error", "too_many_devices")]).await >= refused as f64);
    // it is what it was before
    client.say(json!({"event": "ack", "data": {"card": "alice", "seq": 1}})).await;
    client.silent().await;
    assert_eq!(cursor(&node, "alice", "15", true).await, Some(1));
    // who is refused is not in the card; who is known is let in; who names no device is, at the newest
    let mut one_more = Client::connect(&node.socket(), true).await;
    let data = json!({"card_id": "alice", "device": "one more"});
    refuses(&mut one_more, "join", data, "too_many_devices", "[store] max_devices").await;
    refuses(&mut one_more, "ack", json!({"card": "alice", "seq": 1}), "bad_ack", "join it before").await;
    let mut known = joined(&node, json!({"card_id": "alice", "device": "7"})).await;
    hears(&mut known, "stream").await;
    hears_pushes(&mut known, &["1"]).await;
    let mut old = Client::gopusher(&node.socket(), "alice", "web").await;
    store(&node, "alice", "2").await;
    assert_eq!(old.content().await, "2");
    hears_pushes(&mut known, &["2"]).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_read_on_from_a_place_and_from_its_beginning() {
    let node = Node::start(&[]).await;
    let mut client = joined(&node, json!({"card_id": "alice"})).await;
    client.say(json!({"event": "subscribe", "data": {"room": "news"}})).await;
    assert_eq!(hears(&mut client, "subscribed").await, json!({"room": "news"}), "nothing is stored");
    drop(client);
    let mut ids = Vec::new();
    for content in ["1", "2", "3"] {
        ids.push(store_in(&node, "news", content).await);
    }
    let subscribe = async |resume: Value| {
        let mut client = joined(&node, json!({"card_id": "alice"})).await;
        client.say(json!({"event": "subscribe", "data": {"room": "news", "resume": resume}})).await;
        let told = hears(&mut client, "subscribed").await;
        (client, told)
    };
    let (mut new, told) = subscribe(Value::Null).await;
    assert_eq!((&told["seq"], &told["waiting"]), (&json!(3), &json!(null)));
    let epoch = told["epoch"].as_str().unwrap().to_owned();
    new.silent().await;
    let (mut back, told) = subscribe(json!({"epoch": epoch, "seq": 1, "id": ids[0]})).await;
    assert_eq!((&told["epoch"], &told["seq"]), (&json!(epoch), &json!(1)));
    let told = hears(&mut back, "stream").await;
    assert_eq!(told, json!({"room": "news", "epoch": epoch, "seq": 1, "waiting": 2}));
    let push = hears(&mut back, "push").await;
    assert_eq!((&push["room"], &push["seq"], &push["prev"]), (&json!("news"), &json!(2), &json!(1)));
    hears_pushes(&mut back, &["3"]).await;
    // from the beginning; of another epoch, of the future, behind another push
    for resume in [
        json!({"epoch": "00000000", "seq": 0}),
        json!({"epoch": "0a1b2c3d", "seq": 2}),
        json!({"epoch": epoch, "seq": 9}),
        json!({"epoch": epoch, "seq": 2, "id": ids[0]}),
    ] {
        let (mut client, _) = subscribe(resume.clone()).await;
        let told = hears(&mut client, "reset").await;
        assert_eq!((&told["epoch"], &told["seq"]), (&json!(epoch), &json!(0)), "{resume}");
        hears_pushes(&mut client, &["1", "2", "3"]).await;
        // subscribing again sends nothing twice
        client.say(json!({"event": "subscribe", "data": {"room": "news"}})).await;
        hears(&mut client, "subscribed").await;
        client.silent().await;
    }
    // a place in a room that has no stream
    let mut client = joined(&node, json!({"card_id": "alice"})).await;
    let resume = json!({"epoch": epoch, "seq": 2});
    client.say(json!({"event": "subscribe", "data": {"room": "other", "resume": resume}})).await;
    assert_eq!(hears(&mut client, "subscribed").await, json!({"room": "other", "epoch": "00000000", "seq": 0}));
    assert_eq!(hears(&mut client, "reset").await["epoch"], "00000000");
    node.stop().await;
}

/// The first JavaScript of docs/streams.md.
fn javascript_of_the_docs() -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/streams.md")).unwrap();
    let (_, rest) = text.split_once("```js\n").expect("a page of JavaScript");
    rest.split_once("```").unwrap().0.to_owned()
}

/// Starts the docs' client in a page, with a list of what it took.
async fn starts(page: &mut Browser, node: &Process) {
    let start = format!(
        "taken = []; streams = new Streams({}, {{card: 'alice', device: 'phone', rooms: ['news'], onPush: (push) => \
         taken.push(push.content), onEnd: (code) => taken.push('ended ' + code)}}); 0",
        json!(node.ws())
    );
    page.evaluate(&start).await;
}

/// Closes it, and waits until it says so: that would be among what the next one takes.
async fn closes(page: &mut Browser) {
    page.evaluate("streams.close()").await;
    page.until("taken.at(-1) === 'ended 1000' || taken.at(-1) === 'ended 1005'").await;
}

async fn has_taken(page: &mut Browser, contents: &[&str]) {
    page.until(&format!("JSON.stringify(taken.toSorted()) === {}", json!(json!(contents).to_string()))).await;
}

async fn post(node: &Process, body: Value) {
    let answer = support::http::client().post(node.url("/push")).json(&body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_of_the_docs_takes_each_push_once_over_drains_kills_and_reloads() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("DATA__DIR", folder.path().to_str().unwrap())];
    let mut node = Process::spawn(&settings);
    assert!(node.ready().await);
    let at = [node.socket, node.http, node.grpc];
    let to = |content: &str| json!({"to": ["alice"], "content": content, "offline": true});
    let news = |content: &str| json!({"room": "news", "content": content, "offline": true});
    post(&node, to("1")).await;
    post(&node, news("n0, before it was there")).await;
    let mut page = Browser::open(&node.url("/")).await;
    // the browser's empty page is complete, too
    page.until("location.protocol === 'http:' && document.readyState === 'complete'").await;
    page.evaluate("localStorage.clear()").await;
    let class = format!("{}; globalThis.Streams = Streams; 0", javascript_of_the_docs());
    page.evaluate(&class).await;
    starts(&mut page, &node).await;
    page.until("!!streams.places['room news']").await;
    has_taken(&mut page, &["1"]).await;
    post(&node, to("2")).await;
    post(&node, news("n1")).await;
    has_taken(&mut page, &["1", "2", "n1"]).await;

    // a drain, a kill: what is stored meanwhile comes once it is back
    for (content, killed) in [("3", false), ("4", true)] {
        if killed {
            node.kill();
        } else {
            node.terminate();
            assert_eq!(node.ended().await, Some(0));
        }
        node = Process::spawn_at(&settings, at);
        assert!(node.ready().await);
        post(&node, to(content)).await;
        post(&node, news(&format!("n{content}"))).await;
        page.until(&format!("taken.includes({0}) && taken.includes('n' + {0})", json!(content))).await;
    }
    has_taken(&mut page, &["1", "2", "3", "4", "n1", "n3", "n4"]).await;

    // a gap, as a proxy or a bug may make one: it resumes by itself, and nothing is left out
    page.evaluate(
        "var hear = streams.hear.bind(streams); streams.hear = (event) => { if (event.data?.content !== '5' || \
         streams.lost) hear(event); else streams.lost = true }; 0",
    )
    .await;
    post(&node, to("5")).await;
    page.until("streams.lost === true").await;
    post(&node, to("6")).await;
    page.until("taken.slice(-2).join() === '5,6'").await;

    // another page of the browser: what was acknowledged and written down does not come again
    closes(&mut page).await;
    post(&node, to("7")).await;
    starts(&mut page, &node).await;
    has_taken(&mut page, &["7"]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    closes(&mut page).await;
    // and without what was written down, the acknowledgements hold
    page.evaluate("localStorage.clear()").await;
    post(&node, to("8")).await;
    starts(&mut page, &node).await;
    has_taken(&mut page, &["8"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_by_the_rules_of_the_docs_has_all_of_it_after_each_break() {
    let node = Node::start(&[]).await;
    let mut place = stream::Place::default();
    for round in 0..5 {
        store(&node, "alice", &round.to_string()).await;
        let data = json!({"device": "phone", "resume": place.resume()});
        let mut phone = stream::StreamClient::join(&node.socket(), "alice", data).await;
        phone.place = place;
        assert_eq!(phone.stored().await.content, round.to_string());
        assert_eq!(phone.resets, 0);
        place = phone.place.clone();
    }
    node.stop().await;
}
