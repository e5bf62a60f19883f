//! go-push's and gpush's clients over real sockets: what they say, what they hear, and where they are served.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "../src/wire/dialect/golden.rs"]
mod golden;
mod support;

use futures_util::{SinkExt, StreamExt};
use golden::Heard;
use oxipush::internals::wire::close::Close;
use serde_json::{Value, json};
use support::{
    browser::Browser,
    client::{Client, PATIENCE},
    gateway::Node,
    http_server::{HttpServer, Told},
    token::{SECRET, token},
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

const PONG: &str = r#"{"type":"PONG","data":{}}"#;
const CONNECTED: &str = r#"{"code":20000,"message":"连接成功"}"#;
const SUBSCRIBED: &str = r#"{"code":20001,"message":"订阅成功"}"#;
const LOGGED_IN: &str = r#"{"code":20003,"message":"登录成功"}"#;
const LOGGED_OUT: &str = r#"{"code":20003,"message":"退出成功"}"#;
const BAD_TOKEN: &str = r#"{"code":30003,"message":"token验证失败","detail":"token验证失败"}"#;
const NOT_LOGGED_IN: &str = r#"{"code":30002,"message":"操作有误","detail":"未登录"}"#;

/// A client that says and hears bare frames.
struct Bare(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Bare {
    async fn connect(url: &str) -> Self {
        Self(connect_async(url).await.expect("a handshake").0)
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next frame that is none of the heartbeat's.
    async fn frame(&mut self) -> Option<Message> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame within 30 s")? {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(frame) => return Some(frame),
                Err(_) => return None,
            }
        }
    }

    async fn text(&mut self) -> String {
        match self.frame().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("{other:?} is no text"),
        }
    }

    /// Says something and hears its one answer.
    async fn ask(&mut self, text: &str) -> String {
        self.say(text).await;
        self.text().await
    }

    async fn close_code(&mut self) -> u16 {
        match self.frame().await {
            Some(Message::Close(Some(frame))) => frame.code.into(),
            other => panic!("{other:?} is no close"),
        }
    }

    /// Closes, and the code that is answered.
    async fn close(&mut self, code: u16) -> u16 {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        self.0.close(Some(frame)).await.unwrap();
        self.close_code().await
    }

    async fn hears_pong_of_protocol_ping(&mut self) {
        self.0.send(Message::Ping("hi".into())).await.unwrap();
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a pong").unwrap().unwrap() {
                Message::Pong(payload) => return assert_eq!(&payload[..], b"hi"),
                Message::Ping(_) => {}
                other => panic!("{other:?} is no pong"),
            }
        }
    }
}

/// A go-push client.
impl Bare {
    async fn in_room(url: &str, room: &str) -> Self {
        let mut client = Self::connect(url).await;
        client.say(&json!({"type": "JOIN", "data": {"room": room}}).to_string()).await;
        client.nothing_waits().await;
        client
    }

