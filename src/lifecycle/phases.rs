//! How far the process is in its life.

use std::sync::Arc;

use tokio::sync::watch;

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
