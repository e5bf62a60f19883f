//! Sends pushes on whose clients were on this node when they were published, and are at another by now.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{
    BUNDLE,
    in_flight::{Absence, InFlight},
};
use crate::{
    hub::{Completion, Outcome},
    push::{Address, Push},
    queue::{
        PublishError,
        record::{self, Record},
    },
    routing::{PublishedTo, RoutedPublisher, RoutedPush, SentOnPush},
    telemetry::{
        Counter, Metrics,
        labels::{DropReason, ForwardOutcome},
    },
};

pub(super) struct Forwarder {
    publisher: RoutedPublisher,
    completions: mpsc::UnboundedSender<Completion>,
    in_flight: Arc<InFlight>,
    nobody: Counter,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    pub(super) fn new(
        publisher: RoutedPublisher,
        completions: mpsc::UnboundedSender<Completion>,
        in_flight: Arc<InFlight>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let nobody = metrics.drops.get_or_create_owned(&DropReason::NoConnection);
        Self { publisher, completions, in_flight, nobody, metrics: Arc::clone(metrics) }
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
        let Absence { number, record, addresses, sent_away } = absence;
        let hops = record::peek(&record).map_or(1, |peek| peek.hops).saturating_add(1);
        let push = match record::decode(record) {
            Ok(Record::Push(push)) => Some(only_at(push, &addresses)),
            // intake gives only pushes
            Ok(_) | Err(_) => None,
        };
        let sent_on = push.map(|push| RoutedPush::SentOn(SentOnPush { push, hops, keep: sent_away }));
        let published = sent_on.map(|push| self.publisher.publish(push));
        let metrics = Arc::clone(&self.metrics);
        let nobody = self.nobody.clone();
        async move {
            let Some(published) = published else { return (number, Outcome::Offered) };
            let (forward, outcome) = match published.await {
                Ok(PublishedTo::Nodes) => (ForwardOutcome::SentOn, Outcome::Offered),
                Ok(PublishedTo::Nobody) => {
                    nobody.inc();
                    (ForwardOutcome::Nobody, Outcome::Offered)
                }
                // by the few bytes that tell it was sent on: it would be so again
                Err(PublishError::TooLarge { .. }) => {
                    metrics.drops.get_or_create(&DropReason::Lost).inc();
                    (ForwardOutcome::Failed, Outcome::Offered)
                }
                Err(_) => (ForwardOutcome::Failed, Outcome::Lost),
            };
            metrics.directory_forwards.get_or_create(&forward).inc();
            (number, outcome)
        }
    }
}

/// The push to these of its addresses alone.
fn only_at(mut push: Push, addresses: &[Address]) -> Push {
    push.target.cards.retain(|card| addresses.contains(&Address::Card(card.clone())));
    push
}
