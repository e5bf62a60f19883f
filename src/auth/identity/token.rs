//! A token (a signed JWT, RFC 7519): what it must be to prove an identity.

use std::{
    borrow::Cow,
    collections::HashSet,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::{
    Identity, IdentityError,
    claims::{self, ClaimRules},
    key::VerifyingKey,
};
use crate::{config::TokenConfig, telemetry::labels::IdentityOutcome};

/// What a token must be, whatever its key is.
#[derive(Clone, Debug)]
pub(super) struct TokenRules {
    max_bytes: usize,
    /// Seconds by which clocks may differ.
    leeway: u64,
    /// The most seconds from its issue, or from now, to its end.
    max_life: u64,
    audience: HashSet<String>,
    issuer: HashSet<String>,
    claims: ClaimRules,
}

/// What a token says of itself before anything of it is believed.
#[derive(Debug)]
pub(super) struct TokenHead {
    pub(super) algorithm: Algorithm,
    /// By which name a key set has its key.
    pub(super) kid: Option<String>,
}

#[derive(Deserialize)]
struct TokenHeadFields<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    // keys that a token brings along or points to (jwk, jku, x5u, x5c) are passed over
    crit: Option<IgnoredAny>,
}

impl TokenRules {
    pub(super) fn new(config: &TokenConfig) -> Self {
        Self {
            max_bytes: config.max_token,
            leeway: config.leeway.as_secs(),
            max_life: config.max_life.as_secs(),
            audience: config.audience.iter().cloned().collect(),
            issuer: config.issuer.iter().cloned().collect(),
            claims: ClaimRules::of_tokens(config),
        }
    }

    /// What jsonwebtoken checks beside the signature.
    pub(super) fn validation(&self, algorithms: &[Algorithm]) -> Validation {
        let mut validation = Validation {
            algorithms: algorithms.to_vec(),
            leeway: self.leeway,
            validate_nbf: true,
            ..Validation::default()
        };
        // a token for somebody (aud) is refused by who is not told to be it: RFC 7519, section 4.1.3
        if !self.audience.is_empty() {
            validation.aud = Some(self.audience.clone());
            validation.required_spec_claims.insert("aud".into());
        }
        if !self.issuer.is_empty() {
            validation.iss = Some(self.issuer.clone());
            validation.required_spec_claims.insert("iss".into());
        }
        validation
    }

    /// Reads a token's head; nothing of it is verified.
    pub(super) fn head(&self, token: &str) -> Result<TokenHead, IdentityError> {
        if token.len() > self.max_bytes {
            let message = format!("the token has {} bytes; at most {} are taken", token.len(), self.max_bytes);
            return Err(IdentityError::new(IdentityOutcome::TooLong, message));
        }
        let head = token.split_once('.').map(|(head, _)| head).filter(|_| token.matches('.').count() == 2);
        let head = head.and_then(|head| URL_SAFE_NO_PAD.decode(head).ok());
        let fields = head.as_deref().and_then(|head| serde_json::from_slice::<TokenHeadFields<'_>>(head).ok());
        let fields = fields.ok_or_else(malformed)?;
        if fields.crit.is_some() {
            let message = "the token has the header crit, and its extensions are not known here: leave it out";
            return Err(IdentityError::new(IdentityOutcome::Critical, message));
        }
        let algorithm = Algorithm::from_str(&fields.alg).map_err(|_| wrong_algorithm())?;
        Ok(TokenHead { algorithm, kid: fields.kid.map(Cow::into_owned) })
    }

    /// Whom the token names, if the key verifies it.
    pub(super) fn verify(&self, token: &str, key: &VerifyingKey) -> Result<Identity, IdentityError> {
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &key.validation);
        let claims = token.map_err(|error| self.refusal(error.into_kind()))?.claims;
        let mut identity = self.claims.identity(&claims)?;
        self.check_times(&claims, &mut identity)?;
        Ok(identity)
    }

    /// Its end is there and has not passed: jsonwebtoken saw to that.
    fn check_times(&self, claims: &Map<String, Value>, identity: &mut Identity) -> Result<(), IdentityError> {
        let now = unix_time();
        let end = claims::time(claims, "exp")?.unwrap_or(now);
        let issued = claims::time(claims, "iat")?;
        if issued.is_some_and(|issued| issued > now + self.leeway) {
            let message =
                "the token was issued in the future (iat): compare the clocks of its issuer and of the gateway";
            return Err(IdentityError::new(IdentityOutcome::NotYet, message));
        }
        let life = end.saturating_sub(issued.unwrap_or(now).min(now));
        if life > self.max_life + self.leeway {
            let message = format!(
                "the token lives for {life} seconds; at most {} are taken: its issuer should set an earlier exp",
                self.max_life
            );
            return Err(IdentityError::new(IdentityOutcome::TooLongLife, message));
        }
        identity.expires_at = Some(end + self.leeway);
        identity.issued_at = issued;
        Ok(())
    }

    fn refusal(&self, kind: ErrorKind) -> IdentityError {
        let refuse = |outcome, message: &'static str| IdentityError::new(outcome, message);
        match kind {
            ErrorKind::InvalidSignature => {
                refuse(IdentityOutcome::BadSignature, "the token's signature is not by the key that is trusted here")
            }
            ErrorKind::ExpiredSignature => refuse(IdentityOutcome::Expired, "the token has expired: get a new one"),
            ErrorKind::ImmatureSignature => {
                refuse(IdentityOutcome::NotYet, "the token is not valid yet (nbf): come back later with it")
            }
            ErrorKind::InvalidAudience if self.audience.is_empty() => {
                let message = "the token is for somebody else (aud): the gateway has no [token] audience";
                refuse(IdentityOutcome::WrongAudience, message)
            }
            ErrorKind::InvalidAudience => {
                refuse(IdentityOutcome::WrongAudience, "the token is for somebody else (aud): get one for this gateway")
            }
            ErrorKind::InvalidIssuer => {
                refuse(IdentityOutcome::WrongIssuer, "the token's issuer (iss) is none that is trusted here")
            }
            ErrorKind::MissingRequiredClaim(claim) => {
                let outcome = match claim.as_str() {
                    "aud" => IdentityOutcome::WrongAudience,
                    "iss" => IdentityOutcome::WrongIssuer,
                    _ => IdentityOutcome::BadClaim,
                };
                IdentityError::new(
                    outcome,
                    format!("the token has no claim {claim:?} of the right form, which it must have"),
                )
            }
            ErrorKind::InvalidClaimFormat(claim) => {
                let message = format!("the token's claim {claim:?} has the wrong form: its issuer should mend it");
                IdentityError::new(IdentityOutcome::BadClaim, message)
            }
            ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => wrong_algorithm(),
            _ => malformed(),
        }
    }
}

pub(super) fn wrong_algorithm() -> IdentityError {
    let message = "the token's algorithm (alg) is none of the key that is trusted here";
    IdentityError::new(IdentityOutcome::WrongAlgorithm, message)
}

fn malformed() -> IdentityError {
    let message = "this is no signed JWT: send three parts in base64url, as the issuer gave them";
    IdentityError::new(IdentityOutcome::Malformed, message)
}

/// Seconds since 1970.
pub(super) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
