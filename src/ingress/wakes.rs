//! Tells nodes of pushes that a shared store has taken, over the queue.
//!
//! Whoever pushed has its answer by then, and a push that nobody was told of is found as nodes look the store through: so this
//! tries for a while, and gives up where the queue does not work.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    config::Config,
    lifecycle::Tasks,
    push::StoredPush,
    queue::PublishError,
    routing::{RoutedPublisher, RoutedPush},
    store::Store,
    telemetry::{Metrics, labels::WakeOutcome},
};

/// Pushes that are told together.
const TOGETHER: usize = 256;
/// How often one is tried.
const TRIES: u32 = 3;
/// Before it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where pushes go that a shared store has; a cheap clone.
#[derive(Clone)]
pub(super) struct StoreWakes {
    /// `None`: the store is not shared, or there is none.
    inbox: Option<mpsc::Sender<StoredPush>>,
    metrics: Arc<Metrics>,
}

impl StoreWakes {
    /// Starts the task that tells them; at most `[store] max_appends` wait for it.
    pub(super) fn start(
        config: &Config,
        store: Option<&Store>,
        publisher: &RoutedPublisher,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let metrics = Arc::clone(metrics);
        if !store.is_some_and(Store::is_shared) {
            return Self { inbox: None, metrics };
        }
        let (inbox, waiting) = mpsc::channel(config.store.max_appends);
        let run = run(waiting, publisher.clone(), Arc::clone(&metrics));
        let cancelled = tasks.cancelled();
        tasks.spawn_until_done("store wakes", async move {
            cancelled.run_until_cancelled(run).await;
        });
        Self { inbox: Some(inbox), metrics }
    }

    /// A push is told to the nodes soon, unless too many wait for that.
    pub(super) fn tell(&self, stored: StoredPush) {
        if let Some(inbox) = &self.inbox
            && inbox.try_send(stored).is_err()
        {
            self.metrics.store_wakes.get_or_create(&WakeOutcome::Dropped).inc();
        }
    }
}

async fn run(mut waiting: mpsc::Receiver<StoredPush>, publisher: RoutedPublisher, metrics: Arc<Metrics>) {
    let mut taken = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut taken, TOGETHER).await > 0 {
        let mut left = std::mem::take(&mut taken);
        for nth in 1..=TRIES {
            let pushes = left.iter().map(|stored| RoutedPush::Stored(stored.clone())).collect();
            let told = join_all(publisher.publish_all(pushes).into_iter().map(|one| async { one?.await })).await;
            let taken = told.iter().filter(|told| told.is_ok()).count();
            metrics.store_wakes.get_or_create(&WakeOutcome::Told).inc_by(taken as u64);
            let mut outcomes = told.into_iter();
            left.retain(|_| !matches!(outcomes.next(), Some(Ok(_) | Err(PublishError::TooLarge { .. }))));
            if left.is_empty() {
                break;
            }
            if nth < TRIES {
                sleep(PAUSE * nth).await;
            }
        }
        metrics.store_wakes.get_or_create(&WakeOutcome::Dropped).inc_by(left.len() as u64);
    }
}
