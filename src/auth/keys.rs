//! Callers' keys: who pushes and asks, by the key that a request carries.

mod bounds;
mod caller;

use std::sync::Arc;

use arc_swap::ArcSwap;
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::{
    config::{Config, LONGEST_SECRET, SecretDigest},
    telemetry::Metrics,
};

pub(crate) use bounds::OutOfBounds;
pub(crate) use caller::{Caller, PushDenial};

/// The keys that may push and ask. A cheap clone; all clones know the keys of the last [`Keys::replace`].
#[derive(Clone)]
pub(crate) struct Keys {
    known: Arc<ArcSwap<KnownKeys>>,
    clients: Caller,
    metrics: Arc<Metrics>,
}

struct KnownKeys {
    keys: Vec<(SecretDigest, Caller)>,
    /// Whoever asks, where there is no key (on loopback only, which config holds).
    open: Option<Caller>,
    /// Whom raw pushes act as; `None`: nobody.
    raw: Option<Caller>,
}

/// Why a request has no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// It has no key.
    Missing,
    /// What it has is not `Bearer <key>`.
    NotBearer,
    /// Its key is nobody's.
    Unknown,
}

impl Keys {
    /// Of `[auth] keys`, each named after its place there (`key 1` and up), and of every `[key.NAME]`.
    pub(crate) fn new(config: &Config, metrics: &Arc<Metrics>) -> Self {
        let known = KnownKeys::of(config, None, metrics);
        Self {
            known: Arc::new(ArcSwap::from_pointee(known)),
            clients: Caller::clients(metrics),
            metrics: Arc::clone(metrics),
        }
    }

    /// From now on these keys. A caller whose name and secret are still there keeps what its bucket holds, and has the new rights in
    /// its open streams, too; one that is gone has no rights any more.
    pub(crate) fn replace(&self, config: &Config) {
        let before = self.known.load();
        let next = KnownKeys::of(config, Some(&before), &self.metrics);
        let stays = |caller: &Caller| next.callers().any(|other| other.is(caller));
        let gone: Vec<Caller> = before.callers().filter(|caller| !stays(caller)).cloned().collect();
        self.known.store(Arc::new(next));
        for caller in gone {
            caller.withdraw();
        }
    }

    /// Whether anyone may push and ask, since there is no key.
    pub(crate) fn is_open(&self) -> bool {
        self.known.load().open.is_some()
    }

    /// Whose key an `Authorization` header's value (`Bearer <key>`) is. The time it takes tells nothing of the keys, and is bounded
    /// whatever comes.
    ///
    /// # Errors
    /// It is nobody's.
    pub(crate) fn caller(&self, authorization: Option<&[u8]>) -> Result<Caller, KeyError> {
        let known = self.known.load();
        if let Some(open) = &known.open {
            return Ok(open.clone());
        }
        let digest = SecretDigest::of(bearer(authorization)?);
        // 0: nobody's
        let mut place = 0_u64;
        for (at, (key, _)) in (1..).zip(&known.keys) {
            place.conditional_assign(&at, key.0.ct_eq(&digest.0));
        }
        let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
        let found = place.and_then(|place| known.keys.get(place));
        found.map(|(_, caller)| caller.clone()).ok_or(KeyError::Unknown)
    }

    /// Whom clients' own pushes act as. What a client may push to is for its identity and its rooms to say.
    pub(crate) fn clients(&self) -> Caller {
        self.clients.clone()
    }

    /// Whom raw pushes of other NSQ clients act as; `None`: nobody, so they are refused.
    pub(crate) fn raw(&self) -> Option<Caller> {
        self.known.load().raw.clone()
    }
}

/// The key of an `Authorization` header's value: what follows `Bearer `, if it is no longer than a key may be.
pub(super) fn bearer(authorization: Option<&[u8]>) -> Result<&[u8], KeyError> {
    let given = authorization.ok_or(KeyError::Missing)?;
    let (scheme, secret) = given.split_at_checked(7).ok_or(KeyError::NotBearer)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(KeyError::NotBearer);
    }
    if secret.len() > LONGEST_SECRET { Err(KeyError::Unknown) } else { Ok(secret) }
}

impl KnownKeys {
    /// Callers of `before` with the same name and secret stay, and the one without a key.
    fn of(config: &Config, before: Option<&Self>, metrics: &Metrics) -> Self {
        let entry = |digest: SecretDigest, name: String| {
            let mut known = before.into_iter().flat_map(|before| &before.keys);
            let same = known.find(|(other, caller)| *other == digest && caller.name() == name);
            (digest, same.map_or_else(|| Caller::new(name, metrics), |(_, caller)| caller.clone()))
        };
        let mut keys = Vec::new();
        for (nth, key) in config.auth.keys.iter().enumerate() {
            let (digest, caller) = entry(SecretDigest::of(key.expose().as_bytes()), format!("key {}", nth + 1));
            caller.grant_all();
            keys.push((digest, caller));
        }
        for key in &config.auth.callers {
            let (digest, caller) = entry(key.digest, key.name.clone());
            caller.grant(key);
            keys.push((digest, caller));
        }
        let same_open = before.and_then(|before| before.open.clone());
        let open = config.is_open().then(|| same_open.unwrap_or_else(|| Caller::open(metrics)));
        let named = || keys.iter().find(|(_, caller)| config.queue.raw_key.as_deref() == Some(caller.name()));
        let raw = open.clone().or_else(|| named().map(|(_, caller)| caller.clone()));
        Self { keys, open, raw }
    }

    fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.keys.iter().map(|(_, caller)| caller).chain(&self.open)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        config::{self, Scope},
        push::Target,
    };

    fn config(settings: &[(&str, &str)]) -> Config {
        let settings = settings.iter().map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
        config::load(None, settings).unwrap()
    }

    fn keys(settings: &[(&str, &str)]) -> Keys {
        Keys::new(&config(settings), &Metrics::new().into())
    }

    fn name(keys: &Keys, authorization: &str) -> Result<String, KeyError> {
        keys.caller(Some(authorization.as_bytes())).map(|caller| caller.name().to_owned())
    }

    const BILLING: [(&str, &str); 2] = [("KEY_BILLING__SECRET", "hunter3"), ("KEY_BILLING__SCOPES", "push")];

    #[test]
    fn a_key_has_a_caller_named_after_its_section_or_its_place() {
        let keys = keys(&[&[("AUTH__KEYS", "hunter1,hunter2")], &BILLING[..]].concat());
        for (authorization, told) in [
            ("Bearer hunter1", Ok("key 1")),
            ("bearer hunter2", Ok("key 2")),
            ("Bearer hunter3", Ok("billing")),
            ("Bearer ", Err(KeyError::Unknown)),
            ("Bearer hunter11", Err(KeyError::Unknown)),
            (&format!("Bearer {}", "x".repeat(LONGEST_SECRET + 1)), Err(KeyError::Unknown)),
            ("Basic hunter1", Err(KeyError::NotBearer)),
            ("hunter1", Err(KeyError::NotBearer)),
            ("", Err(KeyError::NotBearer)),
        ] {
            assert_eq!(name(&keys, authorization), told.map(str::to_owned), "{authorization}");
        }
        assert_eq!(keys.caller(None).unwrap_err(), KeyError::Missing);
        assert!(!keys.is_open() && keys.raw().is_none());
    }

    #[test]
    fn a_digest_stands_for_its_secret() {
        // sha256sum's own
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let keys = keys(&[("KEY_A__SHA256", &abc.to_uppercase()), ("KEY_A__SCOPES", "push")]);
        assert_eq!(name(&keys, "Bearer abc"), Ok("a".into()));
        assert_eq!(name(&keys, &format!("Bearer {abc}")), Err(KeyError::Unknown));
    }

    #[test]
    fn without_keys_anyone_is_the_open_caller_and_so_are_raw_pushes() {
        let keys = keys(&[]);
        for authorization in [None, Some(&b"Bearer one"[..])] {
            let caller = keys.caller(authorization).unwrap();
            assert_eq!(caller.name(), "open");
            assert!(Scope::ALL.into_iter().all(|scope| caller.may(scope)));
        }
        assert!(keys.is_open() && keys.raw().is_some_and(|caller| caller.name() == "open"));
    }

    #[test]
    fn a_caller_that_stays_keeps_its_bucket_and_gets_its_new_rights_and_one_that_goes_loses_them() {
        let with = |more: &[(&'static str, &'static str)]| config(&[&BILLING[..], more].concat());
        let rate = [("KEY_BILLING__RATE", "1"), ("KEY_BILLING__BURST", "2")];
        let keys = Keys::new(&with(&rate), &Metrics::new().into());
        let (clone, card) = (keys.clone(), Target::cards(vec!["c".into()]));
        let held = keys.caller(Some(b"Bearer hunter3")).unwrap();
        assert!(held.may_push(&card).is_ok() && held.may_push(&card).is_ok());
        keys.replace(&with(
            &[
                &rate[..],
                &[("KEY_BILLING__APPS", "web"), ("KEY_OTHER__SECRET", "hunter4"), ("KEY_OTHER__SCOPES", "query")],
            ]
            .concat(),
        ));
        assert!(matches!(held.may_push(&card), Err(PushDenial::Target(_))), "new rights");
        let again = clone.caller(Some(b"Bearer hunter3")).unwrap();
        let web = Target { app: Some("web".into()), ..card.clone() };
        assert!(matches!(again.may_push(&web), Err(PushDenial::Rate(_))), "its bucket is as empty as before");
        let other = clone.caller(Some(b"Bearer hunter4")).unwrap();
        assert!(other.may(Scope::Query) && matches!(other.may_push(&card), Err(PushDenial::Scope)));
        // another secret is another key
        keys.replace(&config(&[("KEY_BILLING__SECRET", "hunter5"), BILLING[1], rate[0], rate[1]]));
        assert_eq!(clone.caller(Some(b"Bearer hunter3")).unwrap_err(), KeyError::Unknown);
        assert_eq!(held.may_push(&web), Err(PushDenial::Withdrawn), "it has no rights any more");
        assert!(clone.caller(Some(b"Bearer hunter5")).unwrap().may_push(&card).is_ok());
    }
}
