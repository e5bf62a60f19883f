//! Clients are ended by order, on every node, and only those that are meant.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use oxipush::internals::{
    proto::rpc::{DisconnectReply, DisconnectRequest, disconnect_request::Selector, rpc_client::RpcClient},
    push::{ClientSelector, Disconnect, PushId},
    queue::record,
};
use serde_json::{Value, json};
use support::{
    client::Client,
    gateway::Node,
    nsq::Nsqd,
    process::Process,
    token::{SECRET, now, token},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const TEXT: &str = "disconnected by an operator";

/// An order that must be accepted.
async fn disconnect(node: &Node, body: Value) {
    let (status, answer) = node.post("/disconnect", body).await;
    assert_eq!((status, &answer["code"], &answer["message"]), (200, &json!(0), &json!("ok")), "{answer}");
    assert_eq!(answer["id"].as_str().unwrap().len(), 26);
}

async fn ask(node: &Node, request: DisconnectRequest) -> Result<DisconnectReply, Status> {
    let mut rpc = RpcClient::connect(node.grpc()).await.unwrap();
    rpc.disconnect(request).await.map(tonic::Response::into_inner)
}

/// Joins, and gives the client's id.
async fn id_of(tab: &mut Client, data: Value) -> String {
    tab.say(json!({"event": "join", "data": data})).await;
    let answer = tab.hear().await;
    assert_eq!(answer["event"], "joined", "{answer}");
    answer["data"]["client"].as_str().unwrap().to_owned()
}

/// A node of this name on an nsqd.
async fn on(nsqd: &Nsqd, id: &str, more: &[(&str, &str)]) -> Node {
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let usual = [("QUEUE__BACKEND", "nsq"), ("QUEUE__NSQD", &*tcp), ("QUEUE__NSQD_HTTP", &*http), ("NODE__ID", id)];
    Node::start(&[&usual, more].concat()).await
}

/// The record of an order to end the clients of alice that was accepted some time ago.
fn order(ago: Duration) -> Vec<u8> {
    let at = (SystemTime::now() - ago).duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let selector = ClientSelector::Card("alice".into());
    let order = Disconnect { id: PushId::generate(), selector, code: 3504, reason: None, revoke: false, at };
    record::encode_disconnect(&order).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_a_card_end_in_both_dialects_and_others_stay() {
    let node = Node::start(&[]).await;
    let mut old = Client::gopusher(&node.socket(), "alice", "web").await;
    let mut new = Client::modern(&node.socket(), "alice", "phone").await;
    let mut bob = Client::modern(&node.socket(), "bob", "web").await;
    let mut nobody = Client::connect(&node.socket(), true).await;
    disconnect(&node, json!({"card_id": "alice"})).await;
    assert_eq!(old.closed().await, (3504, TEXT.into()));
    assert_eq!(new.closed().await, (3504, TEXT.into()));
    bob.silent().await;
    nobody.silent().await;
    let accepted = [("source", "http"), ("outcome", "accepted")];
    assert_eq!(node.metric("oxipush_disconnects_total", &accepted).await, 1.0);
    node.metric_reaches("oxipush_closes_total", &[("code", "3504")], 2.0).await;
    node.metric_reaches("oxipush_jobs_total", &[("outcome", "finished")], 1.0).await;
    drop((bob, nobody));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_an_app_end_whatever_their_cards_are() {
    let node = Node::start(&[("NODE__WORKERS", "2")]).await;
    let mut others = Vec::new();
    let mut web = Vec::new();
    for card in 0..20 {
        web.push(Client::modern(&node.socket(), &format!("card-{card}"), "web").await);
        others.push(Client::modern(&node.socket(), &format!("card-{card}"), "").await);
    }
    disconnect(&node, json!({"app_id": "web", "reason": "a new version"})).await;
    for tab in &mut web {
        assert_eq!(tab.closed().await, (3504, "a new version".into()));
    }
    for tab in &mut others {
        tab.silent().await;
    }
    drop(others);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_ends_by_its_id_joined_or_not_and_an_id_of_nobody_ends_nobody() {
    let node = Node::start(&[("NODE__WORKERS", "2")]).await;
    let (mut tabs, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let mut tab = Client::connect(&node.socket(), true).await;
        ids.push(id_of(&mut tab, json!({"card_id": "alice"})).await);
        tabs.push(tab);
    }
    // it had joined, and keeps its id
    tabs[3].say(json!({"event": "leave"})).await;
    assert_eq!(tabs[3].hear().await["event"], "left");
    for meant in [1, 3] {
        disconnect(&node, json!({"client": ids[meant], "reason": "this one"})).await;
        assert_eq!(tabs[meant].closed().await, (3504, "this one".into()));
    }
    // gone, or of another process
    for id in [&*ids[1], "00000000000000000000000000", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"] {
        disconnect(&node, json!({"client": id})).await;
    }
    node.metric_reaches("oxipush_jobs_total", &[("outcome", "finished")], 5.0).await;
    for tab in [0, 2] {
        tabs[tab].silent().await;
    }
    drop(tabs);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_a_subject_end_whatever_card_they_joined() {
    let node = Node::start(&[("TOKEN__SECRET", SECRET), ("NODE__WORKERS", "2")]).await;
    let of = |subject: &str| token(json!({"sub": subject, "cards": ["*"]}));
    let mut meant = Vec::new();
    for card in ["user-1", "family", "team"] {
        let mut tab = Client::connect(&node.socket(), true).await;
        id_of(&mut tab, json!({"card_id": card, "token": of("user-1")})).await;
        meant.push(tab);
    }
    let mut other = Client::connect(&node.socket(), true).await;
    id_of(&mut other, json!({"card_id": "user-1", "token": of("user-2")})).await;
    disconnect(&node, json!({"sub": "user-1", "code": 3004})).await;
    for tab in &mut meant {
        assert_eq!(tab.closed().await, (3004, "token expired; reconnect with a new one".into()));
    }
    other.silent().await;
    // nothing was revoked
    let mut back = Client::connect(&node.socket(), true).await;
    id_of(&mut back, json!({"token": of("user-1")})).await;
    drop((back, other));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_on_every_node_and_one_issued_later_is_not() {
    let nsqd = Nsqd::start().await;
    let secret = [("TOKEN__SECRET", SECRET)];
    let nodes = [on(&nsqd, "a", &secret).await, on(&nsqd, "b", &secret).await];
    let issued = |at: u64| token(json!({"sub": "user-1", "iat": at}));
    let (old, new) = (issued(now() - 5), issued(now() + 10));
    let mut ended = Vec::new();
    let mut stays = Vec::new();
    for node in &nodes {
        for (tokens, tabs) in [(&old, &mut ended), (&new, &mut stays)] {
            let mut tab = Client::connect(&node.socket(), true).await;
            id_of(&mut tab, json!({"token": tokens})).await;
            tabs.push(tab);
        }
    }
    disconnect(&nodes[0], json!({"sub": "user-1", "revoke": true, "reason": "signed out"})).await;
    for tab in &mut ended {
        assert_eq!(tab.closed().await, (3504, "signed out".into()));
    }
    for (node, tab) in nodes.iter().zip(&mut stays) {
        tab.silent().await;
        let mut again = Client::connect(&node.socket(), true).await;
        again.say(json!({"event": "join", "data": {"token": old}})).await;
        assert_eq!(again.hear().await["data"]["code"], "token_revoked");
        id_of(&mut again, json!({"token": new})).await;
    }
    drop(stays);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_advice_and_the_code_are_as_asked_for() {
    let node = Node::start(&[]).await;
    for (asked, code, text) in [
        (json!({}), 3504, TEXT),
        (json!({"reconnect": false, "code": null, "reason": ""}), 3504, TEXT),
        (json!({"reconnect": true}), 3007, "disconnected; reconnect"),
        (json!({"code": 3007, "reason": "moved – あ"}), 3007, "moved – あ"),
        (json!({"code": 3502}), 3502, "refused"),
        (json!({"code": 3004, "reconnect": true, "reason": "new claims"}), 3004, "new claims"),
    ] {
        let mut tab = Client::gopusher(&node.socket(), "alice", "").await;
        let mut order = asked.clone();
        order["card_id"] = json!("alice");
        disconnect(&node, order).await;
        assert_eq!(tab.closed().await, (code, text.to_owned()), "{asked}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_disconnects_and_refuses_with_the_same_words() {
    let node = Node::start(&[]).await;
    let mut tab = Client::modern(&node.socket(), "alice", "").await;
    let of_alice = |request| DisconnectRequest { selector: Some(Selector::CardId("alice".into())), ..request };
    let reply = ask(&node, of_alice(DisconnectRequest { reconnect: true, ..Default::default() })).await.unwrap();
    assert_eq!((reply.code, &*reply.message, reply.id.len()), (0, "ok", 26));
    assert_eq!(tab.closed().await, (3007, "disconnected; reconnect".into()));
    let empty = DisconnectRequest { selector: Some(Selector::AppId(String::new())), ..Default::default() };
    for (request, message) in [
        (DisconnectRequest::default(), "nobody is named"),
        (empty, "`app_id` is empty"),
        (of_alice(DisconnectRequest { code: 1000, ..Default::default() }), "`code` is 1000; it may be "),
        (of_alice(DisconnectRequest { revoke: true, ..Default::default() }), "`revoke` needs `sub`"),
    ] {
        let status = ask(&node, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with(message), "{status:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "bad_field");
    }
    let count =
        async |outcome| node.metric("oxipush_disconnects_total", &[("source", "grpc"), ("outcome", outcome)]).await;
    assert_eq!((count("accepted").await, count("bad_field").await), (1.0, 4.0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_order_is_refused_by_name_and_ends_nobody() {
    let node = Node::start(&[("PUSH__MAX_NAME", "8B")]).await;
    let mut tab = Client::modern(&node.socket(), "alice", "web").await;
    for (body, status, reason, message) in [
        ("", 400, "bad_json", "the body is not JSON"),
        ("card_id=alice", 400, "bad_json", "the body is not JSON: it is a form"),
        ("[]", 400, "bad_json", "a disconnect must be an object"),
        ("{}", 400, "bad_field", "nobody is named"),
        (r#"{"card_id":null}"#, 400, "bad_field", "nobody is named"),
        (r#"{"card_id":""}"#, 400, "bad_field", "`card_id` is empty"),
        (r#"{"card_id":"123456789"}"#, 400, "bad_field", "`card_id` has 9 bytes; at most 8"),
        (r#"{"card_id":"alice","app_id":"web"}"#, 400, "bad_field", "`app_id` stands beside `card_id`"),
        (r#"{"card_id":"alice","card_id":"bob"}"#, 400, "bad_field", "`card_id` is given twice"),
        (r#"{"card_id":["alice"]}"#, 400, "bad_field", "`card_id` is a list; it must be a string"),
        (r#"{"cardID":"alice"}"#, 400, "unknown_field", "`cardID` is no field"),
        (r#"{"client":"alice"}"#, 400, "bad_field", "`client` "),
        (r#"{"card_id":"alice","code":3000}"#, 400, "bad_field", "`code` is 3000; it may be "),
        (r#"{"card_id":"alice","code":3504,"reconnect":true}"#, 400, "bad_field", "`reconnect` contradicts `code`"),
        (r#"{"card_id":"alice","revoke":true}"#, 400, "bad_field", "`revoke` needs `sub`"),
        (r#"{"card_id":"alice","revoke":1}"#, 400, "bad_field", "`revoke` is a number; it must be true or false"),
    ] {
        let answer = support::http::client().post(node.url("/disconnect")).body(body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{body}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!((&answer["code"], &answer["reason"]), (&json!(status), &json!(reason)), "{body}");
        assert!(answer["message"].as_str().unwrap().starts_with(message), "{body}: {answer}");
    }
    let long = json!({"card_id": "alice", "reason": "x".repeat(124)});
    assert_eq!(node.post("/disconnect", long).await.1["reason"], "bad_field");
    let (status, answer) = node.post("/disconnect?card_id=alice", json!({"card_id": "alice"})).await;
    assert_eq!((status, &answer["reason"]), (400, &json!("unknown_field")));
    let answer = support::http::get(node.url("/disconnect")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "POST"));
    tab.silent().await;
    node.metric_reaches("oxipush_disconnects_total", &[("outcome", "bad_field")], 12.0).await;
    drop(tab);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_before_leaves_first_to_a_client_that_reads_late_too() {
    const PUSHES: usize = 40;
    let node = Node::start(&[("OUTBOX__MAX_BYTES", "4MiB")]).await;
    let mut late = Client::narrow(&node.socket(), "alice").await;
    for number in 0..PUSHES {
        node.push(&["alice"], &format!("{number} {}", "x".repeat(50_000))).await;
    }
    disconnect(&node, json!({"card_id": "alice"})).await;
    node.metric_reaches("oxipush_jobs_total", &[("outcome", "finished")], PUSHES as f64 + 1.0).await;
    for number in 0..PUSHES {
        assert!(late.content().await.starts_with(&format!("{number} ")));
    }
    assert_eq!(late.closed().await, (3504, TEXT.into()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_of_one_card_end_and_those_that_come_back_stay() {
    let node = Node::start(&[]).await;
    let mut tabs = Vec::new();
    for _ in 0..1000 {
        tabs.push(Client::gopusher(&node.socket(), "group", "").await);
    }
    let mut other = Client::gopusher(&node.socket(), "other", "").await;
    disconnect(&node, json!({"card_id": "group", "reconnect": true})).await;
    let ends = join_all(tabs.iter_mut().map(Client::close_code)).await;
    assert!(ends.iter().all(|code| *code == 3007), "{ends:?}");
    let mut back = Client::gopusher(&node.socket(), "group", "").await;
    node.push(&["group", "other"], "again").await;
    assert_eq!((back.content().await, other.content().await), ("again".into(), "again".into()));
    drop((back, other));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_of_one_nsqd_end_their_clients() {
    let nsqd = Nsqd::start().await;
    let (a, b) = (on(&nsqd, "a", &[]).await, on(&nsqd, "b", &[]).await);
    let mut tabs = Vec::new();
    for node in [&a, &b] {
        tabs.push(Client::gopusher(&node.socket(), "alice", "").await);
        tabs.push(Client::modern(&node.socket(), "alice", "").await);
    }
    let mut bob = Client::gopusher(&b.socket(), "bob", "").await;
    disconnect(&a, json!({"card_id": "alice", "reason": "bye"})).await;
    for tab in &mut tabs {
        assert_eq!(tab.closed().await, (3504, "bye".into()));
    }
    bob.silent().await;
    drop(bob);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_late_or_again_ends_nobody_who_joined_since() {
    let nsqd = Nsqd::start().await;
    let node = on(&nsqd, "a", &[]).await;
    let mut tab = Client::gopusher(&node.socket(), "alice", "").await;
    nsqd.publish("gopusher.live", order(Duration::from_secs(30))).await;
    node.push(&["alice"], "still here").await;
    assert_eq!(tab.content().await, "still here");
    tab.silent().await;
    nsqd.publish("gopusher.live", order(Duration::ZERO)).await;
    assert_eq!(tab.close_code().await, 3504);
    node.metric_reaches("oxipush_jobs_total", &[("outcome", "finished")], 3.0).await;
    assert_eq!(node.metric("oxipush_drops_total", &[("reason", "void")]).await, 0.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_after_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("DATA__DIR", dir.path().to_str().unwrap()), ("TOKEN__SECRET", SECRET)];
    let issued = |subject: &str, at: u64| token(json!({"sub": subject, "iat": at}));
    let mut node = Process::spawn(&settings);
    assert!(node.ready().await);
    let mut tab = Client::connect(&node.ws(), true).await;
    id_of(&mut tab, json!({"token": issued("user-1", now() - 5)})).await;
    let order = json!({"sub": "user-1", "revoke": true});
    let answer = support::http::client().post(node.url("/disconnect")).json(&order).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(tab.close_code().await, 3504);
    for kills in [true, false, true] {
        if kills {
            node.kill();
        } else {
            node.terminate();
            assert_eq!(node.ended().await, Some(0));
        }
        node = Process::spawn(&settings);
        assert!(node.ready().await);
        let mut again = Client::connect(&node.ws(), true).await;
        again.say(json!({"event": "join", "data": {"token": issued("user-1", now() - 60)}})).await;
        assert_eq!(again.hear().await["data"]["code"], "token_revoked");
        id_of(&mut again, json!({"token": issued("user-1", now() + 10)})).await;
        let mut other = Client::connect(&node.ws(), true).await;
        id_of(&mut other, json!({"token": issued("user-2", now() - 60)})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_older_than_a_minute_is_void_and_counted() {
    let nsqd = Nsqd::start().await;
    let node = on(&nsqd, "a", &[]).await;
    let mut tab = Client::gopusher(&node.socket(), "alice", "").await;
    nsqd.publish("gopusher.live", order(Duration::from_secs(61))).await;
    node.metric_reaches("oxipush_drops_total", &[("reason", "void")], 1.0).await;
    node.metric_reaches("oxipush_jobs_total", &[("outcome", "dropped")], 1.0).await;
    tab.silent().await;
    drop(tab);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_a_drain_has_not_reached_yet_are_disconnected_and_a_draining_node_takes_no_order() {
    let nsqd = Nsqd::start().await;
    let slow = [("DRAIN__RATE", "1"), ("DRAIN__GRACE", "0s"), ("SOCKET__MAX_CONNECTIONS", "20")];
    let (leaving, staying) = (on(&nsqd, "a", &slow).await, on(&nsqd, "b", &[]).await);
    let mut tabs = Vec::new();
    for _ in 0..20 {
        tabs.push(Client::gopusher(&leaving.socket(), "alice", "").await);
    }
    let (order, at) = (json!({"card_id": "alice"}), leaving.url("/disconnect"));
    let stopped = tokio::spawn(leaving.stop());
    let refused = async {
        loop {
            let answer = support::http::client().post(&at).json(&json!({"card_id": "nobody"})).send().await.unwrap();
            if answer.status() == 503 {
                return answer.json::<Value>().await.unwrap();
            }
        }
    };
    assert_eq!(tokio::time::timeout(support::client::PATIENCE, refused).await.unwrap()["reason"], "draining");
    disconnect(&staying, order).await;
    let ends = join_all(tabs.iter_mut().map(Client::close_code)).await;
    assert!(ends.iter().all(|code| [3000, 3504].contains(code)) && ends.contains(&3504), "{ends:?}");
    stopped.await.unwrap();
    staying.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_disconnects_only_whom_it_may_push_to() {
    let settings = [
        ("KEY_OPS__SECRET", "of-ops"),
        ("KEY_OPS__SCOPES", "disconnect,metrics"),
        ("KEY_CARDS__SECRET", "of-cards"),
        ("KEY_CARDS__SCOPES", "disconnect"),
        ("KEY_CARDS__CARDS", "user:*"),
        ("KEY_APPS__SECRET", "of-apps"),
        ("KEY_APPS__SCOPES", "disconnect"),
        ("KEY_APPS__APPS", "web"),
    ];
    let node = Node::start(&settings).await;
    let mut tab = Client::modern(&node.socket(), "user:1", "web").await;
    let mut other = Client::modern(&node.socket(), "admin", "phone").await;
    let ask = async |key: &str, body: Value| {
        let request = support::http::client().post(node.url("/disconnect")).bearer_auth(key).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["reason"].as_str().unwrap_or("").to_owned())
    };
    let refused = (403, "not_admitted".to_owned());
    for (key, body) in [
        ("of-cards", json!({"card_id": "admin"})),
        ("of-cards", json!({"app_id": "web"})),
        ("of-cards", json!({"sub": "user:1"})),
        ("of-cards", json!({"client": "00000000000000000000000000"})),
        ("of-apps", json!({"app_id": "phone"})),
        ("of-apps", json!({"card_id": "user:1"})),
        ("of-apps", json!({"sub": "user:1"})),
    ] {
        assert_eq!(ask(key, body.clone()).await, refused, "{key} {body}");
    }
    tab.silent().await;
    let accepted = (200, String::new());
    assert_eq!(ask("of-cards", json!({"card_id": "user:1"})).await, accepted);
    assert_eq!(tab.close_code().await, 3504);
    let mut tab = Client::modern(&node.socket(), "user:1", "web").await;
    assert_eq!(ask("of-apps", json!({"app_id": "web"})).await, accepted);
    assert_eq!(tab.close_code().await, 3504);
    other.silent().await;
    assert_eq!(ask("of-ops", json!({"client": "00000000000000000000000000"})).await, accepted);
    drop(other);
    node.stop().await;
}
