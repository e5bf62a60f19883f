//! What every entrance has in common: bounds checked, id given, record published, outcome counted.

use std::{collections::HashSet, sync::Arc};

use bytestring::ByteString;
use futures_util::{StreamExt, stream::FuturesOrdered};

use super::{
    draft::Draft,
    refusal::{Kind, Refusal},
};
use crate::{
    auth::Keys,
    config::{Config, PushLimits},
    hub::{Census, Hub},
    lifecycle::{Phase, Phases},
    push::{Name, Push, PushId, Target},
    queue::{Origin, Publisher, State, record},
    telemetry::{Count, Metrics},
};

/// Bytes of a dialect's push frame beside content and sender: header, envelope, id, time.
const ENVELOPE: usize = 256;

/// Shared by all entrances; a cheap clone.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    limits: PushLimits,
    outbox: usize,
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
            limits: config.push.clone(),
            outbox: config.outbox.max_bytes,
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
        &self.0.limits
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
        let waits = Waits { caller: Some(source), admission: self };
        let outcome = match draft.and_then(|draft| self.admit(draft)) {
            Ok(push) => self.publish(&push).await,
            Err(refusal) => Err(refusal),
        };
        waits.answered();
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
        self.tell(source, "given_up");
    }

    /// The live connections of a card on this node.
    pub fn connections(&self, card: &str) -> usize {
        self.0.hub.connections(card)
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
            Ok(_) => drop(self.0.accepted[source as usize].inc()),
            Err(refusal) => self.tell(source, refusal.kind.name()),
        };
        outcome
    }

    fn tell(&self, source: Source, outcome: &'static str) {
        self.0.metrics.pushes.get_or_create(&[("source", source.label()), ("outcome", outcome)]).inc();
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
        let Inner { limits, outbox, .. } = &*self.0;
        Ok(check(limits, *outbox, Draft::decode(raw)?)?.with(id))
    }

    fn admit(&self, draft: Draft) -> Result<Push, Refusal> {
        let Inner { limits, outbox, phases, .. } = &*self.0;
        if phases.now() == Phase::Draining {
            return Err(Refusal::new(Kind::Draining, "the node is draining; push to another one"));
        }
        Ok(check(limits, *outbox, draft)?.with(PushId::generate()))
    }
}

/// A caller that waits for the answer to its push; dropped without one, it left.
struct Waits<'a> {
    caller: Option<Source>,
    admission: &'a Admission,
}

impl Waits<'_> {
    fn answered(mut self) {
        self.caller = None;
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(source) = self.caller {
            self.admission.tell(source, "caller_left");
        }
    }
}

/// What a waiter has seen of readiness.
pub struct Seen {
    queue: tokio::sync::watch::Receiver<State>,
    phase: tokio::sync::watch::Receiver<Phase>,
}

/// A draft that met every bound.
struct Checked(Draft);

impl Checked {
    fn with(self, id: PushId) -> Push {
        let Draft { from, to, app, content, collapse_key } = self.0;
        Push {
            id,
            from,
            target: Target { cards: to, app: (!app.is_empty()).then_some(app) },
            content,
            collapse_key: (!collapse_key.is_empty()).then_some(collapse_key),
        }
    }
}

/// Checks every bound; a card that is named twice stays once.
fn check(limits: &PushLimits, outbox: usize, mut draft: Draft) -> Result<Checked, Refusal> {
    if draft.to.is_empty() {
        return Err(Refusal::field("to", "names no card; name at least one"));
    }
    if draft.to.len() > limits.max_cards {
        return Err(too_many_cards(limits.max_cards));
    }
    let name = Name { max: limits.max_name };
    for (i, card) in draft.to.iter().enumerate() {
        name.check(card).map_err(|error| Refusal::field(&format!("to[{i}]"), error))?;
    }
    for (field, value) in [("from", &draft.from), ("appID", &draft.app), ("collapse_key", &draft.collapse_key)] {
        name.check_optional(value).map_err(|error| Refusal::field(field, error))?;
    }
    let bytes = draft.content.len();
    if bytes > limits.max_content {
        let message = format!("`content` has {bytes} bytes; at most {} are allowed", limits.max_content);
        return Err(Refusal::new(Kind::PushTooLarge, message));
    }
    // exact lengths are counted only where escapes could matter
    if (bytes + draft.from.len()) * 6 + ENVELOPE > outbox {
        let frame = escaped(&draft.content) + escaped(&draft.from) + ENVELOPE;
        if frame > outbox {
            let message = format!("`content` makes a frame of {frame} bytes; a connection's outbox holds {outbox}");
            return Err(Refusal::new(Kind::PushTooLarge, message));
        }
    }
    dedupe(&mut draft.to);
    Ok(Checked(draft))
}

