//! Who may push: bearer keys.

use subtle::ConstantTimeEq;

use crate::config::Secret;

/// The keys that may push and query; none configured: anyone may (loopback only, which config holds).
#[derive(Clone, Debug)]
pub struct Keys(Vec<Secret>);

impl Keys {
    /// From `[auth] keys`.
    pub fn new(keys: &[Secret]) -> Self {
        Self(keys.to_vec())
    }

    /// Whether an `Authorization` header's value (`Bearer <key>`) may push. Compares in constant time.
    pub fn admit(&self, authorization: Option<&[u8]>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some((scheme, key)) = authorization.and_then(|value| value.split_at_checked(7)) else { return false };
        let matched =
            self.0.iter().fold(subtle::Choice::from(0), |any, known| any | known.expose().as_bytes().ct_eq(key));
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(matched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_key_is_admitted() {
        let keys = Keys::new(&[Secret("one".into()), Secret("two".into())]);
        assert!(keys.admit(Some(b"Bearer one")) && keys.admit(Some(b"bearer two")));
        for bad in
            [None, Some(&b""[..]), Some(b"Bearer "), Some(b"Bearer three"), Some(b"Basic one"), Some(b"Bearer onee")]
        {
            assert!(!keys.admit(bad));
        }
    }

    #[test]
    fn without_keys_anyone_is_admitted() {
        assert!(Keys::new(&[]).admit(None));
    }
}
