//! What every entrance has in common: bounds checked, id given, record published, outcome counted.

use std::sync::Arc;

use bytestring::ByteString;
use tokio::time::Instant;

use super::{
    bounds::Bounds,
    draft::Draft,
    refusal::{Kind, Refusal},
};
use crate::{
    auth::Keys,
    config::{Config, PushLimits},
    hub::{Census, Hub},
    lifecycle::{Phase, Phases},
    push::{Push, PushId},
    queue::{Destination, Publisher, QueueState, record},
    telemetry::{
        Counter, Metrics,
        labels::{PushLabels, PushOutcome},
    },
};

/// Shared by all entrances; a cheap clone.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    bounds: Bounds,
    keys: Keys,
    publisher: Publisher,
    queue: tokio::sync::watch::Receiver<QueueState>,
    hub: Hub,
    phases: Phases,
    metrics: Arc<Metrics>,
    accepted: [Counter; 3],
}

/// Where a push comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Source {
    Http,
    Grpc,
    Nsq,
}

/// Who waits for the outcome of a push, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    source: Source,
    until: Option<Instant>,
}

impl From<Source> for Caller {
    fn from(source: Source) -> Self {
        Self { source, until: None }
    }
}

impl Source {
    /// A caller that waits until then; `None`: for ever.
    pub fn until(self, until: Option<Instant>) -> Caller {
        Caller { source: self, until }
    }

    const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Nsq];

    fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Nsq => "nsq",
        }
    }
}

impl Admission {
    /// `queue` is the queue's state, for readiness.
    pub fn new(
        config: &Config,
        publisher: Publisher,
        queue: tokio::sync::watch::Receiver<QueueState>,
        hub: Hub,
        phases: Phases,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let accepted = Source::ALL.map(|source| {
            metrics
                .pushes
                .get_or_create_owned(&PushLabels { source: source.label(), outcome: PushOutcome::Accepted.word() })
        });
        Self(Arc::new(Inner {
            bounds: Bounds::of(config),
            keys: Keys::new(&config.auth.keys),
            publisher,
            queue,
            hub,
            phases,
            metrics: metrics.clone(),
            accepted,
        }))
    }

    /// The bounds of one push, for parsers that stop early.
    pub fn limits(&self) -> &PushLimits {
        self.0.bounds.limits()
    }

    /// Whether an `Authorization` header's value may push and query.
    pub fn admits(&self, authorization: Option<&[u8]>) -> bool {
        self.0.keys.admit(authorization)
    }

    /// Publishes one push and counts its outcome.
    ///
    /// # Errors
    /// Why it was refused; after `Unavailable` or `TimedOut` it may still arrive.
    pub async fn push(&self, caller: impl Into<Caller>, draft: Result<Draft, Refusal>) -> Result<PushId, Refusal> {
        self.push_each(caller, vec![draft]).pop().expect("invariant: one push, one outcome").await
    }

    /// Publishes many together, in order; each has its own outcome.
    pub async fn push_all(
        &self,
        caller: impl Into<Caller>,
        drafts: Vec<Result<Draft, Refusal>>,
    ) -> Vec<Result<PushId, Refusal>> {
        let mut outcomes = Vec::new();
        for outcome in self.push_each(caller, drafts) {
            outcomes.push(outcome.await);
        }
        outcomes
    }

    /// As [`Admission::push_all`], for a caller that waits for each apart. The records are on their way when this returns: a
    /// caller that goes away does not take them back.
    pub fn push_each<C: Into<Caller>>(
        &self,
        caller: C,
        drafts: Vec<Result<Draft, Refusal>>,
    ) -> Vec<impl Future<Output = Result<PushId, Refusal>> + Send + use<C>> {
        let caller = caller.into();
        let mut records = Vec::with_capacity(drafts.len());
        let ids: Vec<Result<PushId, Refusal>> = drafts
            .into_iter()
            .map(|draft| {
                let push = draft.and_then(|draft| self.admit(draft))?;
                records.push((Destination::Live, record::encode(&push)));
                Ok(push.id)
            })
            .collect();
        let mut published = self.0.publisher.publish_all(records).into_iter();
        let waits = ids.into_iter().map(|id| {
            let admitted = id.and_then(|id| {
                let published = published.next().expect("invariant: each record has an outcome")?;
                Ok((id, published, Waits { caller, admission: self.clone(), answered: false }))
            });
            let admitted = admitted.inspect_err(|refusal| self.tell(caller.source, refusal.kind.name()));
            async move {
                let (id, published, waits) = admitted?;
                waits.answered(published.await.map_err(Refusal::from).map(|()| id))
            }
        });
        waits.collect()
    }

