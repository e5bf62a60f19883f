//! `POST /rebalance`: which nodes have more clients than their share, and the orders that tell them so.

use std::sync::Arc;

use bytestring::ByteString;

use super::{
    nodes::{KnownNode, Nodes},
    refusal::{Refusal, RefusalKind},
};
use crate::{
    lifecycle::{Phase, Phases},
    push::{PushId, Rebalance, unix_millis},
    queue::{Destination, Publisher, record},
    telemetry::{Metrics, labels::RebalanceOutcome},
};

/// What is asked for, not checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RebalanceDraft {
    /// The one node whose clients are meant; `None`: all that have more than their share.
    pub(crate) node: Option<ByteString>,
    /// How many connections that node keeps; `None`: its share by weight.
    pub(crate) keep: Option<u64>,
}

/// What one node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeMove {
    pub(crate) node: String,
    /// How many it has; `None`: nobody here knows.
    pub(crate) connections: Option<u64>,
    pub(crate) keep: u64,
}

impl NodeMove {
    /// How many clients leave it, where that is known.
    pub(crate) fn moves(&self) -> Option<u64> {
        self.connections.map(|connections| connections.saturating_sub(self.keep))
    }
}

/// Takes orders to rebalance; a cheap clone.
#[derive(Clone)]
pub(crate) struct Rebalances {
    nodes: Nodes,
    publisher: Publisher,
    phases: Phases,
    metrics: Arc<Metrics>,
}

impl Rebalances {
    /// Orders reach the nodes through `publisher`, as those to end clients do.
    pub(crate) fn new(nodes: Nodes, publisher: Publisher, phases: Phases, metrics: &Arc<Metrics>) -> Self {
        Self { nodes, publisher, phases, metrics: Arc::clone(metrics) }
    }

    /// Tells each node that has too many clients how many it keeps; those nodes.
    ///
    /// # Errors
    /// Why it was refused; after `Unavailable` or `TimedOut` some nodes may have been told.
    pub(crate) async fn submit(&self, draft: Result<RebalanceDraft, Refusal>) -> Result<Vec<NodeMove>, Refusal> {
        let outcome = self.publish(draft).await;
        let counted = if outcome.is_ok() { RebalanceOutcome::Accepted } else { RebalanceOutcome::Refused };
        self.metrics.rebalances.get_or_create(&counted).inc();
        outcome
    }

    async fn publish(&self, draft: Result<RebalanceDraft, Refusal>) -> Result<Vec<NodeMove>, Refusal> {
        let draft = draft?;
        if self.phases.now() == Phase::Draining {
            return Err(Refusal::draining());
        }
        let moves = plan(&draft, &self.nodes.all_asked_now().await, self.nodes.can_ask())?;
        for one in &moves {
            let at = unix_millis();
            let order = Rebalance { id: PushId::generate(), node: one.node.as_str().into(), keep: one.keep, at };
            self.publisher.publish(Destination::Live, record::encode_rebalance(&order)).await?;
            tracing::info!(node = one.node, keep = one.keep, moves = one.moves(), "a rebalance is in the queue");
        }
        Ok(moves)
    }
}

/// Who has to send clients away. `can_ask`: the loads of all nodes that answer are known.
fn plan(draft: &RebalanceDraft, nodes: &[KnownNode], can_ask: bool) -> Result<Vec<NodeMove>, Refusal> {
    let holders: Vec<&KnownNode> = nodes.iter().filter(|known| known.url.is_some()).collect();
    let named = match &draft.node {
        None if draft.keep.is_some() => return Err(Refusal::field("keep", "needs `node`: it is one node's number")),
        None => None,
        Some(id) => Some(holders.iter().find(|known| known.node.id == **id).ok_or_else(|| no_such_node(id))?),
    };
    if let (Some(known), Some(keep)) = (named, draft.keep) {
        let one = NodeMove { node: known.node.id.clone(), connections: known.connections, keep };
        return Ok(Vec::from_iter(Some(one).filter(|one| one.moves() != Some(0))));
    }
    let serving: Vec<&&KnownNode> = holders.iter().filter(|known| known.node.is_serving()).collect();
    let unknown: Vec<&str> =
        serving.iter().filter(|known| known.connections.is_none()).map(|known| known.node.id.as_str()).collect();
    if !unknown.is_empty() {
        return Err(load_unknown(&unknown, can_ask));
    }
    let clients: u64 = serving.iter().filter_map(|known| known.connections).sum();
    let weights: u64 = serving.iter().map(|known| u64::from(known.node.weight)).sum();
    let share = |known: &KnownNode| (clients * u64::from(known.node.weight)).div_ceil(weights.max(1));
    let is_meant = |known: &KnownNode| named.is_none_or(|named| named.node.id == known.node.id);
    let moves = serving.iter().filter(|known| is_meant(known)).map(|known| NodeMove {
        node: known.node.id.clone(),
        connections: known.connections,
        keep: share(known),
    });
    Ok(moves.filter(|one| one.moves() > Some(0)).collect())
}

