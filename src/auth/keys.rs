//! Callers' keys: bearer keys, each the key of a caller.

use std::sync::Arc;

use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::config::Secret;

/// Which key pushes or asks. A cheap clone that says nothing about the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller(Arc<str>);

impl Caller {
    /// The caller where no key is asked for.
    pub(crate) fn open() -> Self {
        Self("open".into())
    }

    /// For the log.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// The keys that may push and query; none configured: anyone may (loopback only, which config holds).
#[derive(Clone, Debug)]
pub(crate) struct Keys(Arc<Known>);

#[derive(Debug)]
struct Known {
    keys: Vec<(Secret, Caller)>,
    /// Whoever has no key, where none are configured.
    open: Option<Caller>,
}

impl Keys {
    /// From `[auth] keys`: a caller is named after the place of its key there, `key 1` and up.
    pub(crate) fn new(keys: &[Secret]) -> Self {
        let named = |(place, key): (usize, &Secret)| (key.clone(), Caller(format!("key {}", place + 1).into()));
        let keys: Vec<_> = keys.iter().enumerate().map(named).collect();
        let open = keys.is_empty().then(Caller::open);
        Self(Arc::new(Known { keys, open }))
    }

    /// Whose key an `Authorization` header's value (`Bearer <key>`) is; `None`: nobody's. Compares in constant time.
    pub(crate) fn caller(&self, authorization: Option<&[u8]>) -> Option<&Caller> {
        let Known { keys, open } = &*self.0;
        if open.is_some() {
            return open.as_ref();
        }
        let (scheme, given) = authorization?.split_at_checked(7)?;
        // 0: no key
        let mut place = 0_u64;
        for (at, (key, _)) in (1..).zip(keys) {
            place.conditional_assign(&at, key.expose().as_bytes().ct_eq(given));
        }
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let (_, caller) = keys.get(usize::try_from(place).ok()?.checked_sub(1)?)?;
        Some(caller)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_key_has_a_caller_named_after_its_place() {
        let keys = Keys::new(&[Secret("hunter1".into()), Secret("hunter2".into())]);
        let name = |authorization: &[u8]| keys.caller(Some(authorization)).map(Caller::name);
        assert_eq!((name(b"Bearer hunter1"), name(b"bearer hunter2")), (Some("key 1"), Some("key 2")));
        for bad in [
            None,
            Some(&b""[..]),
            Some(b"Bearer "),
            Some(b"Bearer key 1"),
            Some(b"Basic hunter1"),
            Some(b"Bearer hunter11"),
        ] {
            assert_eq!(keys.caller(bad), None);
        }
        assert!(!format!("{keys:?}").contains("hunter"), "a key is shown");
    }

    #[test]
    fn without_keys_anyone_is_the_open_caller() {
        let keys = Keys::new(&[]);
        for authorization in [None, Some(&b"Bearer one"[..])] {
            assert_eq!(keys.caller(authorization), Some(&Caller::open()));
        }
    }
}
