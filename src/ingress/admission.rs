//! What every entrance has in common: bounds checked, id given, record published, outcome counted.

use std::sync::Arc;

use crate::{
    config::Config,
    hub::Hub,
    lifecycle::Phases,
    queue::{Publisher, State},
    telemetry::Metrics,
};

/// Shared by all entrances; a cheap clone.
#[derive(Clone)]
pub struct Admission;

impl Admission {
    /// `queue` is the queue's state, for readiness.
    pub fn new(
        _config: &Config,
        _publisher: Publisher,
        _queue: tokio::sync::watch::Receiver<State>,
        _hub: Hub,
        _phases: Phases,
        _metrics: &Arc<Metrics>,
    ) -> Self {
        todo!()
    }
}
