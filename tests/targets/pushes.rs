//! Pushes, sent by every way in.

use std::sync::Arc;

use oxipush::internals::proto::rpc::{Exclude, PushBatchRequest, PushRequest, rpc_client::RpcClient};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    model::{Clock, Target},
    support::gateway::Node,
};

/// How a push comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Http,
    Grpc,
    HttpBatch,
    GrpcBatch,
}

pub const WAYS: [Way; 4] = [Way::Http, Way::Grpc, Way::HttpBatch, Way::GrpcBatch];

/// A push that was accepted.
#[derive(Clone, Debug)]
pub struct Push {
    pub content: String,
    pub target: Target,
    pub node: usize,
    pub way: Way,
    /// When its request was sent, and when it was answered.
    pub sent: u64,
    pub accepted: u64,
    /// Its place in its batch.
    pub place: usize,
    /// As the gateway named it.
    pub id: String,
}

/// A way in of one node.
pub struct Caller {
    http: reqwest::Client,
    url: String,
    grpc: RpcClient<Channel>,
    node: usize,
    clock: Arc<Clock>,
}

impl Caller {
    pub async fn new(node: &Node, number: usize, clock: &Arc<Clock>) -> Self {
        Self {
            http: super::support::http::client(),
            url: node.url(""),
            grpc: RpcClient::connect(node.grpc()).await.unwrap(),
            node: number,
            clock: Arc::clone(clock),
        }
    }

    /// Sends these one after the other, or in one batch; each must be accepted.
    pub async fn send(&mut self, way: Way, pushes: Vec<(String, Target)>) -> Vec<Push> {
        let (single, batch) = match way {
            Way::Http | Way::Grpc => (pushes, Vec::new()),
            Way::HttpBatch | Way::GrpcBatch => (Vec::new(), vec![pushes]),
        };
        let mut accepted = Vec::new();
        for pushes in single.into_iter().map(|push| vec![push]).chain(batch) {
            let sent = self.clock.now();
            let ids = match way {
                Way::Http => vec![self.post("push", as_json(&pushes[0])).await["id"].clone()],
                Way::HttpBatch => {
                    let body = pushes.iter().map(as_json).collect();
                    let answer = self.post("push/batch", body).await;
                    answer["replies"].as_array().unwrap().iter().map(|reply| reply["id"].clone()).collect()
                }
                Way::Grpc => vec![self.grpc.push(as_message(&pushes[0])).await.unwrap().into_inner().id.into()],
                Way::GrpcBatch => {
                    let batch = PushBatchRequest { pushes: pushes.iter().map(as_message).collect() };
                    let replies = self.grpc.push_batch(batch).await.unwrap().into_inner().replies;
                    replies.into_iter().map(|reply| Value::from(reply.id)).collect()
                }
            };
            let answered = self.clock.now();
            assert_eq!(ids.len(), pushes.len());
            for (place, ((content, target), id)) in pushes.into_iter().zip(ids).enumerate() {
                let id = id.as_str().filter(|id| !id.is_empty());
                let id = id.unwrap_or_else(|| panic!("refused by {way:?}: {content} {target:?}")).to_owned();
                accepted.push(Push { content, target, node: self.node, way, sent, accepted: answered, place, id });
            }
        }
        accepted
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}/{path}", self.url)).json(&body).send().await.unwrap();
        let (status, answer) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }
}

fn as_json((content, target): &(String, Target)) -> Value {
    let mut push = json!({"from": "test", "content": content});
    if !target.cards.is_empty() {
        push["to"] = json!(target.cards);
    }
    if let Some(room) = target.room {
        push["room"] = room.into();
    }
    if let Some(app) = target.app {
        push["appID"] = app.into();
    }
    if target.everyone {
        push["everyone"] = true.into();
    }
    if !target.exclude_cards.is_empty() {
        push["exclude"]["cards"] = json!(target.exclude_cards);
    }
    if let Some(client) = &target.exclude_client {
        push["exclude"]["client"] = json!(client);
    }
    push
}

fn as_message((content, target): &(String, Target)) -> PushRequest {
    let exclude = Exclude {
        cards: target.exclude_cards.iter().map(|card| (*card).into()).collect(),
        client: target.exclude_client.clone().unwrap_or_default(),
    };
    let excludes = !exclude.cards.is_empty() || !exclude.client.is_empty();
    PushRequest {
        from: "test".into(),
        to: target.cards.iter().map(|card| (*card).into()).collect(),
        app_id: target.app.unwrap_or_default().into(),
        content: content.clone(),
        room: target.room.unwrap_or_default().into(),
        everyone: target.everyone,
        exclude: excludes.then_some(exclude),
        ..PushRequest::default()
    }
}
