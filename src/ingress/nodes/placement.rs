//! Which node the next client should connect to.

use std::collections::HashMap;

use tokio::time::Instant;

/// A node that takes clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) id: &'a str,
    /// Its share of the clients.
    pub(super) weight: u32,
    /// `None`: not known.
    pub(super) connections: Option<u64>,
}

/// Who was sent where since loads were heard last: until they are heard again, each counts as a connection, so that not all
/// clients of a moment go to one node.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// By node id; only of nodes that took clients the last time.
    sent: HashMap<String, u64>,
    /// When the loads were heard that it stands beside.
    heard: Option<Instant>,
}

impl Placement {
    /// The order in which the next client should try the candidates: the one with the fewest connections for its weight first.
    /// Where the loads of some are not known, these come last; where no load is, the weights alone decide. `heard` is when the
    /// loads were. The first of them counts as chosen.
    pub(super) fn order(&mut self, candidates: &[Candidate<'_>], heard: Option<Instant>) -> Vec<usize> {
        let are_the_same =
            self.sent.len() == candidates.len() && candidates.iter().all(|known| self.sent.contains_key(known.id));
        // a node that is new to those that were counted from long ago would get all clients for as long
        if self.heard != heard || !are_the_same {
            self.heard = heard;
            self.sent = candidates.iter().map(|known| (known.id.to_owned(), 0)).collect();
        }
        let is_load_known = candidates.iter().any(|known| known.connections.is_some());
        let full = |known: &Candidate<'_>| {
            let sent = self.sent.get(known.id).copied().unwrap_or_default();
            let connections = known.connections.unwrap_or_default().saturating_add(sent);
            // as if it came there
            connections.saturating_add(1) as f64 / f64::from(known.weight.max(1))
        };
        let mut order: Vec<_> = (0..candidates.len()).collect();
        order.sort_by(|one, other| {
            let (one, other) = (&candidates[*one], &candidates[*other]);
            let is_unknown = |known: &Candidate<'_>| is_load_known && known.connections.is_none();
            let by_load = is_unknown(one).cmp(&is_unknown(other)).then(full(one).total_cmp(&full(other)));
            by_load.then_with(|| one.id.cmp(other.id))
        });
        if let Some(sent) = order.first().and_then(|first| self.sent.get_mut(candidates[*first].id)) {
            *sent += 1;
        }
        order
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn candidate(id: &str, weight: u32, connections: Option<u64>) -> Candidate<'_> {
        Candidate { id, weight, connections }
    }

    /// How many of so many clients are sent to each.
    fn sent(
        placement: &mut Placement,
        candidates: &[Candidate<'_>],
        heard: Option<Instant>,
        clients: usize,
    ) -> Vec<usize> {
        let mut counts = vec![0; candidates.len()];
        for _ in 0..clients {
            counts[placement.order(candidates, heard)[0]] += 1;
        }
        counts
    }

    #[test]
    fn clients_of_a_moment_are_spread_by_weight_where_no_load_is_known() {
        let nodes = [candidate("a", 1, None), candidate("b", 3, None)];
        assert_eq!(sent(&mut Placement::default(), &nodes, None, 400), [100, 300]);
    }

    #[test]
    fn a_node_with_fewer_connections_than_its_share_gets_the_clients_until_it_has_it() {
        let heard = Some(Instant::now());
        let nodes = [candidate("a", 1, Some(1000)), candidate("b", 1, Some(1000)), candidate("new", 2, Some(0))];
        let mut placement = Placement::default();
        assert_eq!(sent(&mut placement, &nodes, heard, 2000), [0, 0, 2000]);
        assert_eq!(sent(&mut placement, &nodes, heard, 40), [10, 10, 20], "from then on by weight");
        // heard again, what was sent is among the connections
        let later = [candidate("a", 1, Some(1010)), candidate("b", 1, Some(1010)), candidate("new", 2, Some(1900))];
        let heard = heard.map(|heard| heard + std::time::Duration::from_secs(2));
        assert_eq!(sent(&mut placement, &later, heard, 100), [0, 0, 100]);
    }

    #[test]
    fn a_node_that_did_not_say_its_load_is_tried_last() {
        let nodes = [candidate("a", 1, None), candidate("b", 1, Some(5000)), candidate("c", 1, Some(10))];
        assert_eq!(Placement::default().order(&nodes, Some(Instant::now())), [2, 1, 0]);
    }

    #[test]
    fn a_node_that_comes_gets_no_more_than_its_share_where_no_load_is_known() {
        let mut placement = Placement::default();
        sent(&mut placement, &[candidate("a", 1, None), candidate("b", 1, None)], None, 1000);
        let three = [candidate("a", 1, None), candidate("b", 1, None), candidate("c", 1, None)];
        assert_eq!(sent(&mut placement, &three, None, 30), [10, 10, 10]);
        assert!(placement.order(&[], None).is_empty());
    }
}
