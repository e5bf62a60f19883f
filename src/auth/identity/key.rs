//! Keys that verify tokens. Which algorithms a key admits follows from the key alone.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use super::{IdentityConfigError, token::TokenRules};
use crate::config::Secret;

pub(super) const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// Bytes of the least modulus that is accepted.
pub(super) const LEAST_RSA: usize = 2048 / 8;

/// A key, and what a token that it verifies must be.
#[derive(Debug)]
pub(super) struct VerifyingKey {
    pub(super) key: DecodingKey,
    /// Its algorithms, and whom the token must be for and from.
    pub(super) validation: Validation,
}

impl VerifyingKey {
    pub(super) fn new(key: DecodingKey, algorithms: &[Algorithm], rules: &TokenRules) -> Self {
        Self { key, validation: rules.validation(algorithms) }
    }

    pub(super) fn of_secret(secret: &Secret, rules: &TokenRules) -> Result<Self, IdentityConfigError> {
        let key = DecodingKey::from_secret(secret.expose().as_bytes()).map_err(|_| IdentityConfigError::Key {
            key: "secret",
            what: "it is empty: take 32 bytes or more (openssl rand -base64 32)".into(),
        })?;
        Ok(Self::new(key, &[Algorithm::HS256], rules))
    }

    /// Of a public key in PEM (SPKI, or PKCS#1 for RSA).
    pub(super) fn of_pem(pem: &str, rules: &TokenRules) -> Result<Self, IdentityConfigError> {
        let wrong = |what: &'static str| IdentityConfigError::Key { key: "public_key", what: what.into() };
        let pem = pem.trim().as_bytes();
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            let algorithms =
                curve(&key).ok_or_else(|| wrong("its curve is none of P-256 (ES256) and P-384 (ES384)"))?;
            return Ok(Self::new(key, algorithms, rules));
        }
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            return Ok(Self::new(key, &[Algorithm::EdDSA], rules));
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .map_err(|_| wrong("it is no public key of RSA, EC (P-256, P-384) or Ed25519 in PEM"))?;
        // its modulus is nearly all of it
        if key.try_get_as_bytes().map_or(0, <[u8]>::len) < LEAST_RSA {
            return Err(wrong("it is an RSA key of less than 2048 bits: take a longer one"));
        }
        Ok(Self::new(key, RSA, rules))
    }

    /// Whether tokens of this algorithm may be verified by it.
    pub(super) fn admits(&self, algorithm: Algorithm) -> bool {
        self.validation.algorithms.contains(&algorithm)
    }
}

/// The algorithm of an EC key, by the length of its point (uncompressed).
fn curve(key: &DecodingKey) -> Option<&'static [Algorithm]> {
    match key.try_get_as_bytes().ok()?.len() {
        65 => Some(&[Algorithm::ES256]),
        97 => Some(&[Algorithm::ES384]),
        _ => None,
    }
}
