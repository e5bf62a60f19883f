//! This node's key in etcd, and what is written with it: its roster entry, gopusher's key.

use super::namesake::Namesake;
use crate::{
    cluster::{
        addresses::Addresses,
        etcd::{Client, Etcd, Fault},
        node::{Entry, Keys, Node, Stage, Standing},
    },
    proto::etcd::{Compare, KeyValue, RequestOp, ResponseOp, TxnRequest, response_op},
};

pub(super) struct Key {
    pub(super) node: Node,
    etcd: Etcd,
    keys: Keys,
    /// Whether the node has a channel that someone must delete should it never return.
    reads_channel: bool,
    /// gopusher's key form, if asked for.
    gopusher: Option<String>,
}

/// Why the key is not ours.
pub(super) enum Obstacle {
    Fault(Fault),
    /// A node of the same id has it.
    Taken(Box<Namesake>),
    /// A survivor is deleting our channel.
    BeingDeleted,
}

impl From<Fault> for Obstacle {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Key {
    pub(super) fn new(etcd: Etcd, id: &str, addresses: &Addresses, reads_channel: bool) -> Self {
        let gopusher = etcd.config.gopusher_key.as_ref();
        Self {
            node: Node::new(id, addresses, etcd.config.weight),
            keys: Keys::new(&etcd.config.prefix, id),
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
    pub(super) async fn claim(&mut self, client: &mut Client, lease: i64, standing: Standing) -> Result<(), Obstacle> {
        let keys = self.keys.clone();
        let txn = TxnRequest {
            compare: vec![Compare::absent(&keys.node), Compare::absent(&keys.deleting)],
            success: self.puts(lease, standing),
            failure: vec![RequestOp::get(&keys.node), RequestOp::get(&keys.deleting)],
        };
        let answer = self.etcd.call("claim the node id", client.txn(txn)).await?;
        if answer.succeeded {
            return Ok(());
        }
        let mut found = answer.responses.into_iter().map(first);
        let (node, deleting) = (found.next().flatten(), found.next().flatten());
        let Some(there) = node else {
            return Err(match deleting {
                Some(_) => Obstacle::BeingDeleted,
                None => Fault::Away("claim the node id: the key changed meanwhile".into()).into(),
            });
        };
        let node = Node::parse(&there.value);
        let ours = there.lease == lease || node.as_ref().is_some_and(|node| node.incarnation == self.node.incarnation);
        if !ours {
            return Err(Obstacle::Taken(Box::new(Namesake { key: keys.node, node, lease: there.lease })));
        }
        let unchanged = Compare::unchanged(keys.node.as_bytes(), there.mod_revision);
        Ok(self.put_when(client, unchanged, lease, standing).await?)
    }

    /// Writes how the node stands, if the key is still under `lease`.
    pub(super) async fn put(&mut self, client: &mut Client, lease: i64, standing: Standing) -> Result<(), Fault> {
        let ours = Compare::under(&self.keys.node, lease);
        self.put_when(client, ours, lease, standing).await?;
        tracing::info!(node = self.node.id, phase = self.node.phase, ready = standing.ready, "phase written to etcd");
        Ok(())
    }

    async fn put_when(
        &mut self,
        client: &mut Client,
        ours: Compare,
        lease: i64,
        standing: Standing,
    ) -> Result<(), Fault> {
        let txn = TxnRequest { compare: vec![ours], success: self.puts(lease, standing), failure: Vec::new() };
        match self.etcd.call("put the node's key", client.txn(txn)).await?.succeeded {
            true => Ok(()),
            false => Err(Fault::Away("the key is not this node's any more".into())),
        }
    }

    /// Someone may have deleted the key though the lease lives.
    pub(super) async fn check(&self, client: &mut Client, lease: i64) -> Result<(), Fault> {
        let got = self.etcd.call("read the node's key", client.get(self.name())).await?;
        match got.kvs.first().is_some_and(|kv| kv.lease == lease) {
            true => Ok(()),
            false => Err(Fault::Away("the key was deleted".into())),
        }
    }

    /// What etcd shall hold of this node.
    fn puts(&mut self, lease: i64, standing: Standing) -> Vec<RequestOp> {
        self.node.stand(standing);
        let mut puts = vec![RequestOp::put(&self.keys.node, self.node.json(), lease)];
        if self.reads_channel {
            puts.push(RequestOp::put(&self.keys.roster, Entry::default().json(), 0));
        }
        if let Some(key) = &self.gopusher {
            puts.push(match standing.stage {
                Stage::Serving => {
                    RequestOp::put(key, format!("{} weight={}", self.node.socket, self.node.weight), lease)
                }
                Stage::Starting | Stage::Unready | Stage::Draining => RequestOp::delete(key),
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
