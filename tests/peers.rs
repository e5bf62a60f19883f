//! Nodes that ask each other: three real gateways with a real etcd and nsqd. What any of them answers is what a single node would that
//! had all their clients; and nobody passes for a node who is none.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;
#[path = "peers/liar.rs"]
mod liar;
#[path = "peers/nodes.rs"]
#[allow(dead_code)]
mod nodes;
#[path = "cluster/support.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use client::Client;
use futures_util::future::join_all;
use nodes::{Gateways, KEY, TIMEOUT};
use oxipush::internals::proto::{
    peers::{ConnectionsQuestion, Question, peers_client::PeersClient, question},
    rpc::{
        DisconnectRequest, GroupRequest, IsOnlineRequest, SystemRequest, disconnect_request::Selector,
        rpc_client::RpcClient,
    },
};
use serde_json::{Value, json};
use support::{Certificates, address, until};
use tonic::{Code, Request};

/// Cards that the clients of each node join as: some are on several nodes.
const CARDS: [&[&str]; 3] =
    [&["alice", "bob", "bob", "dora"], &["alice", "carol"], &["alice", "bob", "eve", "mallory"]];

/// Clients on all nodes, each in a room or two.
async fn clients(gateways: &Gateways) -> Vec<Client> {
    let mut clients = Vec::new();
    for (node, cards) in gateways.nodes.iter().zip(CARDS) {
        for (nth, card) in cards.iter().enumerate() {
            let mut client = Client::modern(&node.ws(), card, "app").await;
            for room in [format!("chat-{}", nth % 2), format!("room-of-{}", node.id)] {
                client.say(json!({"event": "subscribe", "data": {"room": room}})).await;
                assert_eq!(client.hear().await["event"], "subscribed");
            }
            clients.push(client);
        }
    }
    clients
}

/// The names of a list with their numbers, read a page at a time.
async fn list(gateways: &Gateways, at: usize, word: &str, scope: &str, limit: usize) -> BTreeMap<String, u64> {
    let (mut all, mut after) = (BTreeMap::new(), String::new());
    loop {
        let page = gateways.get(at, &format!("/{word}s?after={after}&limit={limit}&scope={scope}")).await;
        let entries = page[format!("{word}s")].as_array().unwrap();
        assert!(entries.len() <= limit && page.get("missing").is_none(), "{page}");
        for entry in entries {
            let name = entry[word].as_str().unwrap();
            assert!(name > after.as_str(), "sorted: {page}");
            assert!(all.insert(name.to_owned(), entry["count"].as_u64().unwrap()).is_none(), "twice: {page}");
        }
        let Some(next) = page["next"].as_str() else { return all };
        after = next.to_owned();
    }
}

