//! Idempotency keys: what is kept of a key, and of the push that was made under it.

use ring::digest::{Context, SHA256};

use super::draft::PushOptions;
use crate::{
    push::{Content, Push, Target},
    store::Claim,
};

/// The claim of `caller` that `push` is made under its key, remembered until `deadline` (milliseconds since 1970). Two callers
/// never share a key.
///
/// It rests on disk, so what is hashed must never change: a retry would be taken for another push.
pub(super) fn claim(caller: &str, push: &Push, options: &PushOptions, deadline: u64) -> Claim {
    let key = Hash::new().text(caller).text(&options.idempotency_key).finish();
    let body = body(push, options);
    let first = |hash: &[u8; 32]| u64::from_le_bytes(*hash.first_chunk().expect("invariant: 32 bytes"));
    Claim { key: *key.first_chunk().expect("invariant: 32 bytes"), body: first(&body), deadline }
}

/// Of all that a push says, its id and the moment apart.
fn body(push: &Push, options: &PushOptions) -> [u8; 32] {
    let Push { id: _, from, target, content, collapse_key, deadline: _ } = push;
    let Target { cards, room, app, everyone, exclude } = target;
    let kind = match content {
        Content::Text(_) => 0,
        Content::Json(_) => 1,
        Content::Binary(_) => 2,
    };
    let mut hash = Hash::new();
    hash.text(from).texts(cards).optional(room.as_deref()).optional(app.as_deref()).number(u64::from(*everyone));
    match exclude {
        Some(exclude) => hash.number(1).texts(&exclude.cards).bytes(exclude.client.as_ref().map_or(&[], |id| &id[..])),
        None => hash.number(0),
    };
    hash.number(kind).bytes(content.bytes()).optional(collapse_key.as_deref());
    hash.number(u64::from(options.offline)).number(options.ttl.unwrap_or_default());
    hash.finish()
}

/// A hash over several values, each told from what stands beside it.
struct Hash(Context);

impl Hash {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn texts<T: AsRef<str>>(&mut self, texts: &[T]) -> &mut Self {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text.as_ref());
        }
        self
    }

    fn optional(&mut self, text: Option<&str>) -> &mut Self {
        self.texts(text.as_slice())
    }

    fn finish(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.clone().finish().as_ref());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::push::{Exclude, PushId};

    fn options(key: &str) -> PushOptions {
        PushOptions { idempotency_key: key.into(), ..PushOptions::default() }
    }

    #[test]
    fn the_hashes_of_keys_and_pushes_never_change() {
        let push = Push { id: PushId::from_parts(1, 1), ..Push::to("alice", "hello") };
        let claim = claim("billing", &push, &options("order-17"), 99);
        let key = claim.key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!((&*key, format!("{:016x}", claim.body), claim.deadline), (KEY, BODY.into(), 99));
    }

    /// Of `sha256` over the same bytes, made by another program.
    const KEY: &str = "d46234bdab83cb09a18340fe3f262026";
    const BODY: &str = "ca967de50832d19e";

    #[test]
    fn a_retry_is_the_same_and_whatever_else_is_said_makes_another() {
        let push = Push::to("a", "x");
        let own = |push: &Push, options: &PushOptions| claim("c", push, options, 0);
        let first = own(&push, &options("k"));
        let later = Push { id: PushId::generate(), deadline: Some(5), ..push.clone() };
        assert_eq!(own(&later, &options("k")), first);
        let with = |target: Target| Push { target, ..push.clone() };
        let cards = |cards: &[&str]| Target::cards(cards.iter().map(|card| (*card).into()).collect());
        let exclude = |cards: &[&str], client| {
            let cards = cards.iter().map(|card| (*card).into()).collect();
            with(Target { exclude: Some(Box::new(Exclude { cards, client })), ..push.target.clone() })
        };
        let others = [
            Push { from: "other".into(), ..push.clone() },
            Push { content: "y".into(), ..push.clone() },
            Push { content: Content::Json("x".into()), ..push.clone() },
            Push { collapse_key: Some("k".into()), ..push.clone() },
            with(cards(&["a", "b"])),
            with(cards(&["ab"])),
            with(Target { room: Some("r".into()), ..cards(&["a"]) }),
            with(Target { app: Some("r".into()), ..cards(&["a"]) }),
            with(Target { everyone: true, ..Target::default() }),
            exclude(&["b"], None),
            exclude(&[], Some([7; 16])),
        ];
        let mut bodies: BTreeSet<u64> = others.iter().map(|other| own(other, &options("k")).body).collect();
        bodies.insert(own(&push, &PushOptions { offline: true, ..options("k") }).body);
        bodies.insert(own(&push, &PushOptions { ttl: Some(5), ..options("k") }).body);
        bodies.insert(first.body);
        assert_eq!(bodies.len(), others.len() + 3);
    }

    #[test]
    fn a_key_is_its_callers_own() {
        let push = Push::to("a", "x");
        let keys: BTreeSet<_> = [("c", "k"), ("ck", ""), ("", "ck"), ("c", "l"), ("d", "k")]
            .into_iter()
            .map(|(caller, key)| claim(caller, &push, &options(key), 0).key)
            .collect();
        assert_eq!(keys.len(), 5);
    }
}
