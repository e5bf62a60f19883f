//! What this node answers to the others: of its own clients, from its own hub. It never asks on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytestring::ByteString;
use tonic::{Request, Response, Status};

use crate::{
    config::Config,
    hub::{ClientId, ClientInfo, Hub},
    ingress::queries::cores,
    lifecycle::{Phase, Phases},
    proto::peers::{
        Answer, CensusAnswer, ClientEntry, ClientsAnswer, ClientsQuestion, ConnectionsAnswer, EndedAnswer,
        EndedQuestion, JoinedCard, LoadAnswer, NameKind, NamedCount, NamesAnswer, NamesQuestion, PresenceAnswer,
        Question, answer, peers_server, question,
    },
    push::{Address, AddressKind, NameSample, PushId},
    telemetry::{Metrics, labels::PeerAnswerOutcome},
};

/// Entries of an answer at most, whatever is asked for.
const MAX_ENTRIES: usize = 1000;

/// Answers the other nodes.
#[derive(Clone)]
pub(super) struct PeerService(Arc<PeerServiceCore>);

struct PeerServiceCore {
    hub: Hub,
    node: String,
    weight: u32,
    roles: Vec<String>,
    started: Instant,
    /// Bytes of names and clients in one answer: the asker has the same bound, and room is left for what is around them.
    max_bytes: usize,
    phases: Phases,
    metrics: Arc<Metrics>,
}

impl PeerService {
    pub(super) fn new(config: &Config, hub: Hub, phases: Phases, metrics: &Arc<Metrics>) -> Self {
        Self(Arc::new(PeerServiceCore {
            hub,
            node: config.node.id.as_str().to_owned(),
            weight: config.cluster.weight,
            roles: config.node.roles.names(),
            started: Instant::now(),
            max_bytes: config.peers.max_answer / 2,
            phases,
            metrics: Arc::clone(metrics),
        }))
    }
}

#[tonic::async_trait]
impl peers_server::Peers for PeerService {
    async fn ask(&self, request: Request<Question>) -> Result<Response<Answer>, Status> {
        let core = &self.0;
        let answered = match request.into_inner().question {
            Some(question) => core.answer(question).await,
            None => {
                Err(Status::unimplemented("this node does not know the question: is it older than the one that asks?"))
            }
        };
        let outcome = if answered.is_ok() { PeerAnswerOutcome::Answered } else { PeerAnswerOutcome::Failed };
        core.metrics.peer_answers.get_or_create(&outcome).inc();
        Ok(Response::new(Answer { node: core.node.clone(), answer: Some(answered?) }))
    }
}

impl PeerServiceCore {
    async fn answer(&self, question: question::Question) -> Result<answer::Answer, Status> {
        use question::Question as Asked;
        Ok(match question {
            Asked::Connections(asked) => {
                let connections = self.hub.connections(&asked.card) as u64;
                answer::Answer::Connections(ConnectionsAnswer { connections })
            }
            Asked::Census(_) => answer::Answer::Census(self.census()),
            Asked::Names(asked) => answer::Answer::Names(self.names(&asked)),
            Asked::Clients(asked) => answer::Answer::Clients(self.clients(asked).await?),
            Asked::Presence(asked) => answer::Answer::Presence(self.presence(&asked.room)),
            Asked::Ended(asked) => answer::Answer::Ended(self.ended(&asked).await?),
            Asked::Load(_) => answer::Answer::Load(self.load()),
        })
    }

    fn census(&self) -> CensusAnswer {
        let census = self.hub.census();
        CensusAnswer {
            cores: cores(),
            connections: census.connections as u64,
            workers: census.workers as u64,
            cards: Some(self.hub.name_sample(AddressKind::Card).into()),
            rooms: Some(self.hub.name_sample(AddressKind::Room).into()),
        }
    }

    fn names(&self, asked: &NamesQuestion) -> NamesAnswer {
        let limit = entries(asked.limit);
        let found = match kind(asked.kind()) {
            AddressKind::Room => self.hub.rooms(&asked.after, limit + 1),
            AddressKind::Card => self.hub.cards(&asked.after, limit + 1),
        };
        let names = found.iter().map(|(name, count)| NamedCount { name: name.to_string(), count: *count });
        let (names, more) = bounded(names, limit, self.max_bytes, |named| named.name.len());
        NamesAnswer { names, more }
    }

