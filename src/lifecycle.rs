//! Phases of the process and its named tasks.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How far the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Built and bound; not ready.
    Starting,
    /// Serves.
    Serving,
    /// Not ready, so that load balancers turn away from it; what still comes is served (`[drain] grace`).
    Leaving,
    /// Takes no more pushes and leaves.
    Draining,
}

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
        self.supervise(name.into(), task, false);
    }

    /// Spawns a task that may end by itself (its input ended, its work is done); only a panic is a death.
    pub fn spawn_until_done(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.supervise(name.into(), task, true);
    }

    fn supervise(&self, name: String, task: impl Future<Output = ()> + Send + 'static, may_end: bool) {
        let (died, cancel) = (self.died.clone(), self.cancel.clone());
        let guard = Guard { name, died, cancel, may_end, panicked: true };
        self.tracker.spawn(async move {
            let mut guard = guard;
            task.await;
            guard.panicked = false;
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
struct Guard {
    name: String,
    died: mpsc::UnboundedSender<Died>,
    cancel: CancellationToken,
    may_end: bool,
    panicked: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let how = match self.panicked {
            true if std::thread::panicking() => Death::Panicked,
            // dropped with the runtime, or cancelled from outside
            true => return,
            false if self.may_end || self.cancel.is_cancelled() => {
                tracing::debug!(task = self.name, "task ended");
                return;
            }
            false => Death::Ended,
        };
        let _ = self.died.send(Died { name: std::mem::take(&mut self.name), how });
    }
}

/// The phase, to be read anywhere and waited for.
#[derive(Clone)]
pub struct Phases {
    sender: Arc<watch::Sender<Phase>>,
}

impl Phases {
    /// [`Phase::Starting`].
    pub fn new() -> Self {
        Self { sender: Arc::new(watch::Sender::new(Phase::Starting)) }
    }

    /// Goes on to `phase`; never back.
    pub fn enter(&self, phase: Phase) {
        self.sender.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }

    /// Now.
    pub fn now(&self) -> Phase {
        *self.sender.borrow()
    }

    /// To wait for changes.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.sender.subscribe()
    }
}

impl Default for Phases {
    fn default() -> Self {
        Self::new()
    }
}
