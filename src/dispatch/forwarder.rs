//! Sends pushes on whose clients were on this node when they were published, and are at another by now.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{
    BUNDLE,
    in_flight::{Absence, InFlight},
};
use crate::{
    hub::{Completion, Hub, Outcome},
    push::{Address, Push, Selection},
    queue::{
        PublishError,
        record::{self, Record},
    },
    routing::{PublishedTo, RoutedPublisher, RoutedPush},
    telemetry::{Metrics, labels::ForwardOutcome},
};

pub(super) struct Forwarder {
    /// This node.
    own: Arc<str>,
    hub: Hub,
    publisher: RoutedPublisher,
    completions: mpsc::UnboundedSender<Completion>,
    in_flight: Arc<InFlight>,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    pub(super) fn new(
        own: Arc<str>,
        hub: Hub,
        publisher: RoutedPublisher,
        completions: mpsc::UnboundedSender<Completion>,
        in_flight: Arc<InFlight>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self { own, hub, publisher, completions, in_flight, metrics: Arc::clone(metrics) }
    }

    /// Sends on what `absences` has, in order, until it is dropped.
    pub(super) async fn run(self, mut absences: mpsc::UnboundedReceiver<Absence>) {
        let mut taken = Vec::with_capacity(BUNDLE);
        while absences.recv_many(&mut taken, BUNDLE).await > 0 {
            // they are on their way in this order when they are awaited
            let sent: Vec<_> = taken.drain(..).map(|absence| self.send_on(absence)).collect();
            for (number, outcome) in join_all(sent).await {
                let _ = self.completions.send(Completion { number, outcome });
            }
            self.in_flight.settle();
        }
    }

    /// Sends a push on to whoever else holds its absent addresses; its number, and what became of it.
    fn send_on(&self, absence: Absence) -> impl Future<Output = (u64, Outcome)> + use<> {
        let Absence { number, record, sent_away } = absence;
        let hops = record::peek(&record).map_or(1, |peek| peek.hops);
        let push = match record::decode(record) {
            Ok(Record::Push(push)) => self.without_present(push),
            // intake gives only pushes
            Ok(_) | Err(_) => None,
        };
        let except = Arc::clone(&self.own);
        let sent_on = push.map(|push| RoutedPush::SentOn { push, hops: hops.saturating_add(1), except });
        let published = sent_on.map(|push| self.publisher.publish(push));
        let metrics = Arc::clone(&self.metrics);
        async move {
            let Some(published) = published else { return (number, Outcome::Offered) };
            let (forward, outcome) = match published.await {
                Ok(PublishedTo::Nodes) => (ForwardOutcome::SentOn, Outcome::Offered),
                // its clients are told to come back, and are nowhere yet
                Ok(PublishedTo::Nobody) if sent_away => (ForwardOutcome::Nobody, Outcome::SentAway),
                Ok(PublishedTo::Nobody) => (ForwardOutcome::Nobody, Outcome::Offered),
                Err(PublishError::TooLarge { .. }) => (ForwardOutcome::Failed, Outcome::Offered),
                Err(_) => (ForwardOutcome::Failed, Outcome::Lost),
            };
            metrics.directory_forwards.get_or_create(&forward).inc();
            (number, outcome)
        }
    }

    /// The push to those of its addresses that have no clients here; `None`: there are none.
    fn without_present(&self, mut push: Push) -> Option<Push> {
        let is_absent = |address: &Address| self.hub.clients_of(address) == 0;
        match push.target.selection() {
            Selection::Cards(_) => {
                push.target.cards.retain(|card| is_absent(&Address::Card(card.clone())));
                (!push.target.cards.is_empty()).then_some(push)
            }
            Selection::Room(room) => is_absent(&Address::Room(room.clone())).then_some(push),
            Selection::App(_) | Selection::Everyone | Selection::Nobody => None,
        }
    }
}