    /// Makes sure that all that was said is done and nothing was answered.
    async fn nothing_waits(&mut self) {
        assert_eq!(self.ask(r#"{"type":"PING"}"#).await, PONG);
    }

    /// The items of so many pushes, in whatever frames they come.
    async fn items(&mut self, count: usize) -> Vec<Value> {
        let mut items = Vec::new();
        while items.len() < count {
            let frame: Value = serde_json::from_str(&self.text().await).unwrap();
            assert_eq!(frame["type"], "PUSH", "{frame}");
            items.extend(frame["data"]["items"].as_array().unwrap().iter().cloned());
        }
        items
    }
}

async fn start(settings: &[(&str, &str)]) -> Node {
    let listeners = [("SOCKET__GO_PUSH_LISTEN", "127.0.0.1:0"), ("SOCKET__GPUSH_LISTEN", "127.0.0.1:0")];
    Node::start(&[&listeners, settings].concat()).await
}

fn go_push(node: &Node) -> String {
    format!("ws://{}/connect", node.also.go_push.unwrap())
}

fn gpush(node: &Node) -> String {
    format!("ws://{}/ws", node.also.gpush.unwrap())
}

async fn push(node: &Node, body: Value) {
    let (status, answer) = node.post("/push", body).await;
    assert_eq!(status, 200, "{answer}");
}

/// gpush's `authUrl`: a token that begins with u is good, and is the uid.
async fn auth_url() -> HttpServer {
    HttpServer::start(|asked| {
        let question: Value = serde_json::from_slice(&asked.body).unwrap();
        let answer = match question["token"].as_str() {
            Some(uid) if uid.starts_with('u') => json!({"code": 0, "data": {"user_info": {"uid": uid}}}),
            _ => json!({"code": 401}),
        };
        Told::ok(answer.to_string())
    })
    .await
}

async fn start_with(auth: &HttpServer, more: &[(&str, &str)]) -> Node {
    // gpush's open topics need no login
    let settings = [("VERIFY__URL", &*auth.url), ("VERIFY__FORM", "gpush"), ("SOCKET__ANONYMOUS", "rooms")];
    start(&[&settings, more].concat()).await
}

async fn connect_gpush(url: &str) -> Bare {
    let mut client = Bare::connect(url).await;
    assert_eq!(client.text().await, CONNECTED);
    client
}

async fn log_in(client: &mut Bare, uid: &str) {
    assert_eq!(client.ask(&json!({"code": 3, "data": uid}).to_string()).await, LOGGED_IN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_go_push_hears_what_go_push_would_say() {
    let node = start(&[]).await;
    for exchange in golden::exchanges(include_str!("../src/wire/dialect/go_push/exchanges.txt")) {
        let mut client = Bare::connect(&go_push(&node)).await;
        client.say(exchange.said).await;
        let mut is_open = true;
        for heard in &exchange.heard {
            match heard {
                Heard::Text(text) => assert_eq!(client.text().await, *text, "{}", exchange.said),
                Heard::Closed => {
                    assert_eq!(client.close_code().await, Close::BadMessage.code(), "{}", exchange.said);
                    is_open = false;
                }
            }
        }
        if is_open {
            client.nothing_waits().await;
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_come_as_go_push_wrote_them_in_order_to_the_room_and_to_everyone() {
    let node = start(&[]).await;
    let mut client = Bare::in_room(&go_push(&node), "默认房间").await;
    let mut other = Bare::in_room(&node.socket().replace("/ws", "/connect"), "elsewhere").await;
    let content = r#"{"room":"默认房间","content":{"b":"<i>&\u2028", "a": 1.0e2}}"#;
    let posted = support::http::client().post(node.url("/push")).body(content).send().await.unwrap();
    assert_eq!(posted.status(), 200);
    let expected = r#"{"type":"PUSH","data":{"items":[{"b":"\u003ci\u003e\u0026\u2028","a":1.0e2}]}}"#;
    assert_eq!(client.text().await, expected);
    let contents = [json!("x"), json!(1), json!([1, 2]), json!({"name": "go-push"}), json!("默认")];
    for content in &contents {
        push(&node, json!({"room": "默认房间", "content": content})).await;
    }
    assert_eq!(client.items(contents.len()).await, contents);
    other.nothing_waits().await;
    push(&node, json!({"everyone": true, "content": "all"})).await;
    for client in [&mut client, &mut other] {
        assert_eq!(client.items(1).await, [json!("all")]);
    }
    client.say(r#"{"type":"LEAVE","data":{"room":"默认房间"}}"#).await;
    client.nothing_waits().await;
    push(&node, json!({"room": "默认房间", "content": "late"})).await;
    push(&node, json!({"everyone": true, "content": "all"})).await;
    assert_eq!(client.items(1).await, [json!("all")]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_a_merge_window_items_leave_in_one_frame_in_order() {
    let node = start(&[("ROOMS__MERGE_WINDOW", "500ms"), ("ROOMS__MERGE_COUNT", "10")]).await;
    let mut client = Bare::in_room(&go_push(&node), "r").await;
    let pushes: Vec<Value> = (0..25).map(|n| json!({"room": "r", "content": n})).collect();
    let (status, answer) = node.post("/push/batch", json!(pushes)).await;
    assert_eq!(status, 200, "{answer}");
    let mut frames = Vec::new();
    let mut items = Vec::new();
    while items.len() < 25 {
        let frame: Value = serde_json::from_str(&client.text().await).unwrap();
        let of_frame = frame["data"]["items"].as_array().unwrap().clone();
        frames.push(of_frame.len());
        items.extend(of_frame);
    }
    assert_eq!(items, (0..25).map(|n| json!(n)).collect::<Vec<_>>());
    assert!(frames.len() < 25 && frames.iter().all(|items| *items <= 10), "{frames:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_push_client_beyond_its_rooms_hears_nothing_and_stays() {
    let node = start(&[("ROOMS__MAX_ROOMS", "1"), ("ROOMS__PRIVATE", "secret-*")]).await;
    let mut client = Bare::in_room(&go_push(&node), "a").await;
    for room in ["b", "a", "secret-1"] {
        client.say(&json!({"type": "JOIN", "data": {"room": room}}).to_string()).await;
        client.nothing_waits().await;
    }
    for room in ["b", "secret-1", "a"] {
        push(&node, json!({"room": room, "content": room})).await;
    }
    assert_eq!(client.items(1).await, [json!("a")]);
    client.nothing_waits().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocol_pings_are_answered_and_a_close_is_echoed_with_its_code() {
    let node = start(&[]).await;
    for code in [1000, 4001] {
        let mut client = Bare::in_room(&go_push(&node), "r").await;
        client.hears_pong_of_protocol_ping().await;
        assert_eq!(client.close(code).await, code);
        let mut client = connect_gpush(&gpush(&node)).await;
        client.hears_pong_of_protocol_ping().await;
        assert_eq!(client.close(code).await, code);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_gpush_hears_what_gpush_was_meant_to_say() {
    let auth = auth_url().await;
    let node = start_with(&auth, &[]).await;
    let mut client = connect_gpush(&gpush(&node)).await;
    for exchange in golden::exchanges(include_str!("../src/wire/dialect/gpush/exchanges.txt")) {
        let [Heard::Text(expected)] = &exchange.heard[..] else { panic!("{} has one answer", exchange.said) };
        assert_eq!(client.ask(exchange.said).await, *expected, "{}", exchange.said);
    }
    // either kind of frame, and what its stress tool sends
    client.0.send(Message::binary("{\"code\":1,\"topic\":\"test\"}\n")).await.unwrap();
    assert_eq!(client.text().await, SUBSCRIBED);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_get_raw_pushes_and_private_ones_only_of_who_logged_in() {
    let auth = auth_url().await;
    let node = start_with(&auth, &[]).await;
    let mut client = connect_gpush(&gpush(&node)).await;
    let mut other = connect_gpush(&node.socket().replace("/ws", "/gpush/ws")).await;
    for client in [&mut client, &mut other] {
        assert_eq!(client.ask(r#"{"code":1,"topic":"orders"}"#).await, SUBSCRIBED);
    }
    log_in(&mut client, "u1").await;
    assert_eq!(client.ask(r#"{"code":5,"topic":"orders"}"#).await, SUBSCRIBED);
    push(&node, json!({"room": "orders", "content": "推送 <b>"})).await;
    push(&node, json!({"everyone": true, "content": {"n": 1}})).await;
    push(&node, json!({"to": ["u1"], "room": "private-orders", "content": "for u1"})).await;
    push(&node, json!({"to": ["u2"], "room": "private-orders", "content": "for u2"})).await;
    for expected in ["推送 <b>", r#"{"n":1}"#] {
        assert_eq!(other.text().await, expected);
    }
    let mut heard = [client.text().await, client.text().await, client.text().await];
    heard.sort();
    assert_eq!(heard, ["for u1", r#"{"n":1}"#, "推送 <b>"]);
    assert_eq!(other.ask("ping").await, "pong");
    // who logged in nowhere is no card, and in no private topic, whatever it speaks
    let mut spy = Bare::in_room(&go_push(&node), "private-orders").await;
    let mut gopusher = Client::connect(&node.socket(), false).await;
    gopusher.say(json!({"event": "join", "data": {"card_id": "u1"}})).await;
    assert_eq!(gopusher.close_code().await, Close::Refused.code());
    push(&node, json!({"room": "private-orders", "content": "for those who may"})).await;
    assert_eq!(client.text().await, "for those who may");
    spy.nothing_waits().await;

    // a second login is in place of the first
    log_in(&mut client, "u2").await;
    assert_eq!(client.ask(r#"{"code":5,"topic":"orders"}"#).await, SUBSCRIBED);
    push(&node, json!({"to": ["u1"], "room": "private-orders", "content": "for u1"})).await;
    push(&node, json!({"to": ["u2"], "room": "private-orders", "content": "for u2"})).await;
    assert_eq!(client.text().await, "for u2");
    assert_eq!(client.ask(r#"{"code":3,"data":"bad"}"#).await, BAD_TOKEN);

    // a logout leaves what is private, and nothing else
    assert_eq!(client.ask(r#"{"code":4}"#).await, LOGGED_OUT);
    assert_eq!(client.ask(r#"{"code":4}"#).await, NOT_LOGGED_IN);
    push(&node, json!({"to": ["u2"], "room": "private-orders", "content": "for u2"})).await;
    push(&node, json!({"room": "private-orders", "content": "for nobody"})).await;
    push(&node, json!({"room": "orders", "content": "open"})).await;
    assert_eq!(client.text().await, "open");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_clients_must_prove_themselves_nobody_gets_a_room_or_a_push_to_everyone_before() {
    let node = start(&[("TOKEN__SECRET", SECRET), ("SOCKET__JOIN_TIMEOUT", "2s")]).await;
    let token = token(json!({"sub": "alice"}));
    let mut nobody = Bare::connect(&go_push(&node)).await;
    nobody.say(r#"{"type":"JOIN","data":{"room":"r"}}"#).await;
    nobody.nothing_waits().await;
    let mut topicless = connect_gpush(&gpush(&node)).await;
    assert_eq!(topicless.ask(r#"{"code":1,"topic":"r"}"#).await, NOT_LOGGED_IN);
    let mut alice = Bare::in_room(&format!("{}?token={token}", go_push(&node)), "r").await;
    let mut late = connect_gpush(&gpush(&node)).await;
    log_in(&mut late, &token).await;
    assert_eq!(late.ask(r#"{"code":1,"topic":"r"}"#).await, SUBSCRIBED);
    push(&node, json!({"room": "r", "content": "to the room"})).await;
    push(&node, json!({"everyone": true, "content": "to everyone"})).await;
    let mut heard = alice.items(2).await;
    heard.sort_by_key(Value::to_string);
    assert_eq!(heard, [json!("to everyone"), json!("to the room")]);
    let mut heard = [late.text().await, late.text().await];
    heard.sort();
    assert_eq!(heard, ["to everyone", "to the room"]);
    for client in [&mut nobody, &mut topicless] {
        assert_eq!(client.close_code().await, Close::NotJoined.code());
    }
    alice.nothing_waits().await;
    assert_eq!(late.ask("ping").await, "pong");
    // a bad token is no reason to stay
    let mut forged = Bare::connect(&format!("{}?token=no.to.ken", go_push(&node))).await;
    assert_eq!(forged.close_code().await, Close::Refused.code());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_has_its_own_paths_the_same_limits_and_the_same_drain() {
    let node = start(&[("SOCKET__MAX_CONNECTIONS", "3")]).await;
    let [of_go_push, of_gpush] = [node.also.go_push.unwrap(), node.also.gpush.unwrap()];
    for (url, status) in [
        (format!("ws://{of_go_push}/ws"), 404),
        (format!("ws://{of_gpush}/connect"), 404),
        (format!("ws://{of_gpush}/gpush/ws"), 404),
    ] {
        assert_eq!(refusal(&url).await, status, "{url}");
    }
    let mut first = Bare::in_room(&go_push(&node), "r").await;
    let mut second = connect_gpush(&gpush(&node)).await;
    assert_eq!(second.ask(r#"{"code":1,"topic":"r"}"#).await, SUBSCRIBED);
    let mut third = Client::gopusher(&node.socket(), "card", "").await;
    for url in [node.socket(), go_push(&node), gpush(&node)] {
        assert_eq!(refusal(&url).await, 503, "{url}");
    }
    let health = support::http::get(format!("http://{of_go_push}/healthz")).await.unwrap();
    assert_eq!(health.text().await.unwrap(), "ok\n");
    push(&node, json!({"room": "r", "content": "both"})).await;
    assert_eq!(first.items(1).await, [json!("both")]);
    assert_eq!(second.text().await, "both");
    let (code, ..) = tokio::join!(third.close_code(), node.stop(), async {
        for client in [&mut first, &mut second] {
            assert_eq!(client.close_code().await, Close::Drain.code());
            let _ = client.0.flush().await;
        }
    });
    assert_eq!(code, Close::Drain.code());
}

/// The status with which a handshake is refused.
async fn refusal(url: &str) -> u16 {
    match connect_async(url).await {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("{url}: {other:?} is no refusal"),
    }
}

/// A page, served from elsewhere than the gateway, as the originals' are opened from a file.
async fn page(html: &'static str, socket: &str) -> (HttpServer, Browser) {
    let server =
        HttpServer::start(move |_| Told { headers: "content-type: text/html\r\n".into(), ..Told::ok(html) }).await;
    let mut page = Browser::open(&format!("{}/?url={socket}", server.url)).await;
    page.until("document.getElementById('log')?.innerText.includes('open')").await;
    (server, page)
}

fn shows(text: &str) -> String {
    format!("document.getElementById('log').innerText.includes({})", json!(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_go_pushs_kind_pings_joins_and_shows_what_arrives() {
    let node = start(&[]).await;
    let (_server, mut page) = page(include_str!("dialects/go_push.html"), &go_push(&node)).await;
    page.until(&shows(PONG)).await;
    page.evaluate("join('默认房间')").await;
    // joins are silent: the answer to a ping says that it is done
    page.evaluate("log.textContent = ''; say('PING', {})").await;
    page.until(&shows(PONG)).await;
    push(&node, json!({"room": "默认房间", "content": {"msg": "<b>hi</b>"}})).await;
    page.until(&shows(r#"{"type":"PUSH","data":{"items":[{"msg":"\u003cb\u003ehi\u003c/b\u003e"}]}}"#)).await;
    page.evaluate("leave('默认房间'); socket.close()").await;
    page.until(&shows("closed 1005")).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_gpushs_kind_is_greeted_subscribes_and_shows_what_arrives() {
    let node = start(&[]).await;
    let (_server, mut page) = page(include_str!("dialects/gpush.html"), &gpush(&node)).await;
    page.until(&shows(CONNECTED)).await;
    page.evaluate(r#"say('{"code":1,"topic":"test"}')"#).await;
    page.until(&shows(SUBSCRIBED)).await;
    push(&node, json!({"room": "test", "content": "推送 <b>"})).await;
    page.until(&shows("推送 <b>")).await;
    page.evaluate("say('PING')").await;
    page.until(&shows("pong")).await;
    node.stop().await;
    page.until(&shows("closed 3000")).await;
}