    /// As [`Admission::push`], under an id that the push has already and in a drain too: for one that is in hand.
    ///
    /// # Errors
    /// As [`Admission::push`].
    pub async fn push_in_hand(
        &self,
        source: Source,
        id: PushId,
        draft: Result<Draft, Refusal>,
    ) -> Result<PushId, Refusal> {
        let outcome = match draft.and_then(|draft| self.0.bounds.check(draft.with(id))) {
            Ok(push) => self.publish(&push).await,
            Err(refusal) => Err(refusal),
        };
        self.count(source, outcome)
    }

    /// Counts a push that was given up before it could be admitted (raw, attempts used up).
    pub fn give_up(&self, source: Source) {
        self.tell(source, PushOutcome::GivenUp.word());
    }

    /// The live connections on this node of the card that a query names.
    ///
    /// # Errors
    /// It is no card's name.
    pub fn connections(&self, card: &ByteString) -> Result<usize, Refusal> {
        self.0.bounds.check_card(card)?;
        Ok(self.0.hub.connections(card))
    }

    /// How many are there now.
    pub fn census(&self) -> Census {
        self.0.hub.census()
    }

    /// Why this node should get no requests now; `Ok` when it should.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn ready(&self) -> Result<(), String> {
        match self.0.phases.now() {
            Phase::Starting => return Err("the node is starting".into()),
            Phase::Leaving | Phase::Draining => return Err("the node is draining".into()),
            Phase::Serving => {}
        }
        match &*self.0.queue.borrow() {
            QueueState::Ready => Ok(()),
            QueueState::NotReady(reason) => Err(format!("the queue is not ready: {reason}")),
        }
    }

    /// Returns once [`Admission::ready`] may have changed. Cancel-safe.
    pub async fn changed(&self, seen: &mut Seen) {
        let Seen { queue, phase } = seen;
        tokio::select! {
            gone = queue.changed() => if gone.is_err() { std::future::pending::<()>().await },
            gone = phase.changed() => if gone.is_err() { std::future::pending::<()>().await },
        }
    }

    /// What [`Admission::changed`] compares with.
    pub fn seen(&self) -> Seen {
        Seen { queue: self.0.queue.clone(), phase: self.0.phases.watch() }
    }

    fn count(&self, source: Source, outcome: Result<PushId, Refusal>) -> Result<PushId, Refusal> {
        match &outcome {
            Ok(id) => {
                tracing::trace!(%id, source = source.label(), "a push is in the queue");
                self.0.accepted[source as usize].inc();
            }
            Err(refusal) => self.tell(source, refusal.kind.name()),
        };
        outcome
    }

    fn tell(&self, source: Source, outcome: &'static str) {
        self.0.metrics.pushes.get_or_create(&PushLabels { source: source.label(), outcome }).inc();
    }

    async fn publish(&self, push: &Push) -> Result<PushId, Refusal> {
        self.0.publisher.publish(Destination::Live, record::encode(push)).await?;
        Ok(push.id)
    }

    fn admit(&self, draft: Draft) -> Result<Push, Refusal> {
        if self.0.phases.now() == Phase::Draining {
            return Err(Refusal::draining());
        }
        self.0.bounds.check(draft.with(PushId::generate()))
    }
}

/// A caller that waits for the answer to an admitted push, which is counted then; dropped without one, it left.
struct Waits {
    caller: Caller,
    admission: Admission,
    answered: bool,
}

impl Waits {
    fn answered(mut self, outcome: Result<PushId, Refusal>) -> Result<PushId, Refusal> {
        self.answered = true;
        self.admission.count(self.caller.source, outcome)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if !self.answered {
            let passed = self.caller.until.is_some_and(|until| until <= Instant::now());
            let outcome = if passed { Kind::DeadlinePassed.name() } else { PushOutcome::CallerLeft.word() };
            self.admission.tell(self.caller.source, outcome);
        }
    }
}

/// What a waiter has seen of readiness.
pub struct Seen {
    queue: tokio::sync::watch::Receiver<QueueState>,
    phase: tokio::sync::watch::Receiver<Phase>,
}
