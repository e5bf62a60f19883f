//! This node's key in etcd, and what is written with it: its roster entry, gopusher's key.

use super::id_conflict::IdConflict;
use crate::{
    cluster::{
        addresses::Addresses,
        etcd::{Etcd, EtcdClient, EtcdError},
        node::{Node, NodeKeys, NodePhase, NodeStatus, RosterEntry},
    },
    proto::etcd::{Compare, KeyValue, RequestOp, ResponseOp, TxnRequest, response_op},
};

pub(super) struct NodeKey {
    pub(super) node: Node,
    etcd: Etcd,
    keys: NodeKeys,
    /// Whether the node has a channel that someone must delete should it never return.
    reads_channel: bool,
    /// gopusher's key form, if asked for.
    gopusher: Option<String>,
}

/// Why the key is not ours.
pub(super) enum ClaimError {
    Etcd(EtcdError),
    /// A node of the same id has it.
    Taken(Box<IdConflict>),
    /// A survivor is deleting our channel.
    BeingDeleted,
}

impl From<EtcdError> for ClaimError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

impl NodeKey {
    pub(super) fn new(etcd: Etcd, id: &str, addresses: &Addresses, reads_channel: bool) -> Self {
        // gopusher knows only gateways that hold clients
        let gopusher = etcd.config.gopusher_key.as_ref().filter(|_| !addresses.socket.is_empty());
        Self {
            node: Node::new(id, addresses, etcd.config.weight),
            keys: NodeKeys::new(&etcd.config.prefix, id),
            reads_channel,
            gopusher: gopusher.map(|key| format!("/gopusher/{}/{}", key.trim_matches('/'), addresses.socket)),
            etcd,
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.keys.node
    }

    /// Writes the key if it is absent or this process's own.
    pub(super) async fn claim(
        &mut self,
        client: &mut EtcdClient,
        lease: i64,
        status: NodeStatus,
    ) -> Result<(), ClaimError> {
        let keys = self.keys.clone();
        let txn = TxnRequest {
            compare: vec![Compare::absent(&keys.node), Compare::absent(&keys.deleting)],
            success: self.puts(lease, status),
            failure: vec![RequestOp::get(&keys.node), RequestOp::get(&keys.deleting)],
        };
        let answer = self.etcd.call("claim the node id", client.txn(txn)).await?;
        if answer.succeeded {
            return Ok(());
        }
        let mut found = answer.responses.into_iter().map(first);
        let node = found.next().flatten();
        let deleting = found.next().flatten();
        let Some(there) = node else {
            return Err(match deleting {
                Some(_) => ClaimError::BeingDeleted,
                None => EtcdError::Away("claim the node id: the key changed meanwhile".into()).into(),
            });
        };
        let node = Node::parse(&there.value);
        let ours = there.lease == lease || node.as_ref().is_some_and(|node| node.incarnation == self.node.incarnation);
        if !ours {
            return Err(ClaimError::Taken(Box::new(IdConflict { key: keys.node, node, lease: there.lease })));
        }
        let unchanged = Compare::unchanged(keys.node.as_bytes(), there.mod_revision);
        Ok(self.put_when(client, unchanged, lease, status).await?)
    }

    /// Writes how the node stands, if the key is still under `lease`.
    pub(super) async fn put(
        &mut self,
        client: &mut EtcdClient,
        lease: i64,
        status: NodeStatus,
    ) -> Result<(), EtcdError> {
        let ours = Compare::under(&self.keys.node, lease);
        self.put_when(client, ours, lease, status).await?;
        tracing::info!(node = self.node.id, phase = self.node.phase, ready = status.ready, "phase written to etcd");
        Ok(())
    }

    async fn put_when(
        &mut self,
        client: &mut EtcdClient,
        ours: Compare,
        lease: i64,
        status: NodeStatus,
    ) -> Result<(), EtcdError> {
        let txn = TxnRequest { compare: vec![ours], success: self.puts(lease, status), failure: Vec::new() };
        if self.etcd.call("put the node's key", client.txn(txn)).await?.succeeded {
            Ok(())
        } else {
            Err(EtcdError::Away("the key is not this node's any more".into()))
        }
    }

    /// Someone may have deleted the key though the lease lives.
    pub(super) async fn check(&self, client: &mut EtcdClient, lease: i64) -> Result<(), EtcdError> {
        let got = self.etcd.call("read the node's key", client.get(self.name())).await?;
        if got.kvs.first().is_some_and(|kv| kv.lease == lease) {
            Ok(())
        } else {
            Err(EtcdError::Away("the key was deleted".into()))
        }
    }

    /// Writes down that the node has stopped in order, and has no clients.
    pub(super) async fn stop(&self, client: &mut EtcdClient) -> Result<(), EtcdError> {
        if !self.reads_channel {
            return Ok(());
        }
        let stopped = RosterEntry { stopped: true, ..RosterEntry::default() }.json();
        let success = vec![RequestOp::put(&self.keys.roster, stopped, 0)];
        let txn = TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
        self.etcd.call("write down that the node stops", client.txn(txn)).await.map(|_| ())
    }

    /// What etcd shall hold of this node.
    fn puts(&mut self, lease: i64, status: NodeStatus) -> Vec<RequestOp> {
        self.node.set_status(status);
        let mut puts = vec![RequestOp::put(&self.keys.node, self.node.json(), lease)];
        if self.reads_channel {
            puts.push(RequestOp::put(&self.keys.roster, RosterEntry::default().json(), 0));
        }
        if let Some(key) = &self.gopusher {
            puts.push(match status.phase {
                NodePhase::Serving => {
                    RequestOp::put(key, format!("{} weight={}", self.node.socket, self.node.weight), lease)
                }
                NodePhase::Starting | NodePhase::Unready | NodePhase::Draining => RequestOp::delete(key),
            });
        }
        puts
    }
}

fn first(answer: ResponseOp) -> Option<KeyValue> {
    match answer.response {
        Some(response_op::Response::Range(got)) => got.kvs.into_iter().next(),
        _ => None,
    }
}
