//! `[token]`: which key verifies a token, and when: at once, on other threads, or once the key is there.

use std::sync::Arc;

use bytestring::ByteString;
use tokio::sync::Semaphore;

use super::{
    IdentityConfigError, IdentityError, crypto,
    decision::IdentityDecision,
    key::VerifyingKey,
    key_set::KeyChoice,
    key_source::KeySource,
    pool::VerificationPool,
    token::{self, TokenHead, TokenRules},
};
use crate::{
    config::{JwksSource, TokenConfig},
    lifecycle::Tasks,
    telemetry::{Metrics, labels::IdentityOutcome},
};

/// `[token]`.
pub(super) struct TokenVerifier {
    rules: Arc<TokenRules>,
    keys: TokenKeys,
}

/// The keys that tokens are verified by, all of one kind.
enum TokenKeys {
    /// HS256: quick enough to be done at once.
    Secret(VerifyingKey),
    /// One key of another kind.
    Public(Arc<VerifyingKey>, Arc<VerificationPool>),
    /// Those that the issuer publishes.
    Published(PublishedKeys),
}

#[derive(Clone)]
struct PublishedKeys {
    source: KeySource,
    pool: Arc<VerificationPool>,
    /// Tokens that may wait for a fetch.
    places: Arc<Semaphore>,
}

impl TokenVerifier {
    /// `None`: no key is configured.
    pub(super) fn new(
        config: &TokenConfig,
        before: Option<&Self>,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, IdentityConfigError> {
        crypto::install();
        let rules = Arc::new(TokenRules::new(config));
        let pool = || Arc::new(VerificationPool::start(config.max_verifications, tasks));
        let keys = if let Some(secret) = &config.secret {
            TokenKeys::Secret(VerifyingKey::of_secret(secret, &rules)?)
        } else if let Some(pem) = &config.public_key {
            TokenKeys::Public(Arc::new(VerifyingKey::of_pem(pem, &rules)?), pool())
        } else if let Some(from) = &config.jwks {
            let known = before.and_then(|before| before.published(from)).and_then(|keys| keys.source.known(&rules));
            let source = KeySource::start(from, config, &rules, known, tasks, metrics)?;
            let places = Arc::new(Semaphore::new(config.max_verifications));
            TokenKeys::Published(PublishedKeys { source, pool: pool(), places })
        } else {
            return Ok(None);
        };
        Ok(Some(Self { rules, keys }))
    }

    /// Its keys, if they come from there.
    fn published(&self, from: &JwksSource) -> Option<&PublishedKeys> {
        match &self.keys {
            TokenKeys::Published(keys) if keys.source.from == *from => Some(keys),
            _ => None,
        }
    }

    /// Whom the token names, at once or later.
    pub(super) fn verify(&self, token: Option<ByteString>) -> IdentityDecision {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return IdentityDecision::refused(no_token());
        };
        let head = match self.rules.head(&token) {
            Ok(head) => head,
            Err(error) => return IdentityDecision::refused(error),
        };
        match &self.keys {
            TokenKeys::Secret(key) if key.admits(head.algorithm) => {
                IdentityDecision::Decided(self.rules.verify(&token, key))
            }
            TokenKeys::Public(key, pool) if key.admits(head.algorithm) => {
                pool.verify(token, key.clone(), self.rules.clone())
            }
            TokenKeys::Secret(_) | TokenKeys::Public(..) => IdentityDecision::refused(token::wrong_algorithm()),
            TokenKeys::Published(keys) => keys.verify(token, head, &self.rules),
        }
    }
}

impl PublishedKeys {
    fn verify(&self, token: ByteString, head: TokenHead, rules: &Arc<TokenRules>) -> IdentityDecision {
        match self.source.choose(&head) {
            KeyChoice::Key(key) => return self.pool.verify(token, key, rules.clone()),
            KeyChoice::Refused(error) => return IdentityDecision::refused(error),
            KeyChoice::Unknown => {}
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let error = IdentityError::away("too many tokens wait for their keys: come back in a moment");
            return IdentityDecision::refused(error);
        };
        let (keys, rules) = (self.clone(), rules.clone());
        IdentityDecision::Pending(Box::pin(async move {
            let key = keys.source.wait(&head).await?;
            drop(place);
            keys.pool.verify(token, key, rules).wait().await
        }))
    }
}

pub(super) fn no_token() -> IdentityError {
    IdentityError::new(IdentityOutcome::NoToken, "there is no token: send one as data.token of join")
}
