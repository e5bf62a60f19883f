//! A backlog is offered no faster than clients read: what a start finds must not end the client that came back for it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::in_flight::InFlight;
use crate::{config, hub::Hub, push::unix_millis};

/// A client that does not read holds the others up for so long.
const EACH: Duration = Duration::from_millis(500);
/// How often outboxes are looked at.
const STEP: Duration = Duration::from_millis(1);
/// What is offered in one go is this part of an outbox: frames are larger than records.
const PART: usize = 4;

/// The pace of a backlog, from the end of the hold on.
pub(super) struct Pace {
    hub: Hub,
    in_flight: Arc<InFlight>,
    /// Of records that are offered in one go.
    bytes: usize,
    /// When it began, in ms since 1970: newer pushes are no backlog.
    since: u64,
    /// How long outboxes may be waited for in all.
    left: Duration,
    /// Connections that were waited for in vain.
    stuck: usize,
}

impl Pace {
    pub(super) fn new(config: &config::QueueConfig, hub: Hub, in_flight: Arc<InFlight>) -> Self {
        let bytes = hub.outbox_bytes() / PART;
        Self { hub, in_flight, bytes, since: 0, left: config.replay_hold, stuck: 0 }
    }

    pub(super) fn begin(&mut self) {
        self.since = unix_millis();
        self.hub.count_waiting(true);
    }

    pub(super) fn end(&self) {
        self.hub.count_waiting(false);
    }

    /// Of records that may be offered in one go.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a push of `millis` is of the backlog.
    pub(super) fn covers(&self, millis: u64) -> bool {
        millis < self.since
    }

    /// Waits until all that was begun is offered and no connection has frames waiting; not for those that do not read.
    pub(super) async fn follow(&mut self) {
        let begun = Instant::now();
        let patience = EACH.min(self.left);
        loop {
            let offered = self.in_flight.all_offered();
            let waiting = self.hub.waiting();
            let late = begun.elapsed() >= patience;
            if late || (offered && waiting <= self.stuck) {
                self.stuck = waiting;
                break;
            }
            sleep(STEP).await;
        }
        // a look or two is no wait
        self.left = self.left.saturating_sub(begun.elapsed().saturating_sub(10 * STEP));
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.end();
    }
}
