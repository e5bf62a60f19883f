//! A part of the gateway that is stopped before the rest.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Deadline, Tasks};

/// Named tasks that are told to stop together and waited for together; a cheap clone for each of them. A task that ends before
/// it was told to is a death, as with [`Tasks`].
#[derive(Clone)]
pub struct Service {
    tasks: Tasks,
    stopping: CancellationToken,
    tracker: TaskTracker,
}

impl Service {
    pub(super) fn new(tasks: Tasks, stopping: CancellationToken) -> Self {
        Self { tasks, stopping, tracker: TaskTracker::new() }
    }

    /// Spawns a task that lives until [`Service::stopping`] is told.
    pub fn spawn(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.supervise(name.into(), self.tracker.track_future(task), self.stopping.clone(), false);
    }

    /// Spawns a task that may end by itself (its input ended, its work is done); only a panic is a death.
    pub fn spawn_until_done(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.supervise(name.into(), self.tracker.track_future(task), self.stopping.clone(), true);
    }

    /// Told by [`Service::stop`], and when all tasks of the gateway are.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Tells the tasks to stop.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Waits until each task has ended, whether it was told to or its input ended; `false`: some go on at the deadline. Call it
    /// once every task was spawned.
    pub async fn ended(&self, deadline: Deadline) -> bool {
        self.tracker.close();
        deadline.timeout(self.tracker.wait()).await.is_ok()
    }

    /// [`Service::stop`], then [`Service::ended`].
    pub async fn stop_within(&self, deadline: Deadline) -> bool {
        self.stop();
        self.ended(deadline).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lifecycle::Death;

    #[tokio::test(start_paused = true)]
    async fn an_end_that_was_asked_for_is_no_death_and_one_that_was_not_is() {
        let (tasks, mut deaths) = Tasks::new();
        let service = tasks.service();
        let stopping = service.stopping().clone();
        service.spawn("asked", async move { stopping.cancelled().await });
        service.spawn_until_done("done", async {});
        assert!(!service.ended(Deadline::after(Duration::from_secs(1))).await, "one waits to be told");
        assert!(service.stop_within(Deadline::after(Duration::from_secs(1))).await);
        assert!(deaths.try_recv().is_err());

        tasks.service().spawn("unasked", async {});
        let died = deaths.recv().await.unwrap();
        assert_eq!((&*died.name, died.how), ("unasked", Death::Ended));
        tasks.service().spawn("panics", async { panic!("on purpose") });
        assert_eq!(deaths.recv().await.unwrap().how, Death::Panicked);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_all_tasks_stops_each_service() {
        let (tasks, mut deaths) = Tasks::new();
        let service = tasks.service();
        let stopping = service.stopping().clone();
        service.spawn("asked", async move { stopping.cancelled().await });
        assert!(tasks.stop(Duration::from_secs(1)).await);
        assert!(service.ended(Deadline::after(Duration::ZERO)).await && deaths.try_recv().is_err());
    }
}
