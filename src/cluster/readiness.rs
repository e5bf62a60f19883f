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

use super::node::{Stage, Standing};
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
    /// Tells until cancelled.
    pub(super) async fn run(mut self, tell: watch::Sender<Standing>) {
        let (mut works, mut since) = (false, Instant::now());
        loop {
            let works_now = (self.works)(&self.queue.borrow_and_update());
            if works != works_now {
                (works, since) = (works_now, Instant::now());
            }
            let (phase, other) = (*self.phases.borrow_and_update(), *self.other.borrow_and_update());
            let standing = tell.borrow().next(phase, works, since.elapsed(), self.after, other);
            tell.send_if_modified(|now| std::mem::replace(now, standing) != standing);
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

impl Standing {
    /// What follows on this in `phase`, when the queue works, or does not, since `lasted`.
    fn next(self, phase: Phase, works: bool, lasted: Duration, after: Duration, other: bool) -> Self {
        let ready = match works {
            // the first time needs no proof
            true => self.ready || self.stage == Stage::Starting || lasted >= after / 2,
            false => self.ready && lasted < after / 2,
        };
        let stage = match phase {
            Phase::Starting => Stage::Starting,
            Phase::Leaving | Phase::Draining => Stage::Draining,
            Phase::Serving if ready => Stage::Serving,
            Phase::Serving if works || lasted < after => self.stage,
            Phase::Serving if !other => Stage::Serving,
            Phase::Serving if self.stage == Stage::Starting => Stage::Starting,
            Phase::Serving => Stage::Unready,
        };
        Self { stage, ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_phase_follows_its_queue_while_another_node_is_ready() {
        let after = Duration::from_secs(10);
        let (starting, serving, unready, draining) = (Stage::Starting, Stage::Serving, Stage::Unready, Stage::Draining);
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
            let was = Standing { stage: was.0, ready: was.1 };
            let next = was.next(phase, works, Duration::from_secs(seconds), after, other);
            assert_eq!((next.stage, next.ready), is, "{was:?} {phase:?} {works} {seconds} {other}");
        }
    }
}
