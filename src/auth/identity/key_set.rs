//! A key set (JWKS, RFC 7517): the keys of an issuer, told apart by their `kid`.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::{
    IdentityError,
    key::{LEAST_RSA, RSA, VerifyingKey},
    token::{TokenHead, TokenRules, wrong_algorithm},
};
use crate::telemetry::labels::IdentityOutcome;

/// The keys of a set that verify tokens: at least one.
#[derive(Debug)]
pub(super) struct KeySet(Vec<(Option<String>, Arc<VerifyingKey>)>);

/// Which key of a set is a token's.
pub(super) enum KeyChoice {
    Key(Arc<VerifyingKey>),
    /// A newer set may have it.
    Unknown,
    /// No set would.
    Refused(IdentityError),
}

#[derive(Deserialize)]
struct JwksDocument {
    keys: Vec<Value>,
}

/// A key as RFC 7517, 7518 (section 6) and 8037 write it.
#[derive(Deserialize)]
struct JwkFields {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl KeySet {
    /// Reads a set of `max` keys at most; those that are for something else are passed over.
    ///
    /// # Errors
    /// It is no key set, has too many keys, or none that verifies tokens; in words.
    pub(super) fn read(json: &[u8], max: usize, rules: &TokenRules) -> Result<Self, String> {
        let document: JwksDocument =
            serde_json::from_slice(json).map_err(|error| format!("it is no key set ({{\"keys\":[…]}}): {error}"))?;
        if document.keys.len() > max {
            return Err(format!("it has {} keys; [token] jwks_max_keys is {max}", document.keys.len()));
        }
        let mut keys = Vec::new();
        for (number, key) in document.keys.into_iter().enumerate() {
            match read_key(key, rules) {
                Ok((kid, key)) => keys.push((kid, Arc::new(key))),
                Err(why) => tracing::debug!(number, why, "a key of the key set is passed over"),
            }
        }
        if keys.is_empty() {
            return Err("it has no key that can verify tokens (RSA, EC P-256 and P-384, Ed25519; use: sig)".to_owned());
        }
        Ok(Self(keys))
    }

    pub(super) fn choose(&self, head: &TokenHead) -> KeyChoice {
        let of_kid = |kid: &Option<String>| head.kid.is_none() || *kid == head.kid;
        let mut named = self.0.iter().filter(|(kid, _)| of_kid(kid)).peekable();
        if named.peek().is_none() {
            return KeyChoice::Unknown;
        }
        let mut fitting = named.filter(|(_, key)| key.admits(head.algorithm));
        match (fitting.next(), fitting.next()) {
            (None, _) => KeyChoice::Refused(wrong_algorithm()),
            (Some(_), Some(_)) if head.kid.is_none() => {
                let message = "the token names no key (kid), and its issuer has several: its issuer should set kid";
                KeyChoice::Refused(IdentityError::new(IdentityOutcome::UnknownKey, message))
            }
            (Some((_, key)), _) => KeyChoice::Key(key.clone()),
        }
    }

    /// The same keys for tokens that must be something else.
    pub(super) fn with_rules(&self, rules: &TokenRules) -> Self {
        let again = |key: &VerifyingKey| VerifyingKey::new(key.key.clone(), &key.validation.algorithms, rules);
        Self(self.0.iter().map(|(kid, key)| (kid.clone(), Arc::new(again(key)))).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A key of a set, or why it verifies no tokens.
fn read_key(key: Value, rules: &TokenRules) -> Result<(Option<String>, VerifyingKey), &'static str> {
    let fields: JwkFields = serde_json::from_value(key).map_err(|_| "it is no key")?;
    if fields.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err("its use is not sig");
    }
    if fields.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|name| name == "verify")) {
        return Err("its key_ops are without verify");
    }
    if fields.d.is_some() {
        return Err("it is a private key, which everybody has now: replace it");
    }
    let (key, algorithms) = match fields.kty.as_str() {
        "RSA" => rsa(&fields)?,
        "EC" => elliptic(&fields)?,
        "OKP" => edwards(&fields)?,
        "oct" => return Err("a secret does not belong into a key set"),
        _ => return Err("its kty is unknown"),
    };
    let narrowed: Vec<Algorithm> = match &fields.alg {
        None => algorithms.to_vec(),
        Some(alg) => algorithms.iter().copied().filter(|algorithm| alg.parse() == Ok(*algorithm)).collect(),
    };
    if narrowed.is_empty() {
        return Err("its alg is not one of its kind");
    }
    Ok((fields.kid, VerifyingKey::new(key, &narrowed, rules)))
}

fn rsa(fields: &JwkFields) -> Result<(DecodingKey, &'static [Algorithm]), &'static str> {
    let (Some(n), Some(e)) = (&fields.n, &fields.e) else { return Err("it has no n and e") };
    // base64url: four characters for three bytes
    if n.len() * 3 / 4 < LEAST_RSA {
        return Err("it is an RSA key of less than 2048 bits");
    }
    let key = DecodingKey::from_rsa_components(n, e).map_err(|_| "its n or e is not base64url")?;
    Ok((key, RSA))
}

fn elliptic(fields: &JwkFields) -> Result<(DecodingKey, &'static [Algorithm]), &'static str> {
    let (algorithms, length): (&[Algorithm], usize) = match fields.crv.as_deref() {
        Some("P-256") => (&[Algorithm::ES256], 65),
        Some("P-384") => (&[Algorithm::ES384], 97),
        _ => return Err("its crv is none of P-256 and P-384"),
    };
    let (Some(x), Some(y)) = (&fields.x, &fields.y) else { return Err("it has no x and y") };
    let key = DecodingKey::from_ec_components(x, y).map_err(|_| "its x or y is not base64url")?;
    match key.try_get_as_bytes() {
        Ok(point) if point.len() == length => Ok((key, algorithms)),
        _ => Err("its x and y are not of its crv"),
    }
}

fn edwards(fields: &JwkFields) -> Result<(DecodingKey, &'static [Algorithm]), &'static str> {
    if fields.crv.as_deref() != Some("Ed25519") {
        return Err("its crv is not Ed25519");
    }
    let Some(x) = &fields.x else { return Err("it has no x") };
    let key = DecodingKey::from_ed_components(x).map_err(|_| "its x is not base64url")?;
    match key.try_get_as_bytes() {
        Ok(point) if point.len() == 32 => Ok((key, &[Algorithm::EdDSA])),
        _ => Err("its x is not of Ed25519"),
    }
}
