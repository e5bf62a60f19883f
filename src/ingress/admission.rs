//! What every push passes, whichever way it comes in: its limits checked, an id given, its
//! record published or the push stored, its outcome counted.

use std::{ops::Deref, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{
    claims,
    draft::{Draft, PushOptions},
    limits::LimitCheck,
    options::OptionCheck,
    refusal::{Refusal, RefusalKind},
    scopes,
    turns::{PublishTurn, PublishTurns},
    wakes::StoreWakes,
};
use crate::{
    auth::Caller,
    config::{Config, PushLimits},
    lifecycle::{Phase, Phases, Tasks},
    push::{Push, PushId, unix_millis},
    queue::PublishError,
    routing::{RoutedPublisher, RoutedPush},
    store::{Appended, Claim, Claimed, NewPush, Store, StoreError},
    telemetry::{
        Counter, Metrics,
        labels::{PushLabels, PushOption, PushOutcome},
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

/// What a caller is told of a push that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The push's.
    pub(crate) id: PushId,
    /// It was taken before, under the same idempotency key; nothing was done now.
    pub(crate) replayed: bool,
}

impl Receipt {
    /// Of a push that was taken now.
    pub(crate) fn new(id: PushId) -> Self {
        Self { id, replayed: false }
    }

    fn replayed(id: PushId) -> Self {
        Self { id, replayed: true }
    }
}

/// Admits pushes; a cheap clone.
#[derive(Clone)]
pub(crate) struct Admission(Arc<AdmissionCore>);

struct AdmissionCore {
    checks: ArcSwap<PushChecks>,
    publisher: RoutedPublisher,
    store: Option<Store>,
    wakes: StoreWakes,
    idempotency_ttl: Duration,
    phases: Phases,
    metrics: Arc<Metrics>,
    accepted: [Counter; 4],
}

/// What each push is held to.
struct PushChecks {
    limits: LimitCheck,
    options: OptionCheck,
}

impl PushChecks {
    fn of(config: &Config, has_store: bool) -> Self {
        Self { limits: LimitCheck::of(config), options: OptionCheck::of(config, has_store) }
    }
}

/// A push that may go on, and where it goes.
struct AdmittedPush {
    push: Push,
    way: PushWay,
}

enum PushWay {
    /// To the queue.
    Live,
    /// To the queue, once its idempotency key is claimed.
    Claimed(Claim),
    /// To the store.
    Stored(Option<Claim>),
}

impl Admission {
    /// Of pushes that `publisher` takes, and those with `offline` the store.
    pub(crate) fn new(
        config: &Config,
        publisher: RoutedPublisher,
        store: Option<Store>,
        phases: Phases,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let wakes = StoreWakes::start(config, store.as_ref(), &publisher, tasks, metrics);
        let accepted = PushSource::ALL.map(|source| {
            metrics
                .pushes
                .get_or_create_owned(&PushLabels { source: source.label(), outcome: PushOutcome::Accepted.word() })
        });
        let checks = ArcSwap::from_pointee(PushChecks::of(config, store.is_some()));
        let idempotency_ttl = config.store.idempotency_ttl;
        let metrics = metrics.clone();
        Self(Arc::new(AdmissionCore { checks, publisher, store, wakes, idempotency_ttl, phases, metrics, accepted }))
    }

    /// The limits of one push, for parsers that stop early.
    pub(crate) fn limits(&self) -> PushLimits {
        self.0.checks.load().limits.limits().clone()
    }

    /// `[push]` from now on.
    pub(crate) fn replace_limits(&self, config: &Config) {
        self.0.checks.store(Arc::new(PushChecks::of(config, self.0.store.is_some())));
    }

    /// For the pushes of one request, one stream, or all raw ones.
    pub(crate) fn submitter(&self, source: PushSource, caller: Caller) -> Submitter {
        Submitter { admission: self.clone(), source, caller, deadline: None, turns: PublishTurns::default() }
    }

    /// Counts a push that is refused because nobody pushes it.
    pub(super) fn refuse(&self, source: PushSource, refusal: &Refusal) {
        self.count(source, refusal.kind.name());
    }

    fn count(&self, source: PushSource, outcome: &'static str) {
        self.0.metrics.pushes.get_or_create(&PushLabels { source: source.label(), outcome }).inc();
    }

    fn count_options(&self, options: &PushOptions) {
        let given = [
            (PushOption::Offline, options.offline),
            (PushOption::Ttl, options.ttl.is_some()),
            (PushOption::IdempotencyKey, !options.idempotency_key.is_empty()),
        ];
        for (option, _) in given.into_iter().filter(|(_, given)| *given) {
            self.0.metrics.push_options.get_or_create(&option).inc();
        }
    }

    /// The store has a push: nodes are told of it. The caller does not wait for that.
    fn appended(&self, appended: Appended) -> Receipt {
        match appended {
            Appended::New { id, wake } => {
                let took = Duration::from_millis(unix_millis().saturating_sub(id.millis()));
                self.0.metrics.publish_seconds.observe(took.as_secs_f64());
                self.0.metrics.published(id, Instant::now().into_std());
                if let Some(stored) = wake {
                    self.0.wakes.tell(*stored);
                }
                Receipt::new(id)
            }
            Appended::Before(id) => Receipt::replayed(id),
        }
    }

    /// The store, for a push that was admitted to it.
    fn store(&self) -> &Store {
        self.0.store.as_ref().expect("invariant: without a store such pushes are refused")
    }

    fn publish(&self, push: Push) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        trace_accepted(&push);
        let published = self.0.publisher.publish(RoutedPush::Live(push));
        async move { published.await.map(|_| ()) }
    }

    /// Claims a live push's key; it is on its way when this returns.
    fn claim(
        &self,
        id: PushId,
        claim: Claim,
    ) -> Result<impl Future<Output = Result<Claimed, StoreError>> + Send + use<>, StoreError> {
        self.store().claim(id, claim)
    }

    /// Publishes a push when its turn comes, under the id that its key is claimed for, unless it was published before.
    async fn publish_later<C>(&self, later: LaterPush<C>) -> Result<Receipt, Refusal>
    where
        C: Future<Output = Result<Claimed, StoreError>>,
    {
        let LaterPush { mut push, claim, mut turn } = later;
        let claimed = match claim {
            Some((key, claimed)) => Some((key, claimed.await)),
            None => None,
        };
        turn.come().await;
        let key = match claimed {
            None => None,
            Some((key, claimed)) => {
                match claimed? {
                    Claimed::New => {}
                    Claimed::Pending(id) => push = under(id, push),
                    Claimed::Done(id) => return Ok(Receipt::replayed(id)),
                }
                Some(key)
            }
        };
        let id = push.id;
        let published = self.publish(push);
        drop(turn);
        published.await?;
        if let Some(key) = key {
            self.store().fulfil(key);
        }
        Ok(Receipt::new(id))
    }
}

/// A push under the id of its first try, which also says when it ends.
fn under(id: PushId, push: Push) -> Push {
    let end = |deadline: u64| deadline.saturating_sub(push.id.millis()).saturating_add(id.millis());
    Push { id, deadline: push.deadline.map(end), ..push }
}

/// A live push that waits for its key, or behind one that does.
struct LaterPush<C> {
    push: Push,
    /// Its key, and what comes of claiming it.
    claim: Option<([u8; 16], C)>,
    turn: PublishTurn,
}

/// A push that is on its way: to the queue, to the store, or to the queue later.
enum SentPush<P, A, C> {
    Published(PushId, P),
    Appended(A),
    Later(Box<LaterPush<C>>),
}

fn trace_accepted(push: &Push) {
    tracing::trace!(id = %push.id, "a push is accepted, and handed on");
}

/// Submits pushes for one caller, and counts what becomes of them.
pub(crate) struct Submitter {
    admission: Admission,
    source: PushSource,
    caller: Caller,
    /// When the caller no longer waits for the outcomes.
    deadline: Option<Instant>,
    turns: PublishTurns,
}

impl Submitter {
    /// The caller waits until then; `None`: for ever.
    #[must_use]
    pub(crate) fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    /// A draft as the push that may go on.
    fn admit(&self, draft: Draft) -> Result<AdmittedPush, Refusal> {
        if self.admission.0.phases.now() == Phase::Draining {
            return Err(Refusal::draining());
        }
        self.check(draft, PushId::generate())
    }

    /// A push within all limits, its caller's too; only such a one costs the caller a token, a retry as well.
    fn check(&self, draft: Draft, id: PushId) -> Result<AdmittedPush, Refusal> {
        let (push, options) = draft.with(id);
        let checks = self.admission.0.checks.load();
        let mut push = checks.limits.check(push, options.offline)?;
        // most pushes have none
        let has_options = options != PushOptions::default();
        if has_options {
            checks.options.apply(&options, &mut push)?;
        }
        if let Err(denial) = self.caller.may_push(&push.target) {
            return Err(Refusal::denied(&self.caller, denial));
        }
        if !has_options {
            return Ok(AdmittedPush { push, way: PushWay::Live });
        }
        self.admission.count_options(&options);
        let claim = (!options.idempotency_key.is_empty()).then(|| {
            let deadline = unix_millis().saturating_add(self.admission.0.idempotency_ttl.as_millis() as u64);
            claims::claim(self.caller.name(), &push, &options, deadline)
        });
        let way = match claim {
            claim if options.offline => PushWay::Stored(claim),
            Some(claim) => PushWay::Claimed(claim),
            None => PushWay::Live,
        };
        Ok(AdmittedPush { push, way })
    }

    /// Hands one push on, and waits until it is taken for good.
    async fn take(&self, admitted: AdmittedPush) -> Result<Receipt, Refusal> {
        let AdmittedPush { push, way } = admitted;
        match way {
            PushWay::Live => {
                let id = push.id;
                self.admission.publish(push).await?;
                Ok(Receipt::new(id))
            }
            PushWay::Stored(claim) => {
                trace_accepted(&push);
                let appended = self.admission.store().append(NewPush { push, claim })?.await?;
                Ok(self.admission.appended(appended))
            }
            PushWay::Claimed(claim) => {
                let claimed = self.admission.claim(push.id, claim)?;
                let later = LaterPush { push, claim: Some((claim.key, claimed)), turn: self.turns.give() };
                self.admission.publish_later(later).await
            }
        }
    }

    /// Hands one push on.
    ///
    /// # Errors
    /// Why it was refused; after `Unavailable` or `TimedOut` it may still arrive.
    pub(crate) async fn push(&self, draft: Result<Draft, Refusal>) -> Result<Receipt, Refusal> {
        let admitted = draft.and_then(|draft| self.admit(draft)).inspect_err(|refusal| self.refused(refusal))?;
        let waiting = WaitingCaller { submitter: self, answered: false };
        waiting.answer(self.take(admitted).await)
    }

    /// Hands many on together, in order; each has its own outcome.
    pub(crate) async fn push_all(self, drafts: Vec<Result<Draft, Refusal>>) -> Vec<Result<Receipt, Refusal>> {
        let is_keyed = |draft: &Result<Draft, Refusal>| {
            draft.as_ref().is_ok_and(|draft| !draft.options.idempotency_key.is_empty())
        };
        // who waits for a key goes on only when it is asked
        let some_wait = drafts.iter().any(is_keyed);
        let all = Arc::new(self).push_each(drafts);
        if some_wait {
            return futures_util::future::join_all(all).await;
        }
        let mut outcomes = Vec::with_capacity(all.len());
        for outcome in all {
            outcomes.push(outcome.await);
        }
        outcomes
    }

    /// As [`Submitter::push_all`], for a caller that waits for each apart. The pushes are on their way when this returns: a
    /// caller that goes away does not take them back. Live ones with an idempotency key, and those behind them, are on their way
    /// to the queue only once the key is claimed: each of the futures has to be polled for that.
    pub(crate) fn push_each(
        self: &Arc<Self>,
        drafts: Vec<Result<Draft, Refusal>>,
    ) -> Vec<impl Future<Output = Result<Receipt, Refusal>> + Send + use<>> {
        let mut live = Vec::with_capacity(drafts.len());
        let mut stored = Vec::new();
        // first all are checked and gathered, in their order
        let gathered: Vec<Result<SentPush<(), (), _>, Refusal>> = drafts
            .into_iter()
            .map(|draft| {
                let AdmittedPush { push, way } = draft.and_then(|draft| self.admit(draft))?;
                let claim = match way {
                    PushWay::Stored(claim) => {
                        trace_accepted(&push);
                        stored.push(NewPush { push, claim });
                        return Ok(SentPush::Appended(()));
                    }
                    PushWay::Live if self.turns.are_over() => {
                        trace_accepted(&push);
                        let id = push.id;
                        live.push(RoutedPush::Live(push));
                        return Ok(SentPush::Published(id, ()));
                    }
                    PushWay::Live => None,
                    PushWay::Claimed(claim) => Some((claim.key, self.admission.claim(push.id, claim)?)),
                };
                Ok(SentPush::Later(Box::new(LaterPush { push, claim, turn: self.turns.give() })))
            })
            .collect();
        let mut published = self.admission.0.publisher.publish_all(live).into_iter();
        let store = self.admission.0.store.as_ref().filter(|_| !stored.is_empty());
        let mut appended = store.map(|store| store.append_all(stored)).unwrap_or_default().into_iter();
        let outcomes = gathered.into_iter().map(|push| {
            let sent = push.and_then(|push| {
                let sent = match push {
                    SentPush::Published(id, ()) => {
                        SentPush::Published(id, published.next().expect("invariant: each record has an outcome")?)
                    }
                    SentPush::Appended(()) => {
                        SentPush::Appended(appended.next().expect("invariant: each stored push has an outcome")?)
                    }
                    SentPush::Later(later) => SentPush::Later(later),
                };
                Ok((sent, WaitingCaller { submitter: Arc::clone(self), answered: false }))
            });
            let sent = sent.inspect_err(|refusal| self.refused(refusal));
            async move {
                let (sent, waiting) = sent?;
                let outcome = match sent {
                    SentPush::Published(id, published) => {
                        published.await.map(|_| Receipt::new(id)).map_err(Refusal::from)
                    }
                    SentPush::Appended(appended) => match appended.await {
                        Ok(appended) => Ok(waiting.submitter.admission.appended(appended)),
                        Err(error) => Err(error.into()),
                    },
                    SentPush::Later(later) => waiting.submitter.admission.publish_later(*later).await,
                };
                waiting.answer(outcome)
            }
        });
        outcomes.collect()
    }

    /// As [`Submitter::push`], under an id that the push has already and in a drain too: for one that was taken before.
    ///
    /// # Errors
    /// As [`Submitter::push`].
    pub(crate) async fn push_as(&self, id: PushId, draft: Result<Draft, Refusal>) -> Result<Receipt, Refusal> {
        let outcome = match draft.and_then(|draft| self.check(draft, id)) {
            Ok(admitted) => self.take(admitted).await,
            Err(refusal) => Err(refusal),
        };
        self.counted(outcome)
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

    fn counted(&self, outcome: Result<Receipt, Refusal>) -> Result<Receipt, Refusal> {
        match &outcome {
            Ok(Receipt { replayed: true, .. }) => self.admission.count(self.source, PushOutcome::Replayed.word()),
            Ok(Receipt { id, .. }) => {
                tracing::trace!(%id, source = self.source.label(), caller = self.caller.name(), "a push is in the queue, or the store");
                self.admission.0.accepted[self.source as usize].inc();
                self.caller.accepted().inc();
                self.admission.0.metrics.traces.published(*id, self.source.label());
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
    fn answer(mut self, outcome: Result<Receipt, Refusal>) -> Result<Receipt, Refusal> {
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