/// The refusal of a push to more cards than allowed.
pub(crate) fn too_many_cards(limit: usize) -> Refusal {
    Refusal::field("to", format_args!("names more than {limit} cards; split the push"))
}

fn dedupe(cards: &mut Vec<ByteString>) {
    match cards.len() {
        0 | 1 => {}
        2..=8 => {
            let mut kept = 1;
            for i in 1..cards.len() {
                if !cards[..kept].contains(&cards[i]) {
                    cards.swap(kept, i);
                    kept += 1;
                }
            }
            cards.truncate(kept);
        }
        _ => {
            let mut seen = HashSet::with_capacity(cards.len());
            cards.retain(|card| seen.insert(card.clone()));
        }
    }
}

/// Bytes of a text as JSON writes it, without its quotes.
fn escaped(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

/// FNV-1a in 128 bits over `parts`: ids of raw pushes rest on it, so it must never change.
fn fnv1a(parts: &[&[u8]]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    parts.iter().flat_map(|part| part.iter()).fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: PushLimits = PushLimits { max_content: 1000, max_cards: 20, max_name: 8, max_batch: 10 };

    fn draft(to: &[&str], content: &str) -> Draft {
        Draft { to: to.iter().map(|&card| card.into()).collect(), content: content.into(), ..Draft::default() }
    }

    fn refused(draft: Draft) -> Refusal {
        check(&LIMITS, 2000, draft).err().unwrap()
    }

    #[test]
    fn a_card_named_twice_stays_once_and_the_order_stays() {
        for (to, kept) in [
            (vec!["a", "b", "a", "c", "b"], vec!["a", "b", "c"]),
            (vec!["a"; 9], vec!["a"]),
            (
                "abcdefghija".split("").filter(|c| !c.is_empty()).collect(),
                "abcdefghij".split("").filter(|c| !c.is_empty()).collect(),
            ),
        ] {
            let push = check(&LIMITS, 2000, draft(&to, "x")).ok().unwrap().with(PushId::generate());
            assert_eq!(push.target.cards, kept);
        }
    }

    #[test]
    fn a_bad_push_is_refused_with_its_field() {
        let long = "x".repeat(9);
        let rows: Vec<(Draft, Kind, &str)> = vec![
            (draft(&[], "x"), Kind::BadField, "`to` names no card"),
            (draft(&["a"; 21], "x"), Kind::BadField, "`to` names more than 20"),
            (draft(&["a", ""], "x"), Kind::BadField, "`to[1]` is empty"),
            (draft(&["a\u{7}"], "x"), Kind::BadField, "`to[0]` has the control character U+0007"),
            (draft(&[&long], "x"), Kind::BadField, "`to[0]` has 9 bytes; at most 8"),
            (Draft { from: long.as_str().into(), ..draft(&["a"], "") }, Kind::BadField, "`from` has 9"),
            (Draft { app: long.as_str().into(), ..draft(&["a"], "") }, Kind::BadField, "`appID` has 9"),
            (Draft { collapse_key: long.as_str().into(), ..draft(&["a"], "") }, Kind::BadField, "`collapse_key` has 9"),
            (draft(&["a"], &"x".repeat(1001)), Kind::PushTooLarge, "`content` has 1001 bytes"),
            (draft(&["a"], &"\u{1}".repeat(400)), Kind::PushTooLarge, "`content` makes a frame of 2656 bytes"),
        ];
        for (draft, kind, message) in rows {
            let refusal = refused(draft);
            assert_eq!(refusal.kind, kind);
            assert!(refusal.message.starts_with(message), "{} should start with {message}", refusal.message);
        }
        assert!(check(&LIMITS, 2000, draft(&["a"], &"x".repeat(1000))).is_ok());
    }

    #[test]
    fn the_hash_of_raw_pushes_never_changes() {
        // the published test vectors of FNV-1a 128
        assert_eq!(fnv1a(&[]), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv1a(&[b"a"]), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }
}