fn no_such_node(id: &str) -> Refusal {
    let id: String = id.chars().take(64).collect();
    Refusal::new(RefusalKind::NotFound, format!("there is no node {id:?} that holds clients; GET /nodes lists them"))
}

fn load_unknown(nodes: &[&str], can_ask: bool) -> Refusal {
    let nodes = nodes.join(", ");
    if can_ask {
        let message = format!("{nodes} did not say how many clients are there: try again later");
        return Refusal::new(RefusalKind::Unavailable, message);
    }
    let message = format!(
        "how many clients {nodes} has is not known here, so that nobody's share is: set [peers] listen on all nodes, or give \
         `node` and `keep`"
    );
    Refusal::new(RefusalKind::Conflict, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cluster::Node;

    fn node(id: &str, weight: u32, phase: &str, connections: Option<u64>) -> KnownNode {
        let node = Node {
            id: id.into(),
            socket: "a:1".into(),
            http: "a:2".into(),
            grpc: "a:3".into(),
            peers: None,
            roles: Vec::new(),
            weight,
            version: String::new(),
            phase: phase.into(),
            ready: None,
            incarnation: String::new(),
        };
        KnownNode { node, url: Some("ws://a:1/ws".into()), connections }
    }

    fn draft(node: Option<&str>, keep: Option<u64>) -> RebalanceDraft {
        RebalanceDraft { node: node.map(Into::into), keep }
    }

    fn moves(draft: &RebalanceDraft, nodes: &[KnownNode]) -> Vec<(String, u64, Option<u64>)> {
        let plan = plan(draft, nodes, true).unwrap();
        plan.iter().map(|one| (one.node.clone(), one.keep, one.moves())).collect()
    }

    #[test]
    fn each_node_keeps_its_share_by_weight_of_the_clients_of_those_that_serve() {
        let nodes = [
            node("a", 1, "serving", Some(900)),
            node("b", 1, "serving", Some(300)),
            node("new", 2, "serving", Some(0)),
            node("leaves", 1, "draining", Some(50)),
        ];
        assert_eq!(moves(&draft(None, None), &nodes), [("a".into(), 300, Some(600))]);
        assert_eq!(moves(&draft(Some("a"), None), &nodes), [("a".into(), 300, Some(600))]);
        assert_eq!(moves(&draft(Some("b"), None), &nodes), [], "it has its share");
        assert_eq!(moves(&draft(Some("b"), Some(10)), &nodes), [("b".into(), 10, Some(290))]);
        assert_eq!(moves(&draft(None, None), &nodes[..1]), [], "alone it has all");
        // what does not divide moves nobody to and fro
        let odd = [node("a", 1, "serving", Some(2)), node("b", 1, "serving", Some(1))];
        assert_eq!(moves(&draft(None, None), &odd), []);
    }

    #[test]
    fn what_cannot_be_planned_is_refused_with_what_helps() {
        let nodes = [node("a", 1, "serving", Some(9)), node("b", 1, "serving", None)];
        let refused = |draft: &RebalanceDraft, can_ask| plan(draft, &nodes, can_ask).unwrap_err();
        let unknown = refused(&draft(None, None), false);
        assert_eq!(unknown.kind, RefusalKind::Conflict);
        assert!(unknown.message.contains("clients b has") && unknown.message.contains("[peers] listen"), "{unknown:?}");
        assert_eq!(refused(&draft(Some("a"), None), true).kind, RefusalKind::Unavailable);
        assert_eq!(refused(&draft(Some("c"), None), true).kind, RefusalKind::NotFound);
        assert!(refused(&draft(None, Some(1)), true).message.starts_with("`keep` needs `node`"));
        // an order that needs nobody's number is taken, and says that it does not know how many will go
        let unknown = plan(&draft(Some("b"), Some(5)), &nodes, false).unwrap();
        assert_eq!((unknown[0].keep, unknown[0].moves()), (5, None));
    }
}
