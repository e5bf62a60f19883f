//! What back ends ask: of this node, or of all nodes of the cluster that it can ask.

mod cluster;
mod gather;

use std::sync::Arc;

use bytestring::ByteString;
use futures_util::FutureExt;

use super::{
    refusal::{Refusal, RefusalKind},
    scopes,
};
use crate::{
    auth::Caller,
    cluster::{Peers, RecentAnswers},
    config::Config,
    hub::{ClientId, ClientInfo, Hub},
    push::{Address, AddressKind, NameRule, Target},
    telemetry::Metrics,
};

use gather::NodePart;

/// Answers what a back end asks about clients; a cheap clone.
#[derive(Clone)]
pub(crate) struct Queries {
    hub: Hub,
    node: Arc<str>,
    name: NameRule,
    /// The other nodes; `None`: each answers for itself.
    peers: Option<Peers>,
    /// How many all nodes have, as they said a moment ago.
    counts: Arc<RecentAnswers<(), Answered<Counts>>>,
    metrics: Arc<Metrics>,
}

/// Whose clients an answer is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum QueryScope {
    /// Those of all nodes, where nodes ask each other; else of this one.
    #[default]
    Cluster,
    /// Those of the node that is asked.
    Node,
}

impl QueryScope {
    /// The parameter's value.
    ///
    /// # Errors
    /// There is no such scope.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "cluster" | "" => Ok(Self::Cluster),
            "node" => Ok(Self::Node),
            _ => Err(Refusal::field("scope", "is neither cluster nor node")),
        }
    }
}

/// An answer, and whose part of it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered<T> {
    pub(crate) answer: T,
    /// The ids of the nodes that did not answer in time; none where only this node was asked.
    pub(crate) missing: Vec<Arc<str>>,
}

/// How many are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Processor cores.
    pub(crate) cores: u64,
    /// Open client connections.
    pub(crate) connections: u64,
    /// Cards with at least one.
    pub(crate) groups: u64,
    /// Rooms with at least one.
    pub(crate) rooms: u64,
    /// Worker threads.
    pub(crate) workers: u64,
}

/// A part of the rooms, or cards, sorted by name.
pub(crate) struct NamePage {
    /// Each with the number of its clients.
    pub(crate) names: Vec<(Arc<str>, u64)>,
    /// What the next part comes after; `None`: this is the last.
    pub(crate) next: Option<Arc<str>>,
}

/// A client and where it is.
pub(crate) struct NodeClient {
    pub(crate) info: ClientInfo,
    /// The id of its node; `None`: only one was asked.
    pub(crate) node: Option<Arc<str>>,
}

/// A part of the clients of a room or card, sorted by their ids.
pub(crate) struct ClientPage {
    /// How many there are in all.
    pub(crate) count: u64,
    pub(crate) clients: Vec<NodeClient>,
    /// What the next part comes after; `None`: this is the last.
    pub(crate) next: Option<ClientId>,
}

impl Queries {
    /// About the clients of this node, and of `peers`.
    pub(crate) fn new(config: &Config, hub: Hub, peers: Option<Peers>, metrics: &Arc<Metrics>) -> Self {
        let name = NameRule { max: config.push.max_name };
        let counts = Arc::new(RecentAnswers::new(config.peers.counts_cache, 1));
        Self { hub, node: config.node.id.as_str().into(), name, peers, counts, metrics: Arc::clone(metrics) }
    }

    /// The node that answers.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Who is to be asked, too.
    fn peers(&self, scope: QueryScope) -> Option<&Peers> {
        self.peers.as_ref().filter(|_| scope == QueryScope::Cluster)
    }

    /// The live connections of a card.
    ///
    /// # Errors
    /// It is no card's name, or none that the caller may push to without naming an app.
    pub(crate) async fn connections(
        &self,
        caller: &Caller,
        card: &ByteString,
        scope: QueryScope,
    ) -> Result<Answered<u64>, Refusal> {
        self.name.check(card).map_err(|error| Refusal::field("cardID", error))?;
        self.admit(caller, || Target::cards(vec![card.clone()]))?;
        let own = self.hub.connections(card) as u64;
        let Some(peers) = self.peers(scope) else { return Ok(Answered::by_one(own)) };
        let others = cluster::connections(peers, card).await;
        let all = others.answers.iter().map(|(_, connections)| *connections).fold(own, u64::saturating_add);
        Ok(Answered { answer: all, missing: others.missing })
    }

    /// Whether a caller may have a token made for a card.
    ///
    /// # Errors
    /// It is none that the caller may push to without naming an app.
    pub(crate) fn check(&self, caller: &Caller, card: &ByteString) -> Result<(), Refusal> {
        self.admit(caller, || Target::cards(vec![card.clone()]))
    }

    /// Rooms, or cards, that have clients: those behind `after`, `limit` of them at most.
    ///
    /// # Errors
    /// `after` is no name, or the caller may not push to everyone.
    pub(crate) async fn names(
        &self,
        caller: &Caller,
        kind: AddressKind,
        after: &ByteString,
        limit: usize,
        scope: QueryScope,
    ) -> Result<Answered<NamePage>, Refusal> {
        self.name.check_optional(after).map_err(|error| Refusal::field("after", error))?;
        self.admit(caller, || Target { everyone: true, ..Target::default() })?;
        let found = match kind {
            AddressKind::Room => self.hub.rooms(after, limit + 1),
            AddressKind::Card => self.hub.cards(after, limit + 1),
        };
        let mut parts = vec![NodePart::of(found, limit)];
        let mut missing = Vec::new();
        if let Some(peers) = self.peers(scope) {
            let others = cluster::names(peers, kind, after, limit).await;
            parts.extend(others.answers.into_iter().map(|(_, part)| part));
            missing = others.missing;
        }
        Ok(Answered { answer: gather::names(parts, limit), missing })
    }

