//! What this node tells of itself: its phase, which follows its queue's readiness, and never leaves all clients to nobody.
//!
//! A queue that does not work is no reason to send clients away when no other node's does: a cluster without any serving node
//! helps nobody. So a node says first that it is not ready, at half of `[cluster] unready_after`, and at its end turns away
//! only if another node is ready then: nodes that share a queue that fails know that of each other by that time.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::node::{NodePhase, NodeStatus};
use crate::lifecycle::Phase;

/// `S` is the queue's state.
pub(super) struct Readiness<S> {
    pub(super) phases: watch::Receiver<Phase>,
    pub(super) queue: watch::Receiver<S>,
    pub(super) works: fn(&S) -> bool,
    /// Whether another node serves and is ready.
    pub(super) other: watch::Receiver<bool>,
    pub(super) after: Duration,
}

impl<S> Readiness<S> {
    /// Sends what follows, until cancelled.
    pub(super) async fn run(mut self, statuses: watch::Sender<NodeStatus>) {
        let mut works = false;
        let mut since = Instant::now();
        loop {
            let works_now = (self.works)(&self.queue.borrow_and_update());
            if works != works_now {
                works = works_now;
                since = Instant::now();
            }
            let phase = *self.phases.borrow_and_update();
            let other = *self.other.borrow_and_update();
            let status = statuses.borrow().next(phase, works, since.elapsed(), self.after, other);
            statuses.send_if_modified(|now| std::mem::replace(now, status) != status);
            let edges = [since + self.after / 2, since + self.after];
            let edge = edges.into_iter().find(|edge| *edge > Instant::now());
            // all only wait; one whose other side is gone does not answer any more
            tokio::select! {
                Ok(()) = self.phases.changed() => {}
                Ok(()) = self.queue.changed() => {}
                Ok(()) = self.other.changed() => {}
                () = sleep_until(edge.unwrap_or(since)), if edge.is_some() => {}
                else => return std::future::pending().await,
            }
        }
    }
}

impl NodeStatus {
    /// What follows on this in `phase`, when the queue works, or does not, since `lasted`.
    fn next(self, phase: Phase, works: bool, lasted: Duration, after: Duration, other: bool) -> Self {
        let ready = if works {
            // the first time needs no proof
            self.ready || self.phase == NodePhase::Starting || lasted >= after / 2
        } else {
            self.ready && lasted < after / 2
        };
        let phase = match phase {
            Phase::Starting => NodePhase::Starting,
            Phase::Leaving | Phase::Draining => NodePhase::Draining,
            Phase::Serving if ready => NodePhase::Serving,
            Phase::Serving if works || lasted < after => self.phase,
            Phase::Serving if !other => NodePhase::Serving,
            Phase::Serving if self.phase == NodePhase::Starting => NodePhase::Starting,
            Phase::Serving => NodePhase::Unready,
        };
        Self { phase, ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_phase_follows_its_queue_while_another_node_is_ready() {
        let after = Duration::from_secs(10);
        let (starting, serving, unready, draining) =
            (NodePhase::Starting, NodePhase::Serving, NodePhase::Unready, NodePhase::Draining);
        let serves = Phase::Serving;
        // was, phase, whether the queue works and for how many seconds, whether another node is ready; is
        for (was, phase, works, seconds, other, is) in [
            // a start
            ((starting, false), Phase::Starting, true, 0, true, (starting, true)),
            ((starting, false), serves, true, 0, true, (serving, true)),
            ((starting, false), serves, false, 9, false, (starting, false)),
            ((starting, false), serves, false, 10, true, (starting, false)),
            ((starting, false), serves, false, 10, false, (serving, false)),
            // a queue that fails
            ((serving, true), serves, false, 4, true, (serving, true)),
            ((serving, true), serves, false, 5, true, (serving, false)),
            ((serving, false), serves, false, 10, true, (unready, false)),
            ((serving, false), serves, false, 10, false, (serving, false)),
            ((unready, false), serves, false, 60, false, (serving, false)),
            // and works again
            ((serving, true), serves, true, 1, true, (serving, true)),
            ((serving, false), serves, true, 4, true, (serving, false)),
            ((unready, false), serves, true, 4, true, (unready, false)),
            ((unready, false), serves, true, 5, true, (serving, true)),
            // a drain, whatever the queue does
            ((serving, true), Phase::Leaving, true, 60, true, (draining, true)),
            ((unready, false), Phase::Draining, false, 60, false, (draining, false)),
        ] {
            let was = NodeStatus { phase: was.0, ready: was.1 };
            let next = was.next(phase, works, Duration::from_secs(seconds), after, other);
            assert_eq!((next.phase, next.ready), is, "{was:?} {phase:?} {works} {seconds} {other}");
        }
    }
}
