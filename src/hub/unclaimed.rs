//! A shard that no thread owns yet.

use std::rc::Rc;

use super::{Hub, Part, Shard, Sink};
use crate::bundles::Bundles;

/// A shard with its inbox, for the thread that will own it.
pub struct UnclaimedShard {
    pub(super) index: usize,
    pub(super) inbox: Bundles<Part>,
    pub(super) hub: Hub,
}

impl UnclaimedShard {
    /// The shard's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// An empty shard on this thread, and the inbox for [`Shard::run`].
    pub fn open<S: Sink>(self) -> (Rc<Shard<S>>, Bundles<Part>) {
        (Rc::new(Shard::new(self.hub, self.index)), self.inbox)
    }
}
