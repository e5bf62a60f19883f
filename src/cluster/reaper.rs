//! Deletes the channels of nodes that never returned.
//!
//! Each node that reads a channel is in the roster, which outlasts its lease. A survivor that sees a roster entry without
//! the node's key writes down since when; `[cluster] channel_grace` later one survivor marks the channel as being deleted,
//! which holds the node's return off, deletes it at every nsqd and strikes the entry. Channels of others (an operator's, an
//! archive's) are in no roster and stay, and so does a channel that is being read.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    proto::etcd::{Compare, KeyValue, RequestOp, TxnRequest},
    push::unix_millis,
    telemetry::Metrics,
};

use super::{
    ForgetNode, GoneNode,
    etcd::{Etcd, EtcdClient, EtcdError},
    node::{self, NodeKeys, RosterEntry},
};

pub(super) struct Reaper {
    etcd: Etcd,
    forget_node: ForgetNode,
    gone: watch::Sender<Vec<GoneNode>>,
    grace: Duration,
    metrics: Arc<Metrics>,
    /// Deletions that failed, with their reason: each is told once.
    last_failures: HashMap<String, String>,
}

impl Reaper {
    /// `gone` is told of the nodes that are gone.
    pub(super) fn new(
        etcd: Etcd,
        forget_node: ForgetNode,
        gone: watch::Sender<Vec<GoneNode>>,
        config: &Config,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            etcd,
            forget_node,
            gone,
            grace: config.cluster.channel_grace,
            metrics: metrics.clone(),
            last_failures: HashMap::new(),
        }
    }

    /// Looks when a node is gone, and every quarter of the grace time, until cancelled.
    pub(super) async fn run(mut self, mut members: watch::Receiver<Vec<String>>, cancelled: CancellationToken) {
        let every = (self.grace / 4).clamp(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            // survivors that look at the same moment only get into each other's way
            let wait = every.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                changed = members.changed() => if changed.is_err() {
                    tokio::select! { () = cancelled.cancelled() => return, () = tokio::time::sleep(wait) => {} }
                }
            }
            let round = tokio::select! {
                // a deletion that is cut off is done again by the next survivor
                () = cancelled.cancelled() => return,
                round = self.round() => round,
            };
            if let Err(error) = round {
                tracing::debug!("looking for channels of gone nodes: {error}");
            }
        }
    }

    async fn round(&mut self) -> Result<(), EtcdError> {
        let prefix = self.etcd.config.prefix.clone();
        let mut client = self.etcd.connect().await?;
        let living = self.read(&mut client, &node::nodes(&prefix)).await?;
        let rosters = node::rosters(&prefix);
        let mut roster = Vec::new();
        for entry in self.read(&mut client, &rosters).await? {
            let Some(id) = std::str::from_utf8(&entry.key).ok().and_then(|key| key.strip_prefix(&rosters)) else {
                continue;
            };
            let keys = NodeKeys::new(&prefix, id);
            if !living.iter().any(|kv| kv.key == keys.node.as_bytes()) {
                let roster_entry = serde_json::from_slice::<RosterEntry>(&entry.value).unwrap_or_default();
                roster.push((id.to_owned(), keys, entry, roster_entry));
            }
        }
        let now = unix_millis();
        let age = |entry: &RosterEntry| entry.gone.map_or(0, |since| now.saturating_sub(since));
        let gone = roster.iter().map(|(id, .., entry)| GoneNode {
            id: id.clone(),
            may_live: !entry.stopped,
            // nobody may read a topic that is deleted
            is_read: age(entry) < self.grace.as_millis() as u64 / 2,
        });
        let gone: Vec<_> = gone.collect();
        self.gone.send_if_modified(|before| {
            let changed = *before != gone;
            *before = gone;
            changed
        });
        for (id, keys, entry, roster_entry) in roster {
            let id = id.as_str();
            match roster_entry.gone {
                None => self.mark(&mut client, id, &keys, &entry, &roster_entry, now).await?,
                Some(since) if now.saturating_sub(since) >= self.grace.as_millis() as u64 => {
                    self.delete(&mut client, id, &keys, &entry).await?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn read(&self, client: &mut EtcdClient, prefix: &str) -> Result<Vec<KeyValue>, EtcdError> {
        Ok(self.etcd.call("read the nodes", client.get_all(prefix)).await?.kvs)
    }

    /// Writes down since when the node is gone.
    async fn mark(
        &self,
        client: &mut EtcdClient,
        id: &str,
        keys: &NodeKeys,
        entry: &KeyValue,
        roster_entry: &RosterEntry,
        now: u64,
    ) -> Result<(), EtcdError> {
        let gone = RosterEntry { gone: Some(now), ..roster_entry.clone() }.json();
        let txn = TxnRequest {
            compare: vec![unchanged(entry), Compare::absent(&keys.node)],
            success: vec![RequestOp::put(&keys.roster, gone, 0)],
            failure: Vec::new(),
        };
        if self.etcd.call("mark a gone node", client.txn(txn)).await?.succeeded {
            let grace = humantime::format_duration(self.grace);
            tracing::info!(node = id, "the node is gone; unless it returns, its channel is deleted in {grace}");
        }
        Ok(())
    }

    async fn delete(
        &mut self,
        client: &mut EtcdClient,
        id: &str,
        keys: &NodeKeys,
        entry: &KeyValue,
    ) -> Result<(), EtcdError> {
        let ttl = (self.etcd.config.timeout * 4).max(Duration::from_secs(10));
        let lease = self.etcd.call("grant a lease", client.lease_grant(ttl.as_secs() as i64)).await?;
        let txn = TxnRequest {
            compare: vec![unchanged(entry), Compare::absent(&keys.node), Compare::absent(&keys.deleting)],
            success: vec![RequestOp::put(&keys.deleting, "", lease)],
            failure: Vec::new(),
        };
        let outcome = match self.etcd.call("claim a gone node's channel", client.txn(txn)).await {
            Ok(claimed) if claimed.succeeded => self.delete_claimed(client, id, keys, entry, ttl / 2).await,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        // ends the claim too; should it fail, the lease ends by itself
        let _ = self.etcd.call("revoke the lease", client.lease_revoke(lease)).await;
        outcome
    }

    /// Within half of the claim's lease, so that the node cannot return in the middle.
    async fn delete_claimed(
        &mut self,
        client: &mut EtcdClient,
        id: &str,
        keys: &NodeKeys,
        entry: &KeyValue,
        within: Duration,
    ) -> Result<(), EtcdError> {
        let deleted = tokio::time::timeout(within, (self.forget_node)(id.to_owned())).await;
        match deleted.unwrap_or_else(|_| Err("the nsqds did not answer in time".into())) {
            Ok(channels) => {
                self.last_failures.remove(id);
                let success = vec![RequestOp::delete(&keys.roster)];
                let strike = TxnRequest { compare: vec![unchanged(entry)], success, failure: Vec::new() };
                self.etcd.call("strike a gone node", client.txn(strike)).await?;
                self.metrics.channels_deleted.inc_by(channels as u64);
                tracing::info!(node = id, channels, "the channel of a node that did not return is deleted");
            }
            Err(why) => {
                // its time begins anew: what waits in its topic is taken meanwhile
                let gone = RosterEntry { gone: Some(unix_millis()), ..RosterEntry::default() }.json();
                let success = vec![RequestOp::put(&keys.roster, gone, 0)];
                let anew = TxnRequest { compare: vec![unchanged(entry)], success, failure: Vec::new() };
                self.etcd.call("put a deletion off", client.txn(anew)).await?;
                if self.last_failures.get(id) != Some(&why) {
                    tracing::warn!(node = id, "the channel of a gone node cannot be deleted yet: {why}");
                    self.last_failures.insert(id.to_owned(), why);
                }
            }
        }
        Ok(())
    }
}

fn unchanged(entry: &KeyValue) -> Compare {
    Compare::unchanged(&entry.key, entry.mod_revision)
}
