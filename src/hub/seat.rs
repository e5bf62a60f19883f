//! The place of one worker thread in the hub.

use std::rc::Rc;

use super::{Hub, Inbox, Shard, Sink};

/// One shard's place, to be taken by the thread that will own it.
pub struct Seat {
    pub(super) index: usize,
    pub(super) inbox: Inbox,
    pub(super) hub: Hub,
}

impl Seat {
    /// The shard's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// An empty shard on this thread, and the inbox for [`Shard::run`].
    pub fn open<S: Sink>(self) -> (Rc<Shard<S>>, Inbox) {
        (Rc::new(Shard::new(self.hub, self.index)), self.inbox)
    }
}
