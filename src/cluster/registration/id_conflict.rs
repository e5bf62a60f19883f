//! A node of the same id: one that lives, or what is left of one that was killed.

use std::time::Duration;

use tokio::time::Instant;

use super::POLL_INTERVAL;
use crate::cluster::{
    etcd::{Etcd, EtcdError},
    node::Node,
};

/// Who holds the key that is meant to be ours.
pub(super) struct IdConflict {
    /// The key.
    pub(super) key: String,
    /// Its value; `None` when no node wrote it.
    pub(super) node: Option<Node>,
    /// What it is under; 0: nothing.
    pub(super) lease: i64,
}

impl IdConflict {
    /// Waits for the end of a killed predecessor's lease. False: it lives, its lease is being kept alive.
    pub(super) async fn outlived(&self, etcd: &Etcd) -> Result<bool, EtcdError> {
        if self.lease == 0 {
            return Ok(false);
        }
        let mut client = etcd.connect().await?;
        let begun = Instant::now();
        let mut last = i64::MAX;
        let mut risen = 0;
        loop {
            let answer = etcd.call("look at a lease", client.lease_time_to_live(self.lease)).await?;
            if answer.ttl <= 0 {
                return Ok(true);
            }
            if last == i64::MAX {
                tracing::info!(key = self.key, seconds = answer.ttl, "waiting for a predecessor's lease to end");
            }
            // a new leader of etcd lengthens all leases once: only the second rise is a sign of life
            risen += u32::from(answer.ttl > last);
            last = answer.ttl;
            let most = Duration::from_secs(2 * answer.granted_ttl.max(1).unsigned_abs()) + etcd.config.timeout;
            if risen >= 2 || begun.elapsed() > most {
                return Ok(false);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Why this node must not have the key, and what to do.
impl std::fmt::Display for IdConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = &self.key;
        match (&self.node, self.lease) {
            (_, 0) => {
                write!(f, "the key {key} is there without a lease, so no node wrote it: delete it (etcdctl del {key})")
            }
            (Some(node), _) => write!(
                f,
                "the node id {} is taken by a living node (socket {}, http {}, grpc {}, oxipush {}): give this one another \
                 [node] id, or stop that one",
                node.id, node.socket, node.http, node.grpc, node.version
            ),
            (None, _) => write!(f, "the key {key} is kept by something that is no oxipush node"),
        }
    }
}
