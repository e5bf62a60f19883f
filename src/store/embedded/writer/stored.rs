//! Stored pushes on their way to dispatch.

use tokio::sync::mpsc;

use crate::{
    push::{Push, StoredPush, StreamEntry},
    store::embedded::{shared::SharedStore, streams::AssignedPlace},
    telemetry::labels::DropReason,
};

/// Bundles that dispatch has not taken: `[store] memory_bytes` are shared among them.
pub(in crate::store::embedded) const BUNDLES: usize = 1024;

/// Stored pushes on their way to dispatch, which may have no room for them: then the next sweep tells their clients.
pub(super) struct StoredBundles<'a> {
    shared: &'a SharedStore,
    sender: &'a mpsc::Sender<Vec<StoredPush>>,
    bundle: Vec<StoredPush>,
    bytes: usize,
}

impl<'a> StoredBundles<'a> {
    pub(super) fn new(shared: &'a SharedStore, sender: &'a mpsc::Sender<Vec<StoredPush>>) -> Self {
        Self { shared, sender, bundle: Vec::new(), bytes: 0 }
    }

    pub(super) fn add(&mut self, push: Push, bytes: usize, places: Vec<AssignedPlace>) {
        let size = bytes + places.len() * size_of::<StreamEntry>() + size_of::<StoredPush>();
        if self.bytes > 0 && self.bytes + size > self.shared.limits.memory_bytes / BUNDLES {
            self.send();
        }
        self.bytes += size;
        self.bundle.push(StoredPush { push, entries: places.into_iter().map(|place| place.entry).collect() });
    }

    pub(super) fn send(&mut self) {
        self.bytes = 0;
        let bundle = std::mem::take(&mut self.bundle);
        if bundle.is_empty() {
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(bundle)) = self.sender.try_send(bundle) {
            let pushes = bundle.len() as u64;
            self.shared.metrics.drops.get_or_create(&DropReason::Wakeups).inc_by(pushes);
        }
    }
}
