//! Times of sampled pushes behind their offer: until they are written, and until they are acknowledged.

use std::{cell::RefCell, collections::VecDeque, sync::Arc, time::Instant};

use super::{ClientKey, item::ItemPlace};
use crate::{
    push::{Address, Epoch},
    telemetry::{Histogram, Metrics},
};

/// Pushes of one shard whose acknowledgement is waited for; the oldest makes room, as of clients that acknowledge nothing.
const MOST_WAITING: usize = 256;

/// Dropped with the last reference to the frame of a sampled push: no client of the shard waits for it any more.
#[derive(Debug)]
pub(super) struct WriteSample {
    offered: Instant,
    seconds: Histogram,
}

impl WriteSample {
    pub(super) fn new(offered: Instant, metrics: &Metrics) -> Box<Self> {
        Box::new(Self { offered, seconds: metrics.write_seconds.clone() })
    }
}

impl Drop for WriteSample {
    fn drop(&mut self) {
        self.seconds.observe(self.offered.elapsed().as_secs_f64());
    }
}

/// The sampled stored pushes of a shard that clients are to acknowledge.
pub(super) struct AckSamples {
    waiting: RefCell<VecDeque<AckSample>>,
    metrics: Arc<Metrics>,
}

struct AckSample {
    client: ClientKey,
    card: Address,
    epoch: Epoch,
    seq: u64,
    /// `None`: it waits in the client's outbox.
    written: Option<Instant>,
}

impl AckSamples {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { waiting: RefCell::default(), metrics: Arc::clone(metrics) }
    }

    /// A client was offered a sampled push of a stream; `is_written`: nothing of it waits.
    #[cold]
    pub(super) fn offered(&self, client: ClientKey, place: &ItemPlace, is_written: bool) {
        // nobody acknowledges what is of a room
        if !matches!(place.address, Address::Card(_)) {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == MOST_WAITING {
            waiting.pop_front();
        }
        let written = is_written.then(Instant::now);
        waiting.push_back(AckSample {
            client,
            card: place.address.clone(),
            epoch: place.epoch,
            seq: place.seq,
            written,
        });
    }

    /// Nothing waits for a client any more.
    pub(super) fn drained(&self, client: ClientKey) {
        for sample in self.waiting.borrow_mut().iter_mut().filter(|sample| sample.client == client) {
            sample.written.get_or_insert_with(Instant::now);
        }
    }

    /// A client has all of the stream of `card` up to `seq`.
    pub(super) fn acked(&self, client: ClientKey, card: &str, epoch: Epoch, seq: u64) {
        self.waiting.borrow_mut().retain(|sample| {
            let is_acked =
                sample.client == client && sample.epoch == epoch && sample.seq <= seq && sample.card.name() == card;
            if is_acked && let Some(written) = sample.written {
                self.metrics.ack_seconds.observe(written.elapsed().as_secs_f64());
            }
            !is_acked
        });
    }

    /// A client is gone.
    pub(super) fn forget(&self, client: ClientKey) {
        self.waiting.borrow_mut().retain(|sample| sample.client != client);
    }
}