    async fn clients(&self, asked: ClientsQuestion) -> Result<ClientsAnswer, Status> {
        let limit = entries(asked.limit);
        let after = match &*asked.after {
            [] => None,
            bytes => {
                let bytes = bytes.try_into().map_err(|_| Status::invalid_argument("`after` has not 16 bytes"))?;
                Some(ClientId::from_bytes(bytes))
            }
        };
        let kind = kind(asked.kind());
        let name = ByteString::from(asked.name);
        let address = match kind {
            AddressKind::Room => Address::Room(name),
            AddressKind::Card => Address::Card(name),
        };
        let found = self.hub.clients(&address, after, limit + 1).await;
        let size = |client: &ClientEntry| client.cards.iter().map(|joined| joined.card.len() + joined.app.len()).sum();
        let (clients, more) = bounded(found.into_iter().map(entry), limit, self.max_bytes, size);
        Ok(ClientsAnswer { count: self.hub.clients_of(&address) as u64, clients, more })
    }

    /// Of a room without presence on this node: nobody.
    fn presence(&self, room: &str) -> PresenceAnswer {
        let Some((present, sample)) = self.hub.present(room) else { return PresenceAnswer::default() };
        let cards = present.cards.iter().map(ByteString::to_string).collect();
        PresenceAnswer { cards, sample: Some(sample.into()) }
    }

    async fn ended(&self, asked: &EndedQuestion) -> Result<EndedAnswer, Status> {
        let order = PushId::parse(&asked.order).ok_or_else(|| Status::invalid_argument("`order` is no order's id"))?;
        let orders = self.hub.ended_orders().ok_or_else(|| Status::unavailable("orders are not remembered here"))?;
        let waited = tokio::time::timeout(Duration::from_millis(asked.wait), orders.of(order)).await;
        Ok(EndedAnswer { connections: waited.ok() })
    }

    fn load(&self) -> LoadAnswer {
        LoadAnswer {
            connections: self.hub.census().connections as u64,
            max_connections: u64::try_from(self.metrics.max_connections.get()).unwrap_or(0),
            weight: self.weight,
            phase: phase(self.phases.now()).to_owned(),
            roles: self.roles.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_millis() as u64,
        }
    }
}

impl From<NameSample> for crate::proto::peers::NameSample {
    fn from(sample: NameSample) -> Self {
        Self { hashes: sample.hashes().to_vec(), whole: sample.is_whole() }
    }
}

/// As the API has them in its pages.
fn entries(limit: u32) -> usize {
    (limit as usize).clamp(1, MAX_ENTRIES)
}

fn kind(kind: NameKind) -> AddressKind {
    match kind {
        NameKind::Card => AddressKind::Card,
        NameKind::Room => AddressKind::Room,
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Leaving => "leaving",
        Phase::Draining => "draining",
    }
}

fn entry(client: ClientInfo) -> ClientEntry {
    let joined = |(card, app): (ByteString, ByteString)| JoinedCard { card: card.into(), app: app.into() };
    ClientEntry {
        id: client.id.to_bytes().to_vec().into(),
        cards: client.cards.into_iter().map(joined).collect(),
        dialect: client.dialect.into_owned(),
        since: client.since,
        outbox: client.outbox as u64,
        address: client.address.map(|address| address.to_string()).unwrap_or_default(),
    }
}

/// The first entries, as many as may be and as fit into so many bytes, one at least; and whether there are others.
fn bounded<T>(all: impl Iterator<Item = T>, limit: usize, bytes: usize, size: impl Fn(&T) -> usize) -> (Vec<T>, bool) {
    /// What an entry takes beside its names.
    const AROUND: usize = 128;
    let mut taken = Vec::new();
    let mut left = bytes;
    for item in all {
        let takes = size(&item) + AROUND;
        if taken.len() >= limit || (takes > left && !taken.is_empty()) {
            return (taken, true);
        }
        left = left.saturating_sub(takes);
        taken.push(item);
    }
    (taken, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_cut_where_its_bytes_end_and_never_empty() {
        let all = || (0..10).map(|number| number * 100);
        let size = |number: &usize| *number;
        assert_eq!(bounded(all(), 3, usize::MAX, size), (vec![0, 100, 200], true));
        assert!(!bounded(all(), 10, usize::MAX, size).1);
        assert_eq!(bounded(all(), 10, 128 + 228 + 1, size), (vec![0, 100], true));
        assert_eq!(bounded(all().skip(9), 10, 1, size), (vec![900], false));
    }
}
