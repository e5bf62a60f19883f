//! A shard that no thread owns yet.

use std::rc::Rc;

use super::{Hub, Shard, Sink, Work};
use crate::bundles::Bundles;

/// A shard with its inbox, for the thread that will own it.
pub struct UnclaimedShard {
    pub(super) index: usize,
    pub(super) inbox: Bundles<Work>,
    pub(super) hub: Hub,
}

impl UnclaimedShard {
    /// The shard's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// An empty shard on this thread, and the inbox for [`Shard::run`].
    pub fn open<S: Sink>(self) -> (Rc<Shard<S>>, Bundles<Work>) {
        (Rc::new(Shard::new(self.hub, self.index)), self.inbox)
    }
}
