//! Who a client proved to be, and how: by a token (JWT) that a key verifies, by a call-out, or both.

mod call_out;
mod claims;
mod crypto;
mod decision;
mod error;
pub(crate) mod http;
mod key;
mod key_set;
mod key_source;
mod pool;
mod revocations;
mod signer;
mod token;
mod token_verifier;
mod verifier;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytestring::ByteString;

use super::Patterns;

pub use error::{IdentityConfigError, IdentityError, IdentityErrorKind};
pub use signer::{SigningError, TokenSigner};
pub use verifier::{Presented, Verification, Verified, Verifier};

/// Who a client proved to be, what it may have, and until when. It is what a token or a call-out said, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whom the back end means (`sub`); empty: it named nobody. Revocation goes by it.
    pub subject: ByteString,
    /// The card that a join takes which names none.
    pub card: Option<ByteString>,
    /// Further cards that it may join.
    pub cards: Patterns,
    /// The app that it joins as; `None`: any.
    pub app: Option<ByteString>,
    /// Rooms that it may subscribe to.
    pub rooms: Patterns,
    /// What it may push to itself.
    pub push: Patterns,
    /// When it ends, in seconds since 1970, leeway included; `None`: with its connection.
    pub expires_at: Option<u64>,
    /// When it was issued, in seconds since 1970; `None`: unknown, so before any revocation.
    pub issued_at: Option<u64>,
}

impl Identity {
    /// Whether it may join this card.
    pub fn admits_card(&self, card: &str) -> bool {
        self.card.as_deref() == Some(card) || self.cards.admits(card)
    }

    /// How long it is still good; `None`: for as long as its connection, also where its end is later than any clock can tell.
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.expires_at?))?;
        Some(end.duration_since(now).unwrap_or_default())
    }
}
