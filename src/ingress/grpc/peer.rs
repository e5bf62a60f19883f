//! What one connection does: which of its calls are open, and what it holds of the budgets.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::budget::{Budget, Share};

/// One connection's state, shared by its calls.
#[derive(Clone, Debug)]
pub(super) struct Peer(Arc<PeerState>);

#[derive(Debug)]
struct PeerState {
    calls: Mutex<CallCount>,
    max_keyless: usize,
    budget: Arc<Budget>,
    listener: Arc<Budget>,
}

/// The open calls.
#[derive(Debug)]
struct CallCount {
    /// Of services that need a key.
    keyed: usize,
    /// Of services that are open to all: these do not keep a connection.
    keyless: usize,
    /// When the last keyed one ended, or the connection began.
    since: Instant,
}

/// An open call, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    peer: Peer,
    is_keyed: bool,
}

impl Peer {
    /// Of a connection that has just begun.
    pub(super) fn new(max_unfinished: usize, max_keyless: usize, listener: &Arc<Budget>) -> Self {
        Self(Arc::new(PeerState {
            calls: Mutex::new(CallCount { keyed: 0, keyless: 0, since: Instant::now() }),
            max_keyless,
            budget: Budget::new(max_unfinished),
            listener: Arc::clone(listener),
        }))
    }

    /// A call of a caller who may make it.
    pub(super) fn begin(&self) -> OpenCall {
        self.calls().keyed += 1;
        OpenCall { peer: self.clone(), is_keyed: true }
    }

    /// A call of a service that is open to all; `None`: as many as may be are open.
    pub(super) fn begin_keyless(&self) -> Option<OpenCall> {
        let mut calls = self.calls();
        if calls.keyless >= self.0.max_keyless {
            return None;
        }
        calls.keyless += 1;
        Some(OpenCall { peer: self.clone(), is_keyed: false })
    }

    /// For a request's unfinished messages.
    pub(super) fn share(&self) -> Share {
        Share::new(&self.0.budget, &self.0.listener)
    }

    /// Returns once no keyed call was open for so long. Cancel-safe.
    pub(super) async fn idle(&self, long: Duration) {
        loop {
            // while one is open, the earliest end of such a time is `long` from now
            let since = self.idle_since().unwrap_or_else(Instant::now);
            let due = since + long;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        let calls = self.calls();
        (calls.keyed == 0).then_some(calls.since)
    }

    fn calls(&self) -> MutexGuard<'_, CallCount> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut calls = self.peer.calls();
        if self.is_keyed {
            calls.keyed -= 1;
            calls.since = Instant::now();
        } else {
            calls.keyless -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_idle_once_no_call_was_open_for_that_long() {
        let peer = Peer::new(1, 1, &Budget::new(1));
        let long = Duration::from_millis(50);
        let (first, other) = (peer.begin(), peer.begin());
        assert!(tokio::time::timeout(long * 3, peer.idle(long)).await.is_err(), "two calls are open");
        drop(first);
        assert!(tokio::time::timeout(long * 3, peer.idle(long)).await.is_err(), "one call is open");
        let ended = Instant::now();
        drop(other);
        peer.idle(long).await;
        assert!(ended.elapsed() >= long);
    }
}
