//! What every entrance has in common: bounds checked, id given, record published, outcome counted.

use std::sync::Arc;

use bytestring::ByteString;
use futures_util::{StreamExt, stream::FuturesOrdered};

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
    queue::{Origin, Publisher, State, record},
    telemetry::{Count, Metrics},
};

/// Shared by all entrances; a cheap clone.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    bounds: Bounds,
    keys: Keys,
    publisher: Publisher,
    queue: tokio::sync::watch::Receiver<State>,
    hub: Hub,
    phases: Phases,
    metrics: Arc<Metrics>,
    accepted: [Count; 3],
}

/// Where a push comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Source {
    Http,
    Grpc,
    Nsq,
}

impl Source {
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
        queue: tokio::sync::watch::Receiver<State>,
        hub: Hub,
        phases: Phases,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let accepted = Source::ALL
            .map(|source| metrics.pushes.get_or_create(&[("source", source.label()), ("outcome", "accepted")]).clone());
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

    /// Publishes one push and counts its outcome. The record is on its way from the first poll on: a caller that goes away
    /// does not take it back.
    ///
    /// # Errors
    /// Why it was refused; after `Unavailable` or `TimedOut` it may still arrive.
    pub async fn push(&self, source: Source, draft: Result<Draft, Refusal>) -> Result<PushId, Refusal> {
        let outcome = match draft.and_then(|draft| self.admit(draft)) {
            Ok(push) => self.publish(&push).await,
            Err(refusal) => Err(refusal),
        };
        self.count(source, outcome)
    }

    /// Publishes a raw push of another NSQ client; its id is the same for each redelivery. Taken in a drain too: it is in
    /// hand already.
    ///
    /// # Errors
    /// As [`Admission::push`].
    pub async fn push_raw(&self, raw: bytes::Bytes, origin: Option<Origin>) -> Result<PushId, Refusal> {
        let outcome = match self.decode_raw(raw, origin) {
            Ok(push) => self.publish(&push).await,
            Err(refusal) => Err(refusal),
        };
        self.count(Source::Nsq, outcome)
    }

    /// Publishes many at once, in order; each has its own outcome.
    pub async fn push_all(
        &self,
        source: Source,
        drafts: impl IntoIterator<Item = Result<Draft, Refusal>>,
    ) -> Vec<Result<PushId, Refusal>> {
        let pushes: FuturesOrdered<_> = drafts.into_iter().map(|draft| self.push(source, draft)).collect();
        pushes.collect().await
    }

    /// Counts a push that was given up before it could be admitted (raw, attempts used up).
    pub fn give_up(&self, source: Source) {
        self.0.metrics.pushes.get_or_create(&[("source", source.label()), ("outcome", "given_up")]).inc();
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
            State::Ready => Ok(()),
            State::NotReady(reason) => Err(format!("the queue is not ready: {reason}")),
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
            Ok(_) => self.0.accepted[source as usize].inc(),
            Err(refusal) => {
                let labels = [("source", source.label()), ("outcome", refusal.kind.name())];
                self.0.metrics.pushes.get_or_create(&labels).inc()
            }
        };
        outcome
    }

    async fn publish(&self, push: &Push) -> Result<PushId, Refusal> {
        self.0.publisher.publish(record::encode(push)).await?;
        Ok(push.id)
    }

    fn decode_raw(&self, raw: bytes::Bytes, origin: Option<Origin>) -> Result<Push, Refusal> {
        let id = match origin {
            Some(Origin { millis, id }) => PushId::from_parts(millis, fnv1a(&[&id, &raw])),
            None => PushId::generate(),
        };
        let push = record::decode(raw, Some(id)).map_err(|error| Refusal::new(Kind::BadField, error.to_string()))?;
        self.0.bounds.check(push)
    }

    fn admit(&self, draft: Draft) -> Result<Push, Refusal> {
        if self.0.phases.now() == Phase::Draining {
            return Err(Refusal::draining());
        }
        self.0.bounds.check(draft.with(PushId::generate()))
    }
}

/// What a waiter has seen of readiness.
pub struct Seen {
    queue: tokio::sync::watch::Receiver<State>,
    phase: tokio::sync::watch::Receiver<Phase>,
}

/// FNV-1a in 128 bits over `parts`: ids of raw pushes rest on it, so it must never change.
fn fnv1a(parts: &[&[u8]]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    parts.iter().flat_map(|part| part.iter()).fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::fnv1a;

    #[test]
    fn the_hash_of_raw_pushes_never_changes() {
        // the published test vectors of FNV-1a 128
        assert_eq!(fnv1a(&[]), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv1a(&[b"a"]), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }
}
