//! Answers to nsqd for messages in flight: from any thread, as long as the connection lives that brought them.

use std::{
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
use tokio_nsq::{NSQMessage, NSQRequeueDelay};

use super::raw::Origin;

/// nsqd's `--max-req-timeout`.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The generation whose messages may still be answered: a connection's number, or 0 for none. tokio-nsq would send an answer to
/// a message of an earlier connection on the next, which kills that, and panics once its consumer is dropped.
#[derive(Clone)]
pub(super) struct Generation(Arc<watch::Sender<u64>>);

impl Generation {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// A new connection's number; messages of earlier ones are void from now on.
    pub(super) fn begin(&self) -> u64 {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        self.0.send_replace(number);
        number
    }

    pub(super) fn end(&self) {
        self.0.send_replace(0);
    }

    pub(super) fn is_connected(&self) -> bool {
        *self.0.borrow() != 0
    }

    /// To wait for changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Polls `answer` once, which puts it in tokio-nsq's channel of 10,000, unless generation `number` is over: nsqd gives the
    /// message out again then.
    pub(super) fn answer(&self, number: u64, answer: impl Future<Output = ()>) {
        // held meanwhile, so that the consumer is not dropped under it
        let now = self.0.borrow();
        if *now != number {
            return;
        }
        // finish() unwraps its send, which fails when the connection ends in this very moment
        let sent = catch_unwind(AssertUnwindSafe(|| unconstrained(answer).now_or_never()));
        if !matches!(sent, Ok(Some(()))) {
            tracing::debug!("nsq: a message could not be answered; nsqd gives it out again");
        }
    }
}

/// See [`crate::queue::Acker`].
pub(crate) struct Acker {
    pub(super) message: NSQMessage,
    /// Of the connection that brought the message.
    pub(super) number: u64,
    pub(super) generation: Generation,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Acker {
    pub(crate) fn finish(self) {
        self.generation.answer(self.number, self.message.finish());
    }

    pub(crate) fn requeue(self, delay: Duration) {
        self.generation.answer(self.number, self.message.requeue(requeue_delay(delay)));
    }

    pub(crate) fn touch(&self) {
        self.generation.answer(self.number, self.message.touch());
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { millis: self.message.timestamp / 1_000_000, id: self.message.id }
    }
}

/// A delay in tokio-nsq's form; its own default would be 90 s for each attempt.
pub(super) fn requeue_delay(delay: Duration) -> NSQRequeueDelay {
    if delay.is_zero() { NSQRequeueDelay::NoDelay } else { NSQRequeueDelay::CustomDelay(delay.min(LONGEST_DELAY)) }
}
