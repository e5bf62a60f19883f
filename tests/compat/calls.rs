//! gpush's gRPC calls, private topics, gpusher's tokens, and examples/compat.ini.

use std::path::Path;

use oxipush::internals::{
    config,
    proto::order::{Data, Empty, proxy_client::ProxyClient},
};
use serde_json::{Value, json};
use tonic::Code;

use super::support::{
    client::Client,
    gateway::Node,
    token::{SECRET, token},
};

fn data(uid: &str, topic: &str, data: &[u8]) -> Data {
    Data { uid: uid.into(), topic: topic.into(), data: data.to_vec() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_of_gpush_pushes_to_topics_uids_and_everyone() {
    let node = Node::start(&[("TOKEN__SECRET", SECRET), ("SOCKET__ANONYMOUS", "true")]).await;
    let mut open = Client::connect(&format!("ws://{}/gpush/ws", node.listeners.socket), false).await;
    open.hear().await;
    open.say(json!({"code": 1, "topic": "test"})).await;
    assert_eq!(open.hear().await["code"], 20001);
    let mut user = Client::connect(&format!("ws://{}/gpush/ws", node.listeners.socket), false).await;
    user.hear().await;
    user.say(json!({"code": 3, "data": token(json!({"sub": "u1"}))})).await;
    assert_eq!(user.hear().await["code"], 20003);
    user.say(json!({"code": 5, "topic": "test"})).await;
    assert_eq!(user.hear().await["code"], 20001);

    let mut caller = ProxyClient::connect(node.grpc()).await.unwrap();
    for push in [
        data("u1", "test", b"private"),
        data("u2", "test", b"another's"),
        data("u1", "other", b"another topic"),
        data("", "test", b"open"),
        data("", "", b"everyone"),
    ] {
        assert_eq!(caller.push_data(push).await.unwrap().into_inner(), Empty {});
    }
    // the private one reaches its user only, the open one its subscriber only
    assert_eq!((open.text().await.unwrap(), open.text().await.unwrap()), ("open".into(), "everyone".into()));
    assert_eq!((user.text().await.unwrap(), user.text().await.unwrap()), ("private".into(), "everyone".into()));

    let refused = caller.push_data(data("", "", b"")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("`data` is missing"), "{refused}");
    let refused = caller.push_data(data("", "bad\u{7}", b"x")).await.unwrap_err();
    assert!(refused.message().contains("`topic` has the control character"), "{refused}");
    let refused = caller.pull_data(Empty {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("PullData is what gpush's proxies tell its gateways"), "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_gpushers_route_opens_its_card_and_no_other() {
    let node = Node::start(&[
        ("TOKEN__SECRET", SECRET),
        ("GPUSHER__USERNAME", "web"),
        ("GPUSHER__PASSWORD", "hush"),
        ("KEY_BACK__SECRET", "of-back"),
        ("KEY_BACK__SCOPES", "push,query,metrics"),
        ("KEY_BACK__CARDS", "liang*"),
    ])
    .await;
    let ask = async |uuid: &str, password: &str| {
        let body = json!({"uuid": uuid, "username": "web", "password": password});
        let request = super::support::http::client().post(node.url("/v1/token")).json(&body);
        let answer = request.header("authorization", "Bearer of-back").send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, answer) = ask("liangjf", "hush").await;
    assert_eq!((status, &answer["Code"], &answer["Msg"]), (200, &json!(1), &json!("ok")), "{answer}");
    assert_eq!(answer["Data"]["gatewayAddr"], node.listeners.socket.to_string());
    let token = answer["Data"]["token"].as_str().unwrap();
    for (card, event) in [("admin", "error"), ("liangjf", "joined")] {
        let mut client = Client::connect(&node.socket(), true).await;
        client.say(json!({"event": "join", "data": {"card_id": card, "token": token}})).await;
        assert_eq!(client.hear().await["event"], event, "{card}");
    }
    for (uuid, password, status, code) in
        [("liangjf", "wrong", 200, 151), ("", "hush", 200, 150), ("admin", "hush", 403, 100)]
    {
        let (got, answer) = ask(uuid, password).await;
        assert_eq!((got, &answer["Data"]["code"], &answer["Msg"]), (status, &json!(code), &json!("error")), "{answer}");
    }
    node.stop().await;
}

#[test]
fn the_example_opens_the_listeners_that_the_originals_tools_know() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/compat.ini");
    let config = config::load(Some(&file), []).unwrap();
    let ports = |addresses: &[std::net::SocketAddr]| addresses.iter().map(|address| address.port()).collect::<Vec<_>>();
    assert_eq!(ports(&config.http.also), [7799, 10068, 7030]);
    assert_eq!(ports(&config.grpc.also), [10067]);
    assert_eq!(config.socket.go_push_listen.map(|address| address.port()), Some(7777));
    assert_eq!(config.socket.gpush_listen.map(|address| address.port()), Some(9995));
    assert_eq!(config.gpusher.app_of("app_gpusher"), Some("app_gpusher"));
}
