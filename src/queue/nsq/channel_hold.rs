//! `[queue] replay_hold` of the node's own channel, as its consumers share it.
//!
//! A node that is alone holds all that comes until its clients are back: they have nowhere else to go. Where other nodes live,
//! clients that were sent away are with them by now, and what is new must not wait here for their return: only what was in the
//! channel before the start is held, and what is behind it at the same addresses.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// A cheap clone.
#[derive(Clone)]
pub(super) struct ChannelHold(Arc<HoldState>);

struct HoldState {
    scope: HoldScope,
    /// At most.
    time: Duration,
    /// Clients are known to be missing: what comes waits for them, whether or not there is a backlog.
    awaits_clients: bool,
    signals: HoldSignals,
    /// Something is held, or was.
    begun: AtomicBool,
    /// Where dispatch hears that a backlog comes.
    backlog: watch::Sender<bool>,
}

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldScope {
    /// All that comes.
    All,
    /// What is older than the start, and what is behind it at the same addresses.
    Old,
}

/// What the gateway tells of clients, and when the hold is over.
#[derive(Clone, Default)]
pub(crate) struct HoldSignals {
    somebody: CancellationToken,
    all_back: CancellationToken,
    /// Counted from the moment in which the first nsqd was reached.
    until: Arc<OnceLock<Instant>>,
}

impl HoldSignals {
    /// A client is here, for whom new pushes must not wait.
    pub(crate) fn somebody_is_here(&self) {
        self.somebody.cancel();
    }

    /// Those that the hold is for are back.
    pub(crate) fn all_are_back(&self) {
        self.all_back.cancel();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.all_back.is_cancelled() || self.until.get().is_some_and(|until| *until <= Instant::now())
    }

    pub(super) async fn somebody(&self) {
        self.somebody.cancelled().await;
    }

    pub(super) async fn all_back(&self) {
        self.all_back.cancelled().await;
    }
}

impl ChannelHold {
    pub(super) fn new(scope: HoldScope, time: Duration, awaits_clients: bool, backlog: watch::Sender<bool>) -> Self {
        let signals = HoldSignals::default();
        Self(Arc::new(HoldState { scope, time, awaits_clients, signals, begun: AtomicBool::new(false), backlog }))
    }

    pub(super) fn signals(&self) -> &HoldSignals {
        &self.0.signals
    }

    pub(super) fn scope(&self) -> HoldScope {
        self.0.scope
    }

    pub(super) fn awaits_clients(&self) -> bool {
        self.0.awaits_clients
    }

    /// At most.
    pub(super) fn time(&self) -> Duration {
        self.0.time
    }

    /// When it ends at the latest; no longer than `most` from the first call on.
    pub(super) fn until(&self, most: Duration) -> Instant {
        *self.0.signals.until.get_or_init(|| Instant::now() + self.0.time.min(most))
    }

    /// A consumer holds something.
    pub(super) fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }

    /// Something is held.
    pub(super) fn is_on(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed) && !self.0.signals.is_over()
    }

    /// Jobs of before the start come, which are to be offered at a pace.
    pub(super) fn backlog_comes(&self) {
        self.0.backlog.send_replace(true);
    }
}
