//! From claims, of a token or a call-out, to an identity.

use bytestring::ByteString;
use serde_json::{Map, Value};

use super::{Identity, IdentityError};
use crate::{
    auth::Patterns,
    config::{TokenConfig, VerifyConfig},
    push::NameRule,
    telemetry::labels::IdentityOutcome,
};

/// The most bytes of a `sub` that is no card: OpenID Connect allows 255.
const LONGEST_SUBJECT: usize = 255;

/// Which claim says what, and what a name may be.
#[derive(Clone, Debug)]
pub(super) struct ClaimRules {
    pub(super) card: String,
    pub(super) cards: String,
    pub(super) app: String,
    pub(super) rooms: String,
    pub(super) push: String,
    pub(super) name: NameRule,
}

impl ClaimRules {
    pub(super) fn of_tokens(config: &TokenConfig) -> Self {
        Self {
            card: config.card_claim.clone(),
            cards: config.cards_claim.clone(),
            app: config.app_claim.clone(),
            rooms: config.rooms_claim.clone(),
            push: config.push_claim.clone(),
            name: NameRule { max: config.max_name },
        }
    }

    /// The names of a call-out's answer cannot be chosen.
    pub(super) fn of_answers(config: &VerifyConfig) -> Self {
        Self {
            card: "card".into(),
            cards: "cards".into(),
            app: "app".into(),
            rooms: "rooms".into(),
            push: "push".into(),
            name: NameRule { max: config.max_name },
        }
    }

    /// Who the claims name, without its times.
    pub(super) fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, IdentityError> {
        let identity = Identity {
            subject: self.subject(claims)?,
            card: self.name(claims, &self.card)?,
            cards: self.patterns(claims, &self.cards)?,
            app: self.name(claims, &self.app)?,
            rooms: self.patterns(claims, &self.rooms)?,
            push: self.patterns(claims, &self.push)?,
            expires_at: None,
            issued_at: None,
        };
        if identity.card.is_none() && identity.cards.is_empty() {
            let message = format!(
                "it names no card, so it may join none: its issuer should set the claim {:?} or {:?}",
                self.card, self.cards
            );
            return Err(IdentityError::new(IdentityOutcome::NoCard, message));
        }
        Ok(identity)
    }

    fn subject(&self, claims: &Map<String, Value>) -> Result<ByteString, IdentityError> {
        let Some(subject) = text(claims, "sub")? else { return Ok(ByteString::new()) };
        let rule = NameRule { max: self.name.max.max(LONGEST_SUBJECT) };
        rule.check(&subject).map_err(|error| wrong("sub", error))?;
        Ok(subject)
    }

    fn name(&self, claims: &Map<String, Value>, claim: &str) -> Result<Option<ByteString>, IdentityError> {
        let Some(name) = text(claims, claim)? else { return Ok(None) };
        self.name.check(&name).map_err(|error| wrong(claim, error))?;
        Ok(Some(name))
    }

    /// A text, or a list of texts, each a name or `prefix*`.
    fn patterns(&self, claims: &Map<String, Value>, claim: &str) -> Result<Patterns, IdentityError> {
        let one_text;
        let items = match claims.get(claim) {
            None | Some(Value::Null) => return Ok(Patterns::default()),
            Some(Value::Array(items)) => items.as_slice(),
            Some(value) => {
                one_text = [value.clone()];
                &one_text
            }
        };
        let mut patterns = Vec::with_capacity(items.len());
        for item in items {
            let Value::String(item) = item else {
                return Err(wrong(claim, "is neither a text nor a list of texts"));
            };
            let item = ByteString::from(item.as_str());
            self.name.check(&item).map_err(|error| wrong(claim, error))?;
            patterns.push(item);
        }
        Ok(patterns.into_iter().collect())
    }
}

/// A claim that is a text; null is as good as none.
fn text(claims: &Map<String, Value>, claim: &str) -> Result<Option<ByteString>, IdentityError> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(wrong(claim, "is no text")),
    }
}

/// A claim that is a time in seconds since 1970, which may have a fraction.
pub(super) fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, IdentityError> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            let whole = number.as_u64().or_else(|| {
                let seconds = number.as_f64()?.round();
                // what a float can say exactly
                (0.0..9e15).contains(&seconds).then_some(seconds as u64)
            });
            whole.map(Some).ok_or_else(|| wrong(claim, "is no time in seconds since 1970"))
        }
        Some(_) => Err(wrong(claim, "is no number")),
    }
}

fn wrong(claim: &str, what: impl std::fmt::Display) -> IdentityError {
    IdentityError::new(IdentityOutcome::BadClaim, format!("its claim {claim:?} {what}: its issuer should mend it"))
}
