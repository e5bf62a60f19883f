//! Whether this node should get requests now.

use tokio::sync::watch;

use crate::{
    lifecycle::{Phase, Phases},
    queue::QueueState,
    store::StoreState,
};

/// Whether this node should get requests now; a cheap clone.
#[derive(Clone)]
pub(crate) struct NodeReadiness {
    queue: watch::Receiver<QueueState>,
    /// `None`: there is no store.
    store: Option<watch::Receiver<StoreState>>,
    phases: Phases,
}

impl NodeReadiness {
    /// It follows from the states of the queue and the store, and the process's phase.
    pub(crate) fn new(
        queue: watch::Receiver<QueueState>,
        store: Option<watch::Receiver<StoreState>>,
        phases: Phases,
    ) -> Self {
        Self { queue, store, phases }
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
        if let QueueState::NotReady(reason) = &*self.queue.borrow() {
            return Err(format!("the queue is not ready: {reason}"));
        }
        match self.store.as_ref().map(|store| store.borrow()).as_deref() {
            Some(StoreState::NotReady(reason)) => Err(format!("the store is not ready: {reason}")),
            Some(StoreState::Ready) | None => Ok(()),
        }
    }

    /// To wait for changes from now on.
    pub(crate) fn watch(&self) -> NodeReadinessWatch {
        NodeReadinessWatch { queue: self.queue.clone(), store: self.store.clone(), phase: self.phases.watch() }
    }
}

/// What somebody who waits for changes has seen of them.
pub(crate) struct NodeReadinessWatch {
    queue: watch::Receiver<QueueState>,
    store: Option<watch::Receiver<StoreState>>,
    phase: watch::Receiver<Phase>,
}

impl NodeReadinessWatch {
    /// Returns once [`NodeReadiness::check`] may say something else. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            gone = self.queue.changed() => if gone.is_err() { std::future::pending::<()>().await },
            () = store_changed(&mut self.store) => {}
            gone = self.phase.changed() => if gone.is_err() { std::future::pending::<()>().await },
        }
    }
}

async fn store_changed(store: &mut Option<watch::Receiver<StoreState>>) {
    let gone = match store {
        Some(store) => store.changed().await.is_err(),
        None => true,
    };
    if gone {
        std::future::pending::<()>().await;
    }
}
