//! Puts the parts of several nodes together, so that the answer is the one of a single node that has all their clients.

use std::{collections::BTreeMap, sync::Arc};

use super::{ClientPage, NamePage, NodeClient};
use crate::hub::ClientId;

/// One node's part of a sorted list.
pub(super) struct NodePart<T> {
    pub(super) entries: Vec<T>,
    /// The node has others behind the last of these.
    pub(super) has_more: bool,
}

impl<T> NodePart<T> {
    /// Whether it is what a node answers that is asked for the `limit` entries behind `after`: sorted, none twice, and not empty where it
    /// has others. What is not would leave out or repeat what other nodes have, or never end.
    pub(super) fn is_page_after<'a, K: Ord>(
        &'a self,
        after: Option<K>,
        limit: usize,
        key: impl Fn(&'a T) -> K,
    ) -> bool {
        let keys = || self.entries.iter().map(&key);
        let is_behind = match (after, keys().next()) {
            (Some(after), Some(first)) => after < first,
            (_, Some(_)) => true,
            (_, None) => !self.has_more,
        };
        is_behind && self.entries.len() <= limit && keys().is_sorted_by(|one, next| one < next)
    }
}

/// Up to where all parts are known: of what stands behind the last entry of a part that goes on, its node may have some.
fn known_end<T, K: Ord>(parts: &[NodePart<T>], key: impl Fn(&T) -> K) -> Option<K> {
    let ends = parts.iter().filter(|part| part.has_more).filter_map(|part| part.entries.last());
    ends.map(key).min()
}

/// A page of names, each once with the clients of all nodes; `limit` of them at most.
pub(super) fn names(parts: Vec<NodePart<(Arc<str>, u32)>>, limit: usize) -> NamePage {
    let end = known_end(&parts, |(name, _)| Arc::clone(name));
    let mut counts = BTreeMap::<Arc<str>, u64>::new();
    for (name, count) in parts.into_iter().flat_map(|part| part.entries) {
        if end.as_ref().is_none_or(|end| name <= *end) {
            *counts.entry(name).or_default() += u64::from(count);
        }
    }
    let has_more = end.is_some() || counts.len() > limit;
    let names: Vec<_> = counts.into_iter().take(limit).collect();
    let next = names.last().filter(|_| has_more).map(|(name, _)| Arc::clone(name));
    NamePage { names, next }
}

/// A page of clients, which are each on one node; `count` is how many there are in all.
pub(super) fn clients(parts: Vec<NodePart<NodeClient>>, count: u64, limit: usize) -> ClientPage {
    let end: Option<ClientId> = known_end(&parts, |client| client.info.id);
    let all = parts.into_iter().flat_map(|part| part.entries);
    let mut clients: Vec<_> = all.filter(|client| end.is_none_or(|end| client.info.id <= end)).collect();
    clients.sort_unstable_by_key(|client| client.info.id);
    let has_more = end.is_some() || clients.len() > limit;
    clients.truncate(limit);
    let next = clients.last().filter(|_| has_more).map(|client| client.info.id);
    ClientPage { count, clients, next }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What one node answers: at most `limit` of its names behind `after`.
    fn part(names: &[(&str, u32)], after: &str, limit: usize) -> NodePart<(Arc<str>, u32)> {
        let mut all: Vec<(Arc<str>, u32)> = names.iter().map(|(name, count)| (Arc::from(*name), *count)).collect();
        all.sort();
        all.retain(|(name, _)| **name > *after);
        let has_more = all.len() > limit;
        all.truncate(limit);
        NodePart { entries: all, has_more }
    }

    #[test]
    fn pages_of_several_nodes_are_those_of_their_union_however_short_each_answer_is() {
        let nodes: [&[(&str, u32)]; 3] =
            [&[("a", 1), ("c", 2), ("d", 1), ("z", 9)], &[("b", 1), ("c", 3)], &[("a", 4), ("m", 1), ("n", 1)]];
        let mut union = BTreeMap::<String, u64>::new();
        for (name, count) in nodes.iter().flat_map(|node| node.iter()) {
            *union.entry((*name).into()).or_default() += u64::from(*count);
        }
        for limit in 1..=8 {
            // a node may send less than it is asked for, where names are long
            for sent in 1..=limit {
                let (mut after, mut read) = (String::new(), Vec::new());
                loop {
                    let parts = nodes.iter().map(|node| part(node, &after, sent)).collect();
                    let page = names(parts, limit);
                    assert!(page.names.len() <= limit);
                    read.extend(page.names.iter().map(|(name, count)| (name.to_string(), *count)));
                    let Some(next) = page.next else { break };
                    assert!(*next > *after, "it goes on");
                    after = next.to_string();
                }
                assert_eq!(read, union.clone().into_iter().collect::<Vec<_>>(), "limit {limit}, {sent} sent");
            }
        }
    }

    #[test]
    fn a_page_that_is_not_in_order_or_not_behind_what_was_asked_for_is_none() {
        let is_page = |names: &[&str], has_more: bool| {
            let part = NodePart { entries: names.to_vec(), has_more };
            part.is_page_after(Some("b"), 3, |name| *name)
        };
        assert!(is_page(&[], false) && is_page(&["c"], true) && is_page(&["c", "d", "e"], true));
        for (names, has_more) in
            [(&["d", "c"][..], false), (&["c", "c"], false), (&["b", "c"], true), (&["a"], false), (&[], true)]
        {
            assert!(!is_page(names, has_more), "{names:?}");
        }
        assert!(!is_page(&["c", "d", "e", "f"], false), "more than was asked for");
    }

    #[test]
    fn the_last_page_says_that_it_is() {
        let page = names(vec![part(&[("a", 1), ("b", 1)], "", 2), part(&[("b", 2)], "", 2)], 2);
        assert_eq!(page.names, [("a".into(), 1), ("b".into(), 3)]);
        assert_eq!(page.next, None);
        assert!(names(Vec::new(), 2).names.is_empty());
    }
}
