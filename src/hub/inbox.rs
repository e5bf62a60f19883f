//! The place of one worker thread in the hub, and what arrives there.

use std::{rc::Rc, vec};

use tokio::sync::mpsc;

use super::{Hub, Parcel, Shard, Sink};

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

/// Parcels for one shard, in the order in which they were sent. They are sent in bundles, so that what a lane has at once
/// is there when the shard wakes; they are taken one by one.
pub struct Inbox {
    bundles: mpsc::Receiver<Vec<Parcel>>,
    open: vec::IntoIter<Parcel>,
}

impl Inbox {
    pub(super) fn new(bundles: mpsc::Receiver<Vec<Parcel>>) -> Self {
        Self { bundles, open: Vec::new().into_iter() }
    }

    /// The next parcel; `None` once the hub is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Parcel> {
        loop {
            if let Some(parcel) = self.open.next() {
                return Some(parcel);
            }
            self.open = self.bundles.recv().await?.into_iter();
        }
    }

    /// A parcel that waits already.
    pub(super) fn try_next(&mut self) -> Option<Parcel> {
        loop {
            if let Some(parcel) = self.open.next() {
                return Some(parcel);
            }
            self.open = self.bundles.try_recv().ok()?.into_iter();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.as_slice().is_empty() && self.bundles.is_empty()
    }
}
