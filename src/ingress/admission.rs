//! What every push passes, whichever way it comes in: its limits checked, an id given, its record published, its outcome counted.

use std::{ops::Deref, sync::Arc};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{
    draft::Draft,
    limits::LimitCheck,
    refusal::{Refusal, RefusalKind},
    scopes,
};
use crate::{
    auth::Caller,
    config::{Config, PushLimits},
    lifecycle::{Phase, Phases},
    push::{Push, PushId},
    queue::{Destination, PublishError, Publisher, record},
    telemetry::{
        Counter, Metrics,
        labels::{PushLabels, PushOutcome},
    },
};

/// Where a push, or an order to end clients, comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum PushSource {
    Http,
    Grpc,
    Nsq,
    Client,
}

impl PushSource {
    pub(super) const ALL: [Self; 4] = [Self::Http, Self::Grpc, Self::Nsq, Self::Client];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Nsq => "nsq",
            Self::Client => "client",
        }
    }
}

/// Admits pushes; a cheap clone.
#[derive(Clone)]
pub(crate) struct Admission(Arc<AdmissionCore>);

struct AdmissionCore {
    limits: ArcSwap<LimitCheck>,
    publisher: Publisher,
    phases: Phases,
    metrics: Arc<Metrics>,
    accepted: [Counter; 4],
}

impl Admission {
    /// Of pushes that `publisher` takes.
    pub(crate) fn new(config: &Config, publisher: Publisher, phases: Phases, metrics: &Arc<Metrics>) -> Self {
        let accepted = PushSource::ALL.map(|source| {
            metrics
                .pushes
                .get_or_create_owned(&PushLabels { source: source.label(), outcome: PushOutcome::Accepted.word() })
        });
        let limits = ArcSwap::from_pointee(LimitCheck::of(config));
        Self(Arc::new(AdmissionCore { limits, publisher, phases, metrics: metrics.clone(), accepted }))
    }

    /// The limits of one push, for parsers that stop early.
    pub(crate) fn limits(&self) -> PushLimits {
        self.0.limits.load().limits().clone()
    }

    /// `[push]` from now on.
    pub(crate) fn replace_limits(&self, config: &Config) {
        self.0.limits.store(Arc::new(LimitCheck::of(config)));
    }

    /// For the pushes of one request, one stream, or all raw ones.
    pub(crate) fn submitter(&self, source: PushSource, caller: Caller) -> Submitter {
        Submitter { admission: self.clone(), source, caller, deadline: None }
    }

    /// Counts a push that is refused because nobody pushes it.
    pub(super) fn refuse(&self, source: PushSource, refusal: &Refusal) {
        self.count(source, refusal.kind.name());
    }

    fn count(&self, source: PushSource, outcome: &'static str) {
        self.0.metrics.pushes.get_or_create(&PushLabels { source: source.label(), outcome }).inc();
    }

    fn publish(&self, push: &Push) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        trace_accepted(push);
        self.0.publisher.publish(Destination::Live, record::encode(push))
    }
}

fn trace_accepted(push: &Push) {
    tracing::trace!(id = %push.id, "a push is accepted, and handed to the queue");
}

/// Submits pushes for one caller, and counts what becomes of them.
pub(crate) struct Submitter {
    admission: Admission,
    source: PushSource,
    caller: Caller,
    /// When the caller no longer waits for the outcomes.
    deadline: Option<Instant>,
}

impl Submitter {
    /// The caller waits until then; `None`: for ever.
    #[must_use]
    pub(crate) fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    /// A draft as the push that may be published.
    fn admit(&self, draft: Draft) -> Result<Push, Refusal> {
        if self.admission.0.phases.now() == Phase::Draining {
            return Err(Refusal::draining());
        }
        self.check(draft.with(PushId::generate()))
    }

    /// A push within all limits, its caller's too; only such a one costs the caller a token.
    fn check(&self, push: Push) -> Result<Push, Refusal> {
        let push = self.admission.0.limits.load().check(push)?;
        match self.caller.may_push(&push.target) {
            Ok(()) => Ok(push),
            Err(denial) => Err(Refusal::denied(&self.caller, denial)),
        }
    }

    /// Publishes one push.
    ///
    /// # Errors
    /// Why it was refused; after `Unavailable` or `TimedOut` it may still arrive.
    pub(crate) async fn push(&self, draft: Result<Draft, Refusal>) -> Result<PushId, Refusal> {
        let push = draft.and_then(|draft| self.admit(draft)).inspect_err(|refusal| self.refused(refusal))?;
        let published = self.admission.publish(&push);
        let waiting = WaitingCaller { submitter: self, answered: false };
        waiting.answer(published.await.map_err(Refusal::from).map(|()| push.id))
    }

