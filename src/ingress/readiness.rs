//! Whether this node should get requests now.

use tokio::sync::watch;

use crate::{
    lifecycle::{Phase, Phases},
    queue::QueueState,
};

/// Whether this node should get requests now; a cheap clone.
#[derive(Clone)]
pub(crate) struct NodeReadiness {
    queue: watch::Receiver<QueueState>,
    phases: Phases,
}

impl NodeReadiness {
    /// It follows from the queue's state and the process's phase.
    pub(crate) fn new(queue: watch::Receiver<QueueState>, phases: Phases) -> Self {
        Self { queue, phases }
    }

    /// Why this node should get no requests now; `Ok` when it should.
    ///
    /// # Errors
    /// The reason, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.phases.now() {
            Phase::Starting => return Err("the node is starting".into()),
            Phase::Leaving | Phase::Draining => return Err("the node is draining".into()),
            Phase::Serving => {}
        }
        match &*self.queue.borrow() {
            QueueState::Ready => Ok(()),
            QueueState::NotReady(reason) => Err(format!("the queue is not ready: {reason}")),
        }
    }

    /// To wait for changes from now on.
    pub(crate) fn watch(&self) -> NodeReadinessWatch {
        NodeReadinessWatch { queue: self.queue.clone(), phase: self.phases.watch() }
    }
}

/// What somebody who waits for changes has seen of them.
pub(crate) struct NodeReadinessWatch {
    queue: watch::Receiver<QueueState>,
    phase: watch::Receiver<Phase>,
}

impl NodeReadinessWatch {
    /// Returns once [`NodeReadiness::check`] may say something else. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            gone = self.queue.changed() => if gone.is_err() { std::future::pending::<()>().await },
            gone = self.phase.changed() => if gone.is_err() { std::future::pending::<()>().await },
        }
    }
}
