//! An order to end clients.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytestring::ByteString;

use super::PushId;

/// An order to end clients, which every node carries out for its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Tells copies of one order from other orders.
    pub id: PushId,
    /// Whose connections end.
    pub selector: ClientSelector,
    /// The close code: below 3500 it says come back, from there on do not.
    pub code: u16,
    /// What stands beside the code; `None`: the code's own text.
    pub reason: Option<ByteString>,
    /// Tokens of the subject that were issued before it are refused from now on.
    pub revoke: bool,
    /// When it was accepted, in milliseconds since 1970: who joined later is not meant.
    pub at: u64,
}

/// Which clients are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientSelector {
    /// Those that joined as this card.
    Card(ByteString),
    /// Those that joined as this app.
    App(ByteString),
    /// The one whose id, which no other client has, has these bytes.
    Client([u8; 16]),
    /// Those whose identity has this subject.
    Subject(ByteString),
}

impl Disconnect {
    /// How long it ends clients: an order that is older says nothing about those that are there now. No key, since all nodes
    /// of a cluster, of different versions too, have to mean the same by an order.
    pub const LIFE: Duration = Duration::from_secs(60);

    /// The second in which it was accepted, since 1970.
    pub fn second(&self) -> u64 {
        self.at / 1000
    }

    /// How old it is at least: it was accepted before the millisecond `at` ended. Nothing, where the clock of the node that took
    /// it is ahead of this one's.
    pub fn age(&self, now: SystemTime) -> Duration {
        age(self.at, now)
    }
}

/// As [`Disconnect::age`], of an order that was accepted in this millisecond since 1970.
pub(super) fn age(at: u64, now: SystemTime) -> Duration {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at.saturating_add(1)));
    at.and_then(|at| now.duration_since(at).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_of_a_clock_that_is_ahead_has_no_age() {
        let order = |at| Disconnect {
            id: PushId::generate(),
            selector: ClientSelector::Card("alice".into()),
            code: 3504,
            reason: None,
            revoke: false,
            at,
        };
        let now = UNIX_EPOCH + Duration::from_millis(5000);
        for (at, age) in [(0, 4999), (4998, 1), (4999, 0), (5000, 0), (9000, 0)] {
            assert_eq!(order(at).age(now), Duration::from_millis(age), "{at}");
        }
        // whatever a record says: no panic
        assert_eq!(order(u64::MAX).age(now), Duration::ZERO);
    }
}
