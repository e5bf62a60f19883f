//! An order to a node to send clients away to others.

use std::time::{Duration, SystemTime};

use bytestring::ByteString;

use super::{Disconnect, PushId, disconnect};

/// An order to one node, which all that read it but that one pass over. It names how many clients stay, not how many go: a copy of it
/// sends nobody more away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// Tells copies of one order from other orders.
    pub id: PushId,
    /// The id of the node whose clients are meant.
    pub node: ByteString,
    /// How many connections it keeps.
    pub keep: u64,
    /// When it was accepted, in milliseconds since 1970.
    pub at: u64,
}

impl Rebalance {
    /// How long it is good: an order that is older says nothing about the clients that are there now.
    pub const LIFE: Duration = Disconnect::LIFE;

    /// How old it is at least.
    pub fn age(&self, now: SystemTime) -> Duration {
        disconnect::age(self.at, now)
    }
}
