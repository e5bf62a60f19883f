//! Why a client has no identity, and why none could be verified.

use std::borrow::Cow;

use crate::telemetry::labels::IdentityOutcome;

/// Why what a client presented proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct IdentityError {
    /// What the client is to do about it.
    pub kind: IdentityErrorKind,
    /// What was wrong and what to do, for people; never a part of the token.
    pub message: Cow<'static, str>,
    /// As it is counted, finer than `kind`.
    pub(super) outcome: IdentityOutcome,
}

/// What a client is to do about an [`IdentityError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityErrorKind {
    /// Present a token.
    NoToken,
    /// Get another token: this one is good for nothing here.
    BadToken,
    /// Get a new one.
    Expired,
    /// Wait until it begins.
    NotYet,
    /// Log in again.
    Revoked,
    /// Nothing: the call-out said no.
    Refused,
    /// Come back: nobody can tell now.
    Away,
}

impl IdentityErrorKind {
    /// All of them, for docs/errors.md's test.
    pub const ALL: &[Self] =
        &[Self::NoToken, Self::BadToken, Self::Expired, Self::NotYet, Self::Revoked, Self::Refused, Self::Away];

    /// Its stable word, of docs/errors.md.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::BadToken => "bad_token",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::Revoked => "token_revoked",
            Self::Refused => "refused",
            Self::Away => "verify_away",
        }
    }
}

impl IdentityError {
    pub(super) fn new(outcome: IdentityOutcome, message: impl Into<Cow<'static, str>>) -> Self {
        let kind = match outcome {
            IdentityOutcome::NoToken => IdentityErrorKind::NoToken,
            IdentityOutcome::Expired => IdentityErrorKind::Expired,
            IdentityOutcome::NotYet => IdentityErrorKind::NotYet,
            IdentityOutcome::Revoked => IdentityErrorKind::Revoked,
            IdentityOutcome::Refused => IdentityErrorKind::Refused,
            IdentityOutcome::Away => IdentityErrorKind::Away,
            _ => IdentityErrorKind::BadToken,
        };
        Self { kind, message: message.into(), outcome }
    }

    /// Nobody can tell now.
    pub(super) fn away(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(IdentityOutcome::Away, message)
    }
}

/// Why `[token]` or `[verify]` cannot be used, with its section and key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityConfigError {
    /// The key is none, or of a kind that is not supported.
    #[error("[token] {key}: {what}")]
    Key {
        /// The key of config.ini.
        key: &'static str,
        /// What was wrong and what to do.
        what: Cow<'static, str>,
    },
    /// The call-out's key cannot be used.
    #[error("[verify] {key}: {what}")]
    CallOut {
        /// The key of config.ini.
        key: &'static str,
        /// What was wrong and what to do.
        what: Cow<'static, str>,
    },
    /// Neither is configured any more.
    #[error("[token] and [verify]: none is left to verify clients, which needs a restart")]
    NothingLeft,
}
