//! Readers that only watch: from now on, as far as they read, and nothing is taken from the back end.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU16, Ordering},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    config::{EventKind, EventKinds},
    telemetry::Counter,
};

/// All of them; a cheap clone.
#[derive(Clone)]
pub(super) struct Watchers {
    shared: Arc<SharedWatchers>,
}

struct SharedWatchers {
    watchers: Mutex<Vec<OpenWatcher>>,
    /// What any of them wants: read without the lock.
    wanted: AtomicU16,
    most: usize,
    buffer: usize,
    next: Mutex<u64>,
    dropped: Counter,
}

struct OpenWatcher {
    id: u64,
    kinds: EventKinds,
    events: mpsc::Sender<Bytes>,
}

/// One of them; dropped, it has left.
pub(crate) struct EventWatcher {
    id: u64,
    watchers: Watchers,
    events: mpsc::Receiver<Bytes>,
}

impl Watchers {
    /// At most so many, each with room for `buffer` events that it has not read.
    pub(super) fn new(most: usize, buffer: usize, dropped: Counter) -> Self {
        let shared = SharedWatchers {
            watchers: Mutex::default(),
            wanted: AtomicU16::new(0),
            most,
            buffer: buffer.min(tokio::sync::Semaphore::MAX_PERMITS),
            next: Mutex::new(0),
            dropped,
        };
        Self { shared: Arc::new(shared) }
    }

    /// One more; `None`: there are as many as may be.
    pub(super) fn open(&self, kinds: EventKinds) -> Option<EventWatcher> {
        let (sender, events) = mpsc::channel(self.shared.buffer);
        let id = {
            let mut next = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let mut watchers = self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if watchers.len() >= self.shared.most {
            return None;
        }
        watchers.push(OpenWatcher { id, kinds, events: sender });
        self.shared.update_wanted(&watchers);
        drop(watchers);
        Some(EventWatcher { id, watchers: self.clone(), events })
    }

    /// Whether any of them wants to see this kind.
    pub(super) fn wants(&self, kind: EventKind) -> bool {
        EventKinds::of_bits(self.shared.wanted.load(Ordering::Relaxed)).has(kind)
    }

    /// Shows an event to those who want to see its kind; who has no room for it misses it.
    pub(super) fn show(&self, kind: EventKind, json: &Bytes) {
        if !self.wants(kind) {
            return;
        }
        let watchers = self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter().filter(|watcher| watcher.kinds.has(kind)) {
            if let Err(mpsc::error::TrySendError::Full(_)) = watcher.events.try_send(json.clone()) {
                self.shared.dropped.inc();
            }
        }
    }
}

impl SharedWatchers {
    fn update_wanted(&self, watchers: &[OpenWatcher]) {
        let wanted = watchers.iter().fold(EventKinds::default(), |wanted, watcher| wanted.union(watcher.kinds));
        self.wanted.store(wanted.bits(), Ordering::Relaxed);
    }
}

impl EventWatcher {
    /// The next event's JSON. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Bytes {
        // its sender is kept until this is dropped
        match self.events.recv().await {
            Some(json) => json,
            None => std::future::pending().await,
        }
    }
}

impl Drop for EventWatcher {
    fn drop(&mut self) {
        let shared = &self.watchers.shared;
        let mut watchers = shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.id != self.id);
        shared.update_wanted(&watchers);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_sees_its_kinds_as_far_as_it_reads_and_costs_nothing_once_it_left() {
        let dropped = Counter::default();
        let watchers = Watchers::new(2, 2, dropped.clone());
        let show = |kind: EventKind, text: &'static str| watchers.show(kind, &Bytes::from_static(text.as_bytes()));
        show(EventKind::Joined, "before");
        let mut watcher = watchers.open([EventKind::Joined].into_iter().collect()).unwrap();
        let other = watchers.open(EventKinds::ALL).unwrap();
        assert!(watchers.open(EventKinds::ALL).is_none(), "there may be two");
        drop(other);
        assert!(watchers.wants(EventKind::Joined) && !watchers.wants(EventKind::Left));
        for (kind, text) in [(EventKind::Joined, "a"), (EventKind::Left, "b"), (EventKind::Joined, "c")] {
            show(kind, text);
        }
        show(EventKind::Joined, "beyond its room");
        assert_eq!((watcher.next().await, watcher.next().await, dropped.get()), ("a".into(), "c".into(), 1));
        drop(watcher);
        assert!(!watchers.wants(EventKind::Joined));
        assert!(watchers.open(EventKinds::ALL).is_some());
    }
}
