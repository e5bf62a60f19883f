//! What back ends ask. Async: other nodes and the store will be asked too.

use std::sync::Arc;

use bytestring::ByteString;

use super::{refusal::Refusal, scopes};
use crate::{
    auth::Caller,
    config::Config,
    hub::{Census, ClientId, ClientInfo, Hub},
    push::{Address, AddressKind, NameRule, Target},
    telemetry::Metrics,
};

/// Answers what a back end asks about clients; a cheap clone.
#[derive(Clone)]
pub(crate) struct Queries {
    hub: Hub,
    node: Arc<str>,
    name: NameRule,
    metrics: Arc<Metrics>,
}

/// A part of the rooms, or cards, sorted by name.
pub(crate) struct NamePage {
    /// Each with the number of its clients.
    pub(crate) names: Vec<(Arc<str>, u32)>,
    /// What the next part comes after; `None`: this is the last.
    pub(crate) next: Option<Arc<str>>,
}

/// A part of the clients of a room or card, sorted by their ids.
pub(crate) struct ClientPage {
    /// How many there are in all.
    pub(crate) count: usize,
    pub(crate) clients: Vec<ClientInfo>,
    /// What the next part comes after; `None`: this is the last.
    pub(crate) next: Option<ClientId>,
}

impl Queries {
    /// About the clients of this node.
    pub(crate) fn new(config: &Config, hub: Hub, metrics: &Arc<Metrics>) -> Self {
        let name = NameRule { max: config.push.max_name };
        Self { hub, node: config.node.id.as_str().into(), name, metrics: Arc::clone(metrics) }
    }

    /// The node whose clients the answers tell of.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The live connections of a card.
    ///
    /// # Errors
    /// It is no card's name, or none that the caller may push to without naming an app.
    pub(crate) async fn connections(&self, caller: &Caller, card: &ByteString) -> Result<usize, Refusal> {
        self.name.check(card).map_err(|error| Refusal::field("cardID", error))?;
        self.admit(caller, || Target::cards(vec![card.clone()]))?;
        Ok(self.hub.connections(card))
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
    ) -> Result<NamePage, Refusal> {
        self.name.check_optional(after).map_err(|error| Refusal::field("after", error))?;
        self.admit(caller, || Target { everyone: true, ..Target::default() })?;
        let mut names = match kind {
            AddressKind::Room => self.hub.rooms(after, limit + 1),
            AddressKind::Card => self.hub.cards(after, limit + 1),
        };
        let has_more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| has_more).map(|(name, _)| Arc::clone(name));
        Ok(NamePage { names, next })
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
    ) -> Result<ClientPage, Refusal> {
        let (field, name) = match address {
            Address::Room(room) => ("room", room),
            Address::Card(card) => ("card", card),
        };
        self.name.check(name).map_err(|error| Refusal::field(field, error))?;
        self.admit(caller, || match address {
            Address::Room(room) => Target { room: Some(room.clone()), ..Target::default() },
            Address::Card(card) => Target::cards(vec![card.clone()]),
        })?;
        let mut clients = self.hub.clients(address, after, limit + 1).await;
        let has_more = clients.len() > limit;
        clients.truncate(limit);
        let next = clients.last().filter(|_| has_more).map(|client| client.id);
        Ok(ClientPage { count: self.hub.clients_of(address), clients, next })
    }

    /// How many are there now.
    pub(crate) async fn census(&self) -> Census {
        self.hub.census()
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
        let queries = Queries::new(&config, Hub::new(&config.hub, &config.outbox, 1, &metrics), &metrics);
        assert_eq!(queries.connections(&open, &"ma yü&".into()).await, Ok(0));
        for (card, message) in [("", "`cardID` is empty"), ("123456789", "`cardID` has 9 bytes")] {
            let refusal = queries.connections(&open, &card.into()).await.unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::BadField);
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
        }
    }
}
