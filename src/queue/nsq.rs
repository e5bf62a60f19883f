//! TODO

pub mod admin;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{OpenError, PublishError, Queue};
use crate::{config, lifecycle::Tasks, telemetry::Metrics};

/// See [`super::open`].
///
/// # Errors
/// As there.
pub async fn open(
    _config: &config::Queue,
    _node: &config::NodeId,
    _tasks: &Tasks,
    _metrics: &Arc<Metrics>,
) -> Result<Queue, OpenError> {
    todo!()
}

/// See [`super::Publisher`].
#[derive(Clone)]
pub struct Publisher;

impl Publisher {
    pub(crate) async fn publish(&self, _record: Bytes) -> Result<(), PublishError> {
        todo!()
    }
}

pub(crate) struct Hand;

impl Hand {
    pub(crate) fn finish(self) {
        todo!()
    }
    pub(crate) fn requeue(self, _delay: Duration) {
        todo!()
    }
    pub(crate) fn touch(&self) {
        todo!()
    }
}

pub(crate) struct Control;

impl Control {
    pub(crate) async fn stop_jobs(&self) {
        todo!()
    }
    pub(crate) async fn close(self, _within: Duration) {
        todo!()
    }
}
