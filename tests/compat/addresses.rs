//! `[http] also` and `[grpc] also`.

use std::time::Duration;

use oxipush::internals::proto::rpc::{PushRequest, rpc_client::RpcClient};

use super::support::{
    client::{Client, PATIENCE},
    gateway::Node,
    http,
};

#[tokio::test(flavor = "multi_thread")]
async fn each_further_address_serves_the_same_api_with_the_same_keys_and_one_bound() {
    let several = "127.0.0.1:0, 127.0.0.1:0";
    let keys = [("HTTP__ALSO", several), ("GRPC__ALSO", several), ("GRPC__MAX_CONNECTIONS", "1"), ("AUTH__KEYS", "k")];
    let node = Node::start(&keys).await;
    let mut tab = Client::gopusher(&node.socket(), "alice", "").await;
    assert_eq!((node.also.http.len(), node.also.grpc.len()), (2, 2));
    for address in [&node.also.http[..], &[node.listeners.http]].concat() {
        let push = |key: &str| {
            let body = r#"{"to":["alice"],"content":"over HTTP"}"#;
            let request = http::client().post(format!("http://{address}/push")).body(body);
            request.header("authorization", format!("Bearer {key}")).send()
        };
        assert_eq!(push("wrong").await.unwrap().status(), 401, "{address}");
        assert_eq!(push("k").await.unwrap().status(), 200, "{address}");
        assert_eq!(tab.content().await, "over HTTP");
    }
    // one at a time in all, whichever address it came by
    for address in [&node.also.grpc[..], &[node.listeners.grpc]].concat() {
        let connected = async {
            loop {
                match RpcClient::connect(format!("http://{address}")).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let mut client = tokio::time::timeout(PATIENCE, connected).await.expect("a place");
        let push = PushRequest { to: vec!["alice".into()], content: "over gRPC".into(), ..Default::default() };
        let mut request = tonic::Request::new(push);
        request.metadata_mut().insert("authorization", "Bearer k".parse().unwrap());
        client.push(request).await.unwrap();
        assert_eq!(tab.content().await, "over gRPC");
    }
    node.stop().await;
}
