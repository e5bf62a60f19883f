//! What a node runs only while it holds clients: the workers with their connections, and the dispatch of jobs to them.

use std::time::Duration;

use tokio::sync::watch;

use crate::{
    config::{self, Config},
    dispatch::{Dispatch, HearPresence, NodeOrders, Revoke},
    hub::Hub,
    lifecycle::Deadline,
    push::Rebalance,
    queue,
    socket::{ClientListener, ClientServer},
    telemetry::{Metrics, labels::NodeRole},
};

/// The running parts of a node with the role `socket`.
pub(super) struct HeldClients {
    pub(super) dispatch: Dispatch,
    pub(super) clients: ClientServer,
}

impl HeldClients {
    /// Tells all clients to go and closes them, at the deadline at the latest; how many there were.
    pub(super) async fn send_away(
        &self,
        drain: &config::DrainConfig,
        queue: &mut queue::Control,
        hub: &Hub,
        deadline: Deadline,
    ) -> usize {
        self.dispatch.stop_merging(deadline).await;
        // what comes for a client that was told to go is kept for the next process, and put back once no more jobs are handed out
        let jitter: Duration = self.clients.jitter(drain.reconnect_jitter, deadline);
        // the next process waits for those that were there last
        queue.note_clients(hub.address_counts(), jitter);
        self.clients.drain(drain.rate, jitter, deadline).await
    }

    /// Ends what has no more jobs to do, and waits for the connections' end; how many had to be cut, and the workers, still to be
    /// stopped.
    pub(super) async fn end_jobs(self, deadline: Deadline) -> (usize, ClientServer) {
        self.dispatch.drain(deadline).await;
        let cut = self.clients.gone(deadline).await;
        (cut, self.clients)
    }
}

/// Who carries out the orders that the queue brings: `revoke`, `presence`, and for a rebalance of this node its `clients`, at the pace of
/// `[drain]` as the last reload left it.
pub(super) fn orders(
    revoke: Revoke,
    presence: HearPresence,
    clients: &ClientListener,
    node: &config::NodeId,
    config: watch::Receiver<Config>,
) -> NodeOrders {
    let rebalancer = clients.rebalancer();
    let node = node.clone();
    let rebalance = Box::new(move |order: &Rebalance| {
        if *order.node == *node.as_str() {
            rebalancer.keep(order.keep, &config.borrow().drain);
        }
    });
    NodeOrders { revoke, rebalance, presence }
}

/// Shows what the node does.
pub(super) fn show_roles(config: &Config, metrics: &Metrics) {
    let roles = config.node.roles;
    for (role, has) in [(NodeRole::Ingress, roles.has_ingress()), (NodeRole::Socket, roles.has_socket())] {
        metrics.node_roles.get_or_create(&role).set(i64::from(has));
    }
}
