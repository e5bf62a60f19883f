//! The key by which the nodes of a cluster know each other.

use subtle::ConstantTimeEq;

use super::keys::{KeyError, bearer};
use crate::config::{PeersConfig, SecretDigest};

/// `[peers] key`, as its digest.
#[derive(Clone)]
pub(crate) struct PeerKey(Option<SecretDigest>);

impl PeerKey {
    pub(crate) fn new(config: &PeersConfig) -> Self {
        Self(config.key.as_ref().map(|key| SecretDigest::of(key.expose().as_bytes())))
    }

    /// Whether an `Authorization` header's value (`Bearer <key>`) has the key; all may ask where there is none. The time it takes
    /// tells nothing of the key.
    ///
    /// # Errors
    /// It has not.
    pub(crate) fn check(&self, authorization: Option<&[u8]>) -> Result<(), KeyError> {
        let Some(key) = &self.0 else { return Ok(()) };
        let given = SecretDigest::of(bearer(authorization)?);
        if bool::from(key.0.ct_eq(&given.0)) { Ok(()) } else { Err(KeyError::Unknown) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_key_may_ask() {
        let mut config = crate::config::load(None, []).unwrap().peers;
        assert_eq!(PeerKey::new(&config).check(None), Ok(()), "there is none");
        config.key = Some(crate::config::Secret("0123456789abcdef".into()));
        let key = PeerKey::new(&config);
        assert_eq!(key.check(Some(b"Bearer 0123456789abcdef")), Ok(()));
        assert_eq!(key.check(None), Err(KeyError::Missing));
        for wrong in ["Bearer 0123456789abcdeg", "Bearer ", "Bearer 0123456789abcdef0"] {
            assert_eq!(key.check(Some(wrong.as_bytes())), Err(KeyError::Unknown), "{wrong}");
        }
    }
}
