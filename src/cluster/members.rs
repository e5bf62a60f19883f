//! The nodes that are registered, as etcd's watch tells them.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    etcd::{Etcd, EtcdError},
    node::{self, Node},
};
use crate::{
    lifecycle::Backoff,
    proto::etcd::{KeyValue, event::Kind},
};

/// Where the nodes are told.
pub(super) struct NodeSenders {
    /// Their ids.
    pub(super) ids: watch::Sender<Vec<String>>,
    /// Whether one of them other than `own` takes clients.
    pub(super) other: watch::Sender<bool>,
    pub(super) own: String,
}

/// Tells the nodes until cancelled; while etcd is away the last known ones stay.
pub(super) async fn run(etcd: Etcd, senders: NodeSenders, cancelled: CancellationToken) {
    let mut backoff = etcd.backoff();
    loop {
        let error = tokio::select! {
            () = cancelled.cancelled() => return,
            error = follow(&etcd, &senders, &mut backoff) => error,
        };
        tracing::debug!("the watch of the cluster's nodes ended: {error}");
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

async fn follow(etcd: &Etcd, senders: &NodeSenders, backoff: &mut Backoff) -> EtcdError {
    match try_follow(etcd, senders, backoff).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn try_follow(
    etcd: &Etcd,
    senders: &NodeSenders,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, EtcdError> {
    let prefix = node::nodes(&etcd.config.prefix);
    let mut client = etcd.connect().await?;
    let got = etcd.call("read the nodes", client.get_all(&prefix)).await?;
    let mut nodes: KnownNodes =
        got.kvs.iter().filter_map(|kv| Some((id(&prefix, &kv.key)?, takes_clients(kv)))).collect();
    senders.publish(&nodes);
    let next = got.header.map_or(0, |header| header.revision) + 1;
    let mut watch = etcd.call("watch the nodes", client.watch(&prefix, next)).await?;
    backoff.reset();
    loop {
        // no time-out: the connection's pings end a watch whose etcd is gone
        let message = watch.message().await;
        let message = match message {
            Ok(message) if !message.canceled => message,
            Ok(message) => return Err(EtcdError::Away(message.cancel_reason)),
            Err(error) => return etcd.call("watch the nodes", async { Err(error) }).await,
        };
        for event in message.events {
            let Some((kv, id)) = event.kv.as_ref().and_then(|kv| Some((kv, id(&prefix, &kv.key)?))) else { continue };
            match event.kind() {
                Kind::Put => nodes.insert(id, takes_clients(kv)),
                Kind::Delete => nodes.remove(&id),
            };
        }
        senders.publish(&nodes);
    }
}

/// Ids, and whether each takes clients.
type KnownNodes = BTreeMap<String, bool>;

impl NodeSenders {
    fn publish(&self, nodes: &KnownNodes) {
        self.ids.send_if_modified(|now| {
            let differs = !now.iter().eq(nodes.keys());
            if differs {
                for id in nodes.keys().filter(|id| !now.contains(id)) {
                    tracing::info!(node = id, "a node is there");
                }
                for id in now.iter().filter(|id| !nodes.contains_key(*id)) {
                    tracing::info!(node = id, "a node is gone");
                }
                *now = nodes.keys().cloned().collect();
            }
            differs
        });
        let other = nodes.iter().any(|(id, takes_clients)| *takes_clients && *id != self.own);
        self.other.send_if_modified(|now| std::mem::replace(now, other) != other);
    }
}

fn takes_clients(kv: &KeyValue) -> bool {
    Node::parse(&kv.value).is_some_and(|node| node.takes_clients())
}

fn id(prefix: &str, key: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    (!id.is_empty()).then(|| id.to_owned())
}
