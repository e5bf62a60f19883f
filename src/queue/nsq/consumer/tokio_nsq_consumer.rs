//! tokio-nsq's consumer.

use std::mem::ManuallyDrop;

use tokio_nsq::{NSQConsumer, NSQEvent};

/// Only dropped by [`TokioNsqConsumer::end`]: its own drop panics when the runtime is gone before it.
pub(super) struct TokioNsqConsumer(ManuallyDrop<NSQConsumer>);

impl TokioNsqConsumer {
    pub(super) fn new(consumer: NSQConsumer) -> Self {
        Self(ManuallyDrop::new(consumer))
    }

    /// `None`: it ended its connection. Cancel-safe: a read of a channel.
    pub(super) async fn next_event(&mut self) -> Option<NSQEvent> {
        self.0.consume().await
    }

    pub(super) fn end(self) {
        drop(ManuallyDrop::into_inner(self.0));
    }
}
