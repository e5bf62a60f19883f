//! Bytes that messages which have not arrived whole will take: bounded for each connection, and for all of the listener together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// So many bytes may be held at once.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = self.held.fetch_add(bytes, Relaxed).checked_add(bytes).is_some_and(|held| held <= self.max);
        if !fits {
            self.give(bytes);
        }
        fits
    }

    fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }
}

/// What one request holds of its connection's budget and of the listener's.
#[derive(Debug)]
pub(super) struct Share {
    connection: Arc<Budget>,
    listener: Arc<Budget>,
    bytes: usize,
}

impl Share {
    pub(super) fn new(connection: &Arc<Budget>, listener: &Arc<Budget>) -> Self {
        Self { connection: Arc::clone(connection), listener: Arc::clone(listener), bytes: 0 }
    }

    /// Holds so many bytes from now on; `false`, and all is as before: they are not there.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            if !self.connection.take(more) {
                return false;
            }
            if !self.listener.take(more) {
                self.connection.give(more);
                return false;
            }
        } else {
            let less = self.bytes - bytes;
            self.connection.give(less);
            self.listener.give(less);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_hold_more_than_the_budgets_and_give_all_back() {
        let (listener, one, other) = (Budget::new(100), Budget::new(80), Budget::new(80));
        let (mut a, mut b) = (Share::new(&one, &listener), Share::new(&one, &listener));
        let mut c = Share::new(&other, &listener);
        assert!(a.hold(50) && !b.hold(31) && b.hold(30));
        assert!(c.hold(20) && !c.hold(21), "the listener's bound");
        assert!(a.hold(0) && c.hold(70), "what is given back can be taken");
        drop((a, b, c));
        for budget in [&listener, &one, &other] {
            assert_eq!(budget.held.load(Relaxed), 0);
        }
    }
}
