//! A tag as an NSQ topic: gpusher's Kafka records, published to nsqd.

use serde_json::json;

use super::support::{client::Client, gateway::Node, nsq::Nsqd};

#[tokio::test(flavor = "multi_thread")]
async fn records_on_a_tags_topic_are_pushes_and_bad_ones_are_only_counted() {
    let nsqd = Nsqd::start().await;
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let node = Node::start(&[
        ("QUEUE__BACKEND", "nsq"),
        ("QUEUE__NSQD", &tcp),
        ("QUEUE__NSQD_HTTP", &http),
        ("GPUSHER__TAGS", "app_gpusher, app_tv:tv"),
        ("NODE__ID", "tags-1"),
    ])
    .await;
    let mut web = Client::gopusher(&node.socket(), "liangjf", "app_gpusher").await;
    let mut tv = Client::gopusher(&node.socket(), "liangjf", "tv").await;
    let record = |tag: &str, body: serde_json::Value| json!({"tag": tag, "body": body}).to_string().into_bytes();
    for (topic, record) in [
        ("app_gpusher", record("app_gpusher", json!({"type": 1, "uuid": "liangjf", "content": "user"}))),
        ("app_gpusher", b"{".to_vec()),
        ("app_gpusher", record("app_tv", json!({"type": 2, "content": "of another topic"}))),
        (
            "app_gpusher",
            record("app_gpusher", json!({"type": 1, "uuid": "liangjf", "content": "for a minute", "expireTime": 60})),
        ),
        // with nsqd there is no store
        (
            "app_gpusher",
            record("app_gpusher", json!({"type": 1, "uuid": "liangjf", "content": "x", "offlinePush": true})),
        ),
        ("app_tv", record("app_tv", json!({"type": 2, "content": "app"}))),
    ] {
        nsqd.publish(topic, record).await;
    }
    assert_eq!((web.content().await, web.content().await), ("user".into(), "for a minute".into()));
    assert_eq!(tv.content().await, "app");
    for (outcome, number) in [("accepted", 3.0), ("bad_json", 1.0), ("bad_field", 1.0), ("no_store", 1.0)] {
        node.metric_reaches("oxipush_pushes_total", &[("source", "nsq"), ("outcome", outcome)], number).await;
    }
    web.silent().await;
    tv.silent().await;
    node.stop().await;
}
