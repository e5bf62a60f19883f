//! Who waits for a publish.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::PublishError;
use crate::telemetry::{GaugeGuard, Metrics};

/// Told the outcome once; counted as waiting until then, whether or not anyone reads it.
pub(crate) struct Waiter {
    answer: oneshot::Sender<Result<(), PublishError>>,
    since: Instant,
    metrics: Arc<Metrics>,
    counted: GaugeGuard,
}

/// Where the outcome comes out.
pub(crate) type Acknowledgement = oneshot::Receiver<Result<(), PublishError>>;

impl Waiter {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> (Self, Acknowledgement) {
        let (answer, outcome) = oneshot::channel();
        let counted = GaugeGuard::new(&metrics.publishes);
        (Self { answer, since: Instant::now(), metrics: metrics.clone(), counted }, outcome)
    }

    pub(crate) fn resolve(self, outcome: Result<(), PublishError>) {
        drop(self.counted);
        if outcome.is_ok() {
            self.metrics.publish_seconds.observe(self.since.elapsed().as_secs_f64());
        }
        // nobody waits any more: the record was published or not all the same
        let _ = self.answer.send(outcome);
    }
}
