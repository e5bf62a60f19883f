//! What the other nodes of the cluster answer, in the form of this one's.

use std::sync::Arc;

use bytestring::ByteString;

use super::{NodeClient, gather::NodePart};
use crate::{
    cluster::{Gathered, Peers},
    hub::{ClientId, ClientInfo},
    proto::peers::{
        CensusQuestion, ClientEntry, ClientsQuestion, ConnectionsQuestion, JoinedCard, NameKind, NamesQuestion,
        answer::Answer, question::Question,
    },
    push::{Address, AddressKind, NameSample},
};

/// How many another node has.
pub(super) struct PeerCensus {
    pub(super) cores: u64,
    pub(super) connections: u64,
    pub(super) workers: u64,
    pub(super) cards: NameSample,
    pub(super) rooms: NameSample,
}

pub(super) async fn connections(peers: &Peers, card: &ByteString) -> Gathered<u64> {
    let question = Question::Connections(ConnectionsQuestion { card: card.to_string() });
    let take = |answer| match answer {
        Answer::Connections(answer) => Some(answer.connections),
        _ => None,
    };
    peers.ask(question, take).await
}

pub(super) async fn census(peers: &Peers) -> Gathered<PeerCensus> {
    let take = |answer| match answer {
        Answer::Census(census) => Some(PeerCensus {
            cores: census.cores,
            connections: census.connections,
            workers: census.workers,
            cards: census.cards?.into(),
            rooms: census.rooms?.into(),
        }),
        _ => None,
    };
    peers.ask(Question::Census(CensusQuestion {}), take).await
}

pub(super) async fn names(
    peers: &Peers,
    of: AddressKind,
    after: &ByteString,
    limit: usize,
) -> Gathered<NodePart<(Arc<str>, u32)>> {
    let most = u32::try_from(limit).unwrap_or(u32::MAX);
    let question = NamesQuestion { kind: kind(of).into(), after: after.to_string(), limit: most };
    let take = |answer| match answer {
        Answer::Names(names) => {
            let entries: Vec<(Arc<str>, u32)> =
                names.names.into_iter().map(|named| (named.name.into(), named.count)).collect();
            let part = NodePart { entries, has_more: names.more };
            part.is_page_after(Some(&**after), limit, |(name, _)| &**name).then_some(part)
        }
        _ => None,
    };
    peers.ask(Question::Names(question), take).await
}

/// Each answer has how many clients the node has in all.
pub(super) async fn clients(
    peers: &Peers,
    address: &Address,
    after: Option<ClientId>,
    limit: usize,
) -> Gathered<(u64, NodePart<ClientInfo>)> {
    let question = ClientsQuestion {
        kind: kind(address.kind()).into(),
        name: address.name().to_string(),
        after: after.map(|after| after.to_bytes().to_vec()).unwrap_or_default().into(),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    };
    let take = |answer| match answer {
        Answer::Clients(answer) => {
            let entries: Option<Vec<_>> = answer.clients.into_iter().map(client).collect();
            let part = NodePart { entries: entries?, has_more: answer.more };
            part.is_page_after(after, limit, |client| client.id).then_some((answer.count, part))
        }
        _ => None,
    };
    peers.ask(Question::Clients(question), take).await
}

/// With the node that it is on.
pub(super) fn of_node(part: NodePart<ClientInfo>, node: &Arc<str>) -> NodePart<NodeClient> {
    let of_node = |info| NodeClient { info, node: Some(Arc::clone(node)) };
    NodePart { entries: part.entries.into_iter().map(of_node).collect(), has_more: part.has_more }
}

impl From<crate::proto::peers::NameSample> for NameSample {
    fn from(sample: crate::proto::peers::NameSample) -> Self {
        Self::from_parts(sample.hashes, sample.whole)
    }
}

fn kind(kind: AddressKind) -> NameKind {
    match kind {
        AddressKind::Card => NameKind::Card,
        AddressKind::Room => NameKind::Room,
    }
}

/// `None`: it has no id, so that it is none.
fn client(entry: ClientEntry) -> Option<ClientInfo> {
    let ClientEntry { id, cards, dialect, since, outbox, address } = entry;
    let joined = |JoinedCard { card, app }| (card.into(), app.into());
    Some(ClientInfo {
        id: ClientId::from_bytes((&*id).try_into().ok()?),
        cards: cards.into_iter().map(joined).collect(),
        dialect: dialect.into(),
        since,
        outbox: usize::try_from(outbox).unwrap_or(usize::MAX),
        address: address.parse().ok(),
    })
}