    /// Clients of a room or card: those behind `after`, `limit` of them at most.
    ///
    /// # Errors
    /// It has no name that can be one, or the caller may not push to it without naming an app.
    pub(crate) async fn clients(
        &self,
        caller: &Caller,
        address: &Address,
        after: Option<ClientId>,
        limit: usize,
        scope: QueryScope,
    ) -> Result<Answered<ClientPage>, Refusal> {
        let (field, name) = match address {
            Address::Room(room) => ("room", room),
            Address::Card(card) => ("card", card),
        };
        self.name.check(name).map_err(|error| Refusal::field(field, error))?;
        self.admit(caller, || match address {
            Address::Room(room) => Target { room: Some(room.clone()), ..Target::default() },
            Address::Card(card) => Target::cards(vec![card.clone()]),
        })?;
        let own = async { NodePart::of(self.hub.clients(address, after, limit + 1).await, limit) };
        let Some(peers) = self.peers(scope) else {
            let NodePart { entries, has_more } = own.await;
            let entries = entries.into_iter().map(|info| NodeClient { info, node: None }).collect();
            let count = self.hub.clients_of(address) as u64;
            return Ok(Answered::by_one(gather::clients(vec![NodePart { entries, has_more }], count, limit)));
        };
        let (own, others) = tokio::join!(own, cluster::clients(peers, address, after, limit));
        let mut count = self.hub.clients_of(address) as u64;
        let mut parts = vec![cluster::of_node(own, &self.node)];
        for (node, (clients, part)) in others.answers {
            count = count.saturating_add(clients);
            parts.push(cluster::of_node(part, &node));
        }
        Ok(Answered { answer: gather::clients(parts, count, limit), missing: others.missing })
    }

    /// A client of this node, for a caller who may ask for all.
    ///
    /// # Errors
    /// It is not of this node, or no more, or the caller may not push to everyone.
    pub(crate) async fn client(&self, caller: &Caller, id: ClientId) -> Result<ClientInfo, Refusal> {
        self.admit(caller, || Target { everyone: true, ..Target::default() })?;
        let found = self.hub.client(id).await;
        found.ok_or_else(|| {
            Refusal::new(RefusalKind::NotFound, format!("this node has no client {id}, or not any more"))
        })
    }

    /// How many are there; of the cluster as it was within the last `[peers] counts_cache`. A card, or a room, with clients on several
    /// nodes counts once.
    pub(crate) async fn counts(&self, scope: QueryScope) -> Answered<Counts> {
        match self.peers(scope) {
            None => Answered::by_one(own_counts(&self.hub)),
            Some(peers) => {
                let (hub, peers) = (self.hub.clone(), peers.clone());
                self.counts.get_or(&(), || async move { counts_of_all(&hub, &peers).await }.boxed()).await
            }
        }
    }

    /// Whether a caller may ask for whom it would push to.
    fn admit(&self, caller: &Caller, target: impl FnOnce() -> Target) -> Result<(), Refusal> {
        if !caller.is_bounded() {
            return Ok(());
        }
        caller.admits(&target()).map_err(|out| {
            let refusal = Refusal::not_admitted(caller, &out);
            scopes::count(&self.metrics, caller.name(), &refusal);
            refusal
        })
    }
}

fn own_counts(hub: &Hub) -> Counts {
    let own = hub.census();
    Counts {
        cores: cores(),
        connections: own.connections as u64,
        groups: own.groups as u64,
        rooms: own.rooms as u64,
        workers: own.workers as u64,
    }
}

async fn counts_of_all(hub: &Hub, peers: &Peers) -> Answered<Counts> {
    let others = cluster::census(peers).await;
    let mut counts = own_counts(hub);
    if others.answers.is_empty() {
        return Answered { answer: counts, missing: others.missing };
    }
    let mut cards = hub.name_sample(AddressKind::Card);
    let mut rooms = hub.name_sample(AddressKind::Room);
    for (_, census) in others.answers {
        counts.cores = counts.cores.saturating_add(census.cores);
        counts.connections = counts.connections.saturating_add(census.connections);
        counts.workers = counts.workers.saturating_add(census.workers);
        cards.merge(&census.cards);
        rooms.merge(&census.rooms);
    }
    (counts.groups, counts.rooms) = (cards.count(), rooms.count());
    Answered { answer: counts, missing: others.missing }
}

/// Processor cores of this node.
pub(super) fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

impl<T> Answered<T> {
    /// By the node that was asked, alone.
    fn by_one(answer: T) -> Self {
        Self { answer, missing: Vec::new() }
    }
}

impl<T> NodePart<T> {
    /// Of what was found when one more than `limit` was looked for.
    fn of(mut found: Vec<T>, limit: usize) -> Self {
        let has_more = found.len() > limit;
        found.truncate(limit);
        Self { entries: found, has_more }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{auth::Keys, config, ingress::refusal::RefusalKind};

    #[tokio::test]
    async fn a_query_names_its_card_by_the_same_rule() {
        let mut config = config::load(None, []).unwrap();
        config.push.max_name = 8;
        let metrics = Metrics::new().into();
        let open = Keys::new(&config, &metrics).caller(None).unwrap();
        let queries = Queries::new(&config, Hub::new(&config.hub, &config.outbox, 1, &metrics), None, &metrics);
        let scope = QueryScope::Cluster;
        assert_eq!(queries.connections(&open, &"ma yü&".into(), scope).await, Ok(Answered::by_one(0)));
        for (card, message) in [("", "`cardID` is empty"), ("123456789", "`cardID` has 9 bytes")] {
            let refusal = queries.connections(&open, &card.into(), scope).await.unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::BadField);
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
        }
    }
}
