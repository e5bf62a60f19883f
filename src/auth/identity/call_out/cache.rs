//! What the call-out said a moment ago.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::super::{Identity, Presented, token::unix_time};

/// All that a call-out is told of a client, as a hash: no token is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AnswerKey([u8; SHA256_OUTPUT_LEN]);

impl AnswerKey {
    pub(super) fn of(presented: &Presented) -> Self {
        let mut hash = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            // so that no two differ only in where a part ends
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(&[u8::from(presented.token.is_some())]);
        add(presented.token.as_deref().unwrap_or_default().as_bytes());
        add(presented.card.as_bytes());
        add(presented.app.as_bytes());
        add(presented.address.to_canonical().to_string().as_bytes());
        for (name, value) in &presented.headers {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        let mut key = [0; SHA256_OUTPUT_LEN];
        key.copy_from_slice(hash.finish().as_ref());
        Self(key)
    }
}

/// Bounded in number and time; the oldest make room.
pub(super) struct AnswerCache {
    life: Duration,
    max: usize,
    answers: HashMap<AnswerKey, CachedAnswer>,
    /// Oldest first; one that was asked for again stands here again.
    order: VecDeque<(AnswerKey, Instant)>,
}

struct CachedAnswer {
    identity: Identity,
    until: Instant,
}

impl AnswerCache {
    pub(super) fn new(life: Duration, max: usize) -> Self {
        Self { life, max, answers: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn get(&self, key: &AnswerKey) -> Option<Identity> {
        let answer = self.answers.get(key)?;
        (Instant::now() < answer.until).then(|| answer.identity.clone())
    }

    pub(super) fn insert(&mut self, key: AnswerKey, identity: &Identity) {
        let left = identity.expires_at.map(|end| Duration::from_secs(end.saturating_sub(unix_time())));
        let life = left.map_or(self.life, |left| left.min(self.life));
        if life.is_zero() {
            return;
        }
        let now = Instant::now();
        let until = now + life;
        self.answers.insert(key, CachedAnswer { identity: identity.clone(), until });
        self.order.push_back((key, until));
        while let Some((key, until)) = self.order.front().copied() {
            if until > now && self.order.len() <= self.max {
                break;
            }
            self.order.pop_front();
            if self.answers.get(&key).is_some_and(|answer| answer.until == until) {
                self.answers.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Patterns;

    fn identity(expires_at: Option<u64>) -> Identity {
        Identity {
            subject: "alice".into(),
            card: Some("alice".into()),
            cards: Patterns::default(),
            app: None,
            rooms: Patterns::default(),
            push: Patterns::default(),
            expires_at,
            issued_at: None,
        }
    }

    fn key(number: u8) -> AnswerKey {
        AnswerKey([number; SHA256_OUTPUT_LEN])
    }

    #[test]
    fn it_is_bounded_in_number_and_time() {
        let mut cache = AnswerCache::new(Duration::from_secs(60), 3);
        for number in 0..10 {
            cache.insert(key(7), &identity(None));
            cache.insert(key(number), &identity(None));
            assert!(cache.answers.len() <= 3 && cache.order.len() <= 3);
        }
        assert!(cache.get(&key(9)).is_some() && cache.get(&key(0)).is_none());
        // ended already
        cache.insert(key(20), &identity(Some(1)));
        assert!(cache.get(&key(20)).is_none());
        let mut off = AnswerCache::new(Duration::ZERO, 3);
        off.insert(key(1), &identity(None));
        assert!(off.get(&key(1)).is_none() && off.order.is_empty());
    }

    #[test]
    fn each_thing_that_a_call_out_is_told_makes_another_answer() {
        let plain = Presented {
            token: Some("t".into()),
            card: "ab".into(),
            app: "c".into(),
            address: [127, 0, 0, 1].into(),
            headers: vec![("x".into(), "1".into())],
        };
        let others = [
            Presented { token: None, ..plain.clone() },
            Presented { token: Some("u".into()), ..plain.clone() },
            Presented { card: "a".into(), app: "bc".into(), ..plain.clone() },
            Presented { app: "d".into(), ..plain.clone() },
            Presented { address: [127, 0, 0, 2].into(), ..plain.clone() },
            Presented { headers: vec![("x".into(), "2".into())], ..plain.clone() },
            Presented { headers: Vec::new(), ..plain.clone() },
        ];
        for other in others {
            assert!(AnswerKey::of(&other) != AnswerKey::of(&plain), "{other:?}");
        }
        assert!(AnswerKey::of(&plain.clone()) == AnswerKey::of(&plain));
        assert!(
            AnswerKey::of(&Presented { token: None, ..plain.clone() })
                != AnswerKey::of(&Presented { token: Some("".into()), ..plain })
        );
    }
}
