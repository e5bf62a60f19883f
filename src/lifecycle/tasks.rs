//! The named tasks of one gateway.

use std::{future::Future, time::Duration};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Service;

/// The named tasks of one gateway: each has an owner (this), a cancellation and a reported end. A task that ends before it
/// was told to, or panics, ends the process with its name.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
    died: mpsc::UnboundedSender<Died>,
}

/// A task that ended unasked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {name} {how}")]
pub struct Died {
    /// The task's name.
    pub name: String,
    /// How.
    pub how: Death,
}

/// How a task died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It returned though it should have gone on.
    Ended,
    /// It panicked; the log says where.
    Panicked,
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "ended",
            Self::Panicked => "panicked",
        })
    }
}

impl Tasks {
    /// A new set, and where unasked ends are told.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Died>) {
        let (died, deaths) = mpsc::unbounded_channel();
        (Self { tracker: TaskTracker::new(), cancel: CancellationToken::new(), died }, deaths)
    }

    /// Told to all tasks at the end; a task that stops earlier, by its own input's end, uses [`Tasks::spawn_until_done`].
    pub fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Spawns a task that lives until it is cancelled.
    pub fn spawn(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.supervise(name.into(), task, self.cancel.clone(), false);
    }

    /// Spawns a task that may end by itself (its input ended, its work is done); only a panic is a death.
    pub fn spawn_until_done(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.supervise(name.into(), task, self.cancel.clone(), true);
    }

    /// A part of the gateway that can be stopped before the rest.
    pub fn service(&self) -> Service {
        Service::new(self.clone(), self.cancel.child_token())
    }

    /// `cancel` makes an end one that was asked for.
    pub(super) fn supervise(
        &self,
        name: String,
        task: impl Future<Output = ()> + Send + 'static,
        cancel: CancellationToken,
        may_end: bool,
    ) {
        let died = self.died.clone();
        let report = EndReport { name, died, cancel, may_end, panicked: true };
        self.tracker.spawn(async move {
            // moved in whole, so that it is dropped with the task
            let mut report = report;
            task.await;
            report.panicked = false;
        });
    }

    /// Cancels all and waits for their ends, `within` at most; `false`: some remain.
    pub async fn stop(&self, within: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }
}

/// Reports a task's end, also when a panic unwinds through it.
struct EndReport {
    name: String,
    died: mpsc::UnboundedSender<Died>,
    cancel: CancellationToken,
    may_end: bool,
    panicked: bool,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        let how = if self.panicked {
            if !std::thread::panicking() {
                // dropped with the runtime, or cancelled from outside
                return;
            }
            Death::Panicked
        } else {
            if self.may_end || self.cancel.is_cancelled() {
                tracing::debug!(task = self.name, "task ended");
                return;
            }
            Death::Ended
        };
        let _ = self.died.send(Died { name: std::mem::take(&mut self.name), how });
    }
}
