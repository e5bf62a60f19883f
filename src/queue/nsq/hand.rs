//! A message in hand: answered from any thread, as long as its connection lives.

use std::{
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::unconstrained,
};
use tokio_nsq::{NSQConsumer, NSQEvent, NSQMessage, NSQRequeueDelay};

/// nsqd's `--max-req-timeout`.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The epoch whose messages may still be answered: a connection's, or 0 for none. tokio-nsq would send an answer to a
/// message of an earlier connection on the next, which kills that, and panics once its consumer is dropped.
#[derive(Clone)]
pub(super) struct Gate(Arc<watch::Sender<u64>>);

impl Gate {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// A new connection's epoch.
    pub(super) fn open(&self) -> u64 {
        static EPOCHS: AtomicU64 = AtomicU64::new(1);
        let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
        self.0.send_replace(epoch);
        epoch
    }

    pub(super) fn close(&self) {
        self.0.send_replace(0);
    }

    pub(super) fn is_open(&self) -> bool {
        *self.0.borrow() != 0
    }

    /// To wait for changes of the epoch.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Polls `answer` once, which puts it in tokio-nsq's channel of 10,000, unless its epoch is over: nsqd gives the message
    /// out again then.
    pub(super) fn tell(&self, epoch: u64, answer: impl Future<Output = ()>) {
        // held meanwhile, so that the consumer is not dropped under it
        let now = self.0.borrow();
        if *now != epoch {
            return;
        }
        // finish() unwraps its send, which fails when the connection ends in this very moment
        let told = catch_unwind(AssertUnwindSafe(|| unconstrained(answer).now_or_never()));
        if !matches!(told, Ok(Some(()))) {
            tracing::debug!("nsq: a message could not be answered; nsqd gives it out again");
        }
    }
}

/// The nsq side of a job.
pub(crate) struct Hand {
    pub(super) message: NSQMessage,
    pub(super) epoch: u64,
    pub(super) gate: Gate,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Hand {
    pub(crate) fn finish(self) {
        self.gate.tell(self.epoch, self.message.finish());
    }

    pub(crate) fn requeue(self, delay: Duration) {
        self.gate.tell(self.epoch, self.message.requeue(strategy(delay)));
    }

    pub(crate) fn touch(&self) {
        self.gate.tell(self.epoch, self.message.touch());
    }
}

/// How tokio-nsq is told a delay; its own default would be 90 s for each attempt.
pub(super) fn strategy(delay: Duration) -> NSQRequeueDelay {
    match delay {
        Duration::ZERO => NSQRequeueDelay::NoDelay,
        delay => NSQRequeueDelay::CustomDelay(delay.min(LONGEST_DELAY)),
    }
}

/// A consumer that is only dropped by [`Client::end`]: its own drop panics when the runtime is gone before it.
pub(super) struct Client(ManuallyDrop<NSQConsumer>);

impl Client {
    pub(super) fn new(consumer: NSQConsumer) -> Self {
        Self(ManuallyDrop::new(consumer))
    }

    pub(super) async fn consume(&mut self) -> Option<NSQEvent> {
        self.0.consume().await
    }

    pub(super) fn end(self) {
        drop(ManuallyDrop::into_inner(self.0));
    }
}
