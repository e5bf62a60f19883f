//! The place of one worker thread in the hub.

use std::rc::Rc;

use super::{Hub, Parcel, Shard, Sink};
use crate::bundles::Bundles;

/// One shard's place, to be taken by the thread that will own it.
pub struct Seat {
    pub(super) index: usize,
    pub(super) inbox: Bundles<Parcel>,
    pub(super) hub: Hub,
}

impl Seat {
    /// The shard's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// An empty shard on this thread, and the inbox for [`Shard::run`].
    pub fn open<S: Sink>(self) -> (Rc<Shard<S>>, Bundles<Parcel>) {
        (Rc::new(Shard::new(self.hub, self.index)), self.inbox)
    }
}