/// The clients of a card or a room, with their nodes, read a page at a time.
async fn members(gateways: &Gateways, at: usize, path: &str, scope: &str) -> (u64, BTreeSet<(String, String)>) {
    let (mut all, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = gateways.get(at, &format!("/{path}?after={after}&limit=2&scope={scope}")).await;
        for client in page["clients"].as_array().unwrap() {
            let id = client["client"].as_str().unwrap();
            assert!(id > after.as_str(), "sorted: {page}");
            assert_eq!(client.get("node").is_some(), scope == "cluster", "{client}");
            all.insert((id.to_owned(), client["cards"].to_string()));
            after = id.to_owned();
        }
        if page["next"].is_null() {
            return (page["count"].as_u64().unwrap(), all);
        }
        assert_eq!(page["next"], after.as_str());
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_is_the_union_over_the_nodes_and_says_who_is_missing() {
    let gateways = Gateways::start(3, &["OXIPUSH__PEERS__COUNTS_CACHE=0s"]).await;
    let clients = clients(&gateways).await;

    for word in ["card", "room"] {
        let mut union = BTreeMap::<String, u64>::new();
        for node in 0..3 {
            for (name, count) in list(&gateways, node, word, "node", 1000).await {
                *union.entry(name).or_default() += count;
            }
        }
        assert!(union.len() > 4, "{union:?}");
        for (at, limit) in [(0, 1), (1, 2), (2, 3), (0, 1000)] {
            assert_eq!(list(&gateways, at, word, "cluster", limit).await, union, "{word}s by {limit}");
        }
        for (name, count) in &union {
            let path = format!("{word}s/{name}");
            let mut of_all = BTreeSet::new();
            for node in 0..3 {
                of_all.extend(members(&gateways, node, &path, "node").await.1);
            }
            assert_eq!(members(&gateways, 1, &path, "cluster").await, (*count, of_all), "{path}");
        }
    }
    let cards: BTreeMap<&str, u64> =
        CARDS.iter().flat_map(|cards| cards.iter()).fold(BTreeMap::new(), |mut all, card| {
            *all.entry(*card).or_default() += 1;
            all
        });
    let mut grpc = RpcClient::connect(gateways.nodes[1].grpc()).await.unwrap();
    for (card, count) in cards.iter().chain([(&"nobody", &0)]) {
        let (online, number) = if *count > 0 { ("yes", *count as i64) } else { ("no", -1) };
        for at in 0..3 {
            assert_eq!(gateways.get(at, &format!("/isOnline?cardID={card}")).await, json!({"result": online}));
            let group = gateways.get(at, &format!("/group?cardID={card}")).await;
            assert_eq!(group, json!({"clientNum": number.to_string()}));
        }
        let request = IsOnlineRequest { card_id: (*card).into(), ..Default::default() };
        assert_eq!(grpc.is_online(request).await.unwrap().into_inner().result, online);
        let request = GroupRequest { card_id: (*card).into(), ..Default::default() };
        assert_eq!(grpc.group(request).await.unwrap().into_inner().client_num, number);
    }
    // carol is on the second node alone
    assert_eq!(gateways.get(0, "/isOnline?cardID=carol&scope=node").await, json!({"result": "no"}));
    let request = IsOnlineRequest { card_id: "carol".into(), scope: "node".into() };
    assert_eq!(grpc.is_online(request).await.unwrap().into_inner().result, "yes");
    let request = IsOnlineRequest { card_id: "carol".into(), scope: "all".into() };
    assert_eq!(grpc.is_online(request).await.unwrap_err().code(), Code::InvalidArgument);

    let connections = CARDS.iter().map(|cards| cards.len() as u64).sum::<u64>();
    let system = gateways.get(2, "/system").await;
    let alone = gateways.get(2, "/system?scope=node").await;
    assert_eq!((number(&system["clientNum"]), number(&alone["clientNum"])), (connections, 4));
    assert_eq!((number(&system["groupNum"]), number(&alone["groupNum"])), (cards.len() as u64, 4));
    assert_eq!(number(&system["goroutineNum"]), 3 * number(&alone["goroutineNum"]));
    let told = grpc.system(SystemRequest::default()).await.unwrap().into_inner();
    assert_eq!((told.client_num as u64, told.group_num as u64), (connections, cards.len() as u64));
    let stats = gateways.get(0, "/stats").await;
    // chat-0, chat-1 and a room of each node
    assert_eq!((stats["onlineConnections"].as_u64(), stats["roomCount"].as_u64()), (Some(connections), Some(5)));

    // a node that stands still is named within the deadline, and its part is missing
    gateways.nodes[2].process.signal("STOP");
    let mut times = Vec::new();
    for path in [
        "/isOnline?cardID=eve",
        "/group?cardID=alice",
        "/system",
        "/cards",
        "/rooms?limit=1",
        "/cards/alice",
        "/rooms/chat-0",
        "/stats",
    ] {
        let begun = Instant::now();
        let answer = gateways.get(0, path).await;
        times.push(begun.elapsed());
        assert_eq!(answer["missing"], json!(["gw-3"]), "{path}: {answer}");
    }
    times.sort();
    println!(
        "with a node that stands still, [peers] timeout = {TIMEOUT:?}: the longest of {} queries {:?}",
        times.len(),
        times[times.len() - 1]
    );
    assert!(times[times.len() - 1] < TIMEOUT * 4, "{times:?}");
    assert_eq!(gateways.get(0, "/group?cardID=alice").await["clientNum"], "2");
    assert_eq!(gateways.get(0, "/isOnline?cardID=eve").await["result"], "no");
    gateways.nodes[2].process.signal("CONT");
    until("it answers again", || async {
        (gateways.get(0, "/isOnline?cardID=eve").await == json!({"result": "yes"})).then_some(())
    })
    .await;
    let log = gateways.nodes[0].process.text();
    assert!(
        log.contains("a node does not answer this one's questions: it has not answered within [peers] timeout"),
        "{log}"
    );
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_an_order_hears_how_many_connections_it_ended_on_which_nodes() {
    let gateways = Gateways::start(3, &[]).await;
    let mut clients = clients(&gateways).await;
    let (status, answer) = gateways.post(1, "/disconnect", json!({"card_id": "bob"})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["ended"], json!({"gw-1": 2, "gw-2": 0, "gw-3": 1}), "{answer}");
    assert!(answer["id"].is_string() && answer.get("missing").is_none(), "{answer}");
    for nth in [1, 2, 7] {
        assert_eq!(clients[nth].close_code().await, 3504);
    }
    let mut grpc = RpcClient::connect(gateways.nodes[2].grpc()).await.unwrap();
    gateways.nodes[1].process.signal("STOP");
    let order = DisconnectRequest { selector: Some(Selector::CardId("alice".into())), ..Default::default() };
    let reply = grpc.disconnect(order).await.unwrap().into_inner();
    assert_eq!(reply.missing, ["gw-2"]);
    assert_eq!(reply.ended, [("gw-1".into(), 1), ("gw-3".into(), 1)].into());
    // it carries it out all the same
    gateways.nodes[1].process.signal("CONT");
    assert_eq!(clients[4].close_code().await, 3504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_into_a_room_hears_who_is_there_on_all_nodes_each_card_once() {
    let gateways = Gateways::start(3, &["OXIPUSH__ROOMS__PRESENCE=chat-*", "OXIPUSH__PEERS__PRESENCE_CACHE=0s"]).await;
    let mut there = Vec::new();
    for (node, card) in [(0, "alice"), (0, "alice"), (1, "alice"), (1, "bob"), (2, "carol")] {
        let mut client = Client::modern(&gateways.nodes[node].ws(), card, "").await;
        client.say(json!({"event": "subscribe", "data": {"room": "chat-7"}})).await;
        assert_eq!(client.hear().await["event"], "subscribed");
        there.push(client);
    }
    for node in 0..3 {
        let mut client = Client::modern(&gateways.nodes[node].ws(), "dora", "").await;
        client.say(json!({"event": "subscribe", "data": {"room": "chat-7"}})).await;
        let presence = client.hear().await["data"]["presence"].clone();
        let cards: BTreeSet<_> =
            presence["cards"].as_array().unwrap().iter().map(|card| card.as_str().unwrap()).collect();
        assert_eq!(cards, ["alice", "bob", "carol", "dora"].into(), "{presence}");
        assert_eq!((presence["count"].as_u64(), presence.get("missing")), (Some(4), None), "{presence}");
        there.push(client);
    }
    gateways.nodes[0].process.signal("STOP");
    let mut client = Client::modern(&gateways.nodes[1].ws(), "eve", "").await;
    client.say(json!({"event": "subscribe", "data": {"room": "chat-7"}})).await;
    let presence = client.hear().await["data"]["presence"].clone();
    assert_eq!((presence["missing"].clone(), presence["count"].clone()), (json!(["gw-1"]), json!(5)), "{presence}");
    gateways.nodes[0].process.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_asked_once_for_all_who_want_to_know_the_same_within_a_moment() {
    // longer than the test
    let hour =
        ["OXIPUSH__PEERS__COUNTS_CACHE=1h", "OXIPUSH__PEERS__PRESENCE_CACHE=1h", "OXIPUSH__ROOMS__PRESENCE=chat-*"];
    let gateways = Gateways::start(3, &hour).await;
    let questions = || gateways.metric(0, "oxipush_peer_questions_total", &[("outcome", "answered")]);
    let mut there = vec![Client::modern(&gateways.nodes[1].ws(), "alice", "").await];
    let before = questions().await;
    let answers = join_all((0..100).map(|nth| gateways.get(0, if nth % 2 == 0 { "/system" } else { "/stats" }))).await;
    for answer in answers {
        let connections = if answer.get("clientNum").is_some() {
            number(&answer["clientNum"])
        } else {
            answer["onlineConnections"].as_u64().unwrap()
        };
        assert_eq!(connections, 1, "{answer}");
    }
    assert_eq!(questions().await - before, 2.0, "each of the two others once");
    assert_eq!(number(&gateways.get(0, "/system?scope=node").await["clientNum"]), 0);
    for nth in 0..20 {
        let mut client = Client::modern(&gateways.nodes[0].ws(), &format!("card-{nth}"), "").await;
        client.say(json!({"event": "subscribe", "data": {"room": "chat-1"}})).await;
        assert_eq!(client.hear().await["event"], "subscribed");
        there.push(client);
    }
    assert_eq!(questions().await - before, 4.0, "who is in the room, too");
    assert_eq!(
        number(&gateways.get(0, "/system?scope=node").await["clientNum"]),
        20,
        "of the node alone it is as of now"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_nodes_port_learn_nothing_and_are_counted() {
    let gateways = Gateways::start(2, &[]).await;
    let at = format!("http://{}", gateways.nodes[0].peers());
    let question =
        || Question { question: Some(question::Question::Connections(ConnectionsQuestion { card: "alice".into() })) };
    let mut stranger = PeersClient::connect(at.clone()).await.unwrap();
    for key in [None, Some("Bearer a-key-of-somebody-else"), Some("Basic x")] {
        let mut request = Request::new(question());
        if let Some(key) = key {
            request.metadata_mut().insert("authorization", key.parse().unwrap());
        }
        let status = stranger.ask(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    let with_key = |mut request: Request<Question>| {
        request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
        request
    };
    let answer = stranger.ask(with_key(Request::new(question()))).await.unwrap().into_inner();
    assert_eq!(answer.node, "gw-1");
    let unknown = stranger.ask(with_key(Request::new(Question { question: None }))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    let long = question::Question::Connections(ConnectionsQuestion { card: "x".repeat(5000) });
    let too_long = stranger.ask(with_key(Request::new(Question { question: Some(long) }))).await.unwrap_err();
    assert!(matches!(too_long.code(), Code::ResourceExhausted | Code::OutOfRange), "{too_long:?}");
    assert_eq!(gateways.metric(0, "oxipush_peer_answers_total", &[("outcome", "stranger")]).await, 3.0);
    // the API is not there, nor the nodes' service on the API's port
    let mut api = RpcClient::connect(at).await.unwrap();
    assert_eq!(api.system(SystemRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    let mut peers = PeersClient::connect(gateways.nodes[0].grpc()).await.unwrap();
    assert_eq!(peers.ask(with_key(Request::new(question()))).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_key_that_lies_or_that_sends_too_much_is_missing_and_told_of() {
    // 100 MiB take their time on a slow machine
    let gateways = Gateways::start(1, &["OXIPUSH__PEERS__TIMEOUT=5s"]).await;
    let other_key = gateways.more("gw-2", &["OXIPUSH__PEERS__KEY=another-key-of-this-node"]).await;
    let liar = liar::serve(address(), "somebody", Vec::new()).await;
    let huge = liar::serve(address(), "huge", vec!["x".repeat(100 << 20)]).await;
    let unsorted = liar::serve(address(), "unsorted", vec!["b".into(), "a".into()]).await;
    gateways.register("liar", &liar);
    gateways.register("huge", &huge);
    gateways.register("nowhere", "127.0.0.1:1");
    gateways.register("silent", "");
    gateways.register("unsorted", &unsorted);
    let missing = json!(["gw-2", "huge", "liar", "nowhere", "silent", "unsorted"]);
    until("all of them are known", || async {
        let answer = gateways.get(0, "/isOnline?cardID=alice").await;
        (answer == json!({"result": "no", "missing": missing})).then_some(())
    })
    .await;
    for path in ["/cards", "/system", "/rooms/a", "/isOnline?cardID=a"] {
        assert_eq!(gateways.get(0, path).await["missing"], missing, "{path}");
    }
    for outcome in ["refused", "too_large", "wrong_id", "away", "no_address", "other_question"] {
        let counted = gateways.metric(0, "oxipush_peer_questions_total", &[("outcome", outcome)]).await;
        assert!(counted >= 5.0, "{outcome}: {counted}");
    }
    let log = gateways.nodes[0].process.text();
    for told in [
        "it refuses this node",
        "it says that it is \"somebody\"",
        "its answer is larger than [peers] max_answer",
        "it cannot be reached",
        "it says no address where it can be asked",
        "its answer is none that the question has",
    ] {
        assert_eq!(log.matches(told).count(), 1, "{told}: once, not with each question:\n{log}");
    }
    let memory = gateways.nodes[0].peak_memory();
    assert!(memory < 300 << 20, "a huge answer is not read: {memory} bytes");
    drop(other_key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_prove_themselves_by_certificates_and_who_has_none_is_a_stranger() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path(), "127.0.0.1".parse().unwrap(), true);
    let tls = [
        format!("OXIPUSH__PEERS__TLS_CA={}", certificates.ca.display()),
        format!("OXIPUSH__PEERS__TLS_CERT={}", certificates.cert.display()),
        format!("OXIPUSH__PEERS__TLS_KEY={}", certificates.key.display()),
        "OXIPUSH__PEERS__TLS_NAME=127.0.0.1".into(),
        "OXIPUSH__PEERS__KEY=".into(),
    ];
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
    let gateways = Gateways::start(2, &tls).await;
    let _alice = Client::gopusher(&gateways.nodes[1].ws(), "alice", "").await;
    assert_eq!(gateways.get(0, "/isOnline?cardID=alice").await, json!({"result": "yes"}));
    let plain = gateways.more("gw-3", &[]).await;
    until("the plain node is missing", || async {
        (gateways.get(0, "/isOnline?cardID=alice").await == json!({"result": "yes", "missing": ["gw-3"]})).then_some(())
    })
    .await;
    let answer = crate::support::http::get(plain.url("/isOnline?cardID=alice")).await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer, json!({"result": "no", "missing": ["gw-1", "gw-2"]}));
    assert!(gateways.metric(0, "oxipush_peer_answers_total", &[("outcome", "stranger")]).await >= 1.0);
}

/// `cargo test --release --test peers measure -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_is_online_over_four_nodes() {
    let gateways = Gateways::start(4, &[]).await;
    let _alice = Client::gopusher(&gateways.nodes[3].ws(), "alice", "").await;
    for scope in ["node", "cluster"] {
        let mut times = Vec::new();
        for nth in 0..4000 {
            let card = if nth % 2 == 0 { "alice" } else { "nobody" };
            let begun = Instant::now();
            let answer = gateways.get(0, &format!("/isOnline?cardID={card}&scope={scope}")).await;
            times.push(begun.elapsed());
            assert!(answer.get("missing").is_none(), "{answer}");
        }
        times.sort();
        let at = |part: f64| times[(times.len() as f64 * part) as usize].as_micros();
        println!("/isOnline, scope={scope}, 4 nodes: p50 {} µs, p99 {} µs", at(0.5), at(0.99));
    }
}
