//! This node among others: its etcd registration, the other nodes, and the channels of nodes that are gone.
//!
//! Keys in etcd, `<prefix>` being `[cluster] prefix`:
//!
//! | key | is | lives |
//! |---|---|---|
//! | `<prefix>/<id>` | a node: addresses, weight, version, phase, whether it is ready (JSON) | under the node's lease |
//! | `<prefix>-roster/<id>` | a node that has a channel, and since when it is gone (JSON) | until its channel is deleted |
//! | `<prefix>-deleting/<id>` | a survivor is deleting that channel; the node waits before it comes back | under a lease |
//! | `/gopusher/<gopusher_key>/<addr>` | gopusher's form, by option | under the node's lease, while it serves |

mod addresses;
mod cleaner;
mod etcd;
mod members;
mod node;
mod readiness;
mod registration;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    lifecycle::{Phases, Tasks},
    telemetry::Metrics,
};

use etcd::Etcd;
use members::Members;
use node::Standing;
use readiness::Readiness;
use registration::Registration;

/// Where the node's listeners really listen.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// `[socket] listen`.
    pub socket: SocketAddr,
    /// `[http] listen`.
    pub http: SocketAddr,
    /// `[grpc] listen`.
    pub grpc: SocketAddr,
}

/// The node's place in the cluster.
pub struct Cluster {
    /// Lines for `/readyz`: whether the node is registered, and why not.
    pub details: watch::Receiver<Vec<String>>,
    /// Ids of the nodes that are registered, sorted; the last known ones while etcd is away. Without etcd: this node.
    pub members: watch::Receiver<Vec<String>>,
    presence: Presence,
}

/// Takes out of the queue what it keeps for the node of this id, which is gone: how many channels those were. An error says
/// why it cannot be done yet; a node that still reads its channel is one.
pub type ForgetNode = Box<dyn Fn(String) -> BoxFuture<'static, Result<usize, String>> + Send + Sync>;

/// Why a node cannot be part of the cluster; it must not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClusterError(pub String);

enum Presence {
    /// No `[cluster] etcd`: the senders keep the receivers' channels open.
    Alone { _details: watch::Sender<Vec<String>>, _members: watch::Sender<Vec<String>> },
    Registered {
        standing: watch::Sender<Standing>,
        /// Whether another node takes clients.
        other: watch::Receiver<bool>,
        unready_after: Duration,
        stop: CancellationToken,
        /// Closed once the registration's task has ended.
        ended: watch::Receiver<()>,
        patience: Duration,
    },
}

impl Cluster {
    /// Claims the node's id and registers it as starting; [`Cluster::follow`] goes on from there. Without `[cluster] etcd`
    /// nothing is done. While etcd is away it goes on without and tries again.
    ///
    /// Call it before the node reads its channel: two nodes of one id would split that channel's pushes. It may wait for a
    /// killed predecessor's lease to end.
    ///
    /// `forget_node` is there where the queue keeps something for each node: then nodes that are gone are forgotten.
    ///
    /// # Errors
    /// The id is taken by a living node; credentials or TLS are refused; an address cannot be advertised.
    pub async fn join(
        config: &Config,
        listeners: Listeners,
        forget_node: Option<ForgetNode>,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, ClusterError> {
        let id = config.node.id.as_str();
        if config.cluster.etcd.is_empty() {
            let (_details, details) = watch::channel(Vec::new());
            let (_members, members) = watch::channel(vec![id.to_owned()]);
            return Ok(Self { details, members, presence: Presence::Alone { _details, _members } });
        }
        let addresses = addresses::advertised(&config.cluster, listeners).await.map_err(ClusterError)?;
        let etcd = Etcd::new(&config.cluster, metrics);
        let reads_channel = forget_node.is_some();
        let (say, details) = watch::channel(Vec::new());
        let (tell, members) = watch::channel(Vec::new());
        let (standing, standings) = watch::channel(Standing::FIRST);
        let (tell_other, other) = watch::channel(false);
        let mut registration =
            Registration::new(etcd.clone(), id, &addresses, reads_channel, standings, say, members.clone());
        registration.join().await.map_err(ClusterError)?;
        tracing::info!(
            node = id,
            socket = addresses.socket,
            http = addresses.http,
            grpc = addresses.grpc,
            "advertised addresses"
        );

        let stop = tasks.cancelled().child_token();
        let (end, ended) = watch::channel(());
        tasks.spawn_until_done("cluster addresses", addresses.check(registration.remarks(), config.cluster.timeout));
        tasks.spawn_until_done("cluster registration", {
            let stop = stop.clone();
            async move {
                registration.run(stop).await;
                drop(end);
            }
        });
        let tell = Members { ids: tell, other: tell_other, own: id.to_owned() };
        tasks.spawn("cluster members", members::run(etcd.clone(), tell, tasks.cancelled()));
        if let Some(forget_node) = forget_node {
            let cleaner = cleaner::Cleaner::new(etcd, forget_node, config, metrics);
            tasks.spawn("cluster cleaner", cleaner.run(members.clone(), tasks.cancelled()));
        }
        let patience = config.cluster.timeout * 2 + Duration::from_secs(1);
        let unready_after = config.cluster.unready_after;
        let presence = Presence::Registered { standing, other, unready_after, stop, ended, patience };
        Ok(Self { details, members, presence })
    }

    /// From here on the registered phase follows `phases`, and the state of the queue: while that does not work, and another
    /// node's does, new clients are for that one.
    pub fn follow<S: Send + Sync + 'static>(
        &self,
        phases: &Phases,
        queue: watch::Receiver<S>,
        works: fn(&S) -> bool,
        tasks: &Tasks,
    ) {
        if let Presence::Registered { standing, other, unready_after, .. } = &self.presence {
            let readiness =
                Readiness { phases: phases.watch(), queue, works, other: other.clone(), after: *unready_after };
            let (standing, cancelled) = (standing.clone(), tasks.cancelled());
            tasks.spawn("cluster readiness", async move {
                cancelled.run_until_cancelled(readiness.run(standing)).await;
            });
        }
    }

    /// Takes the registration back: the last thing a node does. (A node whose tasks are stopped first has done so then.)
    pub async fn leave(self) {
        if let Presence::Registered { stop, mut ended, patience, .. } = self.presence {
            stop.cancel();
            let end = async { while ended.changed().await.is_ok() {} };
            if tokio::time::timeout(patience, end).await.is_err() {
                tracing::warn!("the registration could not be taken back in time; its lease will end by itself");
            }
        }
    }
}