    /// Publishes many together, in order; each has its own outcome.
    pub(crate) async fn push_all(self, drafts: Vec<Result<Draft, Refusal>>) -> Vec<Result<PushId, Refusal>> {
        let mut outcomes = Vec::with_capacity(drafts.len());
        for outcome in Arc::new(self).push_each(drafts) {
            outcomes.push(outcome.await);
        }
        outcomes
    }

    /// As [`Submitter::push_all`], for a caller that waits for each apart. The records are on their way when this returns: a
    /// caller that goes away does not take them back.
    pub(crate) fn push_each(
        self: &Arc<Self>,
        drafts: Vec<Result<Draft, Refusal>>,
    ) -> Vec<impl Future<Output = Result<PushId, Refusal>> + Send + use<>> {
        let mut records = Vec::with_capacity(drafts.len());
        let ids: Vec<Result<PushId, Refusal>> = drafts
            .into_iter()
            .map(|draft| {
                let push = draft.and_then(|draft| self.admit(draft))?;
                trace_accepted(&push);
                records.push((Destination::Live, record::encode(&push)));
                Ok(push.id)
            })
            .collect();
        let mut published = self.admission.0.publisher.publish_all(records).into_iter();
        let outcomes = ids.into_iter().map(|id| {
            let admitted = id.and_then(|id| {
                let published = published.next().expect("invariant: each record has an outcome")?;
                Ok((id, published, WaitingCaller { submitter: Arc::clone(self), answered: false }))
            });
            let admitted = admitted.inspect_err(|refusal| self.refused(refusal));
            async move {
                let (id, published, waiting) = admitted?;
                waiting.answer(published.await.map_err(Refusal::from).map(|()| id))
            }
        });
        outcomes.collect()
    }

    /// As [`Submitter::push`], under an id that the push has already and in a drain too: for one that was taken before.
    ///
    /// # Errors
    /// As [`Submitter::push`].
    pub(crate) async fn push_as(&self, id: PushId, draft: Result<Draft, Refusal>) -> Result<PushId, Refusal> {
        let outcome = match draft.and_then(|draft| self.check(draft.with(id))) {
            Ok(push) => self.admission.publish(&push).await.map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        self.counted(outcome.map(|()| id))
    }

    /// Checks drafts that name nobody, and lets nobody have them: what another gateway takes for granted is counted, not refused.
    pub(crate) fn push_to_nobody(&self, drafts: Vec<Result<Draft, Refusal>>) -> Vec<Result<(), Refusal>> {
        let take = |draft: Result<Draft, Refusal>| match draft {
            Ok(_) => {
                self.admission.count(self.source, PushOutcome::ToNobody.word());
                Ok(())
            }
            Err(refusal) => {
                self.refused(&refusal);
                Err(refusal)
            }
        };
        drafts.into_iter().map(take).collect()
    }

    /// Counts a push that was given up before it could be admitted (raw, attempts used up).
    pub(crate) fn give_up(&self) {
        self.admission.count(self.source, PushOutcome::GivenUp.word());
    }

    fn refused(&self, refusal: &Refusal) {
        self.admission.count(self.source, refusal.kind.name());
        scopes::count(&self.admission.0.metrics, self.caller.name(), refusal);
    }

    fn counted(&self, outcome: Result<PushId, Refusal>) -> Result<PushId, Refusal> {
        match &outcome {
            Ok(id) => {
                tracing::trace!(%id, source = self.source.label(), caller = self.caller.name(), "a push is in the queue");
                self.admission.0.accepted[self.source as usize].inc();
                self.caller.accepted().inc();
            }
            Err(refusal) => self.refused(refusal),
        }
        outcome
    }
}

/// A caller that waits for the answer to an admitted push, which is counted then; dropped without one, it left.
struct WaitingCaller<S: Deref<Target = Submitter>> {
    submitter: S,
    answered: bool,
}

impl<S: Deref<Target = Submitter>> WaitingCaller<S> {
    fn answer(mut self, outcome: Result<PushId, Refusal>) -> Result<PushId, Refusal> {
        self.answered = true;
        self.submitter.counted(outcome)
    }
}

impl<S: Deref<Target = Submitter>> Drop for WaitingCaller<S> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let Submitter { admission, source, deadline, .. } = &*self.submitter;
        let passed = deadline.is_some_and(|deadline| deadline <= Instant::now());
        let outcome = if passed { RefusalKind::DeadlinePassed.name() } else { PushOutcome::CallerLeft.word() };
        admission.count(*source, outcome);
    }
}
