//! Makes tokens, for trying out: in production the back end makes them.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use super::crypto;
use crate::config::Secret;

/// A key that signs tokens.
pub struct TokenSigner {
    key: EncodingKey,
    algorithm: Algorithm,
}

/// Why no token can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The key is none that signs.
    #[error(
        "it is no private key of RSA (2048 bits or more), EC (P-256, P-384) or Ed25519 in PKCS#8 (BEGIN PRIVATE KEY); \
         `openssl pkcs8 -topk8 -nocrypt -in key.pem` makes that of others"
    )]
    NoKey,
}

impl TokenSigner {
    /// Signs by HS256.
    ///
    /// # Errors
    /// The secret is empty.
    pub fn of_secret(secret: &Secret) -> Result<Self, SigningError> {
        let key = EncodingKey::from_secret(secret.expose().as_bytes()).map_err(|_| SigningError::NoKey)?;
        Ok(Self { key, algorithm: Algorithm::HS256 })
    }

    /// Signs by RS256, ES256, ES384 or EdDSA, as the private key in PEM is.
    ///
    /// # Errors
    /// It is no such key.
    pub fn of_pem(pem: &str) -> Result<Self, SigningError> {
        let pem = pem.trim().as_bytes();
        let candidates = [
            (EncodingKey::from_ec_pem(pem), Algorithm::ES256),
            (EncodingKey::from_ec_pem(pem), Algorithm::ES384),
            (EncodingKey::from_ed_pem(pem), Algorithm::EdDSA),
            (EncodingKey::from_rsa_pem(pem), Algorithm::RS256),
        ];
        for (key, algorithm) in candidates {
            let Ok(key) = key else { continue };
            let signer = Self { key, algorithm };
            if signer.sign(None, &Map::new()).is_ok() {
                return Ok(signer);
            }
        }
        Err(SigningError::NoKey)
    }

    /// A token with these claims, and the name of the key.
    ///
    /// # Errors
    /// The key signs nothing.
    pub fn sign(&self, kid: Option<String>, claims: &Map<String, Value>) -> Result<String, SigningError> {
        crypto::install();
        let header = Header { kid, ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|_| SigningError::NoKey)
    }
}
