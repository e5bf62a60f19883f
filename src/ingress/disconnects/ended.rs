//! What an order to end clients has done, asked of all nodes that can be asked.

use std::{sync::Arc, time::Duration};

use crate::{
    cluster::Peers,
    config::Config,
    hub::Hub,
    proto::peers::{EndedQuestion, answer::Answer, question::Question},
    push::PushId,
};

/// How many connections an order has ended, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedConnections {
    /// Each node's id with its number, in the order of the ids.
    pub(crate) nodes: Vec<(Arc<str>, u64)>,
    /// The ids of the nodes that did not say so in time: they carry it out all the same.
    pub(crate) missing: Vec<Arc<str>>,
}

/// Asks what became of orders; a cheap clone.
#[derive(Clone)]
pub(super) struct EndedReport {
    peers: Peers,
    hub: Hub,
    node: Arc<str>,
    /// This node carries orders out, too.
    has_clients: bool,
    /// For how long nodes wait until they have carried an order out: less than their answer may take.
    wait: Duration,
}

impl EndedReport {
    pub(super) fn new(config: &Config, peers: Peers, hub: Hub) -> Self {
        let wait = peers.timeout() * 4 / 5;
        let has_clients = config.node.roles.has_socket();
        Self { peers, hub, node: config.node.id.as_str().into(), has_clients, wait }
    }

    /// Of an order that the queue has.
    pub(super) async fn of(&self, order: PushId) -> EndedConnections {
        let wait = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        let question = EndedQuestion { order: order.to_string(), wait };
        let take = |answer| match answer {
            Answer::Ended(ended) => Some(ended.connections),
            _ => None,
        };
        let (own, others) = tokio::join!(self.own(order), self.peers.ask(Question::Ended(question), take));
        let own = self.has_clients.then(|| (Arc::clone(&self.node), own));
        let (mut nodes, mut missing) = (Vec::new(), others.missing);
        for (node, ended) in own.into_iter().chain(others.answers) {
            match ended {
                Some(connections) => nodes.push((node, connections)),
                None => missing.push(node),
            }
        }
        nodes.sort();
        missing.sort();
        EndedConnections { nodes, missing }
    }

    async fn own(&self, order: PushId) -> Option<u64> {
        let orders = self.hub.ended_orders().filter(|_| self.has_clients)?;
        tokio::time::timeout(self.wait, orders.of(order)).await.ok()
    }
}
