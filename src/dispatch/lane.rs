//! The ordered work of one processor, done where it costs least.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout, timeout_at},
};

use super::processor::{LaneWork, Processor};
use crate::hub::{Completion, Hub, Work};

/// A lane as intake sees it.
pub(super) struct Lane {
    shared: Arc<SharedLane>,
    task: mpsc::Sender<Vec<LaneWork>>,
}

/// The task of a lane, which does what intake does not do itself.
pub(super) struct LaneTask {
    shared: Arc<SharedLane>,
    inbox: mpsc::Receiver<Vec<LaneWork>>,
    hub: Hub,
    /// How long a shard may take no bundle.
    within: Duration,
}

/// The merging of a lane.
pub(super) struct LaneMerging(Arc<SharedLane>);

struct SharedLane {
    state: Mutex<LaneState>,
    /// Intake opened a window where none was open, or all were ended: the task must look again.
    windows_changed: Notify,
}

struct LaneState {
    processor: Processor,
    /// Bundles that the task was given and has not done: what comes goes behind them.
    behind: usize,
}

impl Lane {
    /// For at most `waiting` bundles that wait for the task.
    pub(super) fn new(processor: Processor, hub: Hub, waiting: usize, within: Duration) -> (Self, LaneTask) {
        let (task, inbox) = mpsc::channel(waiting);
        let shared = Arc::new(SharedLane {
            state: Mutex::new(LaneState { processor, behind: 0 }),
            windows_changed: Notify::new(),
        });
        (Self { shared: Arc::clone(&shared), task }, LaneTask { shared, inbox, hub, within })
    }

    /// Stops the merging of its lane, whoever has that then.
    pub(super) fn merging(&self) -> LaneMerging {
        LaneMerging(Arc::clone(&self.shared))
    }

    /// Takes `works`: `at_once` does them here if nothing is before them, and else the lane's task does. Waits while that has
    /// too much to do.
    pub(super) async fn give(&self, works: &mut Vec<LaneWork>, at_once: bool) {
        let left = {
            let mut lane = self.shared.lock();
            let done = at_once && lane.behind == 0 && {
                let had_windows = lane.processor.next_end().is_some();
                lane.processor.work_off(works);
                if !had_windows && lane.processor.next_end().is_some() {
                    self.shared.windows_changed.notify_one();
                }
                !lane.processor.is_blocked()
            };
            lane.behind += usize::from(!done);
            (!done).then(|| mem::take(works))
        };
        if let Some(left) = left {
            // an error: the lanes were stopped, and the jobs are put back
            let _ = self.task.send(left).await;
        }
    }
}

impl LaneMerging {
    /// From now on pushes go to all their clients at once, behind those that wait. `end` is told when clients were offered these.
    pub(super) fn stop(&self, end: &mpsc::UnboundedSender<Completion>) {
        self.0.lock().processor.stop_merging(Some(end));
        // the task sends what a shard does not take now
        self.0.windows_changed.notify_one();
    }
}

impl LaneTask {
    /// Works until nobody can give any more.
    pub(super) async fn run(mut self) {
        loop {
            let next_end = self.shared.lock().processor.next_end();
            let window_end = async {
                match next_end {
                    Some(end) => drop(timeout_at(end, self.shared.windows_changed.notified()).await),
                    None => self.shared.windows_changed.notified().await,
                }
            };
            // all cancel-safe; what must leave in time goes before what comes
            let given = tokio::select! {
                biased;
                () = window_end => {
                    self.end_windows().await;
                    continue;
                }
                given = self.inbox.recv() => given,
            };
            let Some(mut works) = given else { break };
            // what a shard did not take of what was done by intake goes first
            self.send_blocked().await;
            self.shared.lock().processor.work_off(&mut works);
            self.send_blocked().await;
            self.shared.lock().behind -= 1;
        }
        self.shared.lock().processor.stop_merging(None);
        self.send_blocked().await;
    }

    async fn end_windows(&self) {
        let blocked = {
            let mut lane = self.shared.lock();
            lane.processor.end_windows(Instant::now());
            let blocked = lane.processor.is_blocked();
            // what intake brings goes behind what a shard did not take
            lane.behind += usize::from(blocked);
            blocked
        };
        if blocked {
            self.send_blocked().await;
            self.shared.lock().behind -= 1;
        }
    }

    async fn send_blocked(&self) {
        while let Some((shard, bundle)) = self.blocked() {
            // too late, the bundle is dropped here, and so its jobs come again
            if timeout(self.within, self.hub.send(shard, bundle)).await.is_err() {
                tracing::warn!(shard, "a shard took no part within job_timeout");
            }
        }
    }

    fn blocked(&self) -> Option<(usize, Vec<Work>)> {
        self.shared.lock().processor.take_blocked()
    }
}

impl SharedLane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
