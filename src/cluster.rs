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
mod directory;
mod etcd;
mod members;
mod node;
mod peers;
mod readiness;
mod reaper;
mod registration;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    config::Config,
    lifecycle::{Deadline, Phases, Service, Tasks},
    telemetry::Metrics,
};

pub use directory::{Announcement, Directory, HasClients, HoldingNodes, PresenceNews, SharedPresence};
use etcd::Etcd;
use members::NodeSenders;
pub use node::Node;
use node::NodeStatus;
pub(crate) use peers::RecentAnswers;
pub use peers::{Gathered, NodeLoad, OthersPresent, Peers, PeersConfigError};
use readiness::Readiness;
use registration::Registration;

/// Where the node's listeners really listen.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// `[socket] listen`. Of a node without the role `socket` as it is configured, and nobody listens there.
    pub socket: SocketAddr,
    /// `[http] listen`.
    pub http: SocketAddr,
    /// `[grpc] listen`.
    pub grpc: SocketAddr,
    /// `[peers] listen`.
    pub peers: Option<SocketAddr>,
}

/// The node's place in the cluster.
pub struct Cluster {
    /// Lines for `/readyz`: whether the node is registered, and why not.
    pub details: watch::Receiver<Vec<String>>,
    /// Ids of the nodes that are registered, sorted; the last known ones while etcd is away. Without etcd: this node.
    pub members: watch::Receiver<Vec<String>>,
    /// Those of them that hold clients, and so read a channel of their own.
    pub readers: watch::Receiver<Vec<String>>,
    /// The same nodes with what they say of themselves, sorted by id. Without etcd: none.
    pub nodes: watch::Receiver<Arc<[Node]>>,
    /// Nodes that are gone, and whose channels are still there, sorted by id.
    pub gone: watch::Receiver<Vec<GoneNode>>,
    state: ClusterState,
}

/// A node whose key is not in etcd any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoneNode {
    /// Its id.
    pub id: String,
    /// It has not stopped in order: it may be cut off from etcd alone, and have clients.
    pub may_live: bool,
    /// What waits in its own topic is to be taken: the topic is not about to be deleted.
    pub is_read: bool,
}

/// Takes out of the queue what it keeps for the node of this id, which is gone: how many channels those were. An error says
/// why it cannot be done yet; a node that still reads its channel is one.
pub type ForgetNode = Box<dyn Fn(String) -> BoxFuture<'static, Result<usize, String>> + Send + Sync>;

/// Why a node cannot be part of the cluster; it must not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClusterError(pub String);

enum ClusterState {
    /// No `[cluster] etcd`: the senders keep the receivers' channels open.
    Alone {
        _details: watch::Sender<Vec<String>>,
        _members: watch::Sender<Vec<String>>,
        _readers: watch::Sender<Vec<String>>,
        _nodes: watch::Sender<Arc<[Node]>>,
        _gone: watch::Sender<Vec<GoneNode>>,
    },
    Registered {
        status: watch::Sender<NodeStatus>,
        /// Whether other nodes serve that do what this one does.
        other: watch::Receiver<bool>,
        unready_after: Duration,
        registration: Service,
        /// How long etcd may take to revoke the lease.
        revoke_timeout: Duration,
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
        let roles = config.node.roles;
        if config.cluster.etcd.is_empty() {
            let (_details, details) = watch::channel(Vec::new());
            let (_members, members) = watch::channel(vec![id.to_owned()]);
            let readers = if roles.has_socket() { vec![id.to_owned()] } else { Vec::new() };
            let (_readers, readers) = watch::channel(readers);
            let (_nodes, nodes) = watch::channel(Arc::default());
            let (_gone, gone) = watch::channel(Vec::new());
            let state = ClusterState::Alone { _details, _members, _readers, _nodes, _gone };
            return Ok(Self { details, members, readers, nodes, gone, state });
        }
        let addresses = addresses::advertised(&config.cluster, listeners, roles).await.map_err(ClusterError)?;
        let etcd = Etcd::new(&config.cluster, metrics);
        let reads_channel = forget_node.is_some() && roles.has_socket();
        let (detail_sender, details) = watch::channel(Vec::new());
        let (member_sender, members) = watch::channel(Vec::new());
        let (reader_sender, readers) = watch::channel(Vec::new());
        let (node_sender, nodes) = watch::channel(Arc::default());
        let (gone_sender, gone) = watch::channel(Vec::new());
        let (status, statuses) = watch::channel(NodeStatus::FIRST);
        let (other_sender, other) = watch::channel(false);
        let mut registration =
            Registration::new(etcd.clone(), id, &addresses, reads_channel, statuses, detail_sender, members.clone())
                .with_roles(roles.names());
        registration.join().await.map_err(ClusterError)?;
        tracing::info!(
            node = id,
            roles = %roles,
            socket = addresses.socket,
            http = addresses.http,
            grpc = addresses.grpc,
            "advertised addresses"
        );

        let service = tasks.service();
        tasks.spawn_until_done("cluster addresses", addresses.check(registration.notes(), config.cluster.timeout));
        service.spawn("cluster registration", registration.run(service.stopping().clone()));
        let senders = NodeSenders {
            ids: member_sender,
            nodes: node_sender,
            readers: reader_sender,
            other: other_sender,
            own: id.to_owned(),
            roles,
        };
        tasks.spawn("cluster members", members::run(etcd.clone(), senders, tasks.cancelled()));
        if let Some(forget_node) = forget_node {
            let reaper = reaper::Reaper::new(etcd, forget_node, gone_sender, config, metrics);
            tasks.spawn("cluster reaper", reaper.run(members.clone(), tasks.cancelled()));
        }
        let state = ClusterState::Registered {
            status,
            other,
            unready_after: config.cluster.unready_after,
            registration: service,
            revoke_timeout: config.cluster.timeout * 2 + Duration::from_secs(1),
        };
        Ok(Self { details, members, readers, nodes, gone, state })
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
        if let ClusterState::Registered { status, other, unready_after, .. } = &self.state {
            let readiness =
                Readiness { phases: phases.watch(), queue, works, other: other.clone(), after: *unready_after };
            let status = status.clone();
            let cancelled = tasks.cancelled();
            tasks.spawn("cluster readiness", async move {
                cancelled.run_until_cancelled(readiness.run(status)).await;
            });
        }
    }

    /// Takes the registration back: the last thing a node does. (A node whose tasks are stopped first has done so then.)
    pub async fn leave(self, deadline: Deadline) {
        if let ClusterState::Registered { registration, revoke_timeout, .. } = self.state
            && !registration.stop_within(deadline.within(revoke_timeout)).await
        {
            tracing::warn!("the registration could not be taken back in time; its lease will end by itself");
        }
    }
}
