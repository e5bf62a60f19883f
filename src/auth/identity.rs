//! Who a client proved to be.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytestring::ByteString;

use super::Patterns;

/// Who a client proved to be, what it may have, and until when. It is what a token or a call-out said, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Whom the back end means (`sub`); empty: it named nobody. Revocation goes by it.
    pub(crate) subject: ByteString,
    /// The card that a join takes which names none.
    pub(crate) card: Option<ByteString>,
    /// Further cards that it may join.
    pub(crate) cards: Patterns,
    /// The app that it joins as; `None`: any.
    pub(crate) app: Option<ByteString>,
    /// Rooms that it may subscribe to.
    pub(crate) rooms: Patterns,
    /// What it may push to itself.
    pub(crate) push: Patterns,
    /// When it ends, in seconds since 1970, leeway included; `None`: with its connection.
    pub(crate) expires_at: Option<u64>,
    /// When it was issued, in seconds since 1970; `None`: unknown, so before any revocation.
    pub(crate) issued_at: Option<u64>,
}

impl Identity {
    /// Whether it may join this card.
    pub(crate) fn admits_card(&self, card: &str) -> bool {
        self.card.as_deref() == Some(card) || self.cards.admits(card)
    }

    /// How long it is still good; `None`: for as long as its connection.
    pub(crate) fn remaining(&self, now: SystemTime) -> Option<Duration> {
        let end = UNIX_EPOCH + Duration::from_secs(self.expires_at?);
        Some(end.duration_since(now).unwrap_or_default())
    }
}
