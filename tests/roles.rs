//! Nodes that take pushes, nodes that hold clients, where clients are sent, and clients that move to a new node: real gateways with a
//! real etcd and nsqd.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;
#[path = "peers/nodes.rs"]
#[allow(dead_code, unreachable_pub)]
mod nodes;
#[path = "cluster/support.rs"]
mod support;

use std::process::Command;

use client::Client;
use futures_util::future::join_all;
use nodes::{Gateway, Gateways};
use oxipush::internals::proto::rpc::{PushRequest, rpc_client::RpcClient};
use serde_json::{Value, json};
use support::{http, until};
use tonic::Code;

async fn post(gateway: &Gateway, path: &str, body: Value) -> (u16, Value) {
    let answer = http::client().post(gateway.url(path)).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn get(gateway: &Gateway, path: &str) -> Value {
    http::get(gateway.url(path)).await.unwrap().json().await.unwrap()
}

async fn metric(gateway: &Gateway, series: &str) -> f64 {
    let text = http::get(gateway.url("/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{series} ")));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

fn push(content: &str) -> PushRequest {
    PushRequest { from: "shop".into(), to: vec!["alice".into()], content: content.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_for_pushes_and_one_for_clients_do_together_what_one_does() {
    let cluster = Gateways::start(1, &["OXIPUSH__NODE__ROLES=ingress", "OXIPUSH__DRAIN__RATE=1"]).await;
    let ingress = &cluster.nodes[0];
    let socket = cluster.more("gw-2", &["OXIPUSH__NODE__ROLES=socket"]).await;
    until("both are known to each other", || async {
        (get(ingress, "/nodes").await["nodes"].as_array()?.len() == 2).then_some(())
    })
    .await;

    // what each is, it says itself
    let told = get(ingress, "/nodes").await;
    let [first, second] = [0, 1].map(|at| told["nodes"][at].clone());
    assert_eq!((&first["id"], &first["roles"], first.get("url")), (&json!("gw-1"), &json!(["ingress"]), None));
    assert_eq!((&second["id"], &second["roles"]), (&json!("gw-2"), &json!(["socket"])));
    assert_eq!((&second["url"], &second["connections"]), (&json!(socket.ws()), &json!(0)));
    for (gateway, role, other) in [(ingress, "ingress", "socket"), (&socket, "socket", "ingress")] {
        assert_eq!(metric(gateway, &format!("oxipush_node_roles{{role=\"{role}\"}}")).await, 1.0);
        assert_eq!(metric(gateway, &format!("oxipush_node_roles{{role=\"{other}\"}}")).await, 0.0);
        let only = format!("the role {role} alone");
        until("the banner says it", || async { gateway.process.text().contains(&only).then_some(()) }).await;
    }
    let clients_of_nobody = ingress.ws().replace("ws://", "").replace("/ws", "");
    assert!(tokio::net::TcpStream::connect(clients_of_nobody).await.is_err(), "it has no listener for clients");

    // pushes by every way reach the client, and queries know it
    let mut alice = Client::modern(&socket.ws(), "alice", "").await;
    let (status, _) = post(ingress, "/push", json!({"from": "shop", "to": ["alice"], "content": "by http"})).await;
    assert_eq!((status, alice.content().await), (200, "by http".to_owned()));
    let mut grpc = RpcClient::connect(ingress.grpc()).await.unwrap();
    grpc.push(push("by grpc")).await.unwrap();
    assert_eq!(alice.content().await, "by grpc");
    cluster.publish_raw("gopusher", &push("by nsq")).await;
    assert_eq!(alice.content().await, "by nsq");
    for gateway in [ingress, &socket] {
        assert_eq!(get(gateway, "/isOnline?cardID=alice").await["result"], "yes", "{}", gateway.id);
    }
    assert_eq!(cluster.channels("gopusher.live").await, ["gw-2"], "only who holds clients reads a channel");

    // the node that holds clients takes no pushes, and says who does
    for (path, body) in [
        ("/push", json!({"to": ["alice"], "content": "x"})),
        ("/push/batch", json!([])),
        ("/disconnect", json!({"card_id": "alice"})),
    ] {
        let (status, answer) = post(&socket, path, body).await;
        assert_eq!((status, &answer["reason"]), (421, &json!("wrong_role")), "{path}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains("the role ingress"), "{answer}");
    }
    let mut grpc = RpcClient::connect(socket.grpc()).await.unwrap();
    assert_eq!(grpc.push(push("x")).await.unwrap_err().code(), Code::Unimplemented);
    // an order that came in elsewhere ends its clients
    assert_eq!(post(ingress, "/disconnect", json!({"card_id": "alice"})).await.0, 200);
    assert_eq!(alice.close_code().await, 3504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_roles_on_the_embedded_queue_does_not_start() {
    for role in ["ingress", "socket"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oxipush"));
        command.arg("check-config").env("OXIPUSH__NODE__ROLES", role);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{told}");
        assert!(told.contains(&format!("[node] roles: {role} alone needs a queue")), "{told}");
    }
}

/// How many connections a node has.
async fn connections(gateway: &Gateway) -> f64 {
    metric(gateway, "oxipush_connections").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_is_filled_by_a_rebalance_and_who_moves_misses_nothing() {
    let settings = [
        "OXIPUSH__DRAIN__RATE=200",
        "OXIPUSH__SOCKET__MAX_CONNECTIONS=1000",
        "OXIPUSH__DRAIN__RECONNECT_JITTER=4s",
        "OXIPUSH__TOKEN__SECRET=0123456789abcdef0123456789abcdef",
        "OXIPUSH__GPUSHER__USERNAME=web",
        "OXIPUSH__GPUSHER__PASSWORD=hush",
    ];
    let cluster = Gateways::start(2, &settings).await;
    let [full, empty] = [&cluster.nodes[0], &cluster.nodes[1]];
    let url = full.ws();
    let mut clients = join_all((0..40).map(|nth| Client::modern_as(&url, nth))).await;

    // a client is sent where there is room
    let asked = json!({"uuid": "alice", "username": "web", "password": "hush"});
    for gateway in [full, empty] {
        let (_, answer) = post(gateway, "/v1/token", asked.clone()).await;
        let data = &answer["Data"];
        assert_eq!(data["connect"], json!([empty.ws(), full.ws()]), "{answer}");
        assert_eq!(format!("ws://{}/ws", data["gatewayAddr"].as_str().unwrap()), empty.ws());
    }

    // those that are there are moved until both have the same, whichever node is asked
    let (status, told) = post(empty, "/rebalance", json!({})).await;
    let expected = json!([{"node": "gw-1", "connections": 40, "keep": 20, "moves": 20}]);
    assert_eq!((status, &told["nodes"]), (200, &expected), "{told}");
    let pushing = async {
        for nth in 0..50 {
            let body = json!({"from": "shop", "everyone": true, "content": nth.to_string()});
            assert_eq!(post(empty, "/push", body).await.0, 200);
        }
        let last = json!({"from": "shop", "everyone": true, "content": "last"});
        // once all that move are there
        until("both have the same", || async {
            let both = [connections(full).await, connections(empty).await];
            (both == [20.0, 20.0]).then_some(())
        })
        .await;
        assert_eq!(post(empty, "/push", last).await.0, 200);
    };
    let to = empty.ws();
    let (outcomes, ()) = tokio::join!(
        join_all(clients.drain(..).enumerate().map(|(nth, client)| stay_or_move(nth, client, &to))),
        pushing
    );
    assert_eq!(outcomes.iter().filter(|moved| **moved).count(), 20);
    assert_eq!(metric(full, "oxipush_rebalanced_clients_total").await, 20.0);

    // again there is nothing to do; and what cannot be is refused
    let (status, told) = post(full, "/rebalance", json!({"node": "gw-9"})).await;
    assert_eq!((status, &told["reason"]), (404, &json!("not_found")), "{told}");
    let (status, told) = post(full, "/rebalance", json!({"keep": 1})).await;
    assert_eq!((status, &told["reason"]), (400, &json!("bad_field")), "{told}");
}

/// A client that reads until the last push. Told to go it joins at `to` at once, and reads there, too; its first connection is closed with
/// 3000 later. Whether it was told; it must have each push, from one connection or the other.
async fn stay_or_move(nth: usize, mut client: Client, to: &str) -> bool {
    let mut got = Vec::new();
    loop {
        let told = client.hear().await;
        match told["event"].as_str().unwrap() {
            "drain" => break,
            "push" => got.push(told["data"]["content"].as_str().unwrap().to_owned()),
            other => panic!("{other}"),
        }
        if got.last().is_some_and(|last| last == "last") {
            complete(&mut got);
            return false;
        }
    }
    let mut moved = Client::modern_as(to, nth).await;
    // what came on the first until its end
    while let Some(text) = client.text().await {
        let told: Value = serde_json::from_str(&text).unwrap();
        got.push(told["data"]["content"].as_str().unwrap().to_owned());
    }
    drop(client);
    while got.last().is_none_or(|last| last != "last") {
        got.push(moved.content().await);
    }
    complete(&mut got);
    true
}

/// Each of the pushes is there; copies are those that both connections of one client got.
fn complete(got: &mut Vec<String>) {
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), 51, "{got:?}");
}

impl Client {
    async fn modern_as(url: &str, nth: usize) -> Self {
        Self::modern(url, &format!("card-{nth}"), "").await
    }
}
