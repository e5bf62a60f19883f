//! Subjects whose tokens of before some time are refused.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytestring::ByteString;

use super::{Identity, token::unix_time};
use crate::telemetry::Metrics;

/// A bounded list: the oldest make room. Each is kept until no token of before it can live.
pub(super) struct Revocations {
    list: RwLock<RevocationList>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct RevocationList {
    subjects: HashMap<ByteString, Revocation>,
    /// When each was told, in seconds since 1970, and which in number: the oldest first.
    order: BTreeMap<(u64, u64), ByteString>,
    count: u64,
}

#[derive(Clone, Copy)]
struct Revocation {
    /// Tokens must have been issued after this second.
    at: u64,
    /// Where it stands in the order.
    place: (u64, u64),
}

impl Revocations {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { list: RwLock::default(), metrics: metrics.clone() }
    }

    /// From now on tokens of `subject` that were issued in the second `at` or before it are revoked, as are those that do not
    /// say when. At most `max` are kept, each for `life`.
    pub(super) fn add(&self, subject: ByteString, at: u64, max: usize, life: Duration) {
        let now = unix_time();
        let mut forgotten = 0;
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.insert(subject, at, now);
        while list.oldest().is_some_and(|told| told + life.as_secs() < now) {
            list.order.pop_first().map(|(_, subject)| list.subjects.remove(&subject));
        }
        while list.subjects.len() > max {
            list.order.pop_first().map(|(_, subject)| list.subjects.remove(&subject));
            forgotten += 1;
        }
        self.metrics.revocations.set(i64::try_from(list.subjects.len()).unwrap_or(i64::MAX));
        drop(list);
        if forgotten > 0 {
            self.metrics.forgotten_revocations.inc_by(forgotten);
            tracing::warn!(max, "a revocation made room for a newer one: raise [token] max_revocations");
        }
    }

    /// Whether the identity is of before its subject's revocation.
    pub(super) fn has(&self, identity: &Identity) -> bool {
        if identity.subject.is_empty() {
            return false;
        }
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let revocation = list.subjects.get(&identity.subject);
        revocation.is_some_and(|revocation| identity.issued_at.is_none_or(|issued| issued <= revocation.at))
    }
}

impl RevocationList {
    /// In place of an earlier one of the same subject.
    fn insert(&mut self, subject: ByteString, at: u64, now: u64) {
        self.count += 1;
        // by the later of the two clocks, so that it is not forgotten early
        let mut revocation = Revocation { at, place: (now.max(at), self.count) };
        if let Some(before) = self.subjects.get(&subject) {
            self.order.remove(&before.place);
            revocation.at = at.max(before.at);
        }
        self.order.insert(revocation.place, subject.clone());
        self.subjects.insert(subject, revocation);
    }

    fn oldest(&self) -> Option<u64> {
        self.order.first_key_value().map(|((told, _), _)| *told)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::auth::Patterns;

    fn issued(subject: &str, issued_at: Option<u64>) -> Identity {
        Identity {
            subject: subject.into(),
            card: Some("card".into()),
            cards: Patterns::default(),
            app: None,
            rooms: Patterns::default(),
            push: Patterns::default(),
            expires_at: None,
            issued_at,
        }
    }

    #[test]
    fn a_revocation_holds_for_what_was_issued_until_then_and_says_when() {
        let revocations = Revocations::new(&Arc::default());
        let now = unix_time();
        revocations.add("alice".into(), now, 10, Duration::from_secs(60));
        for (identity, revoked) in [
            (issued("alice", Some(now - 1)), true),
            (issued("alice", Some(now)), true),
            (issued("alice", None), true),
            (issued("alice", Some(now + 1)), false),
            (issued("bob", Some(now - 1)), false),
            (issued("", None), false),
        ] {
            assert_eq!(revocations.has(&identity), revoked, "{identity:?}");
        }
        // an earlier one does not take it back
        revocations.add("alice".into(), now - 10, 10, Duration::from_secs(60));
        assert!(revocations.has(&issued("alice", Some(now))));
    }

    #[test]
    fn the_oldest_revocations_make_room_and_are_counted() {
        let metrics = Arc::new(Metrics::new());
        let revocations = Revocations::new(&metrics);
        let now = unix_time();
        for n in 0..100 {
            // the same one again and again pushes nobody out
            revocations.add("mallory".into(), now, 3, Duration::from_secs(60));
            revocations.add(format!("user {n}").into(), now, 3, Duration::from_secs(60));
        }
        assert!(revocations.has(&issued("user 99", None)) && revocations.has(&issued("mallory", None)));
        assert!(!revocations.has(&issued("user 9", None)));
        assert_eq!((metrics.revocations.get(), metrics.forgotten_revocations.get()), (3, 98));
    }

    #[test]
    fn a_revocation_is_forgotten_when_no_token_of_before_can_live() {
        let metrics = Arc::new(Metrics::new());
        let revocations = Revocations::new(&metrics);
        revocations.add("alice".into(), unix_time(), 10, Duration::from_secs(60));
        let mut list = revocations.list.write().unwrap();
        let told = list.order.pop_first().unwrap().0;
        list.order.insert((told.0 - 62, told.1), "alice".into());
        drop(list);
        revocations.add("bob".into(), unix_time(), 10, Duration::from_secs(60));
        assert!(!revocations.has(&issued("alice", None)) && revocations.has(&issued("bob", None)));
        assert_eq!((metrics.revocations.get(), metrics.forgotten_revocations.get()), (1, 0));
    }
}
