//! What arrives for one shard.

use std::vec;

use tokio::sync::mpsc;

use super::Parcel;

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
