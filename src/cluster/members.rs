//! The nodes that are registered, as etcd's watch tells them.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    etcd::{Etcd, EtcdError},
    node::{self, Node},
};
use crate::{
    config::{INGRESS, NodeRoles, SOCKET},
    lifecycle::Backoff,
    proto::etcd::event::Kind,
};

/// Where the nodes are told.
pub(super) struct NodeSenders {
    /// Their ids.
    pub(super) ids: watch::Sender<Vec<String>>,
    /// What they say of themselves, sorted by id.
    pub(super) nodes: watch::Sender<Arc<[Node]>>,
    /// The ids of those that hold clients.
    pub(super) readers: watch::Sender<Vec<String>>,
    /// Whether others than `own` serve, and do all that it does.
    pub(super) other: watch::Sender<bool>,
    pub(super) own: String,
    pub(super) roles: NodeRoles,
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
        got.kvs.iter().filter_map(|kv| Some((id(&prefix, &kv.key)?, Node::parse(&kv.value)))).collect();
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
                Kind::Put => nodes.insert(id, Node::parse(&kv.value)),
                Kind::Delete => nodes.remove(&id),
            };
        }
        senders.publish(&nodes);
    }
}

/// Nodes by their ids; `None`: what is written there is no node's.
type KnownNodes = BTreeMap<String, Option<Node>>;

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
        let known = || nodes.iter().filter_map(|(id, node)| Some((id, node.as_ref()?)));
        let is_done = |role| known().any(|(id, node)| *id != self.own && node.is_serving() && node.has_role(role));
        let other = (!self.roles.has_ingress() || is_done(INGRESS)) && (!self.roles.has_socket() || is_done(SOCKET));
        // who cannot be read may hold clients
        let holds = |node: &Option<Node>| node.as_ref().is_none_or(|node| node.has_role(SOCKET));
        let readers: Vec<_> = nodes.iter().filter(|(_, node)| holds(node)).map(|(id, _)| id.clone()).collect();
        // the id is the key's: a node may not pass for another one
        let nodes: Arc<[Node]> = known().filter(|(id, node)| **id == node.id).map(|(_, node)| node.clone()).collect();
        self.nodes.send_if_modified(|now| {
            let differs = **now != *nodes;
            *now = nodes;
            differs
        });
        self.readers.send_if_modified(|now| {
            let differs = *now != readers;
            *now = readers;
            differs
        });
        self.other.send_if_modified(|now| std::mem::replace(now, other) != other);
    }
}

fn id(prefix: &str, key: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    (!id.is_empty()).then(|| id.to_owned())
}
